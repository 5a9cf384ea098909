"""How the cells of a cohort's description print, and which may not: those about few stays."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

SMALLEST_SHOWN = 10
"""Fewest stays that a cell of a credentialed cohort may tell of."""
NONE, FEW, WITHHELD = "-", f"<{SMALLEST_SHOWN}", "*"
SUPPRESSION = (
    f"{FEW}: fewer than {SMALLEST_SHOWN} stays, or a figure about so few. {WITHHELD}: withheld, "
    "since such a count could be found from it by subtraction."
)

Counts = NDArray[np.int64]
Bools = NDArray[np.bool_]


def withhold(size: Counts, few: Bools, sums: Sequence[Counts], limit: int) -> Bools:
    """Hides cells until no sum gives a hidden one away.

    Of the cells that make up a sum either none is hidden, or at least two that tell of ``limit``
    stays or more together; the smallest go first.

    Args:
        size: Stays that each cell tells of, any shape.
        few: Cells that are hidden in any case, same shape.
        sums: Flat positions of the cells of each sum.
        limit: Fewest stays that may be told of.

    Returns:
        All cells to hide, same shape.
    """
    sizes, hidden = size.ravel(), few.ravel().copy()
    settled = False
    while not settled:
        before = hidden.copy()
        for cells in sums:
            for candidate in cells[np.argsort(sizes[cells], kind="stable")]:
                inside = cells[hidden[cells]]
                if len(inside) == 1 or (len(inside) and sizes[inside].sum() < limit):
                    hidden[candidate] = True
        settled = np.array_equal(before, hidden)
    return hidden.reshape(few.shape)


def told_of(count: Counts, of: Counts) -> Counts:
    """Stays that ``count`` of ``of`` tells of: those counted or, if there are fewer, the rest."""
    return np.where(count < of, np.minimum(count, of - count), count)


def cell(text: str, count: int, hidden: bool) -> str:
    """The text, or why it is hidden: its count is small, or another would follow from it."""
    if not hidden or text == NONE:
        return text
    return FEW if count < SMALLEST_SHOWN else WITHHELD


def share(count: int, of: int) -> str:
    """A count with its percentage."""
    return f"{count:,} ({count / of:.1%})" if of else NONE


def median_cells(samples: Sequence[NDArray[Any]], n_stays: Counts, limit: int) -> list[str]:
    """Median [q1, q3] of each sample, all to the same decimals.

    Args:
        samples: Numbers of each group.
        n_stays: Stays that each sample comes from.
        limit: Fewest stays that may be told of.
    """
    quartiles = [
        np.quantile(sample.astype(np.float64), (0.5, 0.25, 0.75)) if n and n >= limit else None
        for sample, n in zip(samples, n_stays, strict=True)
    ]
    told = [three for three in quartiles if three is not None]
    digits = _decimals(np.array(told).reshape(-1, 3), all(map(_whole, samples)))
    cells = []
    for three, n in zip(quartiles, n_stays, strict=True):
        if three is None:
            cells.append(FEW if n else NONE)
        else:
            median, low, high = (f"{value:z,.{digits}f}" for value in three)
            cells.append(f"{median} [{low}, {high}]")
    return cells


def _whole(sample: NDArray[Any]) -> bool:
    return np.array_equal(sample, np.round(sample))


def _decimals(quartiles: NDArray[np.float64], whole: bool) -> int:
    """Decimals for about three significant digits, fewer where no number needs them."""
    largest = np.abs(quartiles[:, 0]).max(initial=0)
    most = 0 if largest >= 100 else 1 if largest >= 10 or whole else 2
    for digits in range(most):
        if np.allclose(quartiles, np.round(quartiles, digits), rtol=0, atol=10.0 ** -(most + 1)):
            return digits
    return most


def wilson_interval(count: int, of: int) -> tuple[float, float]:
    """95% interval of a share (Wilson 1927)."""
    z = 1.959964
    centre = count + z**2 / 2
    half = z * math.sqrt(count * (of - count) / of + z**2 / 4)
    low, high = (centre - half) / (of + z**2), (centre + half) / (of + z**2)
    return max(low, 0.0), min(high, 1.0)  # which rounding may pass
