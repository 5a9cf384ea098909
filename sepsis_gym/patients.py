"""A batch of patients at one step, in clinical units: what dynamics move and encoders read."""

from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.features import HIGH, LOW, N_FEATURES, STATIC_NAMES
from sepsis_gym.preprocessing import Preprocessing
from sepsis_gym.sofa import state_sofa

_N_MASKS = N_FEATURES - 1
_STATIC_AT = N_FEATURES + _N_MASKS
_ACTION_AT = _STATIC_AT + len(STATIC_NAMES) + 1
OBSERVATION_SLICES: dict[str, slice] = {
    "features": slice(0, N_FEATURES),
    "measured": slice(N_FEATURES, _STATIC_AT),
    "static": slice(_STATIC_AT, _ACTION_AT - 1),
    "ventilated": slice(_ACTION_AT - 1, _ACTION_AT),
    "previous_action": slice(_ACTION_AT, _ACTION_AT + N_ACTIONS),
    "time": slice(_ACTION_AT + N_ACTIONS, _ACTION_AT + N_ACTIONS + 1),
}
"""Where each block stands in the flat observation."""
OBSERVATION_SIZE = OBSERVATION_SLICES["time"].stop
_LARGEST_STATIC_Z = 20.0


@dataclass(frozen=True)
class Patients:
    """n patients at their present step.

    Attributes:
        values: [n, 39] features in clinical units: measured, carried forward or filled.
        age: [n, 39] steps since each was measured.
        ventilated: [n] invasively ventilated.
        static: [n, 3] age in years, male, Charlson index.
        previous_fluid_ml: [n] fluid of the step that led here, mL per step.
        previous_norepinephrine_equivalent: [n] its vasopressor dose, ug/kg/min.
        step: [n] decisions taken so far.
        memory: [n, ...] what the dynamics carry along, opaque to everyone else.
    """

    values: NDArray[np.float32]
    age: NDArray[np.int16]
    ventilated: NDArray[np.bool_]
    static: NDArray[np.float32]
    previous_fluid_ml: NDArray[np.float32]
    previous_norepinephrine_equivalent: NDArray[np.float32]
    step: NDArray[np.int64]
    memory: NDArray[np.float32]

    def __len__(self) -> int:
        """Number of patients."""
        return len(self.values)

    @property
    def measured(self) -> NDArray[np.bool_]:
        """[n, 39] whether each value was measured in this very step."""
        return self.age == 0

    def sofa(self, preprocessing: Preprocessing) -> NDArray[np.int8]:
        """[n] SOFA of the present state."""
        return state_sofa(
            self.values,
            preprocessing.known(self.age),
            self.ventilated,
            self.previous_norepinephrine_equivalent,
        )

    def take(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> Self:
        """The patients at these positions (repeats allowed)."""
        return replace(self, **{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def put(self, index: NDArray[np.integer] | NDArray[np.bool_], other: Self) -> Self:
        """A copy in which the patients at ``index`` are ``other``'s."""
        merged = {}
        for field in fields(self):
            merged[field.name] = getattr(self, field.name).copy()
            merged[field.name][index] = getattr(other, field.name)
        return replace(self, **merged)


def encode_observation(patients: Patients, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Flat observations of the patients, [n, 107]; the table is in :class:`SepsisEnv`."""
    n = len(patients)
    observation = np.zeros((n, OBSERVATION_SIZE), np.float32)
    at = OBSERVATION_SLICES
    observation[:, at["features"]] = preprocessing.standardize(patients.values)
    observation[:, at["measured"]] = patients.measured[:, :_N_MASKS]
    observation[:, at["static"]] = preprocessing.standardize_static(patients.static)
    observation[:, at["ventilated"].start] = patients.ventilated
    action = preprocessing.action_bins.action(
        patients.previous_fluid_ml, patients.previous_norepinephrine_equivalent
    )
    observation[np.arange(n), at["previous_action"].start + action] = 1.0
    observation[:, at["time"].start] = patients.step / preprocessing.max_steps
    return observation


def observation_space(preprocessing: Preprocessing) -> spaces.Box:
    """The Box that holds every possible observation: each feature's limits as z-scores."""
    low = np.zeros(OBSERVATION_SIZE, np.float32)
    high = np.ones(OBSERVATION_SIZE, np.float32)
    at = OBSERVATION_SLICES
    low[at["features"]] = preprocessing.standardize(LOW)
    high[at["features"]] = preprocessing.standardize(HIGH)
    low[at["static"]], high[at["static"]] = -_LARGEST_STATIC_Z, _LARGEST_STATIC_Z
    return spaces.Box(low, high, dtype=np.float32)
