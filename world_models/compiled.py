"""One patient's step compiled by numba: what the ``fast`` extra adds to the numpy model.

It computes what ``ClinicalWorldModel`` computes in numpy, which stays the reference; a test holds
the two together. Batches do not come here: matrix products are faster for them.
"""

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from sepsis_gym.dynamics import End, Transition
from sepsis_gym.features import FEATURE_INDEX, N_FEATURES
from sepsis_gym.patients import OBSERVATION_SIZE, OBSERVATION_SLICES, Patients
from sepsis_gym.preprocessing import NEVER, Preprocessing
from sepsis_gym.sofa import CUT_TABLE, organ_points, scored_inputs
from world_models.forward import N_OWN, N_SHARED, RISK, PackedWeights
from world_models.inputs import (
    AGE_SCALE_HOURS,
    FLUID_SCALE_ML,
    LARGEST_AGE,
    N_INPUTS,
    VASOPRESSOR_SCALE,
)

_Floats = NDArray[np.float32]
_N, _STATIC = N_FEATURES, 3 * N_FEATURES + 4
_RISK, _EXPONENT = RISK.start, N_FEATURES + 3
_HALF, _TWO, _FLAT = np.float32(0.5), np.float32(2), np.float32(4.5)
_A = tuple(np.float32(x) for x in (135135, 17325, 378))
_B = tuple(np.float32(x) for x in (62370, 3150, 28))
_OPTIONS: dict[str, Any] = {
    "cache": True,
    "error_model": "numpy",
    "fastmath": {"contract", "reassoc"},
}
_LARGEST_AGE, _LARGEST_EXPONENT = np.float32(LARGEST_AGE), np.float32(60)
_LEAST_SCALE = np.float32(0.02)
_ONGOING, _DISCHARGED, _DIED = int(End.ONGOING), int(End.DISCHARGED), int(End.DIED)
_GCS = (FEATURE_INDEX["gcs_eye"], FEATURE_INDEX["gcs_motor"] + 1)
_MEASURED, _SHOWN_STATIC = OBSERVATION_SLICES["measured"], OBSERVATION_SLICES["static"]
_TUBE = OBSERVATION_SLICES["ventilated"].start
_PRESSURES = (FEATURE_INDEX["diabp"], FEATURE_INDEX["meanbp"], FEATURE_INDEX["sysbp"])
_MEAN, _SCALE, _LOG, _LEAST, _MOST, _LOW, _HIGH, _FILL, _HOLD = range(9)


