"""A batch of patients at one step, in clinical units: what dynamics move and encoders read."""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from sepsis_gym.actions import N_ACTIONS, decode_action
from sepsis_gym.features import HIGH, LOW, N_FEATURES, STATIC_NAMES
from sepsis_gym.preprocessing import NEVER, Preprocessing
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
_VENTILATED_AT = OBSERVATION_SLICES["ventilated"].start
_ONE_HOT = np.eye(N_ACTIONS, dtype=np.float32)
_LARGEST_STATIC_Z = 20.0
_SAME_Z = 1e-5


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

    def known(self, preprocessing: Preprocessing) -> NDArray[np.bool_]:
        """[n, 39] whether each value was measured within its hold time."""
        found = self._found(preprocessing)
        if "known" not in found:
            found["known"] = preprocessing.known(self.age)
        return found["known"]

    def standardized(self, preprocessing: Preprocessing) -> NDArray[np.float32]:
        """[n, 39] the values as z-scores."""
        found = self._found(preprocessing)
        if "shown" in found:
            return found["shown"][:, OBSERVATION_SLICES["features"]]
        if "z" not in found:
            found["z"] = preprocessing.standardize(self.values)
        return found["z"]

    def standardized_static(self, preprocessing: Preprocessing) -> NDArray[np.float32]:
        """[n, 3] age, male and Charlson index as z-scores."""
        found = self._found(preprocessing)
        if "shown" in found:
            return found["shown"][:, OBSERVATION_SLICES["static"]]
        if "static" not in found:
            found["static"] = preprocessing.standardize_static(self.static)
        return found["static"]

    def previous_action(self, preprocessing: Preprocessing) -> NDArray[np.int64]:
        """[n] id of the action that the doses given up to this state belong to."""
        found = self._found(preprocessing)
        if "action" not in found:
            given = self.previous_fluid_ml, self.previous_norepinephrine_equivalent
            found["action"] = preprocessing.action_bins.action(*given)
        return found["action"]

    def sofa(self, preprocessing: Preprocessing) -> NDArray[np.int8]:
        """[n] SOFA of the present state."""
        found = self._found(preprocessing)
        if "sofa" not in found:
            found["sofa"] = self.score(self.known(preprocessing))
        return found["sofa"]

    def score(self, known: NDArray[np.bool_]) -> NDArray[np.int8]:
        """[n] SOFA from the ``known`` [n, 39] values alone."""
        dose = self.previous_norepinephrine_equivalent
        return state_sofa(self.values, known, self.ventilated, dose)

    # Observation, info, reward and network read the same things of a state: worked out once.
    _derived: ClassVar[tuple[Preprocessing, dict[str, Any]] | None] = None

    def _found(self, preprocessing: Preprocessing) -> dict[str, Any]:
        """What has been worked out with this preprocessing, by name."""
        derived = self._derived
        if derived is None or derived[0] is not preprocessing:
            # equal ones, as after a journey between processes, find the very same numbers
            found = {} if derived is None or derived[0] != preprocessing else derived[1]
            derived = (preprocessing, found)
            object.__setattr__(self, "_derived", derived)
        return derived[1]

    def note(self, preprocessing: Preprocessing, **found: NDArray[Any]) -> None:
        """Keeps what is worked out.

        Any of ``known``, ``z``, ``static``, ``action``, ``sofa``, and in place of ``z`` and
        ``static`` ``shown`` [n, 107]: the observation with its block of the previous action still
        0.
        """
        self._found(preprocessing).update(found)

    def noted(self, preprocessing: Preprocessing, name: str) -> NDArray[Any] | None:
        """What was kept under this name, if anything."""
        return self._found(preprocessing).get(name)

    def take(self, index: NDArray[np.integer] | NDArray[np.bool_] | slice) -> Self:
        """The patients at these positions (repeats allowed); those of a slice are views."""
        if isinstance(index, slice):
            return self._each(lambda array: array[index])
        rows = np.flatnonzero(index) if index.dtype == np.bool_ else index
        return self._each(lambda array: array.take(rows, 0))  # faster than array[rows]

    def _each(self, change: Callable[..., NDArray[Any]], *others: Self) -> Self:
        """Patients of whom each array is made of those of these and of the others."""
        all_of_them = (self, *others)
        changed = type(self)(*(change(*(getattr(p, k) for p in all_of_them)) for k in _FIELDS))
        if self._derived is not None:
            preprocessing = self._derived[0]
            found = [patients._found(preprocessing) for patients in all_of_them]
            shared = set(found[0]).intersection(*found[1:])
            changed.note(preprocessing, **{k: change(*(f[k] for f in found)) for k in shared})
        return changed

    def asked(self, k: int) -> Self:
        """Copies: one patient k times, or these patients if there are k.

        Raises:
            ValueError: There are several, but not k.
        """
        if len(self) not in (1, k):
            raise ValueError(f"{k} treatments for {len(self)} patients: ask one, or one each")
        return self.take(np.arange(k) if len(self) == k else np.zeros(k, np.int64))

    def moved(
        self,
        values: NDArray[np.float32],
        age: NDArray[np.int16],
        ventilated: NDArray[np.bool_],
        fluid_ml: NDArray[np.float32],
        norepinephrine_equivalent: NDArray[np.float32],
        memory: NDArray[np.float32],
    ) -> Self:
        """The same people one step later; what was worked out about their statics stays."""
        following = type(self)(
            values, age, ventilated, self.static, fluid_ml, norepinephrine_equivalent,
            self.step + 1, memory,
        )  # fmt: skip
        if self._derived is not None and "static" in self._derived[1]:
            following.note(self._derived[0], static=self._derived[1]["static"])
        return following

    def put(
        self,
        index: NDArray[np.integer] | NDArray[np.bool_],
        other: Self,
        order: NDArray[np.integer] | None = None,
    ) -> Self:
        """A copy, in this ``order``, in which the patients at ``index`` are ``other``'s."""
        return self._each(lambda mine, theirs: merged(mine, index, theirs, order), other)


