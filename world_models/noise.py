"""How the errors of a world model are distributed, and how they go together.

The network says how far off each feature may be; not that a lactate jumps up more than it falls,
that a patient whom it took for less ill than he is is so in the next step too, nor that blood
pressures err together. Symmetric noise, drawn anew for each step and feature, would make courses
that are too mild, of patients whose diastolic pressure is above the mean.
"""

from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.features import N_FEATURES
from sepsis_gym.trajectories import Trajectories
from world_models.forecast import Forecaster
from world_models.logged import one_step

_Floats = NDArray[np.float32]
FIRST_SCORE, SCORES_PER_UNIT, N_SCORES = np.float32(-3.25), np.float32(4), 27
SCORES = FIRST_SCORE + np.arange(N_SCORES, dtype=np.float32) / SCORES_PER_UNIT
"""Normal scores at which the errors' quantiles are known; further out they count as the last."""
_SHRINKAGE_ROWS = 20.0
_SHRINKAGE_PAIRS = 1000.0
_LEAST_ROWS, _MOST_LASTING = 100, 0.5
_LEAST_EIGENVALUE = 1e-3
_SCALE_LIMITS = (0.3, 2.0)


@dataclass(frozen=True)
class Noise:
    """The errors' distribution, in predicted scales.

    Attributes:
        factor: [39, 39] turns independent normal draws into draws that go together as the errors
            of values measured in one step do; its rows are as long as the errors are wide.
        quantiles: [39, 27] the errors' own at :data:`SCORES`, and so their skew and their mean.
        lasting: [39] share of their variance that stays with a patient.

    Raises:
        ValueError: An array has another shape or holds what cannot be; compiled code would not see.
    """

    factor: _Floats
    quantiles: _Floats
    lasting: _Floats

    def __post_init__(self) -> None:
        """Checks shapes and ranges."""
        n = N_FEATURES
        for name, shape in (("factor", (n, n)), ("quantiles", (n, N_SCORES)), ("lasting", (n,))):
            if getattr(self, name).shape != shape:
                raise ValueError(f"noise.{name} must be {shape}: {getattr(self, name).shape}")
        if not ((self.lasting >= 0) & (self.lasting <= 1)).all():
            raise ValueError("noise.lasting must lie in [0, 1]")
        if not (self.width > 0).all():
            raise ValueError("noise.factor has a row of zeros")

    @classmethod
    def independent(cls) -> Self:
        """Of errors that are what the network says."""
        factor = np.eye(N_FEATURES, dtype=np.float32)
        return cls(factor, np.tile(SCORES, (N_FEATURES, 1)), np.zeros(N_FEATURES, np.float32))

    @cached_property
    def width(self) -> _Floats:
        """[39] root mean square of the errors."""
        width: _Floats = np.sqrt((self.factor**2).sum(1))
        return width

    @cached_property
    def mixing(self) -> _Floats:
        """[39, 39] what normal draws of a step are multiplied with to get scores."""
        return self._mixed(1 - self.lasting)

    @cached_property
    def _lasting_mixing(self) -> _Floats:
        return self._mixed(self.lasting)

    def draw_lasting(self, n: int, rng: np.random.Generator) -> _Floats:
        """[n, 39] the part of the scores that n patients keep."""
        drawn = rng.standard_normal((n, N_FEATURES), dtype=np.float32)
        kept: _Floats = drawn @ self._lasting_mixing
        return kept

    def errors(self, draws: _Floats, kept: _Floats) -> _Floats:
        """[n, 39] errors, of normal draws [n, 39] and the scores that the patients keep [n, 39]."""
        score = draws @ self.mixing + kept
        at = np.clip((score - FIRST_SCORE) * SCORES_PER_UNIT, 0, N_SCORES - 1)
        below = np.minimum(at.astype(np.int64), N_SCORES - 2)
        feature = np.arange(N_FEATURES)
        low, high = self.quantiles[feature, below], self.quantiles[feature, below + 1]
        errors: _Floats = low + (at - below.astype(np.float32)) * (high - low)
        return errors

    def _mixed(self, share: _Floats) -> _Floats:
        return np.ascontiguousarray((self.factor * (np.sqrt(share) / self.width)[:, None]).T)


def fit_noise(model: Forecaster, trajectories: Trajectories) -> Noise:
    """Fits the distribution of a model's errors.

    Args:
        model: A model with independent noise.
        trajectories: Stays it was not trained on.
    """
    rows = np.flatnonzero(trajectories.is_decision)
    expected = one_step(model, trajectories)
    target = model.preprocessing.standardize(trajectories.values[rows + 1])
    measured = trajectories.measured[rows + 1].astype(np.float64)
    error = measured * (target - expected["mean"]) / expected["scale"]
    squares = (error**2).sum(0) + _SHRINKAGE_ROWS
    size = np.clip(np.sqrt(squares / (measured.sum(0) + _SHRINKAGE_ROWS)), *_SCALE_LIMITS)
    both = measured.T @ measured
    power = (error**2).T @ measured
    correlation = error.T @ error / np.sqrt(np.maximum(power * power.T, 1e-9))
    correlation *= both / (both + _SHRINKAGE_ROWS)
    np.fill_diagonal(correlation, 1.0)
    # pairwise estimates need not fit together: the nearest matrix that does
    eigenvalues, vectors = np.linalg.eigh(correlation)
    fitted = (vectors * np.maximum(eigenvalues, _LEAST_EIGENVALUE)) @ vectors.T
    unit = np.sqrt(np.diag(fitted))
    factor = np.linalg.cholesky(fitted / (unit[:, None] * unit))
    quantiles = np.outer(size, SCORES)
    for i, seen in enumerate(measured.T > 0):
        if seen.sum() >= _LEAST_ROWS:
            quantiles[i] = _quantiles(error[seen, i])
    stay = trajectories.stay_of_row[rows]
    lasting = _lasting(np.clip(error / size, SCORES[0], SCORES[-1]), measured, stay)
    fitted = size[:, None] * factor, quantiles, lasting
    return Noise(*(array.astype(np.float32) for array in fitted))


def _lasting(
    error: NDArray[np.float64], measured: NDArray[np.float64], stay: NDArray[np.integer]
) -> NDArray[np.float64]:
    """[39] mean product of two errors of one stay, all pairs alike, by their mean square."""
    n = measured.sum(0)
    apart = (error - error.sum(0) / np.maximum(n, 1)) * measured
    order = np.flatnonzero(np.diff(stay, prepend=-1))  # where each stay begins
    total, square, count = (np.add.reduceat(x, order, axis=0) for x in (apart, apart**2, measured))
    pairs = (count**2 - count).sum(0)
    shared = (total**2 - square).sum(0) / (pairs + _SHRINKAGE_PAIRS)
    spread = square.sum(0) / np.maximum(n, 1)
    return np.clip(shared / np.maximum(spread, 1e-9), 0, _MOST_LASTING)


def _quantiles(error: NDArray[np.float64]) -> NDArray[np.float64]:
    """[27] at ``SCORES``, such that what is drawn from between them has the errors' mean."""
    found = np.quantile(error, [NormalDist().cdf(score) for score in SCORES.tolist()])
    fine = np.linspace(SCORES[0], SCORES[-1], 2001)
    weight = np.exp(-(fine**2) / 2)
    drawn = np.interp(fine, SCORES, found) @ weight / weight.sum()
    shifted: NDArray[np.float64] = found + error.mean() - drawn
    return shifted
