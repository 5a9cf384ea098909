"""How well held-out stays are predicted: one score for models, references and the floor."""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from sepsis_gym.dynamics import End
from sepsis_gym.features import FEATURE_NAMES, N_FEATURES
from sepsis_gym.preprocessing import Preprocessing
from sepsis_gym.sofa import state_sofa
from sepsis_gym.trajectories import Trajectories
from world_models.forecast import OPEN_LOOP_STEPS, Floats, Forecaster, Predictions
from world_models.logged import expected_step, one_step

Numbers = dict[str, float]
Z_90 = 1.6449
"""Half the width of a Gaussian's central 90%, in standard deviations."""
_GCS = np.char.startswith(FEATURE_NAMES, "gcs")
VITALS = ("heart_rate", "sysbp", "diabp", "meanbp", "resp_rate", "spo2", "temp_c")
"""Features that ``vitals_mae`` counts: what a monitor or nurse reads, no GCS or FiO2."""


def evaluate_fidelity(model: Forecaster, trajectories: Trajectories) -> Numbers:
    """Measures one-step and open-loop errors, intervals and outcome prediction, see :func:`score`.

    Args:
        model: The world model, or what it is compared with.
        trajectories: Held-out stays in the model's scales (``forecast.in_scales_of``).
    """
    return score(forecast(model, trajectories), trajectories, model.preprocessing)


def forecast(model: Forecaster, trajectories: Trajectories) -> Predictions:
    """Walks the stays twice: following what was logged, and from the first state on alone."""
    said = one_step(model, trajectories) | {"open_loop": _open_loop(model, trajectories)}
    return Predictions.of(int(trajectories.is_decision.sum()), said)


def score(expected: Predictions, log: Trajectories, preprocessing: Preprocessing) -> Numbers:
    """Scores predictions of every decision of the stays.

    Errors are mean absolute differences in z-scores, over entries that were measured in the target
    step. The CRPS (continuous ranked probability score) is a Gaussian's; without an interval it is
    the absolute error. SOFA is that of the predicted values where one was measured, of the logged
    ones elsewhere.

    Args:
        expected: What was predicted.
        log: What came.
        preprocessing: The scales of the predictions.

    Returns:
        Name to number; NaN where the forecaster does not say or the stays cannot tell.
    """
    rows = np.flatnonzero(log.is_decision)
    target, measured = preprocessing.standardize(log.values[rows + 1]), log.measured[rows + 1]
    error = np.abs(expected.mean - target)
    vitals = np.isin(FEATURE_NAMES, VITALS)
    scale = np.broadcast_to(expected.scale, error.shape)
    early = (log.step[rows] < OPEN_LOOP_STEPS)[:, None] & measured
    inside = np.where(np.isnan(scale), np.nan, error <= Z_90 * scale)
    numbers = {
        "one_step_mae": _mean(error[measured]),
        "vitals_mae": _mean(error[measured & vitals]),
        "open_loop_12_mae": _mean(np.abs(expected.open_loop - target)[early]),
        "one_step_crps": _mean(gaussian_crps(error, scale)[measured]),
        "interval_90_coverage": _mean(inside[measured]),
        "sofa_mae": _mean(np.abs(_sofa(expected, log, preprocessing) - log.sofa[rows + 1])),
        "ventilation_auroc": _auroc(log.ventilated[rows + 1], expected.ventilated),
    }
    ended = np.where(log.terminated[rows], log.stays.end[log.stay_of_row[rows]], End.ONGOING)
    numbers["death_in_step_auroc"] = _auroc(ended == End.DIED, expected.end[:, End.DIED])
    numbers["discharge_auroc"] = _auroc(ended == End.DISCHARGED, expected.end[:, End.DISCHARGED])
    died = log.stays.died_90d[log.stay_of_row[rows]]
    for name, at in outcome_rows(log).items():
        numbers |= _outcome(name, died[at], expected.mortality_90d[at])
    return numbers | {"epistemic": _mean(expected.epistemic)}


