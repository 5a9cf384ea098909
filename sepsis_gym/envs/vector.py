"""``SepsisVectorEnv``: many patients in one batch."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from sepsis_gym.actions import N_ACTIONS, check_actions
from sepsis_gym.dynamics import TransitionModel
from sepsis_gym.envs.episode import EpisodeState, advance, begin, describe
from sepsis_gym.errors import ConfigError, InvalidActionError
from sepsis_gym.patients import encode_observation, observation_space
from sepsis_gym.preprocessing import Preprocessing
from sepsis_gym.reward import RewardConfig

# Gymnasium 1.0 knows next-step autoreset only and has no name for it.
_AUTORESET = getattr(gym.vector, "AutoresetMode", None)
_Arrays = NDArray[Any]


class SepsisVectorEnv(gym.vector.VectorEnv[_Arrays, _Arrays, _Arrays]):
    """``num_envs`` independent episodes of :class:`SepsisEnv`, moved together.

    Spaces, rewards and ``info`` are those of the single environment, stacked. With one
    environment it gives the single environment's episodes number for number. An episode that has
    ended starts anew at the next ``step``, which ignores that action and pays 0 (Gymnasium's
    next-step autoreset).
    """

    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": [],
        "autoreset_mode": _AUTORESET.NEXT_STEP if _AUTORESET else "NextStep",
    }

    def __init__(
        self,
        num_envs: int,
        model: TransitionModel,
        *,
        reward: RewardConfig | None = None,
    ) -> None:
        """Opens the environments over one shared model of patients.

        Args:
            num_envs: How many.
            model: The dynamics.
            reward: The reward; the published one if not given.
        """
        if num_envs < 1:
            raise ConfigError(f"num_envs must be 1 or more, got {num_envs}")
        self.num_envs = num_envs
        self.model = model
        self.reward = reward or RewardConfig()
        self.render_mode = None
        self.single_observation_space = observation_space(model.preprocessing)
        self.single_action_space = gym.spaces.Discrete(N_ACTIONS)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._state: EpisodeState | None = None

    @property
    def preprocessing(self) -> Preprocessing:
        """Clock, scales and dose levels."""
        return self.model.preprocessing

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[_Arrays, dict[str, Any]]:
        """Admits ``num_envs`` new patients."""
        if isinstance(seed, list | tuple):
            raise ConfigError("SepsisVectorEnv draws from one stream: seed must be one integer")
        super().reset(seed=seed)
        if options:
            raise ConfigError(f"SepsisVectorEnv takes no reset options, got {sorted(options)}")
        return self._show(self._admit(self.num_envs))

    def step(
        self, actions: _Arrays
    ) -> tuple[_Arrays, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Gives each patient the doses of its action.

        Raises:
            InvalidActionError: An action is not one of the 25, or there are not ``num_envs``.
            gymnasium.error.ResetNeeded: ``reset`` was never called.
        """
        if self._state is None:
            raise gym.error.ResetNeeded("call reset() before step()")
        chosen = check_actions(actions)
        if chosen.shape != (self.num_envs,):
            raise InvalidActionError(
                f"actions must have shape ({self.num_envs},), got {chosen.shape}"
            )
        over = self._state.terminated
        if not over.any():
            following, reward = self._advance(self._state, chosen)
        else:
            following, reward = self._advance_some(self._state, chosen, ~over)
        observation, info = self._show(following)
        return observation, reward, following.terminated, np.zeros(self.num_envs, bool), info

    def _advance(
        self, state: EpisodeState, action: NDArray[np.int64]
    ) -> tuple[EpisodeState, NDArray[np.float64]]:
        return advance(self.model, state, action, self.reward, self.np_random)

    def _advance_some(
        self, state: EpisodeState, action: NDArray[np.int64], ongoing: NDArray[np.bool_]
    ) -> tuple[EpisodeState, NDArray[np.float64]]:
        """Moves the ongoing episodes and admits new patients for the others."""
        following = state.put(~ongoing, self._admit(int((~ongoing).sum())))
        reward = np.zeros(self.num_envs)
        if ongoing.any():
            moved, reward[ongoing] = self._advance(state.take(ongoing), action[ongoing])
            following = following.put(ongoing, moved)
        return following, reward

    def _admit(self, n: int) -> EpisodeState:
        return begin(self.model.start(n, self.np_random), self.preprocessing)

    def _show(self, state: EpisodeState) -> tuple[_Arrays, dict[str, Any]]:
        self._state = state
        entries: dict[str, Any] = dict(describe(state, self.preprocessing))
        present = np.ones(self.num_envs, bool)
        info = entries | {f"_{key}": present for key in entries}
        return encode_observation(state.patients, self.preprocessing), info
