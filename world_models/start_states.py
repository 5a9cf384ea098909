"""A generative model of patients at step 0, so that a checkpoint holds no patient's row.

A Gaussian copula. Every amount (a feature where it was known, a dose where it was given) has a
grid of quantiles, every yes or no (known, given, male, ventilated) a share, and their normal
scores a shrunk matrix of correlations. How old a known value is follows the shares of each age,
independently of the rest. An amount with fewer than 20 known values is never drawn:
so few quantiles would be the patients' own numbers.
"""

from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.features import FEATURE_NAMES, N_FEATURES
from sepsis_gym.patients import Patients
from sepsis_gym.preprocessing import NEVER, Preprocessing
from sepsis_gym.trajectories import Trajectories

_NORMAL = NormalDist()
NODES = np.linspace(_NORMAL.inv_cdf(0.005), _NORMAL.inv_cdf(0.995), 65)
_LEVELS = np.array([_NORMAL.cdf(node) for node in NODES])
_FEWEST_KNOWN = 20
_LEFT_OUT = 5
"""Patients beyond each end of a quantile grid, so that no single one's extreme is stored."""
_SHRINKAGE_STAYS = 20.0
_LARGEST_CORRELATION = 0.95
N_AMOUNTS = N_FEATURES + 4  # features, fluid, norepinephrine equivalent, age, Charlson
_FLAGS = N_FEATURES + 4  # the same first 41 known or not, male, ventilated
_N = N_AMOUNTS + _FLAGS
N_OPTIONAL = N_FEATURES + 2  # amounts that have a flag of their own
WHOLE = slice(FEATURE_NAMES.index("gcs_eye"), FEATURE_NAMES.index("gcs_motor") + 1), N_AMOUNTS - 1
_FIRST_NODE = len(NODES) * np.arange(N_AMOUNTS)


