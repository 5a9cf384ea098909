"""Whether choices come as often as predicted, and how predictions are mended if not."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from evaluation.ratio_of_sums import Floats
from sepsis_gym.actions import N_ACTIONS

RARE = 0.05
_EDGES = (0.0, 0.002, 0.005, 0.01, 0.02, RARE, 0.1, 0.2, 0.5, 1.0)
_TOP_BINS = 10
_SHIFT_PENALTY = 5.0
_LEAST = 1e-6


@dataclass(frozen=True)
class Reliability:
    """All actions at all decisions that were given about the same probability.

    Attributes:
        pairs: How many.
        predicted: Their mean probability.
        logged: Share of them that were logged.
    """

    pairs: int
    predicted: float
    logged: float


def calibration(
    held_out: Floats, action: NDArray[np.int64], marginal: Floats, smoothing: float
) -> Callable[[Floats], Floats]:
    """Learns what maps raw predictions [n, 25] to calibrated ones, positive everywhere.

    A temperature and a shift of each action's log-probability, then a share of the marginal.

    Args:
        held_out: [n, 25] predictions of decisions that the model was not fitted on.
        action: [n] what was logged.
        marginal: [25] action frequencies, none 0.
        smoothing: Their share.

    Source: Guo et al. 2017, sec. 4.2 (temperature and vector scaling).
    """
    from scipy.optimize import minimize

    logs, logged = np.log(np.maximum(held_out, _LEAST)), np.eye(N_ACTIONS)[action]

    def loss(by: Floats) -> tuple[float, Floats]:
        fitted = _softmax(by[0] * logs + by[1:])
        left = fitted - logged
        penalty = _SHIFT_PENALTY * by[1:]
        value = -np.log(np.maximum(at(fitted, action), _LEAST)).sum() + (penalty @ by[1:]) / 2
        return value, np.concatenate([[(left * logs).sum()], left.sum(0) + penalty])

    start = np.concatenate([[1.0], np.zeros(N_ACTIONS)])
    by = minimize(loss, start, jac=True, method="L-BFGS-B").x

    def calibrate(fitted: Floats) -> Floats:
        sharp = _softmax(by[0] * np.log(np.maximum(fitted, _LEAST)) + by[1:])
        return (1 - smoothing) * sharp + smoothing * marginal

    return calibrate


def _softmax(scores: Floats) -> Floats:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def at(each: Floats, action: NDArray[np.int64]) -> Floats:
    """[n] entries of these actions in [n, 25]."""
    return each[np.arange(len(action)), action]


def calibration_error(predicted: Floats, action: NDArray[np.int64]) -> float:
    """Expected calibration error of the most likely of [n, 25], 10 equal bins."""
    top, correct = predicted.max(1), predicted.argmax(1) == action
    in_bin = np.minimum((top * _TOP_BINS).astype(int), _TOP_BINS - 1)
    gap = np.bincount(in_bin, weights=correct - top, minlength=_TOP_BINS)
    return float(np.abs(gap).sum() / len(action))


def reliability(predicted: Floats, action: NDArray[np.int64]) -> tuple[Reliability, ...]:
    """All pairs of a decision and an action by predicted probability, [n, 25]."""
    logged = np.eye(N_ACTIONS, dtype=np.bool_)[action]
    bins = []
    for low, high in pairwise(_EDGES):
        inside = (predicted > low) & (predicted <= high)
        if n := int(inside.sum()):
            shown = float(predicted[inside].mean()), float(logged[inside].mean())
            bins.append(Reliability(n, *shown))
    return tuple(bins)


def rare_error(bins: tuple[Reliability, ...]) -> float:
    """Logged choices too many or too few in the bins below ``RARE``, relative to all expected."""
    rare = [each for each in bins if each.predicted < RARE]
    expected = sum(each.pairs * each.predicted for each in rare)
    wrong = sum(each.pairs * abs(each.predicted - each.logged) for each in rare)
    return wrong / expected if expected else 0.0
