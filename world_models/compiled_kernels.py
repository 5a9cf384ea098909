"""What numba compiles of the step: one patient's network, and all that follows on it.

Patients are rows; ``at`` is the row that a function works on.
"""

import math
from typing import Any

import numpy as np
from numba import njit

from sepsis_gym.dynamics import End
from sepsis_gym.features import FEATURE_INDEX, N_FEATURES
from sepsis_gym.patients import OBSERVATION_SLICES
from sepsis_gym.preprocessing import NEVER
from sepsis_gym.sofa import organ_points, scored_inputs
from world_models.forward import N_OWN, N_SHARED, RISK
from world_models.inputs import LARGEST_AGE, N_INPUTS, N_PLAIN_INPUTS, PRESSURES, usual_rise
from world_models.noise import FIRST_SCORE, N_SCORES, SCORES_PER_UNIT

_N, _STATIC = N_FEATURES, 3 * N_FEATURES + 4
_RISK, _EXPONENT = RISK.start, N_FEATURES + 3
_HALF, _ONE, _TWO, _FLAT = np.float32(0.5), np.float32(1), np.float32(2), np.float32(4.5)
_A = tuple(np.float32(x) for x in (135135, 17325, 378))
_B = tuple(np.float32(x) for x in (62370, 3150, 28))
_OPTIONS: dict[str, Any] = {
    "cache": True,
    "error_model": "numpy",
    "fastmath": {"contract", "reassoc"},
    "nogil": True,
}
_LARGEST_AGE, _LARGEST_EXPONENT = np.float32(LARGEST_AGE), np.float32(60)
_LEAST_SCALE, _LAST_SCORE = np.float32(0.02), np.float32(N_SCORES - 1)
_ONGOING, _DISCHARGED, _DIED = int(End.ONGOING), int(End.DISCHARGED), int(End.DIED)
_GCS = (FEATURE_INDEX["gcs_eye"], FEATURE_INDEX["gcs_motor"] + 1)
_SHOWN_STATIC = OBSERVATION_SLICES["static"]
_FIRST_STATIC = _SHOWN_STATIC.start
_SHOWN_ACTION = OBSERVATION_SLICES["previous_action"]
_TUBE = OBSERVATION_SLICES["ventilated"].start
_PRESSURES = (FEATURE_INDEX["diabp"], FEATURE_INDEX["meanbp"], FEATURE_INDEX["sysbp"])
_SEEN_PRESSURES = tuple(PRESSURES)
_MEAN, _SCALE, _LOG, _LEAST, _MOST, _LOW, _HIGH, FILL, _HOLD, _FILL_Z, _QUANTILES = range(11)


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
def _dose(fluid_ml, dose, factors, x, at):  # type: ignore[no-untyped-def]
    x[at] = fluid_ml > 0
    x[at + 1] = math.log1p(fluid_ml * factors[1])
    x[at + 2] = dose > 0
    x[at + 3] = math.log1p(dose * factors[2])


@njit(**_OPTIONS)
def _renew(memory, gates, driven, bias):  # type: ignore[no-untyped-def]
    """Moves one member's memory of one patient on; gates side by side, [3H] each."""
    size = len(memory)
    update, reset, candidate = gates[:size], gates[size : 2 * size], gates[2 * size :]
    to_update, to_reset, to_candidate = (
        driven[:size], driven[size : 2 * size], driven[2 * size : 3 * size],
    )  # fmt: skip
    for j in range(size):
        recalled = (candidate[j] + bias[j]) * _sigmoid(reset[j] + to_reset[j])
        proposed = _tanh(recalled + to_candidate[j])
        memory[j] = (memory[j] - proposed) * _sigmoid(update[j] + to_update[j]) + proposed


@njit(**_OPTIONS)
def renew_all(memory, gates, from_inputs, bias):  # type: ignore[no-untyped-def]
    """``NumpyForward._renew``."""
    members, size = bias.shape
    for i in range(len(memory)):
        for m in range(members):
            driven = from_inputs[i, 3 * m * size :]
            _renew(memory[i, m, :size], gates[i, m], driven, bias[m])


