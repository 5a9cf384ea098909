"""Confidence intervals of off-policy estimates, over stays."""

from typing import Literal

import numpy as np
from scipy.special import ndtr, ndtri

from evaluation.ratio_of_sums import Floats, RatioOfSums

IntervalKind = Literal["percentile", "bca", "delta"]


def interval(
    terms: RatioOfSums, resampled: Floats, confidence: float, kind: IntervalKind = "percentile"
) -> tuple[float, float, int]:
    """Interval of an estimate: low, high, and how many resamples had lost support.

    Args:
        terms: The estimate.
        resampled: [B] its bootstrap values.
        confidence: Coverage.
        kind: ``percentile`` held up best at a small effective sample size; ``bca`` corrects bias
            and skew; ``delta`` is a normal approximation and needs no resamples.
    """
    if kind == "bca":
        return bca_interval(terms, resampled, confidence)
    if kind == "delta":
        reach = float(ndtri((1 + confidence) / 2)) * terms.standard_error()
        return terms.value() - reach, terms.value() + reach, 0
    return percentile_interval(resampled, confidence)


def percentile_interval(values: Floats, confidence: float) -> tuple[float, float, int]:
    """Percentile bootstrap interval of [B] values: low, high, and how many were NaN.

    Lost resamples are left out and counted; without any value left the ends are NaN.
    """
    tail = (1 - confidence) / 2
    return _quantiles(values, tail, 1 - tail)


def bca_interval(
    terms: RatioOfSums, resampled: Floats, confidence: float
) -> tuple[float, float, int]:
    """Bias-corrected and accelerated bootstrap interval; as :func:`percentile_interval`.

    Source: Efron & Tibshirani 1993, eq. 14.9-14.15.
    """
    kept = resampled[~np.isnan(resampled)]
    value = terms.value()
    if not len(kept) or np.isnan(value):
        return float("nan"), float("nan"), len(resampled) - len(kept)
    below = float(np.mean(kept < value) + np.mean(kept == value) / 2)
    # A share of 0 or 1 would put both ends at infinity.
    bias = float(ndtri(np.clip(below, 0.5 / len(kept), 1 - 0.5 / len(kept))))
    without = terms.without_each()
    deviation = np.nanmean(without) - without if np.isfinite(without).any() else np.zeros(1)
    spread = float(np.nansum(deviation**2))
    acceleration = float(np.nansum(deviation**3)) / (6 * spread**1.5) if spread > 0 else 0.0
    ends = bias + ndtri(np.array([(1 - confidence) / 2, (1 + confidence) / 2]))
    low, high = ndtr(bias + ends / (1 - acceleration * ends))
    return _quantiles(resampled, float(low), float(high))


def _quantiles(values: Floats, low: float, high: float) -> tuple[float, float, int]:
    kept = values[~np.isnan(values)]
    lost = len(values) - len(kept)
    if not len(kept):
        return float("nan"), float("nan"), lost
    ends = np.quantile(kept, (low, high))
    return float(ends[0]), float(ends[1]), lost
