"""The Clinical World Model: a recurrent ensemble run in numpy."""

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from sepsis_gym.dynamics import End, Simulation, Transition
from sepsis_gym.errors import ConfigError
from sepsis_gym.features import FEATURE_NAMES, N_FEATURES
from sepsis_gym.patients import Patients
from sepsis_gym.preprocessing import Preprocessing
from sepsis_gym.sofa import state_sofa
from world_models.forward import (
    CHANGE,
    END,
    MEASURED,
    RISK,
    SCALE,
    VENTILATED,
    NumpyForward,
    PackedWeights,
    by_tube,
    open_forward,
)
from world_models.inputs import step_inputs
from world_models.noise import Noise
from world_models.start_states import StartStates

if TYPE_CHECKING:
    from world_models.compiled import CompiledStep

Weights = dict[str, NDArray[np.float32]]
_Floats = NDArray[np.float32]
_LEAST_SCALE = np.float32(0.02)
_LARGEST_EXPONENT = np.float32(60.0)  # far beyond any logit; keeps exp finite
_Z_90 = 1.6449
_GCS = slice(FEATURE_NAMES.index("gcs_eye"), FEATURE_NAMES.index("gcs_motor") + 1)
_PRESSURES = [FEATURE_NAMES.index(name) for name in ("diabp", "meanbp", "sysbp")]


