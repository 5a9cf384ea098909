"""Logged stays as one immutable container: arrays, a per-stay table and a manifest.

On disk a folder of ``steps.parquet``, ``stays.parquet`` and ``manifest.json``.
"""

import hashlib
import os
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.errors import TrajectoryError, UnknownNameError
from sepsis_gym.features import FEATURE_NAMES, HIGH, LOW
from sepsis_gym.patients import Patients, encode_observation
from sepsis_gym.preprocessing import Preprocessing

if TYPE_CHECKING:
    import pandas as pd
    from d3rlpy.dataset import MDPDataset

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)


@dataclass(frozen=True)
class StayTable:
    """One entry per stay.

    Attributes:
        stay_id: [N] ICU stay.
        subject_id: [N] patient; splits never separate the stays of one.
        split: [N] train, validation or test.
        age: [N] years at admission.
        male: [N] sex.
        charlson: [N] Charlson comorbidity index.
        died_in_hospital: [N] death before hospital discharge.
        died_90d: [N] death within 90 days of ICU admission.
        end: [N] :class:`~sepsis_gym.dynamics.End` code of why the episode is over.
        weight_kg: [N] body weight that doses without one were divided by; NaN if not built.
        suspected_hours: [N] suspected infection, h from ICU admission; NaN if not built.
        sofa_2_hours: [N] first SOFA of 2 or more around it, h from ICU admission; NaN if not built.
    """

    stay_id: NDArray[np.int64]
    subject_id: NDArray[np.int64]
    split: NDArray[np.str_]
    age: NDArray[np.float32]
    male: NDArray[np.bool_]
    charlson: NDArray[np.float32]
    died_in_hospital: NDArray[np.bool_]
    died_90d: NDArray[np.bool_]
    end: NDArray[np.int8]
    weight_kg: NDArray[np.float32]
    suspected_hours: NDArray[np.float32]
    sofa_2_hours: NDArray[np.float32]

    def __len__(self) -> int:
        """Number of stays."""
        return len(self.stay_id)

    @property
    def static(self) -> NDArray[np.float32]:
        """[N, 3] age, male, Charlson."""
        return np.stack([self.age, self.male, self.charlson], axis=1).astype(np.float32)


