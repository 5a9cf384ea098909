"""Every method's value and interval of one policy on one log of stays."""

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from evaluation import estimators
from evaluation.estimators import Estimator, Floats
from evaluation.intervals import IntervalKind, interval, percentile_interval
from evaluation.q_values import QValues
from evaluation.ratio_of_sums import RatioOfSums
from evaluation.results import Estimate, Sensitivity
from sepsis_gym.trajectories import Trajectories

METHODS: Mapping[str, Estimator] = MappingProxyType(
    {
        "is": estimators.importance_sampling,
        "wis": estimators.weighted_importance_sampling,
        "pdis": estimators.per_decision_importance_sampling,
        "wpdis": estimators.weighted_per_decision_importance_sampling,
        "dr": estimators.doubly_robust,
        "wdr": estimators.weighted_doubly_robust,
        "fqe": estimators.direct_method,
        "mean_rho": estimators.mean_cumulative_ratio,
    }
)
_SENSITIVITY_METHODS = ("wis", "wpdis")


class Scoring:
    """The log and its bootstrap resamples, which all policies share.

    Attributes:
        counts: [B, N] how often each resample holds each stay.
    """

    def __init__(
        self,
        log: Trajectories,
        counts: Floats,
        *,
        gamma: float,
        confidence: float,
        kind: IntervalKind,
    ) -> None:
        """Works out the clinicians' mean return, which every policy is compared with."""
        self.counts = counts
        self._log, self._gamma, self._confidence, self._kind = log, gamma, confidence, kind
        self._reward = log.padded(log.reward)
        # With every ratio 1 importance sampling is the plain mean of the logged returns.
        self._clinicians = self._terms("is", np.ones(len(log.is_decision)))
        self._clinicians_resampled = self._clinicians.values(counts)

    def mean_return(self) -> Estimate:
        """Of the clinicians who made the log."""
        return self._estimate(self._clinicians)

    def estimates(self, ratio: Floats, q: QValues) -> dict[str, Estimate]:
        """All methods and the mean cumulative ratio; FQE's interval is the one of its refits.

        Args:
            ratio: [R] pi_target / pi_behavior of the logged action at each row of the log.
            q: Of the target.
        """
        found = {name: self._estimate(self._terms(name, ratio, q)) for name in METHODS}
        clinicians, resampled = self._clinicians_resampled[: len(q.resampled)], q.resampled
        low, high, lost = percentile_interval(resampled, self._confidence)
        below, above, _ = percentile_interval(resampled - clinicians, self._confidence)
        found["fqe"] = replace(
            found["fqe"],
            low=low,
            high=high,
            difference_low=below,
            difference_high=above,
            lost_resamples=lost,
        )
        return found

    def sensitivity(
        self, setting: str, ratio: Floats, gamma: float | None = None
    ) -> tuple[Sensitivity, ...]:
        """The normalised methods under another choice.

        Args:
            setting: Its name.
            ratio: [R] as it makes them.
            gamma: Discount per step, if that is the choice.
        """
        ess = estimators.weight_diagnostics(self._log.padded(ratio, 1.0), self._log.mask).ess
        rows = []
        for method in _SENSITIVITY_METHODS:
            terms = self._terms(method, ratio, gamma=gamma)
            resampled = terms.values(self.counts)
            low, high, _ = interval(terms, resampled, self._confidence, self._kind)
            rows.append(Sensitivity(setting, method, terms.value(), low, high, ess))
        return tuple(rows)

    def _terms(
        self, method: str, ratio: Floats, q: QValues | None = None, gamma: float | None = None
    ) -> RatioOfSums:
        padded = self._log.padded
        return estimators.terms(
            METHODS[method],
            self._reward,
            padded(ratio, 1.0),
            self._log.mask,
            gamma=self._gamma if gamma is None else gamma,
            q_taken=None if q is None else padded(q.q_taken),
            v=None if q is None else padded(q.v),
        )

    def _estimate(self, terms: RatioOfSums) -> Estimate:
        value, resampled = terms.value(), terms.values(self.counts)
        low, high, lost = interval(terms, resampled, self._confidence, self._kind)
        difference = terms.minus(self._clinicians)
        between = resampled - self._clinicians_resampled
        below, above, _ = interval(difference, between, self._confidence, self._kind)
        return Estimate(value, low, high, difference.value(), below, above, lost)
