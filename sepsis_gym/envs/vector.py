"""``SepsisVectorEnv``: many patients in one batch."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from sepsis_gym.actions import N_ACTIONS, check_actions
from sepsis_gym.dynamics import TransitionModel
from sepsis_gym.envs.episode import EpisodeState, advance, begin, describe
from sepsis_gym.envs.snapshot import Snapshot
from sepsis_gym.envs.starts import LoggedStarts, check_reset_options
from sepsis_gym.envs.support import SupportConfig, keep_to_support
from sepsis_gym.errors import ConfigError, InvalidActionError
from sepsis_gym.patients import encode_observation, observation_space
from sepsis_gym.preprocessing import Preprocessing
from sepsis_gym.reward import RewardConfig
from sepsis_gym.trajectories import Trajectories

NEXT_STEP, SAME_STEP, DISABLED = AUTORESET_MODES = ("NextStep", "SameStep", "Disabled")
"""Values of ``gymnasium.vector.AutoresetMode``, which Gymnasium 1.0 does not have yet."""
_Arrays = NDArray[Any]


class SepsisVectorEnv(gym.vector.VectorEnv[_Arrays, _Arrays, _Arrays]):
    """``num_envs`` independent episodes of :class:`SepsisEnv`, moved together.

    Spaces, rewards and ``info`` are those of the single environment, stacked. With one
    environment it gives the single environment's episodes number for number.

    ``autoreset_mode`` says what becomes of an episode that has ended, as Gymnasium defines it:

    | mode | |
    |---|---|
    | ``NextStep`` | the next ``step`` ignores that action, pays 0 and shows a new patient |
    | ``SameStep`` | the same ``step`` shows a new patient; the end is in ``info["final_obs"]`` and ``info["final_info"]`` |
    | ``Disabled`` | ``step`` is refused until ``reset(options={"reset_mask": ...})`` |
    """  # noqa: E501

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int,
        model: TransitionModel,
        *,
        reward: RewardConfig | None = None,
        support: SupportConfig | None = None,
        start_from: Trajectories | None = None,
        autoreset_mode: object = NEXT_STEP,
    ) -> None:
        """Opens the environments over one shared model of patients.

        Args:
            num_envs: How many.
            model: The dynamics.
            reward: The reward; the published one if not given.
            support: Guards against exploiting the model; none if not given.
            start_from: Logged stays to start from; the model draws its starts if not given.
            autoreset_mode: A ``gymnasium.vector.AutoresetMode`` or its value.

        Raises:
            ConfigError: A setting is outside what it may be.
        """
        if num_envs < 1:
            raise ConfigError(f"num_envs must be 1 or more, got {num_envs}")
        self.autoreset_mode = _mode(autoreset_mode)
        enum = getattr(gym.vector, "AutoresetMode", None)
        declared = enum(self.autoreset_mode) if enum else self.autoreset_mode
        self.metadata = {**type(self).metadata, "autoreset_mode": declared}
        self.num_envs = num_envs
        self.model = model
        self.reward = reward or RewardConfig()
        self.support = support or SupportConfig()
        self.render_mode = None
        self.single_observation_space = observation_space(model.preprocessing)
        self.single_action_space = gym.spaces.Discrete(N_ACTIONS)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._state: EpisodeState | None = None
        self._starts = None if start_from is None else LoggedStarts(start_from, model)
        self._stay_id: NDArray[np.int64] | None = None

    @property
    def preprocessing(self) -> Preprocessing:
        """Clock, scales and dose levels."""
        return self.model.preprocessing

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[_Arrays, dict[str, Any]]:
        """Admits new patients.

        Args:
            seed: Starts the one random stream of all episodes anew.
            options: ``reset_mask`` [num_envs], which episodes to give up for a new patient, all if
                not given; ``stay_id`` [num_envs], the logged stays to start from.

        Raises:
            ConfigError: There is an unknown option, or one of another shape or type.
            UnknownNameError: A ``stay_id`` is none of the stays of ``start_from``.
        """
        if isinstance(seed, list | tuple):
            raise ConfigError("SepsisVectorEnv draws from one stream: seed must be one integer")
        super().reset(seed=seed)
        asked = check_reset_options(options, {"reset_mask", "stay_id"}, self._starts)
        mask = self._mask(asked.get("reset_mask"))
        stay_id = asked.get("stay_id")
        if stay_id is not None and np.shape(stay_id) != (self.num_envs,):
            raise ConfigError(f"stay_id must have shape ({self.num_envs},): {np.shape(stay_id)}")
        admitted = self._admit(mask, None if stay_id is None else np.asarray(stay_id)[mask])
        if self._state is not None and not mask.all():
            admitted = self._state.put(mask, admitted)
        return self._show(admitted, mask)

    def step(
        self, actions: _Arrays
    ) -> tuple[_Arrays, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Gives each patient the doses of its action.

        Raises:
            InvalidActionError: An action is not one of the 25, or there are not ``num_envs``.
            gymnasium.error.ResetNeeded: ``reset`` was never called, or with autoreset disabled an
                episode is over.
        """
        state = self._begun("step")
        chosen = check_actions(actions)
        if chosen.shape != (self.num_envs,):
            raise InvalidActionError(
                f"actions must have shape ({self.num_envs},), got {chosen.shape}"
            )
        over = state.terminated
        if not over.any():
            following, reward = self._advance(state, chosen)
        elif self.autoreset_mode == DISABLED:
            raise ResetNeeded(f"{over.sum()} episodes are over: reset them by their reset_mask")
        else:
            following, reward = self._advance_some(state, chosen, ~over)
        terminated = following.terminated
        final: dict[str, Any] = {}
        if self.autoreset_mode == SAME_STEP and terminated.any():
            final = self._final(following, terminated)
            following = following.put(terminated, self._admit(terminated))
        observation, info = self._show(following, np.ones(self.num_envs, bool))
        return observation, reward, terminated, np.zeros(self.num_envs, bool), info | final

    def get_state(self) -> Snapshot:
        """Everything that decides how the episodes go on, to be handed to :meth:`set_state`.

        Raises:
            gymnasium.error.ResetNeeded: ``reset`` was never called.
        """
        state = self._begun("get_state")
        return Snapshot.take(state, self.np_random, self.model, stay_id=self._stay_id)

    def set_state(self, state: Snapshot) -> None:
        """Goes back to where ``get_state`` was called, here or in another environment.

        The state of one patient is copied to all places, which then go separate ways.

        Raises:
            ConfigError: The state comes from other dynamics or of another number of patients.
        """
        episodes, stay_id = state.spread(self.num_envs)
        state.rewind(self.np_random, self.model)
        self._state, self._stay_id = episodes, stay_id

    def _begun(self, method: str) -> EpisodeState:
        if self._state is None:
            raise ResetNeeded(f"call reset() before {method}()")
        return self._state

    def _advance(
        self, state: EpisodeState, action: NDArray[np.int64]
    ) -> tuple[EpisodeState, NDArray[np.float64]]:
        moved, paid = advance(self.model, state, action, self.reward, self.np_random)
        return keep_to_support(moved, paid, self.support)

    def _advance_some(
        self, state: EpisodeState, action: NDArray[np.int64], ongoing: NDArray[np.bool_]
    ) -> tuple[EpisodeState, NDArray[np.float64]]:
        """Moves the ongoing episodes and admits new patients for the others."""
        admitted = self._admit(~ongoing)
        reward = np.zeros(self.num_envs)
        going, over = np.flatnonzero(ongoing), np.flatnonzero(~ongoing)
        if not len(going):
            return admitted, reward
        moved, reward[going] = self._advance(state.take(going), action[going])
        order = np.maximum(np.cumsum(ongoing) - 1, 0)  # where each is among the moved
        return moved.put(over, admitted, order), reward

    def _admit(
        self, mask: NDArray[np.bool_], stay_id: NDArray[np.int64] | None = None
    ) -> EpisodeState:
        """New patients for the places of ``mask``."""
        n = int(mask.sum())
        if self._starts is None:
            return begin(self.model.start(n, self.np_random), self.preprocessing)
        chosen = self._starts.draw(n, self.np_random) if stay_id is None else stay_id
        patients = self._starts.patients(chosen, self.np_random)
        known = self._stay_id
        stays = np.full(self.num_envs, -1) if known is None else known.copy()
        stays[mask] = chosen
        self._stay_id = stays
        return begin(patients, self.preprocessing)

    def _show(
        self, state: EpisodeState, present: NDArray[np.bool_]
    ) -> tuple[_Arrays, dict[str, Any]]:
        self._state = state
        entries = self._entries(state, self._stay_id)
        info = entries | {f"_{key}": present for key in entries}
        return encode_observation(state.patients, self.preprocessing), info

    def _entries(
        self, state: EpisodeState, stay_id: NDArray[np.int64] | None
    ) -> dict[str, NDArray[Any]]:
        entries = describe(state, self.preprocessing)
        return entries if stay_id is None else entries | {"stay_id": stay_id.copy()}

    def _final(self, state: EpisodeState, over: NDArray[np.bool_]) -> dict[str, Any]:
        """``final_obs`` and ``final_info`` of the episodes that are over, as Gymnasium has them."""
        ended = state.take(over)
        final_obs = np.full(self.num_envs, None, dtype=object)
        shown = encode_observation(ended.patients, self.preprocessing)
        for at, observation in zip(np.flatnonzero(over), shown, strict=True):
            final_obs[at] = observation
        final_info: dict[str, Any] = {}
        stay_id = None if self._stay_id is None else self._stay_id[over]
        for key, entry in self._entries(ended, stay_id).items():
            final_info[key] = np.zeros((self.num_envs, *entry.shape[1:]), entry.dtype)
            final_info[key][over] = entry
            final_info[f"_{key}"] = over.copy()
        return {
            "final_obs": final_obs,
            "_final_obs": over.copy(),
            "final_info": final_info,
            "_final_info": over.copy(),
        }

    def _mask(self, mask: Any) -> NDArray[np.bool_]:
        """[num_envs] the episodes to reset."""
        if mask is None:
            return np.ones(self.num_envs, bool)
        array = np.asarray(mask)
        if array.shape != (self.num_envs,) or array.dtype != np.bool_ or not array.any():
            raise ConfigError(
                f"reset_mask must be {self.num_envs} booleans, one or more of them True, got {mask}"
            )
        self._begun("a reset with reset_mask")
        return array


def _mode(autoreset_mode: object) -> str:
    name = getattr(autoreset_mode, "value", autoreset_mode)
    if name not in AUTORESET_MODES:
        raise ConfigError(
            f"autoreset_mode must be {', '.join(AUTORESET_MODES)}, got {autoreset_mode!r}"
        )
    return str(name)