@njit(**_OPTIONS)
def _network(weights, x, memory, own):  # type: ignore[no-untyped-def]
    """Shared outputs [M, 41] and the own member's [83]; ``memory`` [1, M, H + ...] moves on."""
    from_inputs, recurrent, candidate_bias, head_weight, shared_weight, own_weight = weights
    members, size = candidate_bias.shape
    driven = np.zeros(from_inputs.shape[1], np.float32)
    _add_product(x, from_inputs, driven)
    shared = np.empty((members, N_SHARED), np.float32)
    outputs = np.zeros(N_OWN, np.float32)
    gates, wide = np.empty(3 * size, np.float32), members * size
    for m in range(members):
        kept = memory[0, m, :size]
        gates[:] = 0
        _add_product(kept, recurrent[m], gates)
        _renew(kept, gates, driven[3 * m * size :], candidate_bias[m])
        at = 3 * wide + m * size
        head = driven[at : at + size]
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
def _error(table, score, i):  # type: ignore[no-untyped-def]
    """``Noise.errors`` of feature i."""
    at = min(max((score - FIRST_SCORE) * SCORES_PER_UNIT, np.float32(0)), _LAST_SCORE)
    below = min(int(at), N_SCORES - 2)
    low, high = table[_QUANTILES + below, i], table[_QUANTILES + below + 1, i]
    return low + (at - np.float32(below)) * (high - low)


@njit(**_OPTIONS)
def _measure(change, outputs, z, together, table, measured, space, raw):  # type: ignore[no-untyped-def]
    """What is measured, in model space and in clinical units."""
    for i in range(_N):
        if measured[i] or i in _PRESSURES:
            scale = math.log(_ONE + math.exp(min(outputs[i], _LARGEST_EXPONENT))) + _LEAST_SCALE
            error = scale * _error(table, together[i], i)
            value = (error + change[i] + z[i]) * table[_SCALE, i] + table[_MEAN, i]
            space[i] = raw[i] = min(max(value, table[_LEAST, i]), table[_MOST, i])
            if table[_LOG, i]:
                raw[i] = min(max(math.expm1(space[i]), table[_LOW, i]), table[_HIGH, i])
    for i in range(*_GCS):
        space[i] = raw[i] = np.rint(raw[i])
    low, middle, high = raw[_PRESSURES[0]], raw[_PRESSURES[1]], raw[_PRESSURES[2]]
    raw[_PRESSURES[0]] = min(low, middle, high)
    raw[_PRESSURES[2]] = max(low, middle, high)
    raw[_PRESSURES[1]] = max(min(low, middle), min(max(low, middle), high))
    for i in _PRESSURES:
        space[i] = raw[i]


@njit(**_OPTIONS)
def _outcome(shared, outputs, drawn, mean, variance):  # type: ignore[no-untyped-def]
    """End code, 90-day mortality and disagreement."""
    weight = mean[:3]
    for i in range(3):
        weight[i] = math.exp(min(outputs[_N + i], _LARGEST_EXPONENT))
    left = drawn * (weight[0] + weight[1] + weight[2])
    end = _ONGOING
    if left < weight[_DIED]:
        end = _DIED
    elif left - weight[_DIED] < weight[_DISCHARGED]:
        end = _DISCHARGED
    mortality, members = np.float32(0), np.float32(len(shared))
    mean[:], variance[:] = 0, 0
    for m in range(len(shared)):
        mortality += _sigmoid(shared[m, _RISK + (end == _DISCHARGED)])
        for i in range(_N):
            mean[i] += shared[m, i] / members
    for m in range(len(shared)):
        for i in range(_N):
            variance[i] += (shared[m, i] - mean[i]) ** 2 / members
    apart = np.float32(0)
    for i in range(_N):
        apart += math.sqrt(variance[i])
    return end, mortality / members, apart / np.float32(_N)


_organ_points, _scored_inputs = njit(organ_points), njit(scored_inputs)


@njit(**_OPTIONS)
def _sofa(rule, values, known, known_too, ventilated, dose, seen, passed):  # type: ignore[no-untyped-def]
    at, if_unknown, sign, below = rule
    for i in range(len(at)):
        seen[i] = values[at[i]] if known[at[i]] and known_too[at[i]] else if_unknown[i]
    compared = _scored_inputs(seen[: len(at)], dose)
    for i in range(len(sign)):
        passed[i] = 0
        for cut in below[i]:
            passed[i] += sign[i] * compared[i] < cut
    return sum(_organ_points(min, max, ventilated, passed[: len(sign)]))


