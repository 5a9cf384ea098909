"""A forecaster walks logged stays: it sees each state and is asked about the step after it."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.patients import Patients
from sepsis_gym.preprocessing import NEVER
from sepsis_gym.trajectories import Trajectories
from world_models.forecast import Forecaster
from world_models.inputs import PRESSURES, usual_rise


def followed(model: Forecaster, log: Trajectories) -> Iterator[tuple[NDArray[np.int64], Patients]]:
    """Yields, step by step, the rows of all stays that go on, and their patients with a memory."""
    patients: Patients | None = None
    for t in range(int(log.n_decisions.max())):
        alive = log.n_decisions > t
        here = log.offsets[:-1][alive] + t
        logged = log.patients(here)
        if patients is not None:
            kept = patients.take(alive[log.n_decisions > t - 1])
            logged = model.follow(kept, logged)
        yield here, logged
        patients = logged


def expected_step(
    model: Forecaster,
    patients: Patients,
    doses: tuple[NDArray[np.floating], NDArray[np.floating]],
    said: dict[str, Any],
    measured: NDArray[np.bool_],
) -> Patients:
    """The n patients after a step that went as predicted, for predictions that run on from there.

    For a model that runs on from memory nothing is read in it: the values stay those read last, the
    pressures in step with the vasopressor. To others the predictions are shown as if read.

    Args:
        model: The forecaster.
        patients: The patients before it.
        doses: Fluid and vasopressor of the step.
        said: What the forecaster predicted of it.
        measured: [n, 39] which of the predicted values count as measured.
    """
    if model.runs_on_memory:
        values, age = patients.values.copy(), np.minimum(patients.age + 1, NEVER, dtype=np.int16)
        rise = usual_rise(patients.previous_norepinephrine_equivalent, doses[1])
        values[:, PRESSURES] *= 1 + rise[:, None]
    else:
        raw = np.where(measured, model.preprocessing.restore(said["mean"]), np.nan)
        values, age = model.preprocessing.carry_forward(patients.values, patients.age, raw)
    following = replace(
        patients,
        values=values,
        age=age,
        ventilated=said["ventilated"] > 0.5,
        previous_fluid_ml=doses[0],
        previous_norepinephrine_equivalent=doses[1],
        step=patients.step + 1,
    )
    return model.follow(patients, following)


def one_step(model: Forecaster, log: Trajectories) -> dict[str, NDArray[Any]]:
    """Predictions for every decision under the logged doses, [D, ...]."""
    position = np.cumsum(log.is_decision) - 1
    out: dict[str, NDArray[Any]] = {}
    for rows, patients in followed(model, log):
        doses = log.fluid_ml[rows], log.norepinephrine_equivalent[rows]
        for name, values in model.predict(patients, *doses).items():
            if name not in out:
                out[name] = np.zeros((position[-1] + 1, *values.shape[1:]), np.float32)
            out[name][position[rows]] = values
    return out
