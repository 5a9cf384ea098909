"""Linear models of a step: a yardstick, and where the network's straight path starts from."""

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from sepsis_gym.features import N_FEATURES
from world_models.inputs import VENTILATED_INPUT, Z_INPUTS
from world_models.network import MORTALITY, N_OUTPUTS, VENTILATION
from world_models.sequences import Sequences

_RIDGE_STAYS = 2000
_RIDGE = 0.01
"""Penalty per unit of weight."""
_INVERSE_PENALTY = 0.1  # of the logistic regressions, all decisions together
_CERTAIN = 20.0


def fit_straight(
    stays: Sequences, weight: Tensor, *, by_tube: bool = True
) -> tuple[Tensor, Tensor]:
    """Linear models of each member.

    Ridge regression of the changes, logistic regression of ventilation and of 90-day mortality,
    which is told by the same weights whether the patient stays on or leaves.

    Args:
        stays: The training split.
        weight: [M, N] weight of each stay for each member.
        by_tube: Whether those who are ventilated have a regression of ventilation of their own.

    Returns:
        [M, 133, 124] weights and [M, 1, 124] intercepts of the network's outputs, 0 of all others.
    """
    inputs = stays.decided()
    fitted = inputs.new_zeros(len(weight), inputs.shape[1] + 1, N_OUTPUTS)
    fitted[..., :N_FEATURES] = _ridge(stays, weight)
    shown, mask = inputs.cpu().numpy(), stays.mask
    ventilated = stays.states[:, 1:, VENTILATED_INPUT][mask].cpu().numpy() > 0
    died = stays.died_90d[:, None].expand_as(mask)[mask].cpu().numpy() > 0
    alone, everyone = shown[:, VENTILATED_INPUT] == 0, np.ones(len(shown), bool)
    first, second = (slice(at, at + 1) for at in range(VENTILATION.start, VENTILATION.stop))
    groups = [(first, alone), (second, ~alone)] if by_tube else [(VENTILATION, everyone)]
    told = [(MORTALITY, died, everyone), *((at, ventilated, of) for at, of in groups)]
    for member, own in zip(fitted, weight, strict=True):
        counts = own[:, None].expand_as(mask)[mask].cpu().numpy()
        for at, seen, of in told:
            solved = _logistic(shown[of], seen[of], counts[of])
            member[:, at] = torch.from_numpy(solved).to(member)[:, None]
    return fitted[:, :-1], fitted[:, -1:]


def _ridge(stays: Sequences, weight: Tensor) -> Tensor:
    """[M, 134, 39] weights and, last, intercepts of the change in each feature, z units."""
    if len(stays) > _RIDGE_STAYS:  # a linear model has enough of these; members' weights differ
        spaced = torch.arange(_RIDGE_STAYS, device=stays.mask.device) * len(stays) // _RIDGE_STAYS
        stays, weight = stays.take(spaced), weight[:, spaced]
    inputs = stays.decided().double()
    inputs = torch.cat([inputs, torch.ones_like(inputs[:, :1])], -1)
    following = stays.states[:, 1:][stays.mask].double()
    change = following[:, Z_INPUTS] - inputs[:, Z_INPUTS]
    measured = following[:, N_FEATURES : 2 * N_FEATURES]
    ridge = _RIDGE * torch.eye(inputs.shape[1], dtype=inputs.dtype, device=inputs.device)
    ridge[-1, -1] = 1e-6
    solved = []
    for own in weight.double():
        row_weight = own[:, None].expand(stays.mask.shape)[stays.mask]
        used = measured * row_weight[:, None]
        gram = torch.einsum("ri,rf,rj->fij", inputs, used, inputs)
        moment = torch.einsum("ri,rf->fi", inputs, used * change)
        total = used.sum(0)[:, None, None].clamp(min=1.0)
        solved.append(torch.linalg.solve(gram + ridge * total, moment))
    return torch.stack(solved).float().transpose(1, 2)


def _logistic(
    inputs: NDArray[np.float32], seen: NDArray[np.bool_], counts: NDArray[np.float32]
) -> NDArray[np.float64]:
    """[134] weights and, last, the intercept; the mere rate where there is one class only."""
    if len(np.unique(seen)) < 2:
        return np.append(np.zeros(inputs.shape[1]), _CERTAIN if seen.all() else -_CERTAIN)
    model = LogisticRegression(C=_INVERSE_PENALTY, solver="newton-cholesky")
    fitted = model.fit(inputs, seen, sample_weight=counts)
    return np.append(fitted.coef_[0], fitted.intercept_)