@dataclass(frozen=True)
class Manifest:
    """Where trajectories come from and how they were made.

    Attributes:
        source: Name and version of the data source.
        credentialed: Whether a data use agreement forbids sharing rows with third parties.
        preprocessing: Clock, scales, dose levels.
        config: Settings of the build, plain JSON.
        flow: Cohort flow: rule and stays left after it, in order.
        notes: Counts of what was dropped, clipped or repaired.
    """

    source: str
    credentialed: bool
    preprocessing: Preprocessing
    config: dict[str, Any] = field(default_factory=dict)
    flow: tuple[tuple[str, int], ...] = ()
    notes: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Trajectories:
    """Stays as runs of rows; row ``offsets[i] + t`` is stay i at step t.

    Each stay has its decision steps and one more row, the final state, which has no action
    (``action`` -1, doses and reward NaN).

    Attributes:
        stays: Per-stay table.
        offsets: [N + 1] first row of each stay.
        values: [R, 39] features, clinical units: measured, carried forward or filled.
        age: [R, 39] steps since the value was measured, 0 in this one, ``NEVER`` if it never was;
            the first step may know values from before ICU admission.
        verbal_untestable: [R] whether a verbal response was charted as untestable (intubation).
        ventilated: [R] invasive ventilation during the step.
        previous_fluid_ml: [R] fluid given up to this state, mL per step.
        previous_norepinephrine_equivalent: [R] vasopressor dose up to this state, ug/kg/min.
        fluid_ml: [R] fluid of the action taken in this state.
        norepinephrine_equivalent: [R] vasopressor dose of that action, highest rate.
        norepinephrine_equivalent_mean: [R] its time-weighted mean; NaN if not built.
        action: [R] its cell of the grid.
        reward: [R] reward of the action.
        terminated: [R] whether the action was the stay's last.
        sofa: [R] SOFA of this state, as the environments score it.
        sofa_24h: [R] worst hourly SOFA of the last 24 h at the step's end; NaN if not built.
        manifest: Provenance.
    """

    stays: StayTable
    offsets: NDArray[np.int64]
    values: NDArray[np.float32]
    age: NDArray[np.int16]
    verbal_untestable: NDArray[np.bool_]
    ventilated: NDArray[np.bool_]
    previous_fluid_ml: NDArray[np.float32]
    previous_norepinephrine_equivalent: NDArray[np.float32]
    fluid_ml: NDArray[np.float32]
    norepinephrine_equivalent: NDArray[np.float32]
    norepinephrine_equivalent_mean: NDArray[np.float32]
    action: NDArray[np.int64]
    reward: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    sofa: NDArray[np.int8]
    sofa_24h: NDArray[np.float32]
    manifest: Manifest

    def __post_init__(self) -> None:
        """Makes the arrays read-only."""
        for group in (self, self.stays):
            for item in fields(group):
                array = getattr(group, item.name)
                if isinstance(array, np.ndarray):
                    array.setflags(write=False)

    def __len__(self) -> int:
        """Number of stays."""
        return len(self.stays)

    @property
    def preprocessing(self) -> Preprocessing:
        """Clock, scales and dose levels."""
        return self.manifest.preprocessing

    @cached_property
    def n_decisions(self) -> NDArray[np.int64]:
        """[N] decisions of each stay."""
        return np.diff(self.offsets) - 1

    @cached_property
    def step(self) -> NDArray[np.int64]:
        """[R] step of each row."""
        return np.arange(self.offsets[-1]) - np.repeat(self.offsets[:-1], self.n_decisions + 1)

    @cached_property
    def is_decision(self) -> NDArray[np.bool_]:
        """[R] True for all rows but the final states."""
        decision = np.ones(self.offsets[-1], bool)
        decision[self.offsets[1:] - 1] = False
        return decision

    @property
    def measured(self) -> NDArray[np.bool_]:
        """[R, 39] whether the value was measured in this step; the raw values are these."""
        return self.age == 0

    @cached_property
    def stay_of_row(self) -> NDArray[np.int64]:
        """[R] position in the stay table of each row."""
        return np.repeat(np.arange(len(self)), self.n_decisions + 1)

    def patients(self, rows: NDArray[np.integer]) -> Patients:
        """The logged states at these rows, with an empty memory."""
        return Patients(
            values=self.values[rows],
            age=self.age[rows],
            ventilated=self.ventilated[rows],
            static=self.stays.static[self.stay_of_row[rows]],
            previous_fluid_ml=self.previous_fluid_ml[rows],
            previous_norepinephrine_equivalent=self.previous_norepinephrine_equivalent[rows],
            step=self.step[rows],
            memory=np.zeros((len(rows), 0), np.float32),
        )

    def observations(self) -> NDArray[np.float32]:
        """Flat observations of all rows, [R, 107], as the environments give them."""
        rows = np.arange(self.offsets[-1])
        return encode_observation(self.patients(rows), self.preprocessing)

    def padded(self, rows: NDArray[Any], fill: Any = 0, *, final: bool = False) -> NDArray[Any]:
        """Lays a per-row array out per stay.

        Args:
            rows: [R, ...] one entry per row.
            fill: Value past the end of a stay.
            final: Whether to keep the final states.

        Returns:
            [N, T, ...] with T the most decisions of any stay (T + 1 with ``final``).
        """
        lengths = self.n_decisions + int(final)
        out = np.full((len(self), int(lengths.max()), *rows.shape[1:]), fill, rows.dtype)
        kept = slice(None) if final else self.is_decision
        out[self.stay_of_row[kept], self.step[kept]] = rows[kept]
        return out

    @property
    def mask(self) -> NDArray[np.bool_]:
        """[N, T] True where a decision was logged."""
        return np.arange(int(self.n_decisions.max())) < self.n_decisions[:, None]

    def select(self, index: NDArray[np.integer] | NDArray[np.bool_]) -> Self:
        """The stays at these positions, in that order."""
        chosen = np.arange(len(self))[index]
        lengths = self.n_decisions[chosen] + 1
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        first = np.repeat(self.offsets[chosen] - offsets[:-1], lengths)
        rows = np.arange(offsets[-1]) + first
        stays = replace(
            self.stays, **{f.name: getattr(self.stays, f.name)[chosen] for f in fields(StayTable)}
        )
        return replace(
            self, stays=stays, offsets=offsets, **{n: getattr(self, n)[rows] for n in ROW_ARRAYS}
        )

    def split(self, name: Split) -> Self:
        """The stays of one split.

        Raises:
            UnknownNameError: There is no such split, or it holds no stay.
        """
        if name not in SPLITS:
            raise UnknownNameError(f"no split {name!r}; there are {', '.join(SPLITS)}")
        chosen = self.stays.split == name
        if not chosen.any():
            raise UnknownNameError(f"the {name} split of this cohort holds no stay")
        return self.select(chosen)

    def validate(self) -> None:
        """Checks every contract of the container.

        Raises:
            TrajectoryError: Names the first offending stay, step and column.
        """
        self._require(self.n_decisions[self.stay_of_row] >= 1, "a stay needs one decision or more")
        inside = (self.values >= LOW) & (self.values <= HIGH)
        for index, name in enumerate(FEATURE_NAMES):
            low, high = LOW[index], HIGH[index]
            self._require(inside[:, index], f"{name} must be a number from {low:g} to {high:g}")
        self._require(self.age.min(axis=1) >= 0, "age must be zero or more")
        for name in ("previous_fluid_ml", "previous_norepinephrine_equivalent"):
            dose = getattr(self, name)
            self._require((dose >= 0) & np.isfinite(dose), f"{name} must be zero or more")
        decision = self.is_decision
        for name in ("fluid_ml", "norepinephrine_equivalent"):
            dose = getattr(self, name)
            given = (dose >= 0) & np.isfinite(dose)
            self._require(given | ~decision, f"{name} must be zero or more")
        in_grid = (self.action >= 0) & (self.action < N_ACTIONS)
        self._require(np.where(decision, in_grid, self.action == -1), "action must be 0 to 24")
        self._require(np.isfinite(self.reward) | ~decision, "reward must be a finite number")
        last = np.zeros(len(decision), bool)
        last[self.offsets[1:] - 2] = True
        self._require(self.terminated == last, "terminated must be set on the last decision only")
        unknown = np.setdiff1d(self.stays.split, SPLITS)
        if len(unknown):
            raise TrajectoryError(f"stays.split holds {unknown[0]!r}, not one of {SPLITS}")
        for name in SPLITS:
            mine = set(self.stays.subject_id[self.stays.split == name].tolist())
            rest = set(self.stays.subject_id[self.stays.split != name].tolist())
            if shared := sorted(mine & rest):
                raise TrajectoryError(f"subject {shared[0]} has stays in two splits")

    def _require(self, holds: NDArray[np.bool_], what: str) -> None:
        if not holds.all():
            row = int(np.flatnonzero(~holds)[0])
            stay = self.stays.stay_id[self.stay_of_row[row]]
            raise TrajectoryError(f"stay {stay}, step {self.step[row]}: {what}")

    @property
    def content_hash(self) -> str:
        """sha256 of every array, independent of how they are stored."""
        digest = hashlib.sha256()
        for array in (self.offsets, *(getattr(self, name) for name in ROW_ARRAYS)):
            digest.update(np.ascontiguousarray(array).tobytes())
        for item in fields(StayTable):
            digest.update("\n".join(map(str, getattr(self.stays, item.name).tolist())).encode())
        return digest.hexdigest()

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes the folder whole or not at all."""
        from sepsis_gym.trajectory_files import write_folder

        write_folder(self, folder)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "Trajectories":
        """Reads a folder written by :meth:`save`.

        Raises:
            SourceError: A file is missing or unreadable.
            SchemaError: A column is missing.
            TrajectoryError: The content is not what the manifest says.
        """
        from sepsis_gym.trajectory_files import read_folder

        return read_folder(folder)

    def to_pandas(self) -> "pd.DataFrame":
        """The step table as a data frame; needs pandas."""
        from sepsis_gym.trajectory_files import step_table

        frame: pd.DataFrame = step_table(self).to_pandas()
        return frame

    def to_d3rlpy(self) -> "MDPDataset":
        """The decisions as a d3rlpy dataset of discrete actions; needs the ``offline`` extra."""
        try:
            from d3rlpy.constants import ActionSpace
            from d3rlpy.dataset import MDPDataset
        except ImportError as error:
            raise ImportError('d3rlpy is missing: pip install "sepsis-gym[offline]"') from error
        decision = self.is_decision
        return MDPDataset(
            observations=self.observations()[decision],
            actions=self.action[decision][:, None],
            rewards=self.reward[decision][:, None].astype(np.float32),
            terminals=self.terminated[decision].astype(np.float32),
            action_space=ActionSpace.DISCRETE,
            action_size=N_ACTIONS,
        )


ROW_ARRAYS = tuple(
    item.name for item in fields(Trajectories) if item.name not in ("stays", "offsets", "manifest")
)
