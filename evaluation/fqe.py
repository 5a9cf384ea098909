"""Fitted Q evaluation with a linear Q: state features times a small basis of the two doses.

Fit Q on stays other than those it is applied to. A Q fitted on the evaluated log itself has seen
its noise, and the doubly robust estimators are then biased, with intervals that are far too narrow.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.estimators import Floats
from sepsis_gym.actions import N_ACTIONS, N_LEVELS, decode_action
from sepsis_gym.errors import ConfigError
from sepsis_gym.trajectories import Trajectories

_BLOCK_ROWS = 4096


@dataclass(frozen=True)
class FQEConfig:
    """How Q is fitted.

    Attributes:
        ridge: L2 penalty per training row on the weights of standardised features.
    """

    ridge: float = 0.01

    def __post_init__(self) -> None:
        """Checks the range."""
        if not self.ridge > 0:
            raise ConfigError(f"ridge must be positive, got {self.ridge}")


def action_basis() -> Floats:
    """[25, 8]: 1, fluid, vasopressor, their squares and product, no fluid, no vasopressor."""
    fluid, vasopressor = (level / (N_LEVELS - 1) for level in decode_action(np.arange(N_ACTIONS)))
    columns = (
        np.ones(N_ACTIONS),
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
class LinearQ:
    """A fitted Q function.

    Attributes:
        mean: [107] observation mean of the training rows.
        scale: [107] observation spread, 1 where constant.
        weights: [108, 8] intercept and features by action basis.
        lowest: Smallest return that the rewards of the training log permit.
        highest: Largest such return.
    """

    mean: Floats
    scale: Floats
    weights: Floats
    lowest: float
    highest: float

    def values(self, observations: NDArray[np.floating]) -> Floats:
        """Q of all actions, [n, 25], of observations [n, 107]; never clipped."""
        state = _state_features(observations, self.mean, self.scale)
        return state @ self.weights @ action_basis().T

    def outside_share(self, values: Floats) -> float:
        """Share of the values that no sequence of rewards could produce."""
        return float(np.mean((values < self.lowest) | (values > self.highest)))


class FQEDesign:
    """The regression that all target policies share: its Gram matrix is inverted once."""

    def __init__(self, trajectories: Trajectories, config: FQEConfig | None = None) -> None:
        """Builds the design from the stays Q is fitted on."""
        ridge = (config or FQEConfig()).ridge
        observations = trajectories.observations()
        rows = np.flatnonzero(trajectories.is_decision)
        self._mean = observations[rows].mean(0, dtype=np.float64)
        spread = observations[rows].std(0, dtype=np.float64)
        self._scale = np.where(spread > 0, spread, 1.0)
        state = _state_features(observations, self._mean, self._scale)
        self._trajectories = trajectories
        self._following = rows + 1
        self._state, self._state_tp1 = state[rows], state[rows + 1]
        self._action = action_basis()[trajectories.action[rows]]
        size = self._state.shape[1] * self._action.shape[1]
        gram = np.zeros((size, size))
        for first in range(0, len(rows), _BLOCK_ROWS):
            block = slice(first, first + _BLOCK_ROWS)
            outer = self._state[block, :, None] * self._action[block, None, :]
            design = outer.reshape(-1, size)
            gram += design.T @ design
        penalty = np.full(size, ridge * len(rows))
        penalty[0] = 1e-9 * len(rows)  # the overall level is not shrunk towards 0
        self._inverse = np.linalg.inv(gram + np.diag(penalty))

    def fit(self, probabilities: NDArray[np.floating], *, gamma: float) -> LinearQ:
        """Evaluates a target policy.

        The Bellman target is regressed once per step of the horizon; every stay ends within it,
        and the state knows the time, so Q after that many rounds is the fixed point.

        Args:
            probabilities: [R, 25] of the target at every row; those of final states are not read.
            gamma: Discount per step.

        Raises:
            ValueError: The shape is not [R, 25].
        """
        log = self._trajectories
        if probabilities.shape != (log.offsets[-1], N_ACTIONS):
            raise ValueError(
                f"probabilities must be {(int(log.offsets[-1]), N_ACTIONS)}, "
                f"got {probabilities.shape}"
            )
        reward, last = log.reward[log.is_decision], log.terminated[log.is_decision]
        expected = np.where(last[:, None], 0.0, probabilities[self._following] @ action_basis())
        weights = np.zeros((self._state.shape[1], self._action.shape[1]))
        for _ in range(log.preprocessing.max_steps):
            target = reward + gamma * ((self._state_tp1 @ weights) * expected).sum(1)
            moment = self._state.T @ (self._action * target[:, None])
            weights = (self._inverse @ moment.ravel()).reshape(weights.shape)
        lowest, highest = permitted_returns(log, gamma=gamma)
        return LinearQ(self._mean, self._scale, weights, lowest, highest)


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


def _state_features(observations: NDArray[np.floating], mean: Floats, scale: Floats) -> Floats:
    standardised = (observations - mean) / scale
    return np.concatenate([np.ones((len(observations), 1)), standardised], axis=1)
