"""The form that all off-policy estimators share, and what follows from it for their intervals."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RatioOfSums:
    """sum_k (sum_i numerator[i, k]) / (sum_i denominator[i, k]) over N stays and K terms.

    A resample needs only how often it holds each stay, leaving a stay out is a subtraction, and
    the delta method has a closed form.

    Attributes:
        numerator: [N, K].
        denominator: [N, K]; a term whose sum is 0 makes the value NaN.
    """

    numerator: Floats
    denominator: Floats

    def values(self, counts: Floats) -> Floats:
        """[B] values of B resamples given their [B, N] stay counts."""
        return self._divide(counts @ self.numerator, counts @ self.denominator).sum(1)

    def value(self) -> float:
        """The estimate itself: every stay once."""
        return float(self._divide(self.numerator.sum(0), self.denominator.sum(0)).sum())

    def without_each(self) -> Floats:
        """[N] estimates without one stay each."""
        top = self.numerator.sum(0) - self.numerator
        # The difference of two equal sums may be a few units in the last place off 0.
        others = (self.denominator > 0).sum(0) - (self.denominator > 0)
        bottom = np.where(others > 0, self.denominator.sum(0) - self.denominator, 0.0)
        return self._divide(top, bottom).sum(1)

    def standard_error(self) -> float:
        """By the delta method; NaN for one stay or without support.

        Source: Owen 2013, "Monte Carlo theory, methods and examples", eq. 9.9; where nothing is
        normalised, that of a mean.
        """
        total = self.denominator.sum(0)
        terms = self._divide(self.numerator.sum(0), total)
        scaled = (self.numerator - terms * self.denominator) / np.where(total > 0, total, np.nan)
        influence = scaled.sum(1)
        n = len(influence)
        if n < 2:
            return float("nan")
        is_mean = bool(np.all(self.denominator == self.denominator[0]))
        return float(np.sqrt((influence**2).sum() * (n / (n - 1) if is_mean else 1.0)))

    def minus(self, other: "RatioOfSums") -> "RatioOfSums":
        """The difference of two estimates on the same stays."""
        return RatioOfSums(
            np.concatenate([self.numerator, -other.numerator], axis=1),
            np.concatenate([self.denominator, other.denominator], axis=1),
        )

    @staticmethod
    def _divide(top: Floats, bottom: Floats) -> Floats:
        return np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)
