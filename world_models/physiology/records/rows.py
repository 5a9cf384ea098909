"""Table rows on their way: columns of one length, chosen, joined and sorted together."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

Columns = dict[str, Any]
"""Columns of a table by name: an array, an Arrow array, or one value for all rows."""
Flags = NDArray[np.bool_]
Index = NDArray[np.int64]
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Rows:
    """A struct of [r] columns."""

    def __len__(self) -> int:
        """Number of rows."""
        return len(getattr(self, fields(self)[0].name))

    def take(self, rows: NDArray[np.integer] | Flags) -> Self:
        """The rows at these positions."""
        return type(self)(*(getattr(self, item.name)[rows] for item in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The rows of all parts, one after the other."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))


def sometimes(
    chosen: Index, others: Sequence[int], share: float, rng: np.random.Generator
) -> Index:
    """[r] items of which a share is one of the ``others``, each as often."""
    other = np.asarray(others)[rng.integers(0, len(others), len(chosen))]
    return np.where(rng.random(len(chosen)) < share, other, chosen)


def looked_up(codes: NDArray[np.integer], texts: Sequence[str | None]) -> pa.Array:
    """[r] texts by their place; None is empty."""
    return pa.array(texts, pa.string()).take(pa.array(codes))


def units_of(item: Index, units: dict[int, str]) -> pa.Array:
    """[r] units by itemid, empty where there is none."""
    items, place = np.unique(item, return_inverse=True)
    return looked_up(place, [units.get(int(one)) for one in items])