class OnePatient:
    """The compiled step over one model's weights."""

    def __init__(
        self, packed: PackedWeights, preprocessing: Preprocessing, noise_factor: _Floats
    ) -> None:
        """Lays out the feature table: a row for each of ``_MEAN`` to ``_HOLD``."""
        members, size = packed.candidate_bias.shape
        # the three gates side by side: long rows
        recurrent = packed.recurrent.transpose(1, 2, 0, 3).reshape(members, size, 3 * size)
        self._weights = (
            packed.from_inputs, recurrent, packed.candidate_bias, packed.head, packed.shared,
            packed.own, noise_factor.T.copy(),
        )  # fmt: skip
        self._table = np.stack(preprocessing.feature_table()).astype(np.float32)
        hours = preprocessing.step_hours
        self._factors = np.array(
            [
                hours / AGE_SCALE_HOURS,
                4 / (hours * FLUID_SCALE_ML),
                1 / VASOPRESSOR_SCALE,
                1 / preprocessing.max_steps,
            ],
            np.float32,
        )
        self._preprocessing = preprocessing

    def note(self, patient: Patients) -> None:
        """Works out what the environment is going to ask about a new patient."""
        preprocessing = self._preprocessing
        known, shown = patient.known(preprocessing), np.zeros((1, OBSERVATION_SIZE), np.float32)
        sofa = np.empty(1, np.int8)
        _tell(
            self._table, self._factors, CUT_TABLE, patient.values[0], patient.age[0],
            patient.ventilated[0], patient.standardized_static(preprocessing)[0],
            patient.previous_norepinephrine_equivalent[0], patient.step[0], known[0], shown[0],
            sofa,
        )  # fmt: skip
        z = shown[:, OBSERVATION_SLICES["features"]]
        patient.note(preprocessing, z=z, sofa=sofa, shown=shown)

    def __call__(
        self, patient: Patients, fluid_ml: _Floats, dose: _Floats, noise: _Floats, chance: _Floats
    ) -> Transition:
        """The step.

        Args:
            patient: One patient, who belongs to a member.
            fluid_ml: [1] mL per step.
            dose: [1] ug/kg/min.
            noise: [1, 39] independent normal draws.
            chance: [1, 41] uniform draws: measurements, ventilation, end.
        """
        shape, preprocessing = (1, _N), self._preprocessing
        moved = values, age, tube, memory = (
            np.empty(shape, np.float32), np.empty(shape, np.int16), np.empty(1, np.bool_),
            patient.memory.copy(),
        )  # fmt: skip
        told = np.empty(1, np.int8), np.empty(1, np.float32), np.empty(1, np.float32)
        known, shown = np.empty(shape, np.bool_), np.zeros((1, OBSERVATION_SIZE), np.float32)
        sofa, scored = np.empty(1, np.int8), np.empty((1, 2), np.int8)
        _step(
            *self._weights, self._table, self._factors, *CUT_TABLE, patient.values, patient.age,
            patient.ventilated, patient.known(preprocessing), patient.standardized(preprocessing),
            patient.standardized_static(preprocessing), patient.previous_fluid_ml,
            patient.previous_norepinephrine_equivalent, patient.step, fluid_ml, dose, noise,
            chance, *moved, *told, known, shown, sofa, scored,
        )  # fmt: skip
        following = patient.moved(values, age, tube, fluid_ml, dose, memory)
        z = shown[:, OBSERVATION_SLICES["features"]]
        following.note(preprocessing, known=known, z=z, sofa=sofa, shown=shown)
        return Transition(following, *told, scored)


@njit(**_OPTIONS)
def _add_product(x, weights, out):  # type: ignore[no-untyped-def]
    """Adds x @ weights to ``out``, four rows at a time; many inputs are 0 and cost nothing."""
    used, row, count = np.zeros(len(x) + 3, np.float32), np.zeros(len(x) + 3, np.int64), 0
    for k in range(len(x)):
        used[count], row[count] = x[k], k
        count += x[k] != 0  # a branch would often be foreseen wrongly
    for k in range(0, count, 4):
        a, b, c, d = weights[row[k]], weights[row[k + 1]], weights[row[k + 2]], weights[row[k + 3]]
        p, q, r, s = used[k], used[k + 1], used[k + 2], used[k + 3]
        for j in range(len(out)):
            out[j] += (p * a[j] + q * b[j]) + (r * c[j] + s * d[j])


@njit(**_OPTIONS)
def _tanh(x):  # type: ignore[no-untyped-def]
    """Lambert's continued fraction for x / 2, doubled: unlike math.tanh it runs on vectors."""
    half = min(max(x * _HALF, -_FLAT), _FLAT)
    square = half * half
    above = half * (((square + _A[2]) * square + _A[1]) * square + _A[0])
    below = ((_B[2] * square + _B[1]) * square + _B[0]) * square + _A[0]
    return _TWO * above * below / (above * above + below * below)


@njit(**_OPTIONS)
def _sigmoid(half):  # type: ignore[no-untyped-def]
    return _HALF * _tanh(half) + _HALF


@njit(**_OPTIONS)
def _to_z(values, table, z):  # type: ignore[no-untyped-def]
    for i in range(_N):
        shown = math.log1p(values[i]) if table[_LOG, i] else values[i]
        z[i] = (shown - table[_MEAN, i]) / table[_SCALE, i]


@njit(**_OPTIONS)
def _dose(fluid_ml, dose, factors, x, at):  # type: ignore[no-untyped-def]
    x[at] = fluid_ml > 0
    x[at + 1] = math.log1p(fluid_ml * factors[1])
    x[at + 2] = dose > 0
    x[at + 3] = math.log1p(dose * factors[2])