@njit(**_OPTIONS)
def tell_all(  # type: ignore[no-untyped-def]
    table, factors, cut_at, if_unknown, sign, below, scale_static,
    values, age, ventilated, static, dose, step, known, shown, sofa,
):  # fmt: skip
    """What is known, the observation, all but the previous action, and SOFA of states."""
    rule = (cut_at, if_unknown, sign, below)
    seen, passed = np.empty(_N, np.float32), np.empty(len(sign), np.int64)
    for at in range(len(values)):
        for i in range(_N):
            space = math.log1p(values[at, i]) if table[_LOG, i] else values[at, i]
            shown[at, i] = (space - table[_MEAN, i]) / table[_SCALE, i]
            known[at, i] = age[at, i] <= table[_HOLD, i]
        for i in range(_N - 1):
            shown[at, _N + i] = age[at, i] == 0
        for i in range(3):
            shown[at, _FIRST_STATIC + i] = (static[at, i] - scale_static[0, i]) / scale_static[1, i]
        shown[at, _TUBE] = ventilated[at]
        shown[at, -1] = np.float32(step[at]) * factors[3]
        sofa[at] = _sofa(
            rule, values[at], known[at], known[at], ventilated[at], dose[at], seen, passed
        )


_rise = njit(usual_rise)


@njit(**_OPTIONS)
def _read(table, factors, age, shown, last_fluid, last_dose, fluid, dose, x):  # type: ignore[no-untyped-def]
    """The network's inputs from one patient's state and doses."""
    for i in range(_N):
        x[i] = shown[i]
        x[_N + i] = age[i] == 0
        x[2 * _N + i] = min(np.float32(age[i]) * factors[0], _LARGEST_AGE)
    _dose(last_fluid, last_dose, factors, x, 3 * _N)
    x[_STATIC : _STATIC + 3] = shown[_SHOWN_STATIC]
    x[_STATIC + 3] = shown[_TUBE]
    x[_STATIC + 4] = shown[-1]
    _dose(fluid, dose, factors, x, _STATIC + 5)
    rise = np.float32(_rise(last_dose, dose))
    for k in range(len(_SEEN_PRESSURES)):
        i = _SEEN_PRESSURES[k]
        x[N_PLAIN_INPUTS + k] = (shown[i] + table[_MEAN, i] / table[_SCALE, i]) * rise


@njit(**_OPTIONS)
def read_all(  # type: ignore[no-untyped-def]
    table, factors, age, shown, last_fluid, last_dose, fluid, dose, inputs
):
    """Fills the network's inputs [n, 133]."""
    for i in range(len(age)):
        _read(
            table, factors, age[i], shown[i], last_fluid[i], last_dose[i], fluid[i], dose[i],
            inputs[i],
        )  # fmt: skip


