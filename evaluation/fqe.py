"""Fitted Q evaluation with a linear Q, whose moments per stay allow hundreds of refits.

Q is linear in the state, plus a small basis of the two doses times what modifies their effect. With
that basis every regression needs only sums of small blocks per stay, so refitting on a resample of
stays is a weighted sum of blocks, and leaving a fold out is a subtraction.

Fit Q on stays other than those it is applied to. A Q fitted on the evaluated log itself has seen
its noise, and the doubly robust estimators are then biased, with intervals that are far too narrow.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from evaluation.estimators import Floats
from sepsis_gym.actions import N_ACTIONS, N_LEVELS, decode_action
from sepsis_gym.errors import ConfigError
from sepsis_gym.features import FEATURE_INDEX
from sepsis_gym.patients import OBSERVATION_SLICES
from sepsis_gym.trajectories import Trajectories

_BLOCK_STAYS = 64
_MODIFIERS = ("meanbp", "heart_rate", "lactate", "creatinine", "output_4hourly")


@dataclass(frozen=True)
class FQEConfig:
    """How Q is fitted.

    Attributes:
        ridges: Candidate L2 penalties per training row on the weights of standardised features;
            the error of the logged return-to-go, which is the clinicians' Q, on left-out folds of
            patients chooses.
        refits: Bootstrap resamples of stays in which Q is fitted again for the interval of FQE.
    """

    ridges: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
    refits: int = 100

    def __post_init__(self) -> None:
        """Checks the ranges."""
        if not self.ridges or not min(self.ridges) > 0:
            raise ConfigError(f"ridges must be positive, got {self.ridges}")
        if self.refits < 1:
            raise ConfigError(f"refits must be 1 or more, got {self.refits}")


def action_basis() -> Floats:
    """[25, 7]: fluid, vasopressor, their squares and product, no fluid, no vasopressor."""
    fluid, vasopressor = (level / (N_LEVELS - 1) for level in decode_action(np.arange(N_ACTIONS)))
    columns = (
        fluid,
        vasopressor,
        fluid**2,
        vasopressor**2,
        fluid * vasopressor,
        fluid == 0,
        vasopressor == 0,
    )
    return np.stack(columns, axis=1).astype(np.float64)


@dataclass(frozen=True)
class QFeatures:
    """Features that Q is linear in: the state, and the action basis times modifiers of its effect.

    Attributes:
        mean: [107] observation mean of the training rows.
        scale: [107] observation spread, 1 where constant.
    """

    mean: Floats
    scale: Floats

    def state(self, observations: NDArray[np.floating]) -> Floats:
        """[n, 108] intercept and standardised observations."""
        standardised = (observations - self.mean) / self.scale
        return np.concatenate([np.ones((len(observations), 1)), standardised], axis=1)

    def modifiers(self, observations: NDArray[np.floating], state: Floats) -> Floats:
        """[n, 10] 1, a few vital signs and labs, ventilation, time, previous dose levels."""
        columns = [0, *(1 + FEATURE_INDEX[name] for name in _MODIFIERS)]
        columns += [1 + OBSERVATION_SLICES[name].start for name in ("ventilated", "time")]
        levels = np.stack(decode_action(np.arange(N_ACTIONS)), axis=1) / (N_LEVELS - 1)
        previous = observations[:, OBSERVATION_SLICES["previous_action"]] @ levels
        return np.concatenate([state[:, columns], previous], axis=1)

    def __call__(self, observations: NDArray[np.floating], actions: Floats) -> Floats:
        """[n, 178] features of actions given in expectation of the action basis, [n, 7]."""
        state = self.state(observations)
        modified = self.modifiers(observations, state)[:, :, None] * actions[:, None, :]
        return np.concatenate([state, modified.reshape(len(state), -1)], axis=1)


@dataclass(frozen=True)
class LinearQ:
    """A fitted Q function.

    Attributes:
        features: What it is linear in.
        weights: [178] their weights.
        lowest: Smallest return that the rewards of the training log permit.
        highest: Largest such return.
    """

    features: QFeatures
    weights: Floats
    lowest: float
    highest: float

    def values(self, observations: NDArray[np.floating]) -> Floats:
        """Q of all actions, [n, 25], of observations [n, 107]; never clipped."""
        state = self.features.state(observations)
        modifiers = self.features.modifiers(observations, state)
        basis = action_basis()
        of_action = self.weights[state.shape[1] :].reshape(modifiers.shape[1], basis.shape[1])
        level = state @ self.weights[: state.shape[1]]
        return level[:, None] + modifiers @ of_action @ basis.T

    def outside_share(self, values: Floats) -> float:
        """Share of the values that no sequence of rewards could produce."""
        return float(np.mean((values < self.lowest) | (values > self.highest)))


class FQEDesign:
    """The regressions that all target policies share: one per resample and left-out fold."""

    def __init__(
        self,
        log: Trajectories,
        config: FQEConfig | None = None,
        *,
        gamma: float,
        folds: NDArray[np.integer] | None = None,
        counts: Floats | None = None,
    ) -> None:
        """Builds the designs and chooses the penalty.

        Args:
            log: Stays Q is fitted on.
            config: How.
            gamma: Discount per step.
            folds: [N] fold of each stay, from 0; the fit of a fold leaves its stays out. Stays of
                fold -1 are in every fit. Without folds there is one fit, of all stays, and the
                penalty is the first candidate.
            counts: [B, N] how often each resample holds each stay.
        """
        self.log, self.gamma, self._config = log, gamma, config or FQEConfig()
        self._folds = np.full(len(log), -1) if folds is None else np.asarray(folds)
        once = np.ones((1, len(log)))
        self._counts = once if counts is None else np.concatenate([once, counts])
        self._observations = log.observations()
        logged = self._observations[log.is_decision]
        spread = logged.std(0, dtype=np.float64)
        self.features = QFeatures(
            logged.mean(0, dtype=np.float64), np.where(spread > 0, spread, 1.0)
        )
        self.lowest, self.highest = permitted_returns(log, gamma=gamma)
        gram = self._sums(self._logged_features)
        self._reward = self._sums(lambda rows: log.reward[rows, None])[..., 0]
        self.ridge = self._choose_ridge(gram[:, 0])
        self._penalised = [
            self._left(gram, fold) + self._penalty(self._left(self._rows, fold), self.ridge)
            for fold in range(self.n_fits)
        ]

    @property
    def n_fits(self) -> int:
        """Left-out folds, or 1 without any."""
        return max(int(self._folds.max()) + 1, 1)

    def _logged_features(self, rows: NDArray[np.integer]) -> Floats:
        actions = action_basis()[self.log.action[rows]]
        return self.features(self._observations[rows], actions)

    def _sums(self, right: Callable[[NDArray[np.int64]], Floats]) -> Floats:
        """Sums of features' x right over the rows of each group of stays in each resample.

        Args:
            right: [n, q] for row numbers [n].

        Returns:
            [1 + folds, 1 + B, 178, q]; group 0 is fold -1, resample 0 the stays themselves.
        """
        sums: list[Floats] = []
        lengths, first = self.log.n_decisions, self.log.offsets[:-1]
        for group in range(-1, int(self._folds.max()) + 1):
            total: Floats | float = 0.0
            stays = np.flatnonzero(self._folds == group)
            for start in range(0, len(stays), _BLOCK_STAYS):
                block = stays[start : start + _BLOCK_STAYS]
                steps = np.arange(lengths[block].max())
                within = steps < lengths[block, None]
                rows = (first[block, None] + steps)[within]
                logged, other = self._logged_features(rows), right(rows)
                padded = [np.zeros((*within.shape, part.shape[1])) for part in (logged, other)]
                padded[0][within], padded[1][within] = logged, other
                products = padded[0].transpose(0, 2, 1) @ padded[1]
                total = total + self._counts[:, block] @ products.reshape(len(block), -1)
                shape = (len(self._counts), *products.shape[1:])
            sums.append(np.reshape(total, shape) if len(stays) else np.zeros(0))
        return np.stack([part if part.size else np.zeros(shape) for part in sums])

    def _left(self, sums: Floats, fold: int) -> Floats:
        """What is left of grouped sums [1 + folds, ...] without one fold."""
        total = sums.sum(0)
        return total - sums[1 + fold] if len(sums) > 1 else total

    def _penalty(self, rows: Floats, ridge: float) -> Floats:
        """[..., 178, 178] for [...] rows; the overall level is not shrunk towards 0."""
        penalty = np.full(self._reward.shape[-1], ridge)
        penalty[0] = 1e-9
        return rows[..., None, None] * np.diag(penalty)

    @cached_property
    def _rows(self) -> Floats:
        """[1 + folds, 1 + B] rows of each group in each resample."""
        groups = np.arange(-1, int(self._folds.max()) + 1)
        weights = self._counts * self.log.n_decisions
        return np.stack([weights[:, self._folds == group].sum(1) for group in groups])

    def _choose_ridge(self, gram: Floats) -> float:
        """Least error of the left-out folds' return-to-go, from group sums [1 + folds, p, p]."""
        ridges = self._config.ridges
        if len(gram) == 1 or len(ridges) == 1:
            return ridges[0]
        to_go = return_to_go(self.log, gamma=self.gamma)
        once, self._counts = self._counts, self._counts[:1]
        moment = self._sums(lambda rows: to_go[rows, None])[:, 0, :, 0]
        self._counts = once
        errors = np.zeros(len(ridges))
        for fold in range(self.n_fits):
            for index, ridge in enumerate(ridges):
                rows = self._left(self._rows[:, 0], fold)
                left = self._left(gram, fold) + self._penalty(rows, ridge)
                weights = np.linalg.solve(left, self._left(moment, fold))
                own = weights @ gram[1 + fold] @ weights - 2 * weights @ moment[1 + fold]
                errors[index] += own  # the squares of the returns are the same for all
        return ridges[int(errors.argmin())]

    def fit_all(self, probabilities: NDArray[np.floating]) -> Floats:
        """Evaluates a target policy in every fit and resample.

        The fixed point of regressing the Bellman target is solved for at once. As many rounds as
        the horizon has steps would not reach it: the features do not tell one step from another
        exactly, and the clinicians' own value came out 2 of 8 too low (synthetic cohort).

        Args:
            probabilities: [R, 25] of the target at every row; those of final states are not read.

        Returns:
            [fits, 1 + B, 178] weights; the first of each fit is that of the stays themselves.

        Raises:
            ValueError: The shape is not [R, 25].

        Source: Lagoudakis & Parr 2003, "Least-squares policy iteration", sec. 5.
        """
        log = self.log
        if probabilities.shape != (log.offsets[-1], N_ACTIONS):
            raise ValueError(
                f"probabilities must be {(int(log.offsets[-1]), N_ACTIONS)}, "
                f"got {probabilities.shape}"
            )

        def following(rows: NDArray[np.int64]) -> Floats:
            expected = self.features(
                self._observations[rows + 1], probabilities[rows + 1] @ action_basis()
            )
            return np.where(log.terminated[rows, None], 0.0, expected)

        cross = self._sums(following)
        fits = []
        for fold in range(self.n_fits):
            left = self._penalised[fold] - self.gamma * self._left(cross, fold)
            fits.append(np.linalg.solve(left, self._left(self._reward, fold)[..., None])[..., 0])
        return np.stack(fits)

    def fit(self, probabilities: NDArray[np.floating]) -> LinearQ:
        """Q of a target policy, of the first fit; arguments as :meth:`fit_all`."""
        return self.q(self.fit_all(probabilities)[0, 0])

    def q(self, weights: Floats) -> LinearQ:
        """The Q function of [178] weights."""
        return LinearQ(self.features, weights, self.lowest, self.highest)


def return_to_go(log: Trajectories, *, gamma: float) -> Floats:
    """[R] discounted rewards from each decision on; 0 in final states."""
    reward = log.padded(log.reward)
    value = np.zeros(reward.shape)
    running = np.zeros(len(reward))
    for step in reversed(range(reward.shape[1])):
        running = reward[:, step] + gamma * running
        value[:, step] = running
    rows = np.zeros(len(log.is_decision))
    rows[log.is_decision] = value[log.mask]
    return rows


def permitted_returns(trajectories: Trajectories, *, gamma: float) -> tuple[float, float]:
    """Smallest and largest return that the logged rewards could add up to within the horizon."""
    terminal = trajectories.reward[trajectories.terminated]
    within = trajectories.reward[trajectories.is_decision & ~trajectories.terminated]
    steps = trajectories.preprocessing.max_steps
    bounds = []
    for extreme in (np.min, np.max):
        step = float(extreme(within)) if len(within) else 0.0
        best, running = [], 0.0
        for length in range(steps):
            best.append(running + gamma**length * float(extreme(terminal)))
            running += gamma**length * step
        bounds.append(float(extreme(best)))
    return bounds[0], bounds[1]
