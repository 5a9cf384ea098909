"""From hourly values to decision bins, as the cohort builders aggregate charted values."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.features import FEATURE_INDEX


def bin_readings(
    readings: NDArray[np.float32], charted: NDArray[np.bool_], step_hours: int
) -> NDArray[np.float32]:
    """Mean of what was charted in each bin.

    Urine is read as mL per 4 h, so that its mean is the bin's pace in that unit, however long the
    bin is.

    Args:
        readings: [T, n, 39] hourly readings from the start of the first bin on.
        charted: [T, n, 39] which of them count.
        step_hours: Length of a bin.

    Returns:
        [T // step_hours, n, 39] whole bins only; NaN where nothing was charted or could be read.
    """
    return mean_of_known(whole_bins(np.where(charted, readings, np.nan), step_hours))


def bin_collected(
    readings: NDArray[np.floating], charted: NDArray[np.bool_], step_hours: int
) -> NDArray[np.float32]:
    """The same of recorded courses, where urine is what came since it was last charted.

    Args:
        readings: [T, n, 39] hourly readings; urine is four times the mL charted in the hour.
        charted: [T, n, 39] which of them count.
        step_hours: Length of a bin.
    """
    raw = bin_readings(readings, charted, step_hours)
    urine = FEATURE_INDEX["output_4hourly"]  # the charted hours add up
    raw[..., urine] *= whole_bins(charted[..., urine], step_hours).mean(1)
    return raw


def whole_bins(hourly: NDArray[Any], step_hours: int) -> NDArray[Any]:
    """[T, ...] to [T // step_hours, step_hours, ...]; the hours of a last, shorter bin go."""
    bins = len(hourly) // step_hours
    return hourly[: bins * step_hours].reshape(bins, step_hours, *hourly.shape[1:])


def mean_of_known(bins: NDArray[np.floating]) -> NDArray[np.float32]:
    """[B, ...] mean over the second axis of what is known; NaN where nothing is."""
    known = ~np.isnan(bins)
    count = known.sum(1)
    # float64: the mean of values that touch a limit must not pass it by a rounding error
    total = np.where(known, bins, 0).sum(1, dtype=np.float64)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
