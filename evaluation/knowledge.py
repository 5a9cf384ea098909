"""What a predictor knows of the course of the disease before anything is simulated for it.

Two questions about logged states: will the patient die in hospital, and will one without a
vasopressor need it within 24 hours. Scored by ranking alone (AUROC, AUPRC), so that a predictor
need not know how frequent either is.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from evaluation.estimators import Floats, resample_index
from evaluation.intervals import percentile_interval
from sepsis_gym.dynamics import End, TransitionModel
from sepsis_gym.errors import SupportError
from sepsis_gym.features import FEATURE_INDEX
from sepsis_gym.patients import Patients
from sepsis_gym.trajectories import Trajectories

Question = Literal["hospital_mortality", "vasopressor_24h"]
WINDOW_HOURS = 24
_MAP = FEATURE_INDEX["meanbp"]
_NEED_MAP_MMHG = 65.0


def labels(log: Trajectories) -> dict[Question, Floats]:
    """The truth at every row: 1, 0, or NaN where the question is not asked.

    ``hospital_mortality``: the stay ended in death before hospital discharge.

    ``vasopressor_24h``: of states up to which no vasopressor ran in the last step, whether any is
    given in one of the decisions of the next 24 h. A stay that ends sooner without one, by
    discharge or death, is a 0; where the record merely stops (horizon), nobody knows.
    """
    window = WINDOW_HOURS // log.preprocessing.step_hours
    rows, final = np.arange(len(log.action)), log.offsets[1:][log.stay_of_row] - 1
    given = np.concatenate([[0], np.cumsum(log.norepinephrine_equivalent > 0)])  # NaN is False
    started = given[np.minimum(rows + window, final)] > given[rows]
    over = np.isin(log.stays.end, (End.DISCHARGED, End.DIED))[log.stay_of_row]
    told = started | over | (rows + window <= final)
    asked = log.is_decision & (log.previous_norepinephrine_equivalent == 0) & told
    died = log.stays.died_in_hospital[log.stay_of_row]
    return {
        "hospital_mortality": np.where(log.is_decision, died, np.nan).astype(np.float64),
        "vasopressor_24h": np.where(asked, started, np.nan).astype(np.float64),
    }


def asked_rows(log: Trajectories, truth: Floats) -> NDArray[np.int64]:
    """Rows at which a question is asked: every 24 h from a stay's first state on."""
    every = WINDOW_HOURS // log.preprocessing.step_hours
    return np.flatnonzero(~np.isnan(truth) & (log.step % every == 0))


@dataclass(frozen=True)
class Score:
    """A ranking measure with its bootstrap interval; NaN where only one outcome occurred."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Knowledge:
    """How well one predictor answered one question.

    Attributes:
        predictor: Who was asked.
        question: What.
        asked: Number of states.
        positive: How many of them came true.
        auroc: Area under the ROC curve.
        auprc: Average precision; ``positive / asked`` without knowledge.
        malformed: Answers that could not be read; they count as one half.
    """

    predictor: str
    question: Question
    asked: int
    positive: int
    auroc: Score
    auprc: Score
    malformed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; null where a measure does not exist."""
        scores = {name: asdict(getattr(self, name)) for name in ("auroc", "auprc")}
        for score in scores.values():
            score |= {name: None for name, value in score.items() if np.isnan(value)}
        return asdict(self) | scores


