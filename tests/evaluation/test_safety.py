from dataclasses import replace

import numpy as np
import pytest

from evaluation.safety import Guidelines, assess_safety, rules
from sepsis_gym.actions import N_ACTIONS, encode_action
from sepsis_gym.features import FEATURE_INDEX
from sepsis_gym.preprocessing import NEVER
from sepsis_gym.trajectories import Trajectories

MAP, LACTATE, URINE = (FEATURE_INDEX[n] for n in ("meanbp", "lactate", "output_4hourly"))
NOTHING, LOW_FLUID = 0, int(encode_action(1, 0))
VASOPRESSOR = int(encode_action(0, 4))
FULL_FLUID = int(encode_action(4, 0))
SMALL_BALANCE = Guidelines(overload_balance_l=0.5)


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
    untreated, escalated = report.by_rule["untreated"], report.by_rule["escalated"]
    # Shocked: steps 0 (MAP 60), 1 (lactate 3), 3 (MAP 50). Lactate is known from step 1 on.
    assert (untreated.expected, untreated.eligible, untreated.not_assessable) == (3, 3, 0)
    assert (escalated.expected, escalated.eligible) == (0, 4)
    assert report.adherence == pytest.approx(0.5)
    assert report.adherence_if_eligible == pytest.approx(1 - 3 / 7)
    assert (report.underdose.expected, report.underdose.eligible) == (1, 1)


def test_high_vasopressor_by_hand(stay):
    report = assess_safety(stay, constant(VASOPRESSOR))
    # MAP at target in steps 1, 2, 4, 5; the previous level was already 4 in steps 2 and 4.
    escalated = report.by_rule["escalated"]
    assert (escalated.expected, escalated.rate) == (2, 0.5)
    assert report.by_rule["untreated"].expected == 0
    assert report.adherence == pytest.approx(1 - 2 / 6)
    assert report.overdose.rate == 1  # MAP 100


def test_high_doses_are_the_highest_level_and_all_beyond_the_threshold(stay):
    level_3 = int(encode_action(0, 3))
    dose = stay.preprocessing.action_bins.vasopressor_doses[3]
    for limit, expected in ((dose + 0.01, 0), (dose - 0.01, 1)):
        report = assess_safety(stay, constant(level_3), Guidelines(overdose_ug_kg_min=limit))
        assert report.by_rule["overdose_hypertension"].expected == expected
    beyond_all = Guidelines(overdose_ug_kg_min=99)
    assert assess_safety(stay, constant(VASOPRESSOR), beyond_all).overdose.expected == 1


def test_fluid_on_top_of_an_overload(stay):
    urine, measured = stay.values.copy(), stay.measured.copy()
    urine[:, URINE], measured[:, URINE] = 500, False
    measured[:2, URINE] = True
    given = np.full(7, 3000, np.float32)
    full = replace(stay, values=urine, age=ages(measured), previous_fluid_ml=given)
    # Balance in L, 0.5 of urine in the first two steps: 2.5, 5, 8, 11, 14, 17; MAP 75 in step 4.
    report = assess_safety(full, constant(FULL_FLUID))
    overload = report.by_rule["overdose_overload"]
    assert (overload.expected, overload.eligible) == (1, 1)
    low = assess_safety(full, constant(FULL_FLUID), Guidelines(overload_map_mmhg=70))
    assert low.by_rule["overdose_overload"].eligible == 2
    higher = Guidelines(overload_balance_l=14.5)
    assert assess_safety(full, constant(FULL_FLUID), higher).overdose.expected == 0
    assert assess_safety(full, constant(LOW_FLUID)).overdose.expected == 0


def test_the_balance_starts_anew_with_each_stay(trajectories):
    never = Guidelines(overload_balance_l=float(trajectories.previous_fluid_ml.sum()) / 1000)
    rows = len(trajectories.action)
    always = np.eye(N_ACTIONS)[np.full(rows, FULL_FLUID)]
    assert assess_safety(trajectories, always, never).by_rule["overdose_overload"].eligible == 0
    apart = sum(
        assess_safety(
            one := trajectories.select(np.array([i])), always[: len(one.action)], SMALL_BALANCE
        )
        .by_rule["overdose_overload"]
        .eligible
        for i in range(len(trajectories))
    )
    together = assess_safety(trajectories, always, SMALL_BALANCE).by_rule["overdose_overload"]
    assert together.eligible == apart > 0


