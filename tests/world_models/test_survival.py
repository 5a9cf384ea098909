from dataclasses import replace

import numpy as np
import pytest

from sepsis_gym.dynamics import End
from sepsis_gym.envs.episode import UNKNOWN
from sepsis_gym.registration import SAMPLE_COHORT, ward_of
from sepsis_gym.trajectories import Trajectories
from world_models import load_world_model
from world_models.forecast import in_scales_of
from world_models.survival import (
    HELD,
    SEED,
    Survival,
    evaluate_survival,
    survival_json,
    survival_table,
)

FEW = 256


@pytest.fixture(scope="module")
def model():
    return load_world_model("default")


@pytest.fixture(scope="module")
def log(model):
    return in_scales_of(Trajectories.load(SAMPLE_COHORT), model.preprocessing).split("test")


class Fated:
    """A world model in which every step ends in the same way."""

    def __init__(self, model, end, mortality):
        self._model, self._end, self._mortality = model, end, mortality
        self.preprocessing, self.doses = model.preprocessing, []

    def step(self, patients, fluid_ml, norepinephrine_equivalent, rng):
        self.doses.append((fluid_ml, norepinephrine_equivalent))
        went = self._model.step(patients, fluid_ml, norepinephrine_equivalent, rng)
        end = np.full(len(patients), self._end, np.int8)
        return replace(went, end=end, mortality_90d=np.full(len(patients), self._mortality))


@pytest.mark.parametrize(
    ("end", "mortality", "alive"),
    [(End.DIED, 0.5, 0.0), (End.DISCHARGED, 0.25, 0.75), (End.ONGOING, 0.75, 0.25)],
)
def test_survivors_are_counted_by_how_the_simulated_stay_ends(model, log, end, mortality, alive):
    fated = Fated(model, end, mortality)
    for score in evaluate_survival(fated, log, FEW):
        assert score.simulated == pytest.approx(alive)
        assert score.simulated_error == pytest.approx(0)
        assert score.gap == pytest.approx(alive - score.true)
    stays_on = end == End.ONGOING
    assert len(fated.doses) == len(HELD) * (model.preprocessing.max_steps if stays_on else 1)


def test_a_treatment_is_held_all_through_and_one_changes_all_the_time(model, log):
    fated = Fated(model, End.ONGOING, 0.5)
    evaluate_survival(fated, log, FEW)
    steps = model.preprocessing.max_steps
    bins = model.preprocessing.action_bins
    for index, action in enumerate(HELD.values()):
        given = fated.doses[index * steps : (index + 1) * steps]
        actions = {int(one) for doses in given for one in bins.action(*doses)}
        assert actions == ({action} if action is not None else set(range(25)))


def test_the_truth_is_of_stays_that_a_log_would_hold(model, log):
    score = evaluate_survival(model, log, FEW)[0]
    treated = ward_of(log)(FEW, SEED, lambda patients: np.zeros(len(patients), np.int64))
    logged = treated.mask.any(1)
    assert logged.sum() < treated.present.sum()  # some die before, untreated
    assert score.true == pytest.approx(1 - treated.mortality_90d[logged].mean())
    assert 0.4 < score.simulated < 0.95


def test_same_call_same_numbers_and_a_table_of_them(model, log):
    scores = evaluate_survival(model, log, FEW)
    assert scores == evaluate_survival(model, log, FEW)
    assert [score.treatment for score in scores] == list(HELD)
    shown = survival_table([Survival("no treatment", 0.7, 0.03, 0.75, 0.04)])
    for cell in ("70.0%", "75.0%", "+5.0 ± 5.0"):
        assert cell in shown
    numbers = survival_json(scores)["at random"]
    assert numbers["gap"] == pytest.approx(numbers["simulated"] - numbers["true"])
    assert UNKNOWN not in numbers.values()