@dataclass(frozen=True)
class StartStates:
    """The fitted copula.

    Attributes:
        quantiles: [43, 65] features, doses, age, Charlson at evenly spaced normal scores between
            the levels 0.5% and 99.5%.
        threshold: [43] normal score from which a feature is known, a dose given, the patient
            male, or ventilated.
        factor: [86, 86] lower Cholesky factor of the correlations, amounts first.
        younger: [39, A] share of the known values that are at most 0, 1, ... steps old.
    """

    quantiles: NDArray[np.float32]
    threshold: NDArray[np.float32]
    factor: NDArray[np.float32]
    younger: NDArray[np.float32]

    @classmethod
    def fit(cls, trajectories: Trajectories) -> Self:
        """Fits the first states of a training split."""
        first = trajectories.patients(trajectories.offsets[:-1])
        doses = (first.previous_fluid_ml, first.previous_norepinephrine_equivalent)
        extra = np.stack([*doses, first.static[:, 0], first.static[:, 2]], axis=1)
        amounts = np.concatenate([first.values, extra], axis=1).astype(np.float64)
        shown = trajectories.preprocessing.known(first.age)
        known = np.concatenate([shown, extra[:, :2] > 0, extra[:, 2:] >= 0], axis=1)
        known[:, known.sum(0) < _FEWEST_KNOWN] = False
        optional = known[:, :N_OPTIONAL]
        flags = np.column_stack([optional, first.static[:, 1] > 0, first.ventilated])
        quantiles = np.zeros((N_AMOUNTS, len(NODES)), np.float32)
        for column in np.flatnonzero(known.any(0)):
            values = amounts[known[:, column], column]
            edge = _LEFT_OUT / len(values)
            quantiles[column] = np.quantile(values, np.clip(_LEVELS, edge, 1 - edge))
        share = np.clip(flags.mean(0), 1e-6, 1 - 1e-6)
        threshold = np.array([_NORMAL.inv_cdf(1 - float(one)) for one in share])
        ages = np.arange(trajectories.preprocessing.hold_steps.max() + 1)
        at_most = (shown & (first.age <= ages[:, None, None])).sum(1) / np.maximum(shown.sum(0), 1)
        return cls(
            quantiles,
            threshold.astype(np.float32),
            _factor(amounts, known, flags),
            at_most.T.astype(np.float32),
        )

    def draw(self, n: int, preprocessing: Preprocessing, rng: np.random.Generator) -> Patients:
        """Draws n patients, with an empty memory."""
        scores, chance = self.luck(n, rng)
        amounts = self._amounts(scores[:, :N_AMOUNTS])
        flags = scores[:, N_AMOUNTS:] > self.threshold
        younger = chance > self.younger
        age = np.add.reduce(younger, -1, dtype=np.int16)
        age[~flags[:, :N_FEATURES]] = NEVER
        doses = amounts[:, N_FEATURES:N_OPTIONAL] * flags[:, N_FEATURES:N_OPTIONAL]
        static = amounts[:, -3:].copy()
        static[:, 0], static[:, 1] = amounts[:, -2], flags[:, -2]
        return Patients(
            values=preprocessing.filled(amounts[:, :N_FEATURES], age),
            age=age,
            ventilated=flags[:, -1].copy(),
            static=static,
            previous_fluid_ml=doses[:, 0].copy(),
            previous_norepinephrine_equivalent=doses[:, 1].copy(),
            step=np.zeros(n, np.int64),
            memory=np.zeros((n, 0), np.float32),
        )

    def luck(
        self, n: int, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        """[n, 86] normal scores that go together, [n, 39, 1] uniform draws of the values' ages."""
        scores = rng.standard_normal((n, _N), dtype=np.float32) @ self.factor.T
        return scores, rng.random((n, N_FEATURES, 1))

    def _amounts(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """[n, 43] amounts at these normal scores, straight lines between the quantiles."""
        last = len(NODES) - 1
        place = (scores - np.float32(NODES[0])) * np.float32(last / (NODES[-1] - NODES[0]))
        np.minimum(np.maximum(place, 0, out=place), last, out=place)
        below = place.astype(np.int64)
        place -= below
        below += _FIRST_NODE
        amounts = self.quantiles.take(below)
        amounts += place * self.rises.take(below)
        for whole in WHOLE:
            np.rint(amounts[:, whole], out=amounts[:, whole])
        return amounts

    @cached_property
    def rises(self) -> NDArray[np.float32]:
        """[43, 65] from each quantile to the next; none from the last."""
        return np.diff(self.quantiles, append=self.quantiles[:, -1:])


def _factor(
    amounts: NDArray[np.float64], known: NDArray[np.bool_], flags: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """[86, 86] Cholesky factor of the pairwise correlations of normal scores.

    Each pair counts the stays in which both are known, shrunk by how few those are. Flags show
    only on which side of its threshold a score lies, which weakens a correlation by a known factor
    (biserial correlation).
    """
    scores = np.zeros((len(amounts), _N))
    counted = np.concatenate([known, np.ones(flags.shape, bool)], axis=1)
    share = np.clip(flags.mean(0), 1e-6, 1 - 1e-6)
    spread = np.sqrt(share * (1 - share))
    scores[:, N_AMOUNTS:] = (flags - share) / spread
    for column in np.flatnonzero(known.any(0)):
        values = amounts[known[:, column], column]
        ordered = np.sort(values)
        middle = np.searchsorted(ordered, values) + np.searchsorted(ordered, values, "right")
        level = middle / (2 * len(values))  # ties share the middle of their ranks
        score = np.interp(level, _LEVELS, NODES)
        scores[known[:, column], column] = score - score.mean()
    both = counted.T.astype(float) @ counted
    size = (scores**2).T @ counted
    correlation = scores.T @ scores / np.sqrt(np.maximum(size * size.T, 1e-12))
    correlation *= both / (both + _SHRINKAGE_STAYS)
    density = np.array([_NORMAL.pdf(_NORMAL.inv_cdf(1 - float(one))) for one in share])
    weakened = np.concatenate([np.ones(N_AMOUNTS), np.maximum(density / spread, 0.3)])
    correlation /= weakened[:, None] * weakened
    correlation = np.clip(correlation, -_LARGEST_CORRELATION, _LARGEST_CORRELATION)
    np.fill_diagonal(correlation, 1.0)
    # Pairwise estimates need not fit together: the nearest matrix that does.
    eigenvalues, vectors = np.linalg.eigh(correlation)
    fitted = (vectors * np.maximum(eigenvalues, 1e-3)) @ vectors.T
    scale = np.sqrt(np.diag(fitted))
    return np.linalg.cholesky(fitted / (scale[:, None] * scale)).astype(np.float32)