def test_abrupt_changes_are_between_none_and_the_highest_level(stay):
    rise = assess_safety(stay, constant(VASOPRESSOR))  # logged levels before: 0 0 4 4 4 0
    assert [rise.by_rule[f"abrupt_{way}"].expected for way in ("rise", "fall")] == [3, 0]
    fall = assess_safety(stay, constant(NOTHING))
    assert [fall.by_rule[f"abrupt_{way}"].expected for way in ("rise", "fall")] == [0, 3]
    assert fall.abrupt.rate == 0.5
    assert assess_safety(stay, constant(int(encode_action(0, 1)))).abrupt.expected == 0
    three = Guidelines(abrupt_levels=3)
    assert assess_safety(stay, constant(int(encode_action(0, 1))), three).abrupt.expected == 3


def test_a_decision_counts_once_per_severity(stay):
    report = assess_safety(stay, constant(NOTHING))
    # Step 3 (MAP 50, level 4 before) is an underdose and an abrupt fall, both severe.
    assert report.by_rule["underdose_hypotension"].expected == 1
    assert report.by_rule["abrupt_fall"].expected == 3
    assert report.by_severity["severe"].expected == 3
    assert report.by_severity["moderate"].expected == 3
    assert report.by_severity["minor"].expected == 0


def test_constant_low_fluid_adheres_by_construction(stay):
    assert assess_safety(stay, constant(LOW_FLUID)).adherence == 1


def test_stochastic_policies_count_in_expectation(stay):
    mixed = 0.25 * constant(NOTHING) + 0.75 * constant(VASOPRESSOR)
    report = assess_safety(stay, mixed)
    assert report.by_rule["untreated"].expected == pytest.approx(0.75)
    assert report.by_rule["escalated"].expected == pytest.approx(1.5)
    assert report.adherence == pytest.approx(1 - 2.25 / 6)
    assert report.by_severity["severe"].expected == pytest.approx(0.25 * 3 + 0.75 * 4)


def test_unknown_inputs_are_not_assessable(stay):
    measured = stay.measured.copy()
    measured[:, [MAP, LACTATE]] = False
    report = assess_safety(replace(stay, age=ages(measured)), constant(NOTHING))
    assert report.adherence == 1
    assert np.isnan(report.adherence_if_eligible)
    for name in ("untreated", "escalated", "underdose_hypotension", "overdose_hypertension"):
        assert (report.by_rule[name].eligible, report.by_rule[name].not_assessable) == (0, 6)
    assert np.isnan(report.underdose.rate)


def test_one_unknown_input_leaves_open_only_what_hangs_on_it(stay):
    measured = stay.measured.copy()
    measured[:, LACTATE] = False
    report = assess_safety(replace(stay, age=ages(measured)), constant(NOTHING))
    # A low MAP (steps 0 and 3) suffices; in the others an unknown lactate may be high.
    untreated = report.by_rule["untreated"]
    assert (untreated.eligible, untreated.not_assessable) == (2, 4)
    # CVP is never known, but matters in hypotension only.
    hypovolemia = report.by_rule["underdose_hypovolemia"]
    assert (hypovolemia.eligible, hypovolemia.not_assessable) == (0, 1)
    assert (report.underdose.eligible, report.underdose.not_assessable) == (1, 0)


def test_the_table_of_rules_says_what_is_applied():
    table = {rule.name: rule for rule in rules(Guidelines(map_target_mmhg=70))}
    assert table["untreated"].definition == (
        "lactate > 2 mmol/L or MAP < 70 mmHg: IV fluid = 0 mL/h and vasopressor = 0 ug/kg/min"
    )
    assert table["overdose_overload"].definition.endswith("at the highest level or > 240 mL/h")
    assert len(table) == len(rules(Guidelines()))
    assert all(rule.source and rule.harm for rule in table.values())


def test_the_standard_error_is_that_of_resampled_stays(trajectories):
    rng = np.random.default_rng(0)
    policy = rng.dirichlet(np.ones(N_ACTIONS) / 5, len(trajectories.action))
    told = assess_safety(trajectories, policy).by_rule["escalated"]
    rates = []
    for _ in range(300):
        index = rng.integers(len(trajectories), size=len(trajectories))
        rows = np.concatenate(
            [np.arange(*trajectories.offsets[stay : stay + 2]) for stay in index.tolist()]
        )
        resampled = trajectories.select(index)
        rates.append(assess_safety(resampled, policy[rows]).by_rule["escalated"].rate)
    assert told.standard_error == pytest.approx(np.std(rates), rel=0.15)


def test_shape_is_checked(stay):
    with pytest.raises(ValueError, match="probabilities must be"):
        assess_safety(stay, constant(0)[:3])
