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
_FLUID_SCALE_ML = 250.0
_VASOPRESSOR_SCALE = 0.1  # ug/kg/min
_AGE_SCALE_HOURS = 24.0
_LARGEST_AGE = 3.0


def state_inputs(patients: Patients, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """[n, 126]: z-scores, masks, ages, previous doses, statics, ventilation, clock."""
    n = N_FEATURES
    inputs = np.empty((len(patients), N_STATE_INPUTS), np.float32)
    inputs[:, Z_INPUTS] = preprocessing.standardize(patients.values)
    inputs[:, n : 2 * n] = patients.measured
    hours = patients.age.astype(np.float32) * preprocessing.step_hours
    inputs[:, 2 * n : 3 * n] = np.minimum(hours / _AGE_SCALE_HOURS, _LARGEST_AGE)
    given = (patients.previous_fluid_ml, patients.previous_norepinephrine_equivalent)
    inputs[:, 3 * n : 3 * n + N_DOSE_INPUTS] = dose_inputs(*given, preprocessing)
    inputs[:, 3 * n + N_DOSE_INPUTS : VENTILATED_INPUT] = preprocessing.standardize_static(
        patients.static
    )
    inputs[:, VENTILATED_INPUT] = patients.ventilated
    inputs[:, -1] = patients.step / preprocessing.max_steps
    return inputs


def dose_inputs(
    fluid_ml: NDArray[np.floating],
    norepinephrine_equivalent: NDArray[np.floating],
    preprocessing: Preprocessing,
) -> NDArray[np.float32]:
    """[n, 4]: whether each drug is given, and how much on a log scale (fluid per 4 h)."""
    fluid = np.asarray(fluid_ml) * (4.0 / preprocessing.step_hours)
    columns = (
        fluid > 0,
        np.log1p(fluid / _FLUID_SCALE_ML),
        np.asarray(norepinephrine_equivalent) > 0,
        np.log1p(np.asarray(norepinephrine_equivalent) / _VASOPRESSOR_SCALE),
    )
    return np.stack(columns, axis=-1).astype(np.float32)
