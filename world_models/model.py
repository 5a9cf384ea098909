"""The Clinical World Model: a recurrent ensemble run in numpy."""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.dynamics import End, Simulation, Transition
from sepsis_gym.features import FEATURE_NAMES, N_FEATURES
from sepsis_gym.patients import Patients
from sepsis_gym.preprocessing import Preprocessing
from sepsis_gym.sofa import state_sofa
from world_models.inputs import Z_INPUTS, dose_inputs, state_inputs
from world_models.start_states import StartStates

Weights = dict[str, NDArray[np.float32]]
_Floats = NDArray[np.float32]
_LEAST_SCALE = np.float32(0.02)
_Z_90 = 1.6449
_GCS = [FEATURE_NAMES.index(name) for name in ("gcs_eye", "gcs_verbal", "gcs_motor")]
_PRESSURES = [FEATURE_NAMES.index(name) for name in ("diabp", "meanbp", "sysbp")]
_BLOCK = 256  # patients at a time: what fits the cache


class ClinicalWorldModel:
    """Learned, action-conditioned patient dynamics; a ``TransitionModel``.

    Each simulated patient belongs to one member of the ensemble, drawn at the start, so that a
    whole episode is one consistent hypothesis about the disease. Predictions average all members,
    and their disagreement is reported. Memory is [n, M, H + 1]: every member's hidden state, and
    in the last column a 1 at the member the patient belongs to.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        weights: Weights,
        start_states: StartStates,
        noise_factor: _Floats | None = None,
    ) -> None:
        """Wraps trained weights.

        Args:
            preprocessing: Clock, scales and dose levels of the training cohort.
            weights: Arrays of ``EnsembleNetwork``, by name.
            start_states: Where patients come from.
            noise_factor: [39, 39] what turns independent noise into noise that goes together as
                the errors do (see :func:`world_models.noise.fit_noise`); None for independent.
        """
        self.preprocessing = preprocessing
        # rounded to what a checkpoint stores, so that a saved model is the same model
        self.weights = {
            name: w.astype(np.float16).astype(np.float32) for name, w in weights.items()
        }
        self.start_states = start_states
        independent = np.eye(N_FEATURES, dtype=np.float32)
        self.noise_factor = independent if noise_factor is None else noise_factor
        self._noise_scale = np.sqrt((self.noise_factor**2).sum(1))
        self.members, self.hidden = self.weights["output_weight"].shape[:2]

    def start(self, n: int, rng: np.random.Generator) -> Patients:
        """Draws n patients at step 0 and the member each belongs to."""
        patients = self.start_states.draw(n, self.preprocessing, rng)
        memory = np.zeros((n, self.members, self.hidden + 1), np.float32)
        memory[np.arange(n), rng.integers(self.members, size=n), -1] = 1.0
        return replace(patients, memory=memory)

    def step(
        self,
        patients: Patients,
        fluid_ml: NDArray[np.floating],
        norepinephrine_equivalent: NDArray[np.floating],
        rng: np.random.Generator,
    ) -> Transition:
        """Samples the step of n patients, each from its own member."""
        n = len(patients)
        noise = rng.standard_normal((n, N_FEATURES), dtype=np.float32) @ self.noise_factor.T
        chance = rng.random((n, N_FEATURES + 2), dtype=np.float32)
        outputs, memory, z_now = self._predict(patients, fluid_ml, norepinephrine_equivalent)
        new = np.flatnonzero(memory[:, :, -1].sum(1) == 0)
        if len(new):  # logged stays belong to no member yet
            memory[new, rng.integers(self.members, size=len(new)), -1] = 1.0
        own = outputs[memory[:, :, -1].argmax(1), np.arange(n)]
        change, scale, measured, ventilated, end = _split(own)
        raw = self.preprocessing.restore(z_now + change + scale * noise)
        raw[:, _GCS] = np.round(raw[:, _GCS])
        raw[:, _PRESSURES] = np.sort(raw[:, _PRESSURES], axis=1)  # what noise may have crossed
        raw[chance[:, :N_FEATURES] >= measured] = np.nan
        values, age = self.preprocessing.carry_forward(patients.values, patients.age, raw)
        discharged, died = end[:, End.DISCHARGED], end[:, End.DIED]
        drawn = chance[:, -1]
        ending = np.where(drawn < died, End.DIED, End.ONGOING)
        ending = np.where((drawn >= died) & (drawn < died + discharged), End.DISCHARGED, ending)
        following = replace(
            patients,
            values=values,
            age=age,
            ventilated=chance[:, -2] < ventilated,
            previous_fluid_ml=np.asarray(fluid_ml, np.float32),
            previous_norepinephrine_equivalent=np.asarray(norepinephrine_equivalent, np.float32),
            step=patients.step + 1,
            memory=memory,
        )
        risks = _sigmoid(outputs[..., -2:]).mean(0)
        mortality = risks[np.arange(n), (ending == End.DISCHARGED).astype(int)]
        disagreement = outputs[..., :N_FEATURES].std(0).mean(-1)
        return Transition(following, ending.astype(np.int8), mortality, disagreement)

    def simulate(
        self,
        patients: Patients,
        fluid_ml: NDArray[np.floating],
        norepinephrine_equivalent: NDArray[np.floating],
    ) -> Simulation:
        """Predicts the step of one patient under each of k doses, averaged over the members."""
        k = len(fluid_ml)
        asked = patients.take(np.zeros(k, np.int64))
        outputs, _, z_now = self._predict(asked, fluid_ml, norepinephrine_equivalent)
        change, scale, _, ventilated, end = _split(outputs)
        mean = z_now + change.mean(0)
        spread = self._total_scale(change, scale) * _Z_90
        values = self.preprocessing.restore(mean)
        bounds = [self.preprocessing.restore(mean + sign * spread) for sign in (-1, 1)]
        ventilation, ending = ventilated.mean(0), end.mean(0)
        doses = np.asarray(norepinephrine_equivalent, np.float32)
        # the prediction updates whatever is known now; what is not known yet stays unknown
        known = self.preprocessing.known(asked.age)
        return Simulation(
            fluid_ml=np.asarray(fluid_ml, np.float32),
            norepinephrine_equivalent=doses,
            values=values,
            spread=np.stack(bounds, axis=1),
            ventilated=ventilation,
            sofa=state_sofa(values, known, ventilation > 0.5, doses),
            died=ending[:, End.DIED],
            discharged=ending[:, End.DISCHARGED],
            mortality_90d=_risk(outputs),
            epistemic=outputs[..., :N_FEATURES].std(0).mean(-1),
        )

    def follow(self, patients: Patients, following: Patients) -> Patients:
        """Carries every member's hidden state over an observed step."""
        _, memory, _ = self._predict(
            patients, following.previous_fluid_ml, following.previous_norepinephrine_equivalent
        )
        return replace(following, memory=memory)

    def imagine(
        self,
        patients: Patients,
        fluid_ml: NDArray[np.floating],
        norepinephrine_equivalent: NDArray[np.floating],
        measured: NDArray[np.bool_],
    ) -> tuple[Patients, _Floats]:
        """The mean step, drawing nothing: for predictions that run on from predictions.

        Args:
            patients: n patients.
            fluid_ml: [n] fluid, mL per step.
            norepinephrine_equivalent: [n] vasopressor dose, ug/kg/min.
            measured: [n, 39] which of the predicted values count as measured.

        Returns:
            The patients one step on, and all predicted values [n, 39] in z units.
        """
        outputs, memory, z_now = self._predict(patients, fluid_ml, norepinephrine_equivalent)
        change, _, _, ventilated, _ = _split(outputs)
        mean = z_now + change.mean(0)
        raw = np.where(measured, self.preprocessing.restore(mean), np.nan)
        values, age = self.preprocessing.carry_forward(patients.values, patients.age, raw)
        following = replace(
            patients,
            values=values,
            age=age,
            ventilated=ventilated.mean(0) > 0.5,
            previous_fluid_ml=np.asarray(fluid_ml, np.float32),
            previous_norepinephrine_equivalent=np.asarray(norepinephrine_equivalent, np.float32),
            step=patients.step + 1,
            memory=memory,
        )
        return following, mean

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
        outputs, _, z_now = self._predict(patients, fluid_ml, norepinephrine_equivalent)
        change, scale, _, ventilated, end = _split(outputs)
        return {
            "mean": z_now + change.mean(0),
            "scale": self._total_scale(change, scale),
            "ventilated": ventilated.mean(0),
            "end": end.mean(0),
            "mortality_90d": _risk(outputs),
            "epistemic": change.std(0).mean(-1),
        }

    def _total_scale(self, change: _Floats, scale: _Floats) -> _Floats:
        """[n, 39] standard deviation of the ensemble's mixture, from [M, n, 39] each."""
        return np.sqrt((scale**2).mean(0) * self._noise_scale**2 + change.var(0))

    def _predict(
        self,
        patients: Patients,
        fluid_ml: NDArray[np.floating],
        norepinephrine_equivalent: NDArray[np.floating],
    ) -> tuple[_Floats, _Floats, _Floats]:
        """Outputs [M, n, 123], the next memory [n, M, H + 1], and the present z-scores [n, 39]."""
        state = state_inputs(patients, self.preprocessing)
        doses = dose_inputs(fluid_ml, norepinephrine_equivalent, self.preprocessing)
        inputs = np.concatenate([state, doses], axis=1)
        memory = patients.memory
        if memory.size == 0:  # a logged state that no model has followed yet
            memory = np.zeros((len(patients), self.members, self.hidden + 1), np.float32)
        width = self.weights["output_bias"].shape[-1]
        outputs = np.empty((self.members, len(patients), width), np.float32)
        following = memory.copy()
        for first in range(0, len(patients), _BLOCK):
            block = slice(first, first + _BLOCK)
            for member in range(self.members):
                outputs[member, block], following[block, member, :-1] = self._cell(
                    member, inputs[block], memory[block, member, :-1]
                )
        return outputs, following, state[:, Z_INPUTS]

    def _cell(self, member: int, inputs: _Floats, memory: _Floats) -> tuple[_Floats, _Floats]:
        """``EnsembleNetwork.forward`` of one member: [n, 130], [n, H] to [n, 123], [n, H]."""
        w, size = self.weights, self.hidden
        from_inputs = inputs @ w["input_weight"][member] + w["input_bias"][member]
        from_memory = memory @ w["recurrent_weight"][member] + w["recurrent_bias"][member]
        gates = _sigmoid(from_inputs[:, : 2 * size] + from_memory[:, : 2 * size])
        update, reset = gates[:, :size], gates[:, size:]
        candidate = np.tanh(from_inputs[:, 2 * size :] + reset * from_memory[:, 2 * size :])
        following = candidate + update * (memory - candidate)
        seen = np.concatenate([following, inputs], axis=1)
        hidden = np.maximum(seen @ w["head_weight"][member] + w["head_bias"][member], 0)
        direct = inputs @ w["direct_weight"][member] + w["output_bias"][member]
        return hidden @ w["output_weight"][member] + direct, following