@njit(**_OPTIONS)
def _network(weights, x, memory, own):  # type: ignore[no-untyped-def]
    """Shared outputs [M, 41] and the own member's [82]; ``memory`` [1, M, H + 1] moves on."""
    from_inputs, recurrent, candidate_bias, head_weight, shared_weight, own_weight = weights
    members, size = candidate_bias.shape
    driven = np.zeros(from_inputs.shape[1], np.float32)
    _add_product(x, from_inputs, driven)
    shared = np.empty((members, N_SHARED), np.float32)
    outputs = np.zeros(N_OWN, np.float32)
    gates = np.empty((3, size), np.float32)
    for m in range(members):
        kept = memory[0, m, :size]
        gates[:2] = 0
        gates[2] = candidate_bias[m]
        _add_product(kept, recurrent[m], gates.reshape(-1))
        at, wide = m * size, members * size
        update, reset, candidate = gates
        from_update, from_reset = driven[at:], driven[wide + at :]
        from_candidate = driven[2 * wide + at :]
        for j in range(size):
            proposed = _tanh(candidate[j] * _sigmoid(reset[j] + from_reset[j]) + from_candidate[j])
            kept[j] = (kept[j] - proposed) * _sigmoid(update[j] + from_update[j]) + proposed
        head = driven[3 * wide + at : 3 * wide + at + size]
        _add_product(kept, head_weight[m], head)
        for j in range(size):
            head[j] = max(head[j], np.float32(0))
        first = 4 * wide + m * N_SHARED
        shared[m] = driven[first : first + N_SHARED]
        _add_product(head, shared_weight[m], shared[m])
        if m == own:
            _add_product(head, own_weight[m, :size], outputs)
            _add_product(x, own_weight[m, size:], outputs)
    return shared, outputs


@njit(**_OPTIONS)
def _measure(shared, outputs, z, noise, table):  # type: ignore[no-untyped-def]
    """[39] what would be measured, clinical units."""
    raw = np.empty(_N, np.float32)
    for i in range(_N):
        scale = math.log1p(math.exp(min(outputs[i], _LARGEST_EXPONENT))) + _LEAST_SCALE
        value = (scale * noise[i] + shared[i] + z[i]) * table[_SCALE, i] + table[_MEAN, i]
        value = min(max(value, table[_LEAST, i]), table[_MOST, i])
        if table[_LOG, i]:
            value = min(max(math.expm1(value), table[_LOW, i]), table[_HIGH, i])
        raw[i] = value
    for i in range(*_GCS):
        raw[i] = np.rint(raw[i])
    low, middle, high = raw[_PRESSURES[0]], raw[_PRESSURES[1]], raw[_PRESSURES[2]]
    raw[_PRESSURES[0]] = min(low, middle, high)
    raw[_PRESSURES[2]] = max(low, middle, high)
    raw[_PRESSURES[1]] = max(min(low, middle), min(max(low, middle), high))
    return raw


@njit(**_OPTIONS)
def _outcome(shared, outputs, drawn):  # type: ignore[no-untyped-def]
    """End code, 90-day mortality and disagreement."""
    members = len(shared)
    weight = np.empty(3, np.float32)
    for i in range(3):
        weight[i] = math.exp(min(outputs[_N + i], _LARGEST_EXPONENT))
    left = drawn * (weight[0] + weight[1] + weight[2])
    end = _ONGOING
    if left < weight[_DIED]:
        end = _DIED
    elif left - weight[_DIED] < weight[_DISCHARGED]:
        end = _DISCHARGED
    mortality = np.float32(0)
    for m in range(members):
        mortality += _sigmoid(shared[m, _RISK + (end == _DISCHARGED)])
    apart = np.float32(0)
    for i in range(_N):
        mean, square = np.float32(0), np.float32(0)
        for m in range(members):
            mean += shared[m, i]
        mean /= np.float32(members)
        for m in range(members):
            square += (shared[m, i] - mean) ** 2
        apart += math.sqrt(square / np.float32(members))
    return end, mortality / np.float32(members), apart / np.float32(_N)


