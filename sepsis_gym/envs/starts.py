"""Logged stays to start from, instead of the model's generative starting states."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sepsis_gym.dynamics import TransitionModel
from sepsis_gym.errors import ConfigError, UnknownNameError
from sepsis_gym.patients import Patients
from sepsis_gym.trajectories import Trajectories


class LoggedStarts:
    """First states of logged stays, as the world model's patients."""

    def __init__(self, trajectories: Trajectories, model: TransitionModel) -> None:
        """Takes the first states.

        Values that are not known become the model's medians, not those of the stays' own cohort.

        Args:
            trajectories: The stays.
            model: The dynamics that go on from there.

        Raises:
            ConfigError: The model cannot go on from logged states, or not from states like these.
        """
        mine, theirs = model.preprocessing, trajectories.preprocessing
        for name in ("step_hours", "alignment"):
            if getattr(mine, name) != getattr(theirs, name):
                raise ConfigError(
                    f"start_from: {name} of the stays is {getattr(theirs, name)}, "
                    f"of the world model {getattr(mine, name)}: train one on this cohort"
                )
        first = trajectories.patients(trajectories.offsets[:-1])
        known = mine.known(first.age)
        values = np.where(known, first.values, np.array(mine.fill, np.float32))
        self._first = replace(first, values=values)
        one = self._first.take(np.array([0]))
        model.follow(one, one)  # says so if it cannot take up a logged stay
        self._model = model
        self._stay_id = trajectories.stays.stay_id
        self._positions = {stay: at for at, stay in enumerate(self._stay_id.tolist())}

    def draw(self, n: int, rng: np.random.Generator) -> NDArray[np.int64]:
        """[n] stays, each as likely as any other."""
        return self._stay_id[rng.integers(len(self._stay_id), size=n)]

    def patients(self, stay_id: ArrayLike, rng: np.random.Generator) -> Patients:
        """The first states of the [n] stays.

        Raises:
            UnknownNameError: One is none of the stays.
        """
        asked = np.asarray(stay_id).tolist()
        if unknown := [stay for stay in asked if stay not in self._positions]:
            raise UnknownNameError(f"no stay {unknown[0]} among those of start_from")
        patients = self._first.take(np.array([self._positions[stay] for stay in asked]))
        # a memory that has seen nothing yet is the same for every patient
        return replace(patients, memory=self._model.start(len(asked), rng).memory)


def check_reset_options(
    options: dict[str, Any] | None, known: set[str], starts: LoggedStarts | None
) -> dict[str, Any]:
    """Returns the options of a ``reset``.

    Raises:
        ConfigError: One is unknown, or asks for a logged stay where there is none.
    """
    asked = options or {}
    if unknown := sorted(set(asked) - known):
        raise ConfigError(f"unknown reset options {unknown}; there are {', '.join(sorted(known))}")
    if starts is None and "stay_id" in asked:
        raise ConfigError('stay_id needs logged stays: gym.make("SepsisWM-v0", start_from=FOLDER)')
    return asked