_FIELDS = [field.name for field in fields(Patients)]


def merged(
    mine: NDArray[Any],
    index: NDArray[np.integer] | NDArray[np.bool_],
    theirs: NDArray[Any],
    order: NDArray[np.integer] | None,
) -> NDArray[Any]:
    """Copies the rows, in this ``order`` if there is one, and replaces those at ``index``."""
    rows = mine.copy() if order is None else mine.take(order, 0)
    rows[index] = theirs
    return rows


def encode_observation(patients: Patients, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Flat observations of the patients, [n, 107]; the table is in :class:`SepsisEnv`."""
    action = patients.previous_action(preprocessing)
    noted = patients.noted(preprocessing, "shown")
    observation = _all_but_action(patients, preprocessing) if noted is None else noted.copy()
    if len(patients) == 1:
        observation[0, _ACTION_AT + action.item()] = 1
    else:
        observation[:, OBSERVATION_SLICES["previous_action"]] = _ONE_HOT[action]
    return observation


def _all_but_action(patients: Patients, preprocessing: Preprocessing) -> NDArray[np.float32]:
    observation = np.zeros((len(patients), OBSERVATION_SIZE), np.float32)
    at = OBSERVATION_SLICES
    observation[:, at["features"]] = patients.standardized(preprocessing)
    np.equal(patients.age[:, :_N_MASKS], 0, out=observation[:, at["measured"]])
    observation[:, at["static"]] = patients.standardized_static(preprocessing)
    observation[:, _VENTILATED_AT] = patients.ventilated
    observation[:, -1] = patients.step / preprocessing.max_steps
    return observation


def decode_observation(observations: NDArray[np.float32], preprocessing: Preprocessing) -> Patients:
    """The patients that observations [n, 107] tell of: :func:`encode_observation` undone.

    What is not shown is taken to be the nearest: a value carried forward is one step old, a value
    equal to its fill value was never measured, urine, of which no mask is shown, is of this step,
    and a dose is the one that its level stands for.
    """
    at, n = OBSERVATION_SLICES, len(observations)
    shown = observations[:, at["features"]]
    filled = (
        np.abs(shown - preprocessing.standardize(np.array(preprocessing.fill, np.float32)))
        < _SAME_Z
    )
    age = np.where(filled, NEVER, 1).astype(np.int16)
    now = np.hstack([observations[:, at["measured"]] > 0, ~filled[:, _N_MASKS:]])
    age[now] = 0
    mean, scale = (
        np.array(x, np.float32) for x in (preprocessing.static_mean, preprocessing.static_scale)
    )
    given = preprocessing.action_bins.doses(observations[:, at["previous_action"]].argmax(1))
    return Patients(
        values=preprocessing.restore(shown),
        age=age,
        ventilated=observations[:, _VENTILATED_AT] > 0,
        static=observations[:, at["static"]] * scale + mean,
        previous_fluid_ml=given[0],
        previous_norepinephrine_equivalent=given[1],
        step=np.rint(observations[:, -1] * preprocessing.max_steps).astype(np.int64),
        memory=np.zeros((n, 0), np.float32),
    )


def tree_inputs(observations: NDArray[np.floating]) -> NDArray[np.float64]:
    """Observations [n, 107] as trees read them best, [n, 46].

    The levels of the previous action are numbers, and which features were measured is left out.
    """
    blocks = ("features", "static", "ventilated", "time")
    last = observations[:, OBSERVATION_SLICES["previous_action"]].argmax(1)
    kept = [observations[:, OBSERVATION_SLICES[name]] for name in blocks]
    return np.column_stack([*kept, *decode_action(last)]).astype(np.float64)


def observation_space(preprocessing: Preprocessing) -> spaces.Box:
    """The Box that holds every possible observation: each feature's limits as z-scores."""
    low = np.zeros(OBSERVATION_SIZE, np.float32)
    high = np.ones(OBSERVATION_SIZE, np.float32)
    at = OBSERVATION_SLICES
    low[at["features"]] = preprocessing.standardize(LOW)
    high[at["features"]] = preprocessing.standardize(HIGH)
    low[at["static"]], high[at["static"]] = -_LARGEST_STATIC_Z, _LARGEST_STATIC_Z
    return spaces.Box(low, high, dtype=np.float32)
