"""Fits a trained network to other patients with three numbers a feature, solved for at once."""

import torch

from sepsis_gym.features import N_FEATURES
from world_models.inputs import Z_INPUTS
from world_models.network import EnsembleNetwork
from world_models.sequences import Sequences

_PRIOR_VALUES = 10.0  # measured values that what was learned before counts as


@torch.no_grad()
def calibrate(network: EnsembleNetwork, stays: Sequences) -> None:
    """Makes each predicted change offset + slope * change + pull * present value, in place.

    Other patients drift to other levels, faster or slower, and their instruments err more or less:
    a dozen stays tell that, and are too few to train a network. Ridge regression towards no
    correction, folded into the output layer. Where training is told of a feature's effects, its
    slope stays 1, so that the difference between two treatments stays what it was.

    Args:
        network: The ensemble, M members.
        stays: Stays to fit it to, each as much as any other for every member.
    """
    members, n = network.members, N_FEATURES
    told = ~stays.effect[stays.mask].isnan().all(0)
    memory = stays.states.new_zeros(members, len(stays), network.hidden)
    gram = memory.new_zeros(members, n, 3, 3, dtype=torch.float64)
    moment, total = gram.new_zeros(members, n, 3), gram.new_zeros(n)
    for t in range(stays.mask.shape[1]):
        now, following = stays.states[:, t], stays.states[:, t + 1].double()
        inputs = stays.inputs(now, stays.doses[:, t]).expand(members, -1, -1)
        outputs, memory = network(inputs, memory)
        change = outputs[..., :n].double()
        level = now[:, Z_INPUTS].double().expand_as(change)
        terms = torch.stack([torch.ones_like(change), change * ~told, level], -1)
        counted = stays.mask[:, t, None] * following[:, n : 2 * n]
        error = following[:, Z_INPUTS] - level - change
        gram += torch.einsum("mdfi,df,mdfj->mfij", terms, counted, terms)
        moment += torch.einsum("mdfi,mdf->mfi", terms, counted * error)
        total += counted.sum(0)
    size = gram.diagonal(dim1=-2, dim2=-1) / total[:, None].clamp(min=1.0)
    ridge = torch.diag_embed(_PRIOR_VALUES * size.clamp(min=1e-6))
    offset, slope, pull = torch.linalg.solve(gram + ridge, moment).float()[:, None].unbind(-1)
    for weights in (network.output_weight, network.direct_weight, network.output_bias):
        weights[..., :n] *= 1 + slope
    network.output_bias[..., :n] += offset
    network.direct_weight[:, Z_INPUTS, :n] += torch.diag_embed(pull[:, 0])
