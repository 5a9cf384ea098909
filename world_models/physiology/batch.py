"""Named columns over n patients: how traits and body states are held, selected and packed."""

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.floating]


@dataclass
class Batch:
    """A struct of [n] float32 columns; flags are 0 or 1."""

    def __len__(self) -> int:
        """Number of patients."""
        return len(getattr(self, fields(self)[0].name))

    @classmethod
    def width(cls) -> int:
        """Number of columns."""
        return len(fields(cls))

    def take(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> Self:
        """The patients at these positions (repeats allowed)."""
        return type(self)(*(getattr(self, f.name)[index] for f in fields(self)))

    def copy(self) -> Self:
        """A deep copy."""
        return type(self)(*(getattr(self, f.name).copy() for f in fields(self)))

    def pack(self) -> NDArray[np.float32]:
        """[n, columns] in the order of the fields."""
        return np.stack([getattr(self, f.name) for f in fields(self)], axis=1)

    @classmethod
    def unpack(cls, packed: NDArray[np.floating]) -> Self:
        """Inverse of :meth:`pack`; the columns are copies."""
        return cls(*np.array(packed.T, np.float32, order="C"))


_ZERO = np.zeros((), np.float32)  # numpy takes an array faster than a number


def relu(x: Column) -> Column:
    """What exceeds zero."""
    return np.maximum(x, _ZERO)


def clip(x: Column, low: float | Column, high: float | Column) -> Column:
    """Kept between two limits; the method has half the overhead of ``np.clip``."""
    return x.clip(low, high)


def sigmoid(x: Column) -> Column:
    """Logistic function, by tanh, which cannot overflow."""
    return 0.5 * np.tanh(0.5 * x) + 0.5
