from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from evaluation.estimators import resample_index
from evaluation.knowledge import (
    asked_rows,
    labels,
    score_knowledge,
    world_model_answers,
)
from sepsis_gym.dynamics import End
from sepsis_gym.errors import SupportError
from sepsis_gym.features import FEATURE_INDEX

MAP = FEATURE_INDEX["meanbp"]


@pytest.fixture
def long_stay(trajectories):
    """The first stay of ten decisions or more, without any vasopressor."""
    at = int(np.flatnonzero(trajectories.n_decisions >= 10)[0])
    stay = trajectories.select(np.array([at]))
    none = np.zeros(len(stay.action), np.float32)
    return replace(
        stay,
        previous_norepinephrine_equivalent=none,
        norepinephrine_equivalent=np.where(stay.is_decision, none, np.nan).astype(np.float32),
    )


def given(stay, step, end):
    """The stay with vasopressor given at one step, and this end; None for never."""
    dose, before = stay.norepinephrine_equivalent.copy(), np.zeros(len(stay.action), np.float32)
    if step is not None:
        dose[step], before[step + 1] = 0.1, 0.1
    ended = replace(stay.stays, end=np.array([end], np.int8))
    return replace(
        stay, stays=ended, norepinephrine_equivalent=dose, previous_norepinephrine_equivalent=before
    )


def test_vasopressor_within_24_hours_by_hand(long_stay):
    steps = int(long_stay.n_decisions[0])
    truth = labels(given(long_stay, 8, End.DISCHARGED))["vasopressor_24h"]
    # Six 4-h steps: from step 3 on the dose of step 8 lies ahead; at step 9 it runs.
    expected = np.array([0.0] * 3 + [1.0] * 6 + [np.nan] + [0.0] * (steps - 10) + [np.nan])
    np.testing.assert_array_equal(truth, expected)


@pytest.mark.parametrize("end", [End.DISCHARGED, End.DIED, End.HORIZON])
def test_a_record_that_stops_leaves_the_answer_open(long_stay, end):
    truth = labels(given(long_stay, None, end))["vasopressor_24h"]
    last_whole = int(long_stay.n_decisions[0]) - 6
    assert (truth[: last_whole + 1] == 0).all()
    open_ = truth[last_whole + 1 : -1]
    assert np.isnan(open_).all() if end == End.HORIZON else (open_ == 0).all()


def test_a_vasopressor_seen_before_the_record_stops_is_known(long_stay):
    last = int(long_stay.n_decisions[0]) - 1
    truth = labels(given(long_stay, last, End.HORIZON))["vasopressor_24h"]
    np.testing.assert_array_equal(truth[last - 5 : last + 1], 1)


def test_death_in_hospital_is_asked_in_every_state_and_each_day(trajectories):
    truth = labels(trajectories)["hospital_mortality"]
    died = trajectories.stays.died_in_hospital[trajectories.stay_of_row]
    np.testing.assert_array_equal(truth[trajectories.is_decision], died[trajectories.is_decision])
    rows = asked_rows(trajectories, truth)
    assert set(trajectories.step[rows]) == {0, 6, 12}
    assert (trajectories.step[rows] == 0).sum() == len(trajectories)
    assert trajectories.is_decision[rows].all()


def test_measures_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    probability, truth = rng.integers(0, 8, 200) / 8, (rng.random(200) < 0.3).astype(float)
    told = score_knowledge("p", "hospital_mortality", probability, truth, np.arange(200))
    assert told.auroc.value == pytest.approx(roc_auc_score(truth, probability))
    assert told.auprc.value == pytest.approx(average_precision_score(truth, probability))
    index = resample_index(200, 100, np.random.default_rng(0))  # as the bootstrap draws
    hundred = score_knowledge(
        "p", "hospital_mortality", probability, truth, np.arange(200), resamples=100
    )
    for measure, score in (
        (roc_auc_score, hundred.auroc),
        (average_precision_score, hundred.auprc),
    ):
        resampled = [measure(truth[chosen], probability[chosen]) for chosen in index]
        interval = tuple(np.quantile(resampled, (0.025, 0.975)))
        assert (score.low, score.high) == pytest.approx(interval)


def test_intervals_resample_stays_not_states():
    rng = np.random.default_rng(1)
    truth = (rng.random(60) < 0.4).astype(float)
    probability = np.clip(truth * 0.3 + rng.random(60), 0, 1)
    alone = score_knowledge("p", "vasopressor_24h", probability, truth, np.arange(60))
    fivefold = score_knowledge(
        "p",
        "vasopressor_24h",
        np.repeat(probability, 5),
        np.repeat(truth, 5),
        np.repeat(np.arange(60), 5),
    )
    assert fivefold.auroc.value == pytest.approx(alone.auroc.value)
    assert fivefold.auroc.low == pytest.approx(alone.auroc.low)
    assert fivefold.auprc.high == pytest.approx(alone.auprc.high)


def test_extremes():
    truth, stays = np.array([1.0, 0, 1, 0, 0]), np.arange(5)
    perfect = score_knowledge("p", "hospital_mortality", truth, truth, stays, malformed=3)
    assert (perfect.auroc.value, perfect.auprc.value, perfect.malformed) == (1, 1, 3)
    ignorant = score_knowledge("p", "hospital_mortality", np.full(5, 0.5), truth, stays)
    assert (ignorant.auroc.value, ignorant.auprc.value) == (0.5, pytest.approx(0.4))
    nobody = score_knowledge("p", "hospital_mortality", truth, np.zeros(5), stays).to_dict()
    assert nobody["auroc"] == {"value": None, "low": None, "high": None}
    assert (nobody["asked"], nobody["positive"]) == (5, 0)
    with pytest.raises(SupportError, match="vasopressor_24h"):
        score_knowledge("p", "vasopressor_24h", truth[:0], truth[:0], stays[:0])


def test_the_world_model_answers_each_day(trajectories, toy_model):
    values, age = trajectories.values.copy(), trajectories.age.copy()
    hypotensive = trajectories.stay_of_row % 2 == 0
    values[:, MAP], age[:, MAP] = np.where(hypotensive, 45, 130), 0
    log = replace(
        trajectories,
        values=values,
        age=age,
        previous_norepinephrine_equivalent=np.zeros(len(values), np.float32),
    )
    answers = world_model_answers(toy_model, log, copies=4)
    asked = log.is_decision & (log.step % 6 == 0)
    for answer in answers.values():
        np.testing.assert_array_equal(~np.isnan(answer), asked)
    need, mortality = answers["vasopressor_24h"][asked], answers["hospital_mortality"][asked]
    assert need[hypotensive[asked]].min() == 1
    assert need[~hypotensive[asked]].max() == 0
    # The toy's 90-day mortality is 0.2, and 2% of its patients die in the step.
    assert set(np.round(np.unique(mortality), 3)) <= {0.2, 0.4, 0.6, 0.8, 1.0}
    again = world_model_answers(toy_model, log, copies=4)
    np.testing.assert_array_equal(again["hospital_mortality"], answers["hospital_mortality"])