def outcome_rows(log: Trajectories) -> dict[str, NDArray[np.bool_]]:
    """[D] at which decisions the prediction of 90-day mortality is scored."""
    rows = np.flatnonzero(log.is_decision)
    day_one = log.step[rows] == 24 // log.preprocessing.step_hours - 1
    return {"at_24h": day_one, "at_end": log.terminated[rows]}


def gaussian_crps(error: Floats, scale: Floats) -> Floats:
    """Continuous ranked probability score of Gaussians, in the unit of the error.

    Args:
        error: Distances from the mean.
        scale: Standard deviations; NaN or 0 for a point forecast, whose score is its error.

    Source: Gneiting & Raftery 2007, J Am Stat Assoc 102:359, eq. 21.
    """
    point = ~(scale > 0)
    z = np.abs(error) / np.where(point, 1.0, scale)
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    unit = z * (2 * ndtr(z) - 1) + 2 * density - 1 / math.sqrt(math.pi)
    return np.where(point, np.abs(error), scale * unit)


def coverage_by_feature(expected: Predictions, log: Trajectories, scales: Preprocessing) -> Floats:
    """[39] share of measured values inside the 90% interval; NaN where a feature has none."""
    rows = np.flatnonzero(log.is_decision)
    measured = log.measured[rows + 1]
    error = np.abs(expected.mean - scales.standardize(log.values[rows + 1]))
    inside = (error <= Z_90 * expected.scale) & measured
    count = measured.sum(0)
    return np.where(count > 0, inside.sum(0) / np.maximum(count, 1), np.nan)


def _open_loop(model: Forecaster, log: Trajectories) -> NDArray[np.float32]:
    """[D, 39] means of up to 12 steps from the first state, seeing only the logged doses.

    What it sees instead of the next states is for ``expected_step`` to say; where that is its own
    means as if read, the measurement pattern is the logged one.
    """
    position = np.cumsum(log.is_decision) - 1
    out = np.full((int(log.is_decision.sum()), N_FEATURES), np.nan, np.float32)
    alive, patients = np.arange(len(log)), log.patients(log.offsets[:-1])
    for t in range(min(OPEN_LOOP_STEPS, int(log.n_decisions.max()))):
        going = log.n_decisions[alive] > t
        alive, patients = alive[going], patients.take(going)
        here = log.offsets[:-1][alive] + t
        fluid, dose = log.fluid_ml[here], log.norepinephrine_equivalent[here]
        said = model.predict(patients, fluid, dose)
        out[position[here]] = said["mean"]
        patients = expected_step(model, patients, (fluid, dose), said, log.measured[here + 1])
    return out


def _sofa(expected: Predictions, log: Trajectories, preprocessing: Preprocessing) -> Floats:
    """[D] score of the next state as predicted; NaN where ventilation is not."""
    after = np.flatnonzero(log.is_decision) + 1
    shown = preprocessing.restore(expected.mean)
    shown[:, _GCS] = np.round(shown[:, _GCS])  # 14.9 is no lost point
    values = np.where(log.measured[after], shown, log.values[after])
    known = log.preprocessing.known(log.age[after])
    doses = log.previous_norepinephrine_equivalent[after]
    points = state_sofa(values, known, expected.ventilated > 0.5, doses)
    return np.where(np.isnan(expected.ventilated), np.nan, points)


def _outcome(name: str, died: NDArray[np.bool_], risk: Floats) -> Numbers:
    told = len(np.unique(died)) == 2 and not np.isnan(risk).any()
    return {
        f"mortality_auroc_{name}": _auroc(died, risk),
        f"mortality_auprc_{name}": float(average_precision_score(died, risk)) if told else math.nan,
        f"mortality_brier_{name}": (
            float(brier_score_loss(died, risk))
            if len(risk) and not np.isnan(risk).any()
            else math.nan
        ),
    }


def _mean(values: NDArray[np.floating] | NDArray[np.bool_]) -> float:
    return float(np.mean(values)) if values.size else math.nan


def _auroc(truth: NDArray[np.bool_], score: Floats) -> float:
    told = len(np.unique(truth)) == 2 and not np.isnan(score).any()
    return float(roc_auc_score(truth, score)) if told else math.nan
