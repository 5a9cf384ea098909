"""What the single-patient environments share: spaces, the bedside chart and what-if questions."""

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.dynamics import Simulation, TransitionModel
from sepsis_gym.envs.bedside import bedside_text
from sepsis_gym.envs.episode import EpisodeState, describe_one
from sepsis_gym.errors import ConfigError
from sepsis_gym.patients import encode_observation, observation_space
from sepsis_gym.preprocessing import Preprocessing

Shown = tuple[NDArray[np.float32], dict[str, Any]]


class PatientEnv(gym.Env[NDArray[np.float32], np.int64]):
    """One patient at a time; subclasses say where the next state comes from."""

    metadata: dict[str, Any] = {"render_modes": ["ansi"], "render_fps": 1}  # noqa: RUF012

    def __init__(
        self,
        preprocessing: Preprocessing,
        model: TransitionModel | None,
        render_mode: str | None,
    ) -> None:
        """Sets up the spaces.

        Args:
            preprocessing: Clock, scales and dose levels of the states shown.
            model: What :meth:`simulate` asks.
            render_mode: ``ansi`` or None.
        """
        if render_mode is not None and render_mode not in self.metadata["render_modes"]:
            raise ConfigError(f"render_mode must be None or 'ansi', got {render_mode!r}")
        if model is not None and model.preprocessing.step_hours != preprocessing.step_hours:
            raise ConfigError(
                f"the world model steps {model.preprocessing.step_hours} h, "
                f"the stays {preprocessing.step_hours} h: train one on this cohort"
            )
        self.preprocessing = preprocessing
        self.model = model
        self.render_mode = render_mode
        self.observation_space = observation_space(preprocessing)
        self.action_space = gym.spaces.Discrete(N_ACTIONS)
        self._state: EpisodeState | None = None

    def simulate(self, actions: NDArray[np.integer]) -> Simulation:
        """Predicts the next step under each of k actions; state and random stream stay put.

        Raises:
            ConfigError: The environment has no world model to ask.
        """
        if self.model is None:
            raise ConfigError("simulate() needs a world model: open the environment with model=...")
        doses = self.preprocessing.action_bins.doses(np.atleast_1d(actions))
        return self.model.simulate(self._ongoing().patients, *doses)

    def render(self) -> str | None:  # type: ignore[override]
        """The bedside chart as text in ``ansi`` mode."""
        if self.render_mode is None:
            gym.logger.warn('render() needs gym.make(..., render_mode="ansi")')
            return None
        if self._state is None:
            raise ResetNeeded("render() needs reset() first")
        return bedside_text(describe_one(self._state, self.preprocessing))

    def _ongoing(self) -> EpisodeState:
        if self._state is None or self._state.terminated[0]:
            raise ResetNeeded("the episode is over or has not begun: call reset() first")
        return self._state

    def _show(self, state: EpisodeState) -> Shown:
        self._state = state
        observation = encode_observation(state.patients, self.preprocessing)[0]
        return observation, describe_one(state, self.preprocessing)
