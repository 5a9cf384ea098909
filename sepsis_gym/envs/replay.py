"""``SepsisReplayEnv``: walks logged stays, whatever the agent does."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.actions import check_actions
from sepsis_gym.dynamics import TransitionModel
from sepsis_gym.envs.base import PatientEnv, Shown
from sepsis_gym.envs.episode import begin
from sepsis_gym.errors import ConfigError, UnknownNameError
from sepsis_gym.patients import Patients
from sepsis_gym.trajectories import Trajectories


class SepsisReplayEnv(PatientEnv):
    """Shows an agent the states of logged stays, to record what it would have given.

    The action is recorded (:attr:`chosen`) and changes nothing: the next state and the reward are
    the logged ones. This is how agents that are no function of an array are scored off-policy.
    Spaces and ``info`` are those of :class:`~sepsis_gym.envs.sepsis.SepsisEnv`; ``info`` also has
    ``stay_id``.

    ``reset(options={"stay_id": ...})`` chooses the stay; without it one is drawn.
    """

    def __init__(
        self,
        trajectories: Trajectories,
        *,
        model: TransitionModel | None = None,
        render_mode: str | None = None,
    ) -> None:
        """Opens the environment over logged stays.

        Args:
            trajectories: The stays.
            model: What :meth:`simulate` asks; it follows the logged states.
            render_mode: ``ansi``, ``rgb_array``, ``human`` or None.
        """
        super().__init__(trajectories.preprocessing, model, render_mode)
        self.trajectories = trajectories
        self.chosen: list[int] = []
        self._positions = {stay: at for at, stay in enumerate(trajectories.stays.stay_id.tolist())}
        self._stay = -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Shown:
        """Opens a stay's record at its first state."""
        super().reset(seed=seed)
        unknown = sorted(set(options or {}) - {"stay_id"})
        if unknown:
            raise ConfigError(f"SepsisReplay-v0 takes the reset option stay_id, got {unknown}")
        if options and "stay_id" in options:
            if options["stay_id"] not in self._positions:
                raise UnknownNameError(f"no stay {options['stay_id']} in these trajectories")
            self._stay = self._positions[options["stay_id"]]
        else:
            self._stay = int(self.np_random.integers(len(self.trajectories)))
        self.chosen = []
        self._stay_id = int(self.trajectories.stays.stay_id[self._stay])
        return self._show(begin(self._logged(0), self.preprocessing))

    def step(
        self, action: np.int64 | int
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Records ``action`` and turns to the next logged state.

        Raises:
            InvalidActionError: The action is not one of the 25.
            gymnasium.error.ResetNeeded: The stay is over or has not begun.
        """
        state = self._ongoing()
        self.chosen.append(int(check_actions(action)))
        log, step = self.trajectories, len(self.chosen)
        row = log.offsets[self._stay] + step - 1
        following = begin(self._logged(step, state.patients), self.preprocessing)
        if log.terminated[row]:
            died = log.stays.died_90d[self._stay : self._stay + 1].astype(np.int8)
            end = log.stays.end[self._stay : self._stay + 1]
            following = replace(following, end=end, died_90d=died)
        observation, info = self._show(following)
        return observation, float(log.reward[row]), bool(log.terminated[row]), False, info

    def _logged(self, step: int, before: Patients | None = None) -> Patients:
        """The stay's state at ``step``, with the model's memory of what came before it."""
        row = self.trajectories.offsets[self._stay] + step
        patients = self.trajectories.patients(np.array([row]))
        if self.model is None or before is None:
            return patients
        return self.model.follow(before, patients)

    @property
    def logged_action(self) -> int:
        """The clinician's action in this state, -1 in the last; ``info`` hides it on purpose."""
        log = self.trajectories
        return int(log.action[log.offsets[self._stay] + len(self.chosen)])