def _sigmoid(x: _Floats) -> _Floats:
    """By tanh, which numpy vectorises and which cannot overflow."""
    half = np.float32(0.5)
    return half * np.tanh(half * x) + half


def _softmax(x: _Floats) -> _Floats:
    grown = np.exp(x - x.max(-1, keepdims=True))
    return grown / grown.sum(-1, keepdims=True)


def _risk(outputs: _Floats) -> _Floats:
    """[n] probability of death within 90 days, whatever the step brings, from [M, n, 123]."""
    end = _softmax(outputs[..., 3 * N_FEATURES + 1 : 3 * N_FEATURES + 4])
    staying, leaving = np.moveaxis(_sigmoid(outputs[..., -2:]), -1, 0)
    risk = end[..., End.DIED] + end[..., End.ONGOING] * staying + end[..., End.DISCHARGED] * leaving
    return risk.mean(0)


def _split(outputs: _Floats) -> tuple[_Floats, _Floats, _Floats, _Floats, _Floats]:
    """Change, scale, measurement and ventilation probabilities, end-of-stay probabilities."""
    n = N_FEATURES
    return (
        outputs[..., :n],
        np.logaddexp(outputs[..., n : 2 * n], np.float32(0)) + _LEAST_SCALE,
        _sigmoid(outputs[..., 2 * n : 3 * n]),
        _sigmoid(outputs[..., 3 * n]),
        _softmax(outputs[..., 3 * n + 1 : 3 * n + 4]),
    )
