"""What the single-patient environments share: spaces, rendering and what-if questions."""

from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from gymnasium.error import ResetNeeded
from numpy.typing import NDArray

from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.dynamics import Simulation, TransitionModel
from sepsis_gym.envs.bedside import bedside_text
from sepsis_gym.envs.episode import EpisodeState, describe_one
from sepsis_gym.errors import ConfigError
from sepsis_gym.patients import Patients, encode_observation, observation_space
from sepsis_gym.preprocessing import Preprocessing

if TYPE_CHECKING:
    from sepsis_gym.envs.figure import StayWindow

Shown = tuple[NDArray[np.float32], dict[str, Any]]


class PatientEnv(gym.Env[NDArray[np.float32], np.int64]):
    """One patient at a time; subclasses say where the next state comes from."""

    metadata: dict[str, Any] = {  # noqa: RUF012
        "render_modes": ["ansi", "rgb_array", "human"],
        "render_fps": 1,
    }

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
            render_mode: ``ansi``, ``rgb_array``, ``human`` or None.

        Raises:
            ImportError: ``rgb_array`` without matplotlib.
        """
        modes = self.metadata["render_modes"]
        if render_mode is not None and render_mode not in modes:
            raise ConfigError(f"render_mode must be None, {', '.join(modes)}, got {render_mode!r}")
        if render_mode == "rgb_array":
            import sepsis_gym.envs.figure  # noqa: F401  fails now, not at the first frame
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
        self._history: tuple[EpisodeState, ...] = ()
        self._stay_id: int | None = None
        self._window: StayWindow | None = None
        self._can_open_window = True

    @property
    def patients(self) -> Patients:
        """The one patient, for whoever asks the world model itself.

        Raises:
            gymnasium.error.ResetNeeded: The episode is over or has not begun.
        """
        return self._ongoing().patients

    def simulate(self, actions: NDArray[np.integer]) -> Simulation:
        """Predicts the next step under each of k actions; state and random stream stay put.

        Raises:
            ConfigError: The environment has no world model to ask.
        """
        if self.model is None:
            raise ConfigError("simulate() needs a world model: open the environment with model=...")
        doses = self.preprocessing.action_bins.doses(np.atleast_1d(actions))
        return self.model.simulate(self.patients, *doses)

    def render(self) -> str | NDArray[np.uint8] | None:  # type: ignore[override]
        """The bedside chart as text in ``ansi`` mode, the stay's figure in ``rgb_array`` mode.

        In ``human`` mode None: ``reset`` and ``step`` show the stay by themselves.
        """
        if self.render_mode is None:
            gym.logger.warn('render() needs gym.make(..., render_mode="ansi")')
            return None
        if self._state is None:
            raise ResetNeeded("render() needs reset() first")
        if self.render_mode == "human":
            return None
        if self.render_mode == "ansi":
            return bedside_text(describe_one(self._state, self.preprocessing))
        from sepsis_gym.envs.figure import stay_frame

        return stay_frame(self._history, self.preprocessing)

    def close(self) -> None:
        """Closes the window of ``human`` mode."""
        if self._window is not None:
            self._window.close()
            self._window = None

    def _ongoing(self) -> EpisodeState:
        if self._state is None or self._state.end.item():
            raise ResetNeeded("the episode is over or has not begun: call reset() first")
        return self._state

    def _show(self, state: EpisodeState) -> Shown:
        self._state = state
        if self.render_mode in ("rgb_array", "human"):  # the figure shows the stay so far
            before = () if state.patients.step[0] == 0 else self._history
            self._history = (*before, state)
        observation = encode_observation(state.patients, self.preprocessing)[0]
        info = describe_one(state, self.preprocessing)
        if self._stay_id is not None:
            info["stay_id"] = self._stay_id
        if self.render_mode == "human":
            self._display(info)
        return observation, info

    def _display(self, info: dict[str, Any]) -> None:
        """Shows the stay in a window; where there can be none, prints the bedside chart."""
        if self._window is None and self._can_open_window:
            self._window = _open_window()
            self._can_open_window = self._window is not None
        if self._window is None:
            print(bedside_text(info), end="\n\n")
        else:
            self._window.show(self._history, self.preprocessing)


def _open_window() -> "StayWindow | None":
    try:
        from sepsis_gym.envs.figure import StayWindow
    except ImportError:  # without matplotlib
        return None
    return StayWindow.open()
