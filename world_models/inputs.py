"""What the networks see: patients and doses as arrays, the same for training and inference."""

from typing import TYPE_CHECKING, TypeVar

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.features import FEATURE_INDEX, N_FEATURES
from sepsis_gym.patients import Patients
from sepsis_gym.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor

N_DOSE_INPUTS = 4
N_STATE_INPUTS = 3 * N_FEATURES + N_DOSE_INPUTS + 5
PRESSURES = [FEATURE_INDEX[name] for name in ("sysbp", "diabp", "meanbp")]
N_PLAIN_INPUTS = N_STATE_INPUTS + N_DOSE_INPUTS
N_INPUTS = N_PLAIN_INPUTS + len(PRESSURES)
Z_INPUTS = slice(0, N_FEATURES)
VENTILATED_INPUT = N_STATE_INPUTS - 2
FLUID_SCALE_ML = 250.0
VASOPRESSOR_SCALE = 0.1  # ug/kg/min
AGE_SCALE_HOURS = 24.0
LARGEST_AGE = 3.0
VASOPRESSOR_INPUT = 3 * N_FEATURES + 3
TONE, TONE_DOSE = 1.4, 0.6
"""Largest rise of blood pressure by a vasopressor, as a share, and the ug/kg/min at half of it."""
_Arrays = TypeVar("_Arrays", NDArray[np.floating], NDArray[np.float32], "Tensor")


def step_inputs(
    patients: Patients,
    fluid_ml: NDArray[np.floating],
    norepinephrine_equivalent: NDArray[np.floating],
    preprocessing: Preprocessing,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """[n, 133]: the state, the doses, and what the latter usually do to the three pressures.

    The last are a product of the present pressure and the change of dose, which a network of
    moderate size finds late and roughly.

    Args:
        patients: n patients.
        fluid_ml: [n] mL per step.
        norepinephrine_equivalent: [n] ug/kg/min.
        preprocessing: Clock and scales.
        out: [n, 133] where to write them.
    """
    inputs = np.empty((len(patients), N_INPUTS), np.float32) if out is None else out
    state_inputs(patients, preprocessing, out=inputs[:, :N_STATE_INPUTS])
    given = inputs[:, N_STATE_INPUTS:N_PLAIN_INPUTS]
    dose_inputs(fluid_ml, norepinephrine_equivalent, preprocessing, out=given)
    dose = np.asarray(norepinephrine_equivalent, np.float32)
    rise = usual_rise(patients.previous_norepinephrine_equivalent, dose)
    _, scale, *_ = preprocessing.feature_table()
    pressure = patients.values[:, PRESSURES] / scale[PRESSURES]
    np.multiply(pressure, rise[:, None], out=inputs[:, N_PLAIN_INPUTS:])
    return inputs


def usual_rise(dose_before: _Arrays, dose: _Arrays) -> _Arrays:
    """[...] share by which a change of vasopressor raises blood pressure in most patients.

    Pressure grows with the dose as 1 + E(d), E(d) = 1.4 d / (d + 0.6 ug/kg/min): 0.1 raises an
    untreated 55 mmHg by 11.

    Source: the size of the first step of norepinephrine as in Hamzaoui et al. 2010; the shape is
    an assumption.
    """
    before = 1 + TONE * dose_before / (dose_before + TONE_DOSE)
    return (1 + TONE * dose / (dose + TONE_DOSE)) / before - 1


def state_inputs(
    patients: Patients, preprocessing: Preprocessing, out: NDArray[np.float32] | None = None
) -> NDArray[np.float32]:
    """[n, 126]: z-scores, masks, ages, previous doses, statics, ventilation, clock.

    Args:
        patients: n patients.
        preprocessing: Clock and scales.
        out: [n, 126] where to write them.
    """
    n, shape = N_FEATURES, (len(patients), N_STATE_INPUTS)
    inputs = np.empty(shape, np.float32) if out is None else out
    inputs[:, Z_INPUTS] = patients.standardized(preprocessing)
    inputs[:, n : 2 * n] = patients.measured
    age = inputs[:, 2 * n : 3 * n]
    np.multiply(patients.age, np.float32(preprocessing.step_hours / AGE_SCALE_HOURS), out=age)
    np.minimum(age, LARGEST_AGE, out=age)
    given = (patients.previous_fluid_ml, patients.previous_norepinephrine_equivalent)
    dose_inputs(*given, preprocessing, out=inputs[:, 3 * n : 3 * n + N_DOSE_INPUTS])
    static = patients.standardized_static(preprocessing)
    inputs[:, 3 * n + N_DOSE_INPUTS : VENTILATED_INPUT] = static
    inputs[:, VENTILATED_INPUT] = patients.ventilated
    inputs[:, N_STATE_INPUTS - 1] = patients.step / preprocessing.max_steps
    return inputs


def dose_inputs(
    fluid_ml: NDArray[np.floating],
    norepinephrine_equivalent: NDArray[np.floating],
    preprocessing: Preprocessing,
    out: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """[n, 4]: whether each drug is given, and how much on a log scale (fluid per 4 h).

    Args:
        fluid_ml: [n] mL per step.
        norepinephrine_equivalent: [n] ug/kg/min.
        preprocessing: The clock.
        out: [n, 4] where to write them.
    """
    inputs = np.empty((len(fluid_ml), N_DOSE_INPUTS), np.float32) if out is None else out
    amounts = inputs[:, 1::2]
    np.multiply(fluid_ml, 4.0 / (preprocessing.step_hours * FLUID_SCALE_ML), out=amounts[:, 0])
    np.divide(norepinephrine_equivalent, VASOPRESSOR_SCALE, out=amounts[:, 1])
    np.greater(amounts, 0, out=inputs[:, 0::2])
    np.log1p(amounts, out=amounts)
    return inputs
