"""The step compiled by numba: what the ``fast`` extra adds to the numpy model.

It computes what ``ClinicalWorldModel`` computes in numpy, which stays the reference; a test holds
the two together. One patient's network is compiled as well; that of several is left to numpy,
whose matrix products are faster.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.features import N_FEATURES
from sepsis_gym.patients import OBSERVATION_SIZE, Patients
from sepsis_gym.preprocessing import Preprocessing
from sepsis_gym.sofa import CUT_TABLE
from world_models.compiled_kernels import FILL, move_all, read_all, renew_all, step_one, tell_all
from world_models.compiled_starts import CompiledStarts
from world_models.forward import NumpyForward, PackedWeights
from world_models.inputs import AGE_SCALE_HOURS, FLUID_SCALE_ML, VASOPRESSOR_SCALE
from world_models.noise import Noise
from world_models.start_states import StartStates

_Floats = NDArray[np.float32]


class _Forward(NumpyForward):
    """The matrix products are numpy's."""

    def _renew(self, memory: _Floats, gates: _Floats, from_inputs: _Floats) -> None:
        renew_all(memory, gates, from_inputs, self._w.candidate_bias)


class CompiledStep:
    """The compiled step over one model's weights."""

    def __init__(
        self,
        packed: PackedWeights,
        preprocessing: Preprocessing,
        noise: Noise,
        starts: StartStates,
    ) -> None:
        """Lays out the feature table: a row for each of ``compiled_kernels._MEAN`` and so on."""
        self._forward = _Forward(packed)
        self._mixing = noise.mixing
        self._weights = (
            packed.from_inputs, packed.recurrent, packed.candidate_bias, packed.head,
            packed.shared, packed.own, self._mixing,
        )  # fmt: skip
        rows = preprocessing.feature_table()
        fill = preprocessing.standardize(rows[FILL])
        table = np.stack([*rows, fill, *noise.quantiles.T]).astype(np.float32)
        hours = preprocessing.step_hours
        factors = np.array(
            [
                hours / AGE_SCALE_HOURS,
                4 / (hours * FLUID_SCALE_ML),
                1 / VASOPRESSOR_SCALE,
                1 / preprocessing.max_steps,
            ],
            np.float32,
        )
        self._tables = (table, factors, *CUT_TABLE)
        self._static = np.array([preprocessing.static_mean, preprocessing.static_scale], np.float32)
        self._preprocessing = preprocessing
        self._starts = CompiledStarts(starts, preprocessing)

    def start(self, n: int, rng: np.random.Generator, memory: _Floats) -> Patients:
        """Draws n patients, who get this ``memory``."""
        patients = self._starts.draw(n, rng, memory)
        self.note(patients)
        return patients

    def note(self, patients: Patients) -> None:
        """Works out what is going to be asked about new patients."""
        n = len(patients)
        known, sofa = np.empty((n, N_FEATURES), np.bool_), np.empty(n, np.int8)
        shown = np.zeros((n, OBSERVATION_SIZE), np.float32)
        tell_all(
            *self._tables, self._static, patients.values, patients.age, patients.ventilated,
            patients.static, patients.previous_norepinephrine_equivalent, patients.step,
            known, shown, sofa,
        )  # fmt: skip
        patients.note(self._preprocessing, known=known, sofa=sofa, shown=shown)

    def empty(self, patients: Patients) -> tuple[NDArray[Any], ...]:
        """Arrays for the step of n patients; their memory is in place, the rest to be filled.

        Returns:
            What ``ClinicalWorldModel._sample`` returns, and of the state that follows: ``known``
            [n, 39], ``shown`` [n, 107], SOFA [n], and [n, 2] ``Transition.scored``.
        """
        n = len(patients)
        wide = (n, N_FEATURES)
        return (
            np.empty(wide, np.float32), np.empty(wide, np.int16), np.empty(n, np.bool_),
            patients.memory.copy(), np.empty(n, np.int8), np.empty(n, np.float32),
            np.empty(n, np.float32), np.empty(wide, np.bool_),
            np.empty((n, OBSERVATION_SIZE), np.float32), np.empty(n, np.int8),
            np.empty((n, 2), np.int8),
        )  # fmt: skip

    def __call__(
        self,
        patients: Patients,
        fluid_ml: _Floats,
        dose: _Floats,
        noise: _Floats,
        chance: _Floats,
        *after: NDArray[Any],
    ) -> tuple[()]:
        """The step of one block.

        Args:
            patients: n patients, each of whom belongs to a member.
            fluid_ml: [n] mL per step.
            dose: [n] ug/kg/min.
            noise: [n, 39] independent normal draws.
            chance: [n, 41] uniform draws: measurements, ventilation, end.
            after: The arrays of :meth:`empty`, which are filled.
        """
        n, preprocessing = len(patients), self._preprocessing
        if patients.noted(preprocessing, "shown") is None:
            self.note(patients)
        seen = patients.age, patients.noted(preprocessing, "shown")
        doses = (
            patients.previous_fluid_ml, patients.previous_norepinephrine_equivalent, fluid_ml, dose,
        )  # fmt: skip
        before = patients.values, patients.ventilated, patients.known(preprocessing), patients.step
        told = *after[:3], *after[4:]
        memory = after[3]
        if n == 1:
            step_one(
                *self._weights, *self._tables, *seen, *doses, *before, memory, noise, chance, *told
            )
            return ()
        read_all(*self._tables[:2], *seen, *doses, self._forward.inputs(n))
        size = self._forward.hidden
        own = memory[:, :, size].argmax(1)
        shared, outputs = self._forward(memory, own)
        together = noise @ self._mixing
        together += memory[:, :, size + 1 :].reshape(n, -1)[:, :N_FEATURES]
        move_all(
            *self._tables, *seen, *doses, *before, own, shared, outputs, together, chance, *told
        )
        return ()
