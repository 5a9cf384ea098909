from dataclasses import replace

import numpy as np
import pytest

from evaluation.safety import Guidelines, assess_safety
from sepsis_gym.actions import N_ACTIONS, encode_action
from sepsis_gym.features import FEATURE_INDEX
from sepsis_gym.preprocessing import NEVER
from sepsis_gym.trajectories import Trajectories

MAP, LACTATE = FEATURE_INDEX["meanbp"], FEATURE_INDEX["lactate"]
NOTHING, LOW_FLUID = 0, int(encode_action(1, 0))
VASOPRESSOR = int(encode_action(0, 4))


@pytest.fixture
def stay(trajectories: Trajectories) -> Trajectories:
    """One stay of six decisions whose MAP, lactate and previous dose are set by hand."""
    long = int(np.flatnonzero(trajectories.n_decisions >= 6)[0])
    full = trajectories.select(np.array([long]))
    rows = np.r_[0:6, len(full.action) - 1]
    names = [name for name in vars(full) if isinstance(vars(full)[name], np.ndarray)]
    cut = {name: vars(full)[name][rows] for name in names if name != "offsets"}
    cut["terminated"] = np.arange(7) == 5
    values, measured = cut["values"].copy(), np.zeros(cut["values"].shape, bool)
    values[:6, MAP] = [60, 70, 70, 50, 100, 70]
    values[:6, LACTATE] = [1, 3, 1, 1, 1, 1]
    measured[:5, MAP] = measured[1:5, LACTATE] = True
    measured[5, MAP] = True
    previous = np.array([0, 0, 1, 1, 1, 0, 0], np.float32)
    cut |= {"values": values, "age": ages(measured)}
    cut["previous_norepinephrine_equivalent"] = previous
    return replace(full, offsets=np.array([0, 7]), **cut)


def ages(measured: np.ndarray) -> np.ndarray:
    """[R, 39] steps since measured of one stay."""
    age = np.full(measured.shape, NEVER, np.int16)
    for row in range(len(measured)):
        before = age[row - 1] if row else age[0]
        age[row] = np.where(measured[row], 0, np.minimum(before + 1, NEVER))
    return age


def constant(action: int) -> np.ndarray:
    return np.eye(N_ACTIONS)[np.full(7, action)]


def test_no_treatment_by_hand(stay):
    report = assess_safety(stay, constant(NOTHING))
    # Shocked: steps 0 (MAP 60), 1 (lactate 3), 3 (MAP 50). Lactate is known from step 1 on.
    assert (report.untreated.expected, report.untreated.eligible) == (3, 3)
    assert report.untreated.not_assessable == 0
    assert (report.escalated.expected, report.escalated.eligible) == (0, 4)
    assert report.adherence == pytest.approx(0.5)
    assert (report.underdose.expected, report.underdose.eligible) == (1, 1)


def test_high_vasopressor_by_hand(stay):
    report = assess_safety(stay, constant(VASOPRESSOR))
    # MAP at target in steps 1, 2, 4, 5; the previous level was already 4 in steps 2 and 4.
    assert (report.escalated.expected, report.escalated.rate) == (2, 0.5)
    assert report.untreated.expected == 0
    assert report.adherence == pytest.approx(1 - 2 / 6)
    dose = stay.preprocessing.action_bins.vasopressor_doses[4]
    limit = Guidelines(overdose_ug_kg_min=dose - 0.01)
    assert assess_safety(stay, constant(VASOPRESSOR), limit).overdose.rate == 1  # MAP 100
    limit = Guidelines(overdose_ug_kg_min=dose + 0.01)
    assert assess_safety(stay, constant(VASOPRESSOR), limit).overdose.rate == 0


def test_constant_low_fluid_adheres_by_construction(stay):
    assert assess_safety(stay, constant(LOW_FLUID)).adherence == 1


def test_stochastic_policies_count_in_expectation(stay):
    mixed = 0.25 * constant(NOTHING) + 0.75 * constant(VASOPRESSOR)
    report = assess_safety(stay, mixed)
    assert report.untreated.expected == pytest.approx(0.75)
    assert report.escalated.expected == pytest.approx(1.5)
    assert report.adherence == pytest.approx(1 - 2.25 / 6)


def test_unknown_inputs_are_not_assessable(stay):
    measured = stay.measured.copy()
    measured[:, [MAP, LACTATE]] = False
    report = assess_safety(replace(stay, age=ages(measured)), constant(NOTHING))
    assert report.adherence == 1
    assert (report.untreated.eligible, report.untreated.not_assessable) == (0, 6)
    assert (report.underdose.eligible, report.underdose.not_assessable) == (0, 6)
    assert np.isnan(report.underdose.rate)


def test_shape_is_checked(stay):
    with pytest.raises(ValueError, match="probabilities must be"):
        assess_safety(stay, constant(0)[:3])