@njit(**_OPTIONS)
def _move(  # type: ignore[no-untyped-def]
    at, tables, seen, doses, before, change, shared, outputs, together, chance, after, scratch
):
    """From the network's outputs to the state of the patient at row ``at``."""
    table, factors, rule = tables
    values, ventilated, known, step = before
    new_values, new_age, tube, end, mortality, doubt, new_known, shown, sofa, scored = after
    (space, raw, work), measured, passed = scratch
    for i in range(_N):
        measured[i] = chance[i] < _sigmoid(outputs[_EXPONENT + i])
    has_tube = 1 if ventilated[at] else 0
    measured[_N] = chance[_N] < _sigmoid(outputs[_EXPONENT + _N + has_tube])
    _measure(change, outputs, seen[1][at], together, table, measured, space, raw)
    for i in range(_N):
        age = 0 if measured[i] else min(seen[0][at, i] + 1, NEVER)
        holds = age <= table[_HOLD, i]
        new_age[at, i], new_known[at, i] = age, holds
        if measured[i]:
            new_values[at, i] = raw[i]
            shown[at, i] = (space[i] - table[_MEAN, i]) / table[_SCALE, i]
        else:
            new_values[at, i] = values[at, i] if holds else table[FILL, i]
            shown[at, i] = seen[1][at, i] if holds else table[_FILL_Z, i]
    for i in range(_N - 1):
        shown[at, _N + i] = measured[i]
    tube[at] = shown[at, _TUBE] = measured[_N]
    shown[at, _SHOWN_STATIC] = seen[1][at, _SHOWN_STATIC]
    shown[at, _SHOWN_ACTION] = 0
    shown[at, -1] = np.float32(step[at] + 1) * factors[3]
    end[at], mortality[at], doubt[at] = _outcome(shared, outputs, chance[_N + 1], work, space)
    old, new = known[at], new_known[at]
    dose, last_dose = doses[3][at], doses[1][at]
    sofa[at] = _sofa(rule, new_values[at], new, new, tube[at], dose, work, passed)
    scored[at, 0] = _sofa(rule, values[at], old, new, ventilated[at], last_dose, work, passed)
    scored[at, 1] = _sofa(rule, new_values[at], old, new, tube[at], dose, work, passed)


@njit(**_OPTIONS)
def _scratch():  # type: ignore[no-untyped-def]
    """What :func:`_move` writes over for each patient."""
    floats = np.empty((3, _N), np.float32)
    measured, passed = np.empty(_N + 1, np.bool_), np.empty(_N, np.int64)
    return (floats[0], floats[1], floats[2]), measured, passed


@njit(**_OPTIONS)
def move_all(  # type: ignore[no-untyped-def]
    table, factors, cut_at, if_unknown, sign, below, age, shown, last_fluid, last_dose, fluid, dose,
    values, ventilated, known, step, own, shared, outputs, together, chance,
    new_values, new_age, tube, end, mortality, doubt, new_known, new_shown, sofa, scored,
):  # fmt: skip
    """From the network's outputs to the state that follows, of all patients."""
    tables = (table, factors, (cut_at, if_unknown, sign, below))
    seen, doses = (age, shown), (last_fluid, last_dose, fluid, dose)
    before = (values, ventilated, known, step)
    after = (new_values, new_age, tube, end, mortality, doubt, new_known, new_shown, sofa, scored)
    scratch = _scratch()
    for i in range(len(own)):
        _move(
            i, tables, seen, doses, before, shared[i, own[i]], shared[i], outputs[i], together[i],
            chance[i], after, scratch,
        )  # fmt: skip


@njit(**_OPTIONS)
def step_one(  # type: ignore[no-untyped-def]
    from_inputs, recurrent, candidate_bias, head, shared_weight, own_weight, mixing,
    table, factors, cut_at, if_unknown, sign, below, age, shown, last_fluid, last_dose, fluid, dose,
    values, ventilated, known, step, memory, noise, chance,
    new_values, new_age, tube, end, mortality, doubt, new_known, new_shown, sofa, scored,
):  # fmt: skip
    """The whole step of one patient."""
    weights = (from_inputs, recurrent, candidate_bias, head, shared_weight, own_weight)
    tables = (table, factors, (cut_at, if_unknown, sign, below))
    seen, doses = (age, shown), (last_fluid, last_dose, fluid, dose)
    before = (values, ventilated, known, step)
    after = (new_values, new_age, tube, end, mortality, doubt, new_known, new_shown, sofa, scored)
    x = np.ones(N_INPUTS + 1, np.float32)  # the last is the biases' input
    _read(table, factors, age[0], shown[0], last_fluid[0], last_dose[0], fluid[0], dose[0], x)
    own, size, members = 0, candidate_bias.shape[1], memory.shape[1]
    for m in range(members):
        if memory[0, m, size] > 0:
            own = m
            break
    shared, outputs = _network(weights, x, memory, own)
    together, columns = np.empty(_N, np.float32), memory.shape[2] - size - 1
    for i in range(_N):
        together[i] = memory[0, i // columns, size + 1 + i % columns]
    _add_product(noise[0], mixing, together)
    _move(
        0, tables, seen, doses, before, shared[own], shared, outputs, together, chance[0], after,
        _scratch(),
    )  # fmt: skip
