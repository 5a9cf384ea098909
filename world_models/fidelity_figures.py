"""Pictures of a world model beside held-out stays: calibration, intervals, fans; matplotlib."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.features import FEATURE_INDEX, FEATURES
from sepsis_gym.trajectories import Trajectories
from world_models.effect_fidelity import EffectScore
from world_models.fidelity import coverage_by_feature, outcome_rows
from world_models.forecast import OPEN_LOOP_STEPS, Floats, Predictions
from world_models.model import ClinicalWorldModel
from world_models.physiology.validity.figures import BAND, BLUE, ORANGE, STYLE

try:
    import matplotlib
    from matplotlib.figure import Figure
except ImportError as error:
    raise ImportError('matplotlib is missing: pip install "sepsis-gym[figures]"') from error

_BINS = 10
_FEWEST_IN_BIN = 5
_COVERAGE_GOAL = (0.88, 0.92)
_FAN_FEATURES = ("meanbp", "heart_rate", "lactate", "creatinine")
_SCATTERED = 2000
_FAN_STAYS, _FAN_DRAWS = 3, 400


def write_figures(
    folder: Path,
    model: ClinicalWorldModel,
    log: Trajectories,
    expected: Predictions,
    effects: Sequence[EffectScore] = (),
) -> None:
    """Writes calibration.png, coverage.png and what else may and can be shown.

    That is fans.png, unless the rows are credentialed, and effects.png where the truth is known.

    Args:
        folder: An existing folder.
        model: The world model.
        log: Held-out stays in its scales.
        expected: What it predicts of them.
        effects: Predicted and true differences between treatments.
    """
    pictures = {
        "calibration": _calibration(log, expected),
        "coverage": _coverage(model, log, expected),
    }
    if not log.manifest.credentialed:  # single patients' courses must not leave the cohort
        pictures["fans"] = _fans(model, log)
    if effects:
        pictures["effects"] = _effects(effects)
    for name, figure in pictures.items():
        with matplotlib.rc_context(STYLE):
            figure.savefig(folder / f"{name}.png", dpi=150)


def reliability(
    truth: NDArray[np.bool_], predicted: Floats
) -> tuple[Floats, Floats, NDArray[np.intp]]:
    """Mean prediction, observed share and number in bins of equally many; small bins are left out.

    Args:
        truth: [n] what came.
        predicted: [n] its predicted probability.
    """
    parts = np.array_split(np.argsort(predicted, kind="stable"), _BINS)
    kept = [part for part in parts if len(part) >= _FEWEST_IN_BIN]
    means = np.array([predicted[part].mean() for part in kept])
    return means, np.array([truth[part].mean() for part in kept]), np.array([len(p) for p in kept])


def sampled_courses(
    model: ClinicalWorldModel, log: Trajectories, stay: int, draws: int, seed: int
) -> NDArray[np.float32]:
    """[T + 1, draws, 39] courses from a stay's first state under its logged doses.

    They go on as if nobody left or died, so that every step has as many.

    Args:
        model: The world model.
        log: Stays in its scales.
        stay: Position of one of them.
        draws: How many courses.
        seed: Of the courses.
    """
    rng = np.random.default_rng(seed)
    first = log.offsets[stay]
    patients = log.patients(np.full(draws, first))
    shown = [patients.values]
    for row in range(first, first + min(int(log.n_decisions[stay]), OPEN_LOOP_STEPS)):
        fluid = np.full(draws, log.fluid_ml[row])
        dose = np.full(draws, log.norepinephrine_equivalent[row])
        patients = model.step(patients, fluid, dose, rng).patients
        shown.append(patients.values)
    return np.stack(shown)


def _effects(scores: Sequence[EffectScore]) -> Any:
    """Predicted against true difference of some patients; off the diagonal is wrong."""
    rng = np.random.default_rng(0)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 8), layout="constrained")
        for axis, score in zip(figure.subplots(2, 2).flat, scores, strict=True):
            some = rng.permutation(len(score.true))[:_SCATTERED]
            true, predicted = score.true[some], score.predicted[some]
            low, high = np.quantile(np.concatenate([true, predicted]), (0.005, 0.995))
            axis.plot([low, high], [low, high], color=BAND, lw=1.5)
            axis.plot(true, predicted, "o", color=BLUE, ms=2, alpha=0.3)
            axis.plot(score.true.mean(), score.predicted.mean(), "o", color=ORANGE, ms=6)
            contrast = score.contrast
            axis.set_title(f"{contrast.name}\nr {score.correlation:.2f}, bias {score.bias:+.0%}")
            axis.set(xlim=(low, high), ylim=(low, high), xlabel=f"True difference, {contrast.unit}")
            axis.set_ylabel(f"Predicted, {contrast.unit}")
        figure.suptitle(f"{_SCATTERED} patients at most; orange: means", fontsize=9)
    return figure


def _calibration(log: Trajectories, expected: Predictions) -> Any:
    rows = np.flatnonzero(log.is_decision)
    died = log.stays.died_90d[log.stay_of_row[rows]]
    at = outcome_rows(log)
    panels = {
        "Ventilation in the step": (log.ventilated[rows + 1], expected.ventilated),
        "90-day mortality, at 24 h": (died[at["at_24h"]], expected.mortality_90d[at["at_24h"]]),
        "90-day mortality, at the end": (died[at["at_end"]], expected.mortality_90d[at["at_end"]]),
    }
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.8), layout="constrained")
        for axis, (title, (truth, predicted)) in zip(
            figure.subplots(1, len(panels), sharex=True, sharey=True), panels.items(), strict=True
        ):
            mean, share, count = reliability(truth, predicted)
            axis.plot([0, 1], [0, 1], color=BAND, lw=1.5)
            error = np.sqrt(share * (1 - share) / count)
            axis.errorbar(mean, share, error, color=BLUE, marker="o", ms=4, lw=1)
            axis.set(title=f"{title}\n({len(truth)} predictions)", xlabel="Predicted probability")
            axis.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        figure.axes[0].set_ylabel("Observed share, ± one standard error")
    return figure


def _coverage(model: ClinicalWorldModel, log: Trajectories, expected: Predictions) -> Any:
    share = coverage_by_feature(expected, log, model.preprocessing)
    measured = log.measured[np.flatnonzero(log.is_decision) + 1].sum(0)
    order = np.argsort(np.where(np.isnan(share), -1, share))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.5, 7.5), layout="constrained")
        axis = figure.subplots()
        axis.axvspan(*_COVERAGE_GOAL, color=BAND, lw=0)
        axis.axvline(0.9, color=ORANGE, lw=0.8, ls="--")
        axis.plot(share[order], np.arange(len(order)), "o", color=BLUE, ms=4)
        labels = [f"{FEATURES[i].name} ({measured[i]})" for i in order]
        axis.set_yticks(np.arange(len(order)), labels, fontsize=7)
        axis.set(xlabel="Share of measured values inside the 90% interval", ylim=(-1, len(order)))
        axis.set_title("One-step intervals (number of values)\nGrey: the target")
    return figure


def _fans(model: ClinicalWorldModel, log: Trajectories) -> Any:
    """5-95% of sampled courses against what was measured, for stays of low to high SOFA."""
    long = np.flatnonzero(log.n_decisions >= min(OPEN_LOOP_STEPS, log.n_decisions.max()))
    ranked = long[np.argsort(log.sofa[log.offsets[long]], kind="stable")]
    spread = np.linspace(0, len(ranked) - 1, _FAN_STAYS + 2).round().astype(int)[1:-1]
    chosen = ranked[np.unique(spread)]
    hours = log.preprocessing.step_hours
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 8), layout="constrained")
        grid = figure.subplots(
            len(_FAN_FEATURES), len(chosen), sharex=True, sharey="row", squeeze=False
        )
        for column, stay in enumerate(chosen.tolist()):
            courses = sampled_courses(model, log, stay, _FAN_DRAWS, seed=column)
            rows = log.offsets[stay] + np.arange(len(courses))
            time = np.arange(1, len(courses) + 1) * hours
            for axis, name in zip(grid[:, column], _FAN_FEATURES, strict=True):
                index = FEATURE_INDEX[name]
                low, middle, high = np.quantile(courses[:, :, index], (0.05, 0.5, 0.95), axis=1)
                axis.fill_between(time, low, high, color=BAND, lw=0)
                axis.plot(time, middle, color=BLUE, lw=1.2)
                seen = log.measured[rows, index]
                axis.plot(time[seen], log.values[rows[seen], index], "o", color=ORANGE, ms=3.5)
            grid[0, column].set_title(f"First SOFA {log.sofa[rows[0]]}", loc="left")
            grid[-1, column].set_xlabel("Hours from ICU admission")
        for axis, name in zip(grid[:, 0], _FAN_FEATURES, strict=True):
            axis.set_ylabel(f"{name}\n({FEATURES[FEATURE_INDEX[name]].unit})")
        figure.suptitle(
            f"Blue, grey: median and 5-95% of {_FAN_DRAWS} courses sampled from the first state "
            "under the logged doses. Orange: measured.",
            fontsize=9,
        )
    return figure
