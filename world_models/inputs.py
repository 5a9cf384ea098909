"""What the networks see: patients and doses as arrays, the same for training and inference."""

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.features import N_FEATURES
from sepsis_gym.patients import Patients
from sepsis_gym.preprocessing import Preprocessing

N_DOSE_INPUTS = 4
N_STATE_INPUTS = 3 * N_FEATURES + N_DOSE_INPUTS + 5
N_INPUTS = N_STATE_INPUTS + N_DOSE_INPUTS
Z_INPUTS = slice(0, N_FEATURES)
VENTILATED_INPUT = N_STATE_INPUTS - 2
FLUID_SCALE_ML = 250.0
VASOPRESSOR_SCALE = 0.1  # ug/kg/min
AGE_SCALE_HOURS = 24.0
LARGEST_AGE = 3.0


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
