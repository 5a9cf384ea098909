"""Other shapes of the action, for agents that choose the two drugs separately."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from sepsis_gym.actions import N_LEVELS, encode_action
from sepsis_gym.errors import InvalidActionError

_Env = gym.Env[NDArray[np.float32], np.int64]
_Levels = NDArray[np.int64]


def _levels_to_action(levels: Any, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Action ids of fluid and vasopressor levels in the last axis."""
    array = np.asarray(levels)
    if array.shape != shape or array.dtype.kind not in "iu":
        raise InvalidActionError(
            f"levels must be whole numbers (fluid, vasopressor) of shape {shape}, got {levels!r}"
        )
    return encode_action(array[..., 0], array[..., 1])


def _level_space() -> Any:
    return gym.spaces.MultiDiscrete([N_LEVELS, N_LEVELS])


class MultiDiscreteAction(
    gym.ActionWrapper[NDArray[np.float32], _Levels, np.int64], RecordConstructorArgs
):
    """Takes ``MultiDiscrete([5, 5])``: fluid level and vasopressor level."""

    def __init__(self, env: _Env) -> None:
        """Wraps a single environment."""
        RecordConstructorArgs.__init__(self)
        gym.ActionWrapper.__init__(self, env)
        self.action_space = _level_space()

    def action(self, action: _Levels) -> np.int64:
        """The action id of the two levels.

        Raises:
            InvalidActionError: They are not two whole numbers from 0 to 4.
        """
        return np.int64(_levels_to_action(action, (2,)))


class MultiDiscreteVectorAction(gym.vector.VectorActionWrapper):
    """The same for a vector environment: [num_envs, 2] levels."""

    def __init__(self, env: gym.vector.VectorEnv[Any, Any, Any]) -> None:
        """Wraps a vector environment."""
        super().__init__(env)
        self.single_action_space = _level_space()
        self.action_space = batch_space(self.single_action_space, env.num_envs)

    def actions(self, actions: _Levels) -> NDArray[np.int64]:  # type: ignore[override]
        """The action ids of the levels.

        Raises:
            InvalidActionError: They are not two whole numbers from 0 to 4 for each environment.
        """
        return _levels_to_action(actions, (self.env.num_envs, 2))
