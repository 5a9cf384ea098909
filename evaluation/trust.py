"""When an off-policy estimate may be read, and when the log cannot tell."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from evaluation.estimators import WeightDiagnostics
from sepsis_gym.errors import ConfigError

Trust = Literal["ok", "caution", "unusable"]


@dataclass(frozen=True)
class TrustGate:
    """Limits of the verdict.

    With a known behavior policy and 725 stays, an effective sample size of 100 with a mean
    cumulative ratio in [0.8, 1.25] gave 91-93% coverage of 95% intervals, one near 80 gave
    86-89%, one near 10 gave 20-50% (measured on the icu-sepsis MDP). What makes an interval hold is
    the absolute size, so ``ok`` is not lowered for small logs; ``unusable`` is, in proportion
    to the stays, down to ``least_ess``. A ratio band of [0.9, 1.1] for ``ok``
    instead of [0.8, 1.25] raises the share of estimates off by more than 0.1 that are flagged from
    91.5% to 98.4% (``benchmarks/ope_truth.py gate``, 400 logs). The wider band is a judgement.

    Attributes:
        ok_ess: Least effective sample size of an ``ok`` row.
        unusable_ess: Below it a row on ``reference_stays`` or more is ``unusable``.
        least_ess: Below it a row is ``unusable`` on any log.
        reference_stays: Stays of the log the limits were measured on.
        ok_mean_rho: Mean cumulative ratio of an ``ok`` row.
        usable_mean_rho: Outside of it a row is ``unusable``.
    """

    ok_ess: float = 100.0
    unusable_ess: float = 50.0
    least_ess: float = 10.0
    reference_stays: int = 725
    ok_mean_rho: tuple[float, float] = (0.9, 1.1)
    usable_mean_rho: tuple[float, float] = (0.5, 2.0)

    def __post_init__(self) -> None:
        """Checks that the limits are ordered."""
        for band in (self.ok_mean_rho, self.usable_mean_rho):
            if not band[0] <= band[1]:
                raise ConfigError(f"a band of mean rho must rise, got {band}")
        if self.reference_stays < 1:
            raise ConfigError(f"reference_stays must be 1 or more, got {self.reference_stays}")
        if not 0 <= self.least_ess <= self.unusable_ess <= self.ok_ess:
            raise ConfigError("least_ess <= unusable_ess <= ok_ess must hold")

    def unusable_below(self, n_stays: int) -> float:
        """Effective sample size under which a row on n stays cannot be used."""
        scaled = self.unusable_ess * n_stays / self.reference_stays
        return float(np.clip(scaled, self.least_ess, self.unusable_ess))


def judge(
    weights: WeightDiagnostics,
    *,
    n_stays: int,
    lost_resamples: int,
    q_outside_share: float,
    behavior_mean_rho: float,
    gate: TrustGate,
) -> tuple[Trust, tuple[str, ...]]:
    """Says whether a row can be read, and why not.

    Args:
        weights: Diagnostics of the row.
        n_stays: Stays of the evaluated log.
        lost_resamples: Bootstrap resamples without support.
        q_outside_share: Share of the fitted values that no sequence of rewards permits.
        behavior_mean_rho: Final mean cumulative ratio of another clinician model.
        gate: Limits.
    """
    unusable, caution = [], []
    if weights.support_lost_at is not None:
        unusable.append(f"support lost at step {weights.support_lost_at}")
    least = gate.unusable_below(n_stays)
    if not weights.ess >= least:
        unusable.append(f"ESS {weights.ess:.1f} < {least:.0f}")
    elif weights.ess < gate.ok_ess:
        caution.append(f"ESS {weights.ess:.1f} < {gate.ok_ess:.0f}")
    low, high = gate.usable_mean_rho
    ok_low, ok_high = gate.ok_mean_rho
    if not low <= weights.mean_rho <= high:
        unusable.append(f"mean rho {weights.mean_rho:.2f} outside [{low}, {high}]")
    elif not ok_low <= weights.mean_rho <= ok_high:
        caution.append(f"mean rho {weights.mean_rho:.2f} outside [{ok_low}, {ok_high}]")
    if not ok_low <= behavior_mean_rho <= ok_high:
        caution.append(
            f"behavior policy doubtful: another clinician model has mean rho "
            f"{behavior_mean_rho:.2f}"
        )
    if lost_resamples:
        caution.append(f"{lost_resamples} resamples without support, left out of the intervals")
    if q_outside_share > 0:
        caution.append(f"{q_outside_share:.1%} of the fitted values exceed what rewards permit")
    verdict: Trust = "unusable" if unusable else "caution" if caution else "ok"
    return verdict, (*unusable, *caution)