class ClinicalWorldModel:
    """Learned, action-conditioned patient dynamics; a ``TransitionModel``.

    Each simulated patient belongs to one member of the ensemble, drawn at the start, so that a
    whole episode is one consistent hypothesis about the disease. Predictions average all members,
    and their disagreement is reported. Memory is [n, M, H + 1 + K]: every member's hidden state, a
    1 at the member the patient belongs to, and, K to a member, the part of the errors that lasts.
    """

    runs_on_memory = True  # see ``logged.expected_step``

    def __init__(
        self,
        preprocessing: Preprocessing,
        weights: Weights,
        start_states: StartStates,
        noise: Noise | None = None,
        *,
        threads: int = 1,
        device: str | None = None,
    ) -> None:
        """Wraps trained weights.

        Args:
            preprocessing: Clock, scales and dose levels of the training cohort.
            weights: Arrays of ``EnsembleNetwork``, by name.
            start_states: Where patients come from.
            noise: How the errors are distributed; None for as the network says.
            threads: How many blocks of patients are computed at a time.
            device: Where torch runs the network, such as ``cuda``; None for numpy.

        Raises:
            ConfigError: ``threads`` is below 1, or not 1 with a device.
        """
        if threads < 1:
            raise ConfigError(f"threads must be 1 or more, got {threads}")
        if device is not None and threads > 1:
            raise ConfigError(f"threads are for numpy: leave them out with device {device!r}")
        self.preprocessing = preprocessing
        # rounded to what a checkpoint stores, so that a saved model is the same model
        self.weights = {
            name: w.astype(np.float16).astype(np.float32) for name, w in weights.items()
        }
        self.start_states = start_states
        self.noise = noise or Noise.independent()
        self.members, self.hidden = self.weights["output_weight"].shape[:2]
        self._wide = self.hidden + 1 + -(-N_FEATURES // self.members)
        self.threads = threads
        self._packed = PackedWeights.pack(self.weights)
        self._forward = open_forward(self._packed, device)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the arrays it predicts with."""
        digest = hashlib.sha256()
        for name, array in sorted(self.weights.items()):
            digest.update(name.encode() + array.tobytes())
        digest.update(self.noise.factor.tobytes() + self.noise.quantiles.tobytes())
        digest.update(self.noise.lasting.tobytes())
        return digest.hexdigest()

    def start(self, n: int, rng: np.random.Generator) -> Patients:
        """Draws n patients at step 0 and the member each belongs to."""
        memory = np.zeros((n, self.members, self._wide), np.float32)
        if self._compiled is None:
            drawn = self.start_states.draw(n, self.preprocessing, rng)
            patients = replace(drawn, memory=memory)
        else:
            patients = self._compiled.start(n, rng, memory)
        self._belong(memory, np.arange(n), rng)
        return patients

    def step(
        self,
        patients: Patients,
        fluid_ml: NDArray[np.floating],
        norepinephrine_equivalent: NDArray[np.floating],
        rng: np.random.Generator,
    ) -> Transition:
        """Samples the step of n patients, each from its own member.

        Raises:
            ConfigError: The patients' memory is that of a model of another size.
        """
        n, compiled = len(patients), self._compiled
        noise = rng.standard_normal((n, N_FEATURES), dtype=np.float32)
        chance = rng.random((n, N_FEATURES + 2), dtype=np.float32)
        patients = self._owned(patients, rng)
        fluid = np.asarray(fluid_ml, np.float32)
        dose = np.asarray(norepinephrine_equivalent, np.float32)
        drawn = patients, fluid, dose, noise, chance
        if compiled is None:
            sampled = self._in_blocks(self._sample, *drawn)
        else:
            sampled = compiled.empty(patients)
            self._in_blocks(compiled, *drawn, *sampled)
        values, age, ventilated, memory, end, mortality, epistemic, *noted = sampled
        following = patients.moved(values, age, ventilated, fluid, dose, memory)
        if not noted:
            return Transition(following, end, mortality, epistemic)
        known, shown, sofa, scored = noted
        following.note(self.preprocessing, known=known, sofa=sofa, shown=shown)
        return Transition(following, end, mortality, epistemic, scored)

    @cached_property
    def _compiled(self) -> "CompiledStep | None":
        """The compiled step, where numba is installed and numpy runs the network."""
        if not isinstance(self._forward, NumpyForward):
            return None
        try:
            from world_models.compiled import CompiledStep
        except (ImportError, RuntimeError):  # or nowhere to keep what it compiles
            return None
        return CompiledStep(self._packed, self.preprocessing, self.noise, self.start_states)

    def _owned(self, patients: Patients, rng: np.random.Generator) -> Patients:
        """The patients, once the logged, who belong to no member yet, have drawn one."""
        memory = self._memory(patients)
        mark = memory[:, :, self.hidden]
        if np.count_nonzero(mark) == len(patients):
            return patients
        memory = memory.copy()
        self._belong(memory, np.flatnonzero(~mark.any(1)), rng)
        return replace(patients, memory=memory)

    def _belong(self, memory: _Floats, at: NDArray[np.integer], rng: np.random.Generator) -> None:
        """Draws the member and the lasting errors of the patients ``at``."""
        memory[at, rng.integers(self.members, size=len(at)), self.hidden] = 1.0
        kept = np.zeros((len(at), self.members * (self._wide - self.hidden - 1)), np.float32)
        kept[:, :N_FEATURES] = self.noise.draw_lasting(len(at), rng)
        memory[at, :, self.hidden + 1 :] = kept.reshape(len(at), self.members, -1)

    def _memory(self, patients: Patients) -> _Floats:
        shape = (len(patients), self.members, self._wide)
        if not patients.memory.size:  # a logged state that no model has followed yet
            return np.zeros(shape, np.float32)
        if patients.memory.shape != shape:  # compiled code would read past its end
            raise ConfigError("these patients remember what another world model saw of them")
        return patients.memory

    def _in_blocks(
        self,
        compute: Callable[..., tuple[NDArray[Any], ...]],
        patients: Patients,
        *rest: NDArray[Any],
    ) -> tuple[NDArray[Any], ...]:
        """Computes arrays of n rows block by block, with one thread to a matrix product.

        More of them are of no use for products this small, and very slow on a busy machine.
        """
        n, most = len(patients), self._forward.block
        if n < 2:
            return compute(patients, *rest)
        # equal blocks, an even number of them: as much work for each of two threads
        size = -(-n // (2 * -(-n // (2 * most))))

        def part(first: int) -> tuple[NDArray[Any], ...]:
            rows = slice(first, first + size)
            return compute(patients.take(rows), *(x[rows] for x in rest))

        each = map if self.threads == 1 else _pool(os.getpid(), self.threads).map
        with _one_thread_each():
            if n <= most:
                return compute(patients, *rest)
            parts = list(each(part, range(0, n, size)))
        return tuple(np.concatenate(column) for column in zip(*parts, strict=True))

    def _sample(
        self, patients: Patients, fluid_ml: _Floats, dose: _Floats, noise: _Floats, chance: _Floats
    ) -> tuple[NDArray[Any], ...]:
        """One block's values, ages, ventilation, memory, end, mortality and disagreement."""
        n = len(patients)
        member = patients.memory[:, :, self.hidden].argmax(1)
        kept = patients.memory[:, :, self.hidden + 1 :].reshape(n, -1)[:, :N_FEATURES]
        shared, own, memory = self._outputs(patients, fluid_ml, dose, member)
        raw = _softplus(own[:, SCALE])
        raw += _LEAST_SCALE
        raw *= self.noise.errors(noise, kept)
        raw += shared[np.arange(n), member, CHANGE]
        raw += patients.standardized(self.preprocessing)
        raw = self.preprocessing.restore(raw)
        np.rint(raw[:, _GCS], out=raw[:, _GCS])
        pressures = raw[:, _PRESSURES]
        pressures.sort(axis=1)  # what noise may have crossed
        raw[:, _PRESSURES] = pressures
        measured = chance[:, :N_FEATURES] < _sigmoid(own[:, MEASURED])
        ventilated = chance[:, N_FEATURES] < _sigmoid(
            by_tube(own[:, VENTILATED], patients.ventilated)
        )
        values, age = self.preprocessing.hold(patients.values, patients.age, raw, measured)
        weight = _exp(own[:, END])
        drawn = chance[:, -1] * np.add.reduce(weight, 1)
        died = drawn < weight[:, End.DIED]
        drawn -= weight[:, End.DIED]
        end = np.where(drawn < weight[:, End.DISCHARGED], _DISCHARGED, _ONGOING)
        end[died] = _DIED
        risks = np.add.reduce(_sigmoid(shared[:, :, RISK]), 1)
        mortality = np.where(end == _DISCHARGED, risks[:, 1], risks[:, 0])
        mortality /= np.float32(self.members)
        return values, age, ventilated, memory, end, mortality, _spread(shared[:, :, CHANGE])

    def _outputs(
        self,
        patients: Patients,
        fluid_ml: _Floats,
        dose: _Floats,
        member: NDArray[np.integer] | None,
    ) -> tuple[_Floats, _Floats, _Floats]:
        """One block's outputs (see :class:`~world_models.forward.NumpyForward`) and next memory."""
        inputs = self._forward.inputs(len(patients))
        step_inputs(patients, fluid_ml, dose, self.preprocessing, out=inputs)
        memory = patients.memory.copy()
        return *self._forward(memory, member), memory

    def simulate(
        self,
        patients: Patients,
        fluid_ml: NDArray[np.floating],
        norepinephrine_equivalent: NDArray[np.floating],
    ) -> Simulation:
        """Predicts the step of one patient under each of k doses, averaged over the members."""
        asked = patients.asked(len(fluid_ml))
        expected = self.predict(asked, fluid_ml, norepinephrine_equivalent)
        mean, margin, end = expected["mean"], expected["scale"] * _Z_90, expected["end"]
        values = self.preprocessing.restore(mean)
        bounds = [self.preprocessing.restore(mean + sign * margin) for sign in (-1, 1)]
        doses = np.asarray(norepinephrine_equivalent, np.float32)
        # the prediction updates whatever is known now; what is not known yet stays unknown
        known = asked.known(self.preprocessing)
        return Simulation(
            fluid_ml=np.asarray(fluid_ml, np.float32),
            norepinephrine_equivalent=doses,
            values=values,
            spread=np.stack(bounds, axis=1),
            ventilated=expected["ventilated"],
            sofa=state_sofa(values, known, expected["ventilated"] > 0.5, doses),
            died=end[:, End.DIED],
            discharged=end[:, End.DISCHARGED],
            mortality_90d=expected["mortality_90d"],
            epistemic=expected["epistemic"],
        )

    def follow(self, patients: Patients, following: Patients) -> Patients:
        """Carries every member's hidden state over an observed step."""
        given = following.previous_fluid_ml, following.previous_norepinephrine_equivalent
        return replace(following, memory=self._expected(patients, *given)["memory"])

    def predict(
        self,
        patients: Patients,
        fluid_ml: NDArray[np.floating],
        norepinephrine_equivalent: NDArray[np.floating],
    ) -> dict[str, _Floats]:
        """What the members together expect of the step of n patients, in z units.

        Returns:
            ``mean`` and ``scale`` [n, 39], ``ventilated`` [n], ``end`` [n, 3], ``mortality_90d``
            [n], ``epistemic`` [n].
        """
        expected = self._expected(patients, fluid_ml, norepinephrine_equivalent)
        del expected["memory"]
        return expected

    def _expected(
        self,
        patients: Patients,
        fluid_ml: NDArray[np.floating],
        norepinephrine_equivalent: NDArray[np.floating],
    ) -> dict[str, _Floats]:
        """:meth:`predict`, and the next ``memory`` [n, M, H + 1 + K]."""
        patients = replace(patients, memory=self._memory(patients))
        fluid, dose = (np.asarray(x, np.float32) for x in (fluid_ml, norepinephrine_equivalent))
        columns = self._in_blocks(self._average, patients, fluid, dose)
        return dict(zip(_EXPECTED, columns, strict=True))

    def _average(
        self, patients: Patients, fluid_ml: _Floats, dose: _Floats
    ) -> tuple[NDArray[Any], ...]:
        """One block's expectations over all members, in the order of ``_EXPECTED``."""
        shared, own, memory = self._outputs(patients, fluid_ml, dose, None)
        change, risk = shared[:, :, CHANGE], _sigmoid(shared[:, :, RISK])
        scale = _softplus(own[:, :, SCALE]) + _LEAST_SCALE
        # the standard deviation of the ensemble's mixture
        total = np.sqrt((scale**2).mean(1) * self.noise.width**2 + change.var(1))
        end = _exp(own[:, :, END])
        end /= end.sum(-1, keepdims=True)
        later = end[..., End.ONGOING] * risk[..., 0] + end[..., End.DISCHARGED] * risk[..., 1]
        return (
            change.mean(1) + patients.standardized(self.preprocessing),
            total,
            _sigmoid(by_tube(own[:, :, VENTILATED], patients.ventilated)).mean(1),
            end.mean(1),
            (end[..., End.DIED] + later).mean(1),
            _spread(change),
            memory,
        )


_EXPECTED = ("mean", "scale", "ventilated", "end", "mortality_90d", "epistemic", "memory")
_ONGOING, _DISCHARGED, _DIED = (np.int8(end) for end in (End.ONGOING, End.DISCHARGED, End.DIED))
_HALF = np.float32(0.5)


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Threads of this process; a forked one does not inherit them."""
    return ThreadPoolExecutor(threads)


@cache
def _blas() -> ThreadpoolController:
    """The libraries behind numpy's matrix products."""
    return ThreadpoolController().select(user_api="blas")


def _one_thread_each() -> AbstractContextManager[Any]:
    if all(library.get_num_threads() == 1 for library in _blas().lib_controllers):
        return nullcontext()  # setting it again would cost more than a small product
    return _blas().limit(limits=1)


def _sigmoid(half: _Floats) -> _Floats:
    """Of half-logits, by tanh, which cannot overflow."""
    share = np.tanh(half)
    share *= _HALF
    share += _HALF
    return share


def _exp(x: _Floats) -> _Floats:
    return np.exp(np.minimum(x, _LARGEST_EXPONENT))


def _softplus(x: _Floats) -> _Floats:
    return np.log1p(_exp(x))


def _spread(change: _Floats) -> _Floats:
    """[n] standard deviation over the members, averaged over the features, of [n, M, 39]."""
    members = [change[:, member] for member in range(change.shape[1])]  # reductions are slower
    mean = members[0].copy()
    for member in members[1:]:
        mean += member
    mean /= np.float32(len(members))
    variance = np.zeros_like(mean)
    for member in members:
        apart = member - mean
        apart *= apart
        variance += apart
    variance /= np.float32(len(members))
    return np.add.reduce(np.sqrt(variance, out=variance), 1) / np.float32(N_FEATURES)
