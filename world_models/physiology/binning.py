"""From hourly readings to decision bins, as the cohort builders aggregate charted values."""

import numpy as np
from numpy.typing import NDArray


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
        [T // step_hours, n, 39] whole bins only; NaN where nothing was charted.
    """
    bins = len(readings) // step_hours
    shape = (bins, step_hours, *readings.shape[1:])
    seen = charted[: bins * step_hours].reshape(shape)
    values = readings[: bins * step_hours].reshape(shape)
    # float64: the mean of values that touch a limit must not pass it by a rounding error
    total = np.where(seen, values, 0).sum(1, dtype=np.float64)
    count = seen.sum(1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan).astype(np.float32)
