"""How well a world model predicts held-out stays, beside persistence."""

import io

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from sepsis_gym.dynamics import End
from sepsis_gym.features import FEATURE_NAMES
from sepsis_gym.trajectories import Trajectories
from world_models.logged import one_step
from world_models.model import ClinicalWorldModel

Numbers = dict[str, float]
_Z_90 = 1.6449
_OPEN_LOOP_STEPS = 12
_VITALS = ("heart_rate", "sysbp", "diabp", "meanbp", "resp_rate", "spo2", "temp_c")


def evaluate_fidelity(model: ClinicalWorldModel, trajectories: Trajectories) -> Numbers:
    """Measures one-step and open-loop errors, intervals and outcome prediction.

    Errors are mean absolute differences in z-scores of the model's training cohort, over entries
    that were measured in the target step; persistence repeats the last value shown.

    Args:
        model: The world model.
        trajectories: Held-out stays with the model's clock.

    Returns:
        Name to number; NaN where the stays cannot tell (one class only).
    """
    log = trajectories
    expected = one_step(model, log)
    rows = np.flatnonzero(log.is_decision)
    now, truth = model.preprocessing.standardize(log.values), log.measured[rows + 1]
    target = now[rows + 1]
    error = np.abs(expected["mean"] - target)
    vitals = [FEATURE_NAMES.index(name) for name in _VITALS]
    inside = error <= _Z_90 * expected["scale"]
    numbers: Numbers = {
        "stays": float(len(log)),
        "one_step_mae": _mean(error[truth]),
        "one_step_mae_persistence": _mean(np.abs(now[rows] - target)[truth]),
        "vitals_mae": _mean(error[:, vitals][truth[:, vitals]]),
        "vitals_mae_persistence": _mean(np.abs(now[rows] - target)[:, vitals][truth[:, vitals]]),
        "interval_90_coverage": _mean(inside[truth]),
    }
    numbers |= _open_loop(model, log)
    numbers["ventilation_auroc"] = _auroc(log.ventilated[rows + 1], expected["ventilated"])
    ended = np.where(log.terminated[rows], log.stays.end[log.stay_of_row[rows]], End.ONGOING)
    numbers["death_in_step_auroc"] = _auroc(ended == End.DIED, expected["end"][:, End.DIED])
    numbers["discharge_auroc"] = _auroc(ended == End.DISCHARGED, expected["end"][:, End.DISCHARGED])
    last = log.terminated[rows]
    died = log.stays.died_90d[log.stay_of_row[rows]]
    risk = expected["mortality_90d"]
    day_one = log.step[rows] == 24 // log.preprocessing.step_hours - 1
    for name, at in (("at_24h", day_one), ("at_end", last)):
        numbers[f"mortality_auroc_{name}"] = _auroc(died[at], risk[at])
        both = len(np.unique(died[at])) == 2
        precision = float(average_precision_score(died[at], risk[at])) if both else float("nan")
        numbers[f"mortality_auprc_{name}"] = precision
        numbers[f"mortality_brier_{name}"] = (
            float(brier_score_loss(died[at], risk[at])) if at.any() else float("nan")
        )
    numbers["epistemic"] = _mean(expected["epistemic"])
    return numbers


def fidelity_table(numbers: Numbers) -> str:
    """The numbers as a text table; n/a where the stays cannot tell."""
    table = Table("measure", "value", title="World model on held-out stays")
    for name, value in numbers.items():
        shown = "n/a" if np.isnan(value) else f"{value:.0f}" if name == "stays" else f"{value:.3f}"
        table.add_row(name.replace("_", " "), shown)
    out = io.StringIO()
    Console(file=out, width=80).print(table)
    return out.getvalue()


def _open_loop(model: ClinicalWorldModel, log: Trajectories) -> Numbers:
    """Mean error over up to 12 steps from the first state, seeing only the logged doses."""
    errors, persistence = [], []
    alive = np.arange(len(log))
    first = model.preprocessing.standardize(log.values[log.offsets[:-1]])
    patients = log.patients(log.offsets[:-1])
    for t in range(min(_OPEN_LOOP_STEPS, int(log.n_decisions.max()))):
        going = log.n_decisions[alive] > t
        alive, patients = alive[going], patients.take(going)
        here = log.offsets[:-1][alive] + t
        doses = log.fluid_ml[here], log.norepinephrine_equivalent[here]
        measured = log.measured[here + 1]
        target = model.preprocessing.standardize(log.values[here + 1])
        patients, predicted = model.imagine(patients, *doses, measured)
        errors.append(np.abs(predicted - target)[measured])
        persistence.append(np.abs(first[alive] - target)[measured])
    return {
        "open_loop_12_mae": _mean(np.concatenate(errors)),
        "open_loop_12_mae_persistence": _mean(np.concatenate(persistence)),
    }


def _mean(values: NDArray[np.floating] | NDArray[np.bool_]) -> float:
    return float(np.mean(values)) if values.size else float("nan")


def _auroc(truth: NDArray[np.bool_], score: NDArray[np.floating]) -> float:
    return float(roc_auc_score(truth, score)) if len(np.unique(truth)) == 2 else float("nan")