def score_knowledge(
    predictor: str,
    question: Question,
    probability: Floats,
    truth: Floats,
    stay: NDArray[np.integer],
    *,
    malformed: int = 0,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Knowledge:
    """Scores a predictor's answers; intervals resample stays, as states of one are alike.

    Args:
        predictor: For the table.
        question: For the table.
        probability: [n] answers.
        truth: [n] 1 or 0.
        stay: [n] stay of each.
        malformed: Answers that could not be read.
        resamples: Bootstrap resamples.
        confidence: Coverage of the percentile intervals.
        seed: Of the bootstrap.

    Raises:
        SupportError: No state is asked about.
    """
    if not len(truth):
        raise SupportError(f"{question}: these stays hold no state to ask it of")
    _, position = np.unique(stay, return_inverse=True)
    n = int(position.max(initial=-1)) + 1
    index = resample_index(n, resamples, np.random.default_rng(seed))
    drawn = np.array([np.bincount(chosen, minlength=n) for chosen in index])
    once = np.ones((1, n), np.int64)
    exact, resampled = (
        _ranking(probability, truth, counts[:, position]) for counts in (once, drawn)
    )
    auroc, auprc = (
        Score(float(value[0]), *percentile_interval(values, confidence)[:2])
        for value, values in zip(exact, resampled, strict=True)
    )
    positive = int(truth.sum())
    return Knowledge(predictor, question, len(truth), positive, auroc, auprc, malformed)


def score_answers(
    predictor: str,
    log: Trajectories,
    answers: Mapping[Question, Floats],
    malformed: Mapping[Question, int] | None = None,
) -> list[Knowledge]:
    """Scores a predictor's answers to both questions at the rows where they are asked.

    Args:
        predictor: For the table.
        log: The stays.
        answers: [rows] by question.
        malformed: Answers to each that could not be read.
    """
    scores = []
    for question, truth in labels(log).items():
        rows = asked_rows(log, truth)
        told, stay = answers[question][rows], log.stay_of_row[rows]
        bad = (malformed or {}).get(question, 0)
        scores.append(score_knowledge(predictor, question, told, truth[rows], stay, malformed=bad))
    return scores


def _ranking(
    probability: Floats, truth: Floats, weight: NDArray[np.integer]
) -> tuple[Floats, Floats]:
    """[B] AUROC and [B] average precision of n answers under [B, n] weights; ties share a rank."""
    order = np.argsort(-probability, kind="stable")
    last = np.flatnonzero(np.diff(probability[order], append=-np.inf))  # of each run of ties
    weight = weight[:, order].astype(np.float64)
    hits = np.cumsum(weight * truth[order], axis=1)[:, last]
    misses = np.cumsum(weight * (1 - truth[order]), axis=1)[:, last]
    gained = np.diff(hits, axis=1, prepend=0.0)
    area = np.diff(misses, axis=1, prepend=0.0) * (hits - gained / 2)
    told = hits + misses
    precision = np.divide(hits, told, out=np.zeros_like(told), where=told > 0)
    positive, negative = hits[:, -1], misses[:, -1]
    both = (positive > 0) & (negative > 0)
    auroc, auprc = np.full((2, len(weight)), np.nan)
    np.divide(area.sum(1), positive * negative, out=auroc, where=both)
    np.divide((gained * precision).sum(1), positive, out=auprc, where=both)
    return auroc, auprc


def world_model_answers(
    model: TransitionModel, log: Trajectories, *, copies: int = 16, seed: int = 0
) -> dict[Question, Floats]:
    """What a world model would answer, [R]; NaN in rows between the days.

    It has followed the logged stay up to each state and then simulates 24 h under the treatment
    that runs. Its word on ``hospital_mortality`` is its 90-day mortality after one step, that on
    ``vasopressor_24h`` the share of futures in which MAP falls below 65 mmHg.

    Args:
        model: The world model.
        log: Stays in the model's scales.
        copies: Futures per state.
        seed: Of the futures.
    """
    rng = np.random.default_rng(seed)
    steps = WINDOW_HOURS // log.preprocessing.step_hours
    answers = np.full((2, len(log.action)), np.nan)
    rows = log.offsets[:-1].copy()
    patients = log.patients(rows)
    for step in range(int(log.n_decisions.max())):
        if step % steps == 0:
            answers[:, rows] = _futures(model, patients, steps, copies, rng)
        goes_on = np.flatnonzero(log.is_decision[rows + 1])
        rows = rows[goes_on] + 1
        patients = model.follow(patients.take(goes_on), log.patients(rows))
    return {"hospital_mortality": answers[0], "vasopressor_24h": answers[1]}


def _futures(
    model: TransitionModel, patients: Patients, steps: int, copies: int, rng: np.random.Generator
) -> Floats:
    """[2, n] mortality and share of futures with a MAP below the target."""
    n = len(patients)
    alive = np.repeat(np.arange(n), copies)
    future, low = patients.take(alive), np.zeros(n * copies, bool)
    doses = future.previous_fluid_ml, future.previous_norepinephrine_equivalent
    at = np.arange(n * copies)
    for step in range(steps):
        moved = model.step(future, doses[0][at], doses[1][at], rng)
        if step == 0:
            risk = np.where(moved.end == End.DIED, 1.0, moved.mortality_90d)
        low[at] |= moved.patients.values[:, _MAP] < _NEED_MAP_MMHG
        goes_on = np.flatnonzero(moved.end == End.ONGOING)
        at, future = at[goes_on], moved.patients.take(goes_on)
    return np.stack([risk.reshape(n, copies).mean(1), low.reshape(n, copies).mean(1)])
