"""A generative model of patients at step 0, so that a checkpoint holds no patient's row.

A Gaussian copula: every variable's marginal as a grid of quantiles without the outermost 0.5%, and
the correlations of the normal scores, shrunk towards independence.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from sepsis_gym.features import FEATURE_NAMES, N_FEATURES
from sepsis_gym.patients import Patients
from sepsis_gym.preprocessing import Preprocessing
from sepsis_gym.trajectories import Trajectories

_LEVELS = np.linspace(0.005, 0.995, 100)
_SHRINKAGE = 0.1
_GCS = [FEATURE_NAMES.index(name) for name in ("gcs_eye", "gcs_verbal", "gcs_motor")]
_EXTRA = 6  # age, Charlson, fluid, norepinephrine equivalent, male, ventilated
_N = 2 * N_FEATURES + _EXTRA


@dataclass(frozen=True)
class StartStates:
    """The fitted copula over 39 values, 39 measurement flags and 6 more variables.

    Attributes:
        quantiles: [84, 100] each variable at the levels 0.5% to 99.5%.
        factor: [84, 84] lower Cholesky factor of the correlations.
    """

    quantiles: NDArray[np.float32]
    factor: NDArray[np.float32]

    @classmethod
    def fit(cls, trajectories: Trajectories, rng: np.random.Generator) -> Self:
        """Fits the first states of a training split.

        Args:
            trajectories: The training split.
            rng: Breaks ties between equal values, which most variables have.
        """
        first = trajectories.patients(trajectories.offsets[:-1])
        extra = [
            first.static[:, 0],
            first.static[:, 2],
            first.previous_fluid_ml,
            first.previous_norepinephrine_equivalent,
            first.static[:, 1],
            first.ventilated,
        ]
        table = np.concatenate([first.values, first.measured, np.stack(extra, 1)], axis=1)
        table = table.astype(np.float64)
        shuffled = rng.random(table.shape)
        rank = np.lexsort((shuffled, table), axis=0).argsort(axis=0)
        scores = norm.ppf((rank + 0.5) / len(table))
        correlation = np.corrcoef(scores, rowvar=False) if len(table) > 2 else np.eye(_N)
        correlation = (1 - _SHRINKAGE) * correlation + _SHRINKAGE * np.eye(_N)
        return cls(
            quantiles=np.quantile(table, _LEVELS, axis=0).T.astype(np.float32),
            factor=np.linalg.cholesky(correlation).astype(np.float32),
        )

    def draw(self, n: int, preprocessing: Preprocessing, rng: np.random.Generator) -> Patients:
        """Draws n patients, with an empty memory."""
        scores = rng.standard_normal((n, _N), dtype=np.float32) @ self.factor.T
        level = norm.cdf(scores)
        position = np.clip((level - _LEVELS[0]) / (_LEVELS[1] - _LEVELS[0]), 0, len(_LEVELS) - 1)
        below = np.minimum(position.astype(np.int64), len(_LEVELS) - 2)
        share = (position - below).astype(np.float32)
        column = np.arange(_N)
        low, high = self.quantiles[column, below], self.quantiles[column, below + 1]
        drawn = low + share * (high - low)
        # flags and whole numbers must not be interpolated
        drawn = np.where(self._discrete, np.where(share < 0.5, low, high), drawn)
        measured = drawn[:, N_FEATURES : 2 * N_FEATURES] > 0.5
        raw = np.where(measured, drawn[:, :N_FEATURES], np.nan)
        values, age = preprocessing.first(raw.astype(np.float32))
        years, charlson, fluid, vasopressor, male, ventilated = drawn[:, 2 * N_FEATURES :].T
        return Patients(
            values=values,
            age=age,
            ventilated=ventilated > 0.5,
            static=np.stack([years, male, charlson], axis=1).astype(np.float32),
            previous_fluid_ml=fluid.astype(np.float32),
            previous_norepinephrine_equivalent=vasopressor.astype(np.float32),
            step=np.zeros(n, np.int64),
            memory=np.zeros((n, 0), np.float32),
        )

    @property
    def _discrete(self) -> NDArray[np.bool_]:
        discrete = np.zeros(_N, bool)
        discrete[[*_GCS, 2 * N_FEATURES + 1]] = True
        discrete[N_FEATURES : 2 * N_FEATURES] = True
        discrete[-2:] = True
        return discrete