_organ_points, _scored_inputs = njit(organ_points), njit(scored_inputs)


@njit(**_OPTIONS)
def _sofa(rule, values, known, ventilated, dose):  # type: ignore[no-untyped-def]
    at, if_unknown, sign, below = rule
    seen = if_unknown.copy()
    for i in range(len(at)):
        if known[at[i]]:
            seen[i] = values[at[i]]
    compared = _scored_inputs(seen, dose)
    passed = np.zeros(len(sign), np.int64)
    for i in range(len(sign)):
        for cut in below[i]:
            passed[i] += sign[i] * compared[i] < cut
    return sum(_organ_points(min, max, ventilated, passed))


@njit(**_OPTIONS)
def _tell(  # type: ignore[no-untyped-def]
    table, factors, rule, values, age, ventilated, static, dose, step, known, shown, sofa
):
    """The observation, all but its previous action, and SOFA of a state."""
    _to_z(values, table, shown)
    shown[_MEASURED] = age[: _N - 1] == 0
    shown[_SHOWN_STATIC] = static
    shown[_TUBE] = ventilated
    shown[-1] = np.float32(step) * factors[3]
    sofa[0] = _sofa(rule, values, known, ventilated, dose)


@njit(**_OPTIONS)
def _step(  # type: ignore[no-untyped-def]
    from_inputs, recurrent, candidate_bias, head, shared_weight, own_weight, noise_weight,
    table, factors, cut_at, if_unknown, sign, below,
    values, age, ventilated, known, z, static, previous_fluid, previous_dose, step,
    fluid_ml, dose, noise, chance,
    new_values, new_age, tube, memory, end, mortality, doubt, new_known, shown, sofa, scored,
):  # fmt: skip
    weights = (from_inputs, recurrent, candidate_bias, head, shared_weight, own_weight)
    x = np.empty(N_INPUTS + 1, np.float32)
    x[:_N] = z[0]
    for i in range(_N):
        x[_N + i] = age[0, i] == 0
        x[2 * _N + i] = min(np.float32(age[0, i]) * factors[0], _LARGEST_AGE)
    _dose(previous_fluid[0], previous_dose[0], factors, x, 3 * _N)
    x[_STATIC : _STATIC + 3] = static[0]
    x[_STATIC + 3] = ventilated[0]
    x[_STATIC + 4] = np.float32(step[0]) * factors[3]
    _dose(fluid_ml[0], dose[0], factors, x, _STATIC + 5)
    x[N_INPUTS] = 1
    own = 0
    for m in range(memory.shape[1]):
        if memory[0, m, -1] > 0:
            own = m
            break
    shared, outputs = _network(weights, x, memory, own)
    together = np.zeros(_N, np.float32)
    _add_product(noise[0], noise_weight, together)
    raw = _measure(shared[own], outputs, x, together, table)
    both = np.empty(_N, np.bool_)
    for i in range(_N):
        measured = chance[0, i] < _sigmoid(outputs[_EXPONENT + i])
        new_age[0, i] = 0 if measured else min(age[0, i] + 1, NEVER)
        new_known[0, i] = new_age[0, i] <= table[_HOLD, i]
        both[i] = known[0, i] and new_known[0, i]
        held = values[0, i] if new_known[0, i] else table[_FILL, i]
        new_values[0, i] = raw[i] if measured else held
    tube[0] = chance[0, _N] < _sigmoid(outputs[_EXPONENT + _N])
    end[0], mortality[0], doubt[0] = _outcome(shared, outputs, chance[0, _N + 1])
    rule = (cut_at, if_unknown, sign, below)
    _tell(
        table, factors, rule, new_values[0], new_age[0], tube[0], static[0], dose[0], step[0] + 1,
        new_known[0], shown[0], sofa,
    )  # fmt: skip
    scored[0, 0] = _sofa(rule, values[0], both, ventilated[0], previous_dose[0])
    scored[0, 1] = _sofa(rule, new_values[0], both, tube[0], dose[0])
