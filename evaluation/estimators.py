"""Off-policy estimators as pure functions on padded arrays.

Conventions, the same for all: arrays are [N stays, T steps]; ``mask`` is True while a decision was
logged, from the first column on; ``ratio`` is pi_target / pi_behavior of the logged action. Padding
may hold anything: it is read as ratio 1 and reward, q, v 0. The cumulative ratio ``rho`` is carried
forward after the last decision (the stay sits in an absorbing state), so every denominator runs
over all N stays; dropping finished stays would inflate the per-decision weighted form. The first
reward is not discounted.

A zero denominator gives NaN, never 0; :func:`support_lost_at` tells the step.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from evaluation.ratio_of_sums import Floats as Floats
from evaluation.ratio_of_sums import RatioOfSums

Estimator = Callable[..., float]


@dataclass(frozen=True)
class _Log:
    """Checked arrays with neutral padding, [N, T] each; ``discount`` is [T]."""

    reward: Floats
    ratio: Floats
    rho: Floats
    rho_before: Floats
    discount: Floats
    q_taken: Floats
    v: Floats


def _read(
    reward: ArrayLike,
    ratio: ArrayLike,
    mask: ArrayLike,
    gamma: float,
    q_taken: ArrayLike | None = None,
    v: ArrayLike | None = None,
) -> _Log:
    logged = np.asarray(mask)
    if logged.ndim != 2 or not logged.size:
        raise ValueError(f"mask must be [N stays, T steps] and not empty, got {logged.shape}")
    logged = logged.astype(bool)
    if np.any(logged[:, 1:] & ~logged[:, :-1]):
        stay = int(np.flatnonzero((logged[:, 1:] & ~logged[:, :-1]).any(1))[0])
        raise ValueError(f"mask of stay {stay} has a gap: decisions must come before padding")
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma must be from 0 to 1, got {gamma}")
    clean = {}
    for name, given, neutral in (
        ("reward", reward, 0.0),
        ("ratio", ratio, 1.0),
        ("q_taken", 0.0 if q_taken is None else q_taken, 0.0),
        ("v", 0.0 if v is None else v, 0.0),
    ):
        array = np.asarray(given, np.float64)
        if array.shape != logged.shape and (array.ndim or name in ("reward", "ratio")):
            raise ValueError(f"{name} is {array.shape} but mask is {logged.shape}")
        array = np.where(logged, array, neutral)
        if not np.all(np.isfinite(array)) or (name == "ratio" and np.any(array < 0)):
            wanted = "finite and not negative" if name == "ratio" else "finite"
            raise ValueError(f"{name} must be {wanted} where mask is True")
        clean[name] = array
    rho: Floats = np.cumprod(clean["ratio"], axis=1, dtype=np.float64)
    return _Log(
        reward=clean["reward"],
        ratio=clean["ratio"],
        rho=rho,
        rho_before=np.concatenate([np.ones((len(rho), 1)), rho[:, :-1]], axis=1),
        discount=np.power(float(gamma), np.arange(logged.shape[1])).astype(np.float64),
        q_taken=clean["q_taken"],
        v=clean["v"],
    )


def _per_stay(numerator: Floats, denominator: Floats | None = None) -> RatioOfSums:
    over = np.ones(len(numerator)) if denominator is None else denominator
    return RatioOfSums(numerator[:, None], over[:, None])


def _is_terms(log: _Log) -> RatioOfSums:
    return _per_stay(log.rho[:, -1] * (log.reward @ log.discount))


def _wis_terms(log: _Log) -> RatioOfSums:
    return _per_stay(log.rho[:, -1] * (log.reward @ log.discount), log.rho[:, -1])


def _pdis_terms(log: _Log) -> RatioOfSums:
    return _per_stay((log.rho * log.reward) @ log.discount)


def _wpdis_terms(log: _Log) -> RatioOfSums:
    return RatioOfSums(log.rho * log.reward * log.discount, log.rho)


def _dr_terms(log: _Log) -> RatioOfSums:
    gamma = log.discount[1] if len(log.discount) > 1 else 0.0
    x = np.zeros(len(log.reward))
    for t in reversed(range(log.reward.shape[1])):
        x = log.v[:, t] + log.ratio[:, t] * (log.reward[:, t] + gamma * x - log.q_taken[:, t])
    return _per_stay(x)


def _wdr_terms(log: _Log) -> RatioOfSums:
    residual = log.rho * (log.reward - log.q_taken) * log.discount
    baseline = log.rho_before * log.v * log.discount
    return RatioOfSums(
        np.concatenate([residual, baseline], axis=1),
        np.concatenate([log.rho, log.rho_before], axis=1),
    )


def _direct_terms(log: _Log) -> RatioOfSums:
    return _per_stay(log.v[:, 0])


def _mean_rho_terms(log: _Log) -> RatioOfSums:
    return _per_stay(log.rho[:, -1])


def importance_sampling(
    reward: ArrayLike, ratio: ArrayLike, mask: ArrayLike, *, gamma: float
) -> float:
    """Unbiased estimate of the target's value: mean of rho_T times the return.

    Args:
        reward: [N, T] reward of each decision.
        ratio: [N, T] pi_target / pi_behavior of the logged action.
        mask: [N, T] True where a decision was logged.
        gamma: Discount per step.

    Raises:
        ValueError: Shapes differ, the mask has gaps, or a logged entry is not a number.

    Source: Precup, Sutton & Singh 2000, sec. 2.
    """
    return _is_terms(_read(reward, ratio, mask, gamma)).value()


def weighted_importance_sampling(
    reward: ArrayLike, ratio: ArrayLike, mask: ArrayLike, *, gamma: float
) -> float:
    """Self-normalised importance sampling; arguments as :func:`importance_sampling`.

    Source: Precup, Sutton & Singh 2000, sec. 2.
    """
    return _wis_terms(_read(reward, ratio, mask, gamma)).value()


def per_decision_importance_sampling(
    reward: ArrayLike, ratio: ArrayLike, mask: ArrayLike, *, gamma: float
) -> float:
    """Each reward weighted by rho up to its step; arguments as :func:`importance_sampling`.

    Source: Precup, Sutton & Singh 2000, sec. 3.
    """
    return _pdis_terms(_read(reward, ratio, mask, gamma)).value()


def weighted_per_decision_importance_sampling(
    reward: ArrayLike, ratio: ArrayLike, mask: ArrayLike, *, gamma: float
) -> float:
    """Per-decision form, normalised at each step over all N stays, finished ones included.

    Arguments as :func:`importance_sampling`.

    Source: Thomas 2015, "Safe reinforcement learning", sec. 3.8 (consistent form).
    """
    return _wpdis_terms(_read(reward, ratio, mask, gamma)).value()


def doubly_robust(
    reward: ArrayLike,
    ratio: ArrayLike,
    mask: ArrayLike,
    *,
    gamma: float,
    q_taken: ArrayLike,
    v: ArrayLike,
) -> float:
    """Step-wise doubly robust estimate; Q must come from stays that are not among these.

    Args:
        reward: [N, T] reward of each decision.
        ratio: [N, T] pi_target / pi_behavior of the logged action.
        mask: [N, T] True where a decision was logged.
        gamma: Discount per step.
        q_taken: [N, T] estimated Q of the target policy at the logged action.
        v: [N, T] its expectation over the target's actions.

    Raises:
        ValueError: Shapes differ, the mask has gaps, or a logged entry is not a number.

    Source: Jiang & Li 2016, eq. 10.
    """
    return _dr_terms(_read(reward, ratio, mask, gamma, q_taken, v)).value()


def weighted_doubly_robust(
    reward: ArrayLike,
    ratio: ArrayLike,
    mask: ArrayLike,
    *,
    gamma: float,
    q_taken: ArrayLike,
    v: ArrayLike,
) -> float:
    """Doubly robust with weights normalised at each step; arguments as :func:`doubly_robust`.

    Source: Thomas & Brunskill 2016, sec. 4.
    """
    return _wdr_terms(_read(reward, ratio, mask, gamma, q_taken, v)).value()


def direct_method(
    reward: ArrayLike, ratio: ArrayLike, mask: ArrayLike, *, gamma: float, v: ArrayLike
) -> float:
    """Mean of v over the first states; arguments as :func:`doubly_robust`."""
    return _direct_terms(_read(reward, ratio, mask, gamma, v=v)).value()


def mean_cumulative_ratio(
    reward: ArrayLike, ratio: ArrayLike, mask: ArrayLike, *, gamma: float
) -> float:
    """Mean of rho_T, which is 1 where the behavior policy is right and supports the target."""
    return _mean_rho_terms(_read(reward, ratio, mask, gamma)).value()


def effective_sample_size(
    reward: ArrayLike, ratio: ArrayLike, mask: ArrayLike, *, gamma: float = 1.0
) -> float:
    """(sum rho_T)^2 / sum rho_T^2; takes reward and gamma only to be called like the others.

    Source: Kong 1992.
    """
    return float(_ess(_read(reward, ratio, mask, gamma).rho[:, -1:])[0])


def _ess(rho: Floats) -> Floats:
    total, square = rho.sum(0), (rho**2).sum(0)
    return np.divide(total**2, square, out=np.full(total.shape, np.nan), where=square > 0)


_TERMS: dict[Estimator, Callable[[_Log], RatioOfSums]] = {
    importance_sampling: _is_terms,
    weighted_importance_sampling: _wis_terms,
    per_decision_importance_sampling: _pdis_terms,
    weighted_per_decision_importance_sampling: _wpdis_terms,
    doubly_robust: _dr_terms,
    weighted_doubly_robust: _wdr_terms,
    direct_method: _direct_terms,
    mean_cumulative_ratio: _mean_rho_terms,
}


def resample_index(n: int, resamples: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """[resamples, n] positions of stays drawn with replacement."""
    return rng.integers(0, n, (resamples, n))


def resample_counts(index: NDArray[np.integer], n: int) -> Floats:
    """[B, n] how often each resample holds each stay, from [B, M] positions.

    Raises:
        ValueError: A position is not from 0 to n - 1.
    """
    if index.ndim != 2 or not index.size or index.min() < 0 or index.max() >= n:
        raise ValueError(f"index must be [B, M] positions from 0 to {n - 1}, got {index.shape}")
    flat = index + n * np.arange(len(index))[:, None]
    counts = np.bincount(flat.ravel(), minlength=len(index) * n).reshape(len(index), n)
    return counts.astype(np.float64)


def terms(
    estimator: Estimator,
    reward: ArrayLike,
    ratio: ArrayLike,
    mask: ArrayLike,
    *,
    gamma: float,
    q_taken: ArrayLike | None = None,
    v: ArrayLike | None = None,
) -> RatioOfSums:
    """What an estimator adds up, stay by stay; arguments as :func:`bootstrap`.

    Raises:
        ValueError: The estimator is not known here, or an argument has the wrong shape.
    """
    if estimator not in _TERMS:
        raise ValueError(f"cannot resample {estimator!r}; it must be an estimator of this module")
    if estimator in (doubly_robust, weighted_doubly_robust) and (q_taken is None or v is None):
        raise ValueError("the doubly robust estimators need q_taken and v")
    if estimator is direct_method and v is None:
        raise ValueError("direct_method needs v")
    return _TERMS[estimator](_read(reward, ratio, mask, gamma, q_taken, v))


def bootstrap(
    estimator: Estimator,
    reward: ArrayLike,
    ratio: ArrayLike,
    mask: ArrayLike,
    *,
    gamma: float,
    index: NDArray[np.integer],
    q_taken: ArrayLike | None = None,
    v: ArrayLike | None = None,
) -> Floats:
    """Values of an estimator on resampled stays.

    Args:
        estimator: One of this module's estimators, except :func:`effective_sample_size`.
        reward: [N, T], as the estimator takes it; so are ratio, mask, gamma, q_taken and v.
        ratio: [N, T].
        mask: [N, T].
        gamma: Discount per step.
        index: [B, M] positions of the stays in each resample, see :func:`resample_index`.
        q_taken: [N, T], for the doubly robust forms.
        v: [N, T], for these and the direct method.

    Returns:
        [B] values, NaN where a resample has lost support.

    Raises:
        ValueError: The estimator is not known here, or an argument has the wrong shape.
    """
    added = terms(estimator, reward, ratio, mask, gamma=gamma, q_taken=q_taken, v=v)
    return added.values(resample_counts(index, len(added.numerator)))


@dataclass(frozen=True)
class WeightDiagnostics:
    """How much the log says about the target policy.

    Attributes:
        ess: Effective sample size of the whole-stay weights.
        ess_per_step: [T] the same of the weights up to each step.
        mean_rho: Mean whole-stay weight, 1 in expectation.
        mean_rho_per_step: [T] mean weight up to each step.
        largest_weight_share: Share of all weight on one stay; NaN without support.
        zero_weight_share: Share of stays that the target would never have produced.
        support_lost_at: First step at which no stay has weight left.
    """

    ess: float
    ess_per_step: tuple[float, ...]
    mean_rho: float
    mean_rho_per_step: tuple[float, ...]
    largest_weight_share: float
    zero_weight_share: float
    support_lost_at: int | None


def weight_diagnostics(ratio: ArrayLike, mask: ArrayLike) -> WeightDiagnostics:
    """Diagnoses the weights of [N, T] ratios; raises as :func:`importance_sampling`."""
    rho = _read(np.zeros(np.shape(mask)), ratio, mask, 1.0).rho
    total = rho.sum(0)
    lost = np.flatnonzero(total == 0)
    ess = _ess(rho)
    return WeightDiagnostics(
        ess=float(ess[-1]),
        ess_per_step=tuple(ess.tolist()),
        mean_rho=float(rho[:, -1].mean()),
        mean_rho_per_step=tuple(rho.mean(0).tolist()),
        largest_weight_share=float(rho[:, -1].max() / total[-1]) if total[-1] > 0 else float("nan"),
        zero_weight_share=float((rho[:, -1] == 0).mean()),
        support_lost_at=int(lost[0]) if len(lost) else None,
    )


def support_lost_at(ratio: ArrayLike, mask: ArrayLike) -> int | None:
    """First step at which every stay's cumulative ratio is 0, or None."""
    return weight_diagnostics(ratio, mask).support_lost_at
