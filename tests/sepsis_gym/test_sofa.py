import numpy as np
import pytest

from sepsis_gym.features import FEATURE_INDEX, TYPICAL
from sepsis_gym.sofa import COMPONENTS, sofa_components, state_sofa, state_sofa_components

HEALTHY = {
    "pao2_fio2": 450.0,
    "ventilated": False,
    "platelet": 200.0,
    "bilirubin_total": 0.5,
    "meanbp": 80.0,
    "norepinephrine": 0.0,
    "gcs": 15.0,
    "creatinine": 0.9,
    "urine_24h": 1500.0,
}


@pytest.mark.parametrize(
    ("component", "changes", "points"),
    [
        ("respiration", {"pao2_fio2": 400.0}, 0),
        ("respiration", {"pao2_fio2": 399.0}, 1),
        ("respiration", {"pao2_fio2": 150.0}, 2),
        ("respiration", {"pao2_fio2": 199.0, "ventilated": True}, 3),
        ("respiration", {"pao2_fio2": 99.0, "ventilated": True}, 4),
        ("coagulation", {"platelet": 150.0}, 0),
        ("coagulation", {"platelet": 149.0}, 1),
        ("coagulation", {"platelet": 19.0}, 4),
        ("liver", {"bilirubin_total": 1.2}, 1),
        ("liver", {"bilirubin_total": 5.9}, 2),
        ("liver", {"bilirubin_total": 12.0}, 4),
        ("cardiovascular", {"meanbp": 69.9}, 1),
        ("cardiovascular", {"dobutamine": 1.0}, 2),
        ("cardiovascular", {"dopamine": 5.0}, 2),
        ("cardiovascular", {"norepinephrine": 0.1}, 3),
        ("cardiovascular", {"norepinephrine": 0.11, "meanbp": 60.0}, 4),
        ("cardiovascular", {"dopamine": 16.0}, 4),
        ("cns", {"gcs": 13.0}, 1),
        ("cns", {"gcs": 12.0}, 2),
        ("cns", {"gcs": 5.0}, 4),
        ("renal", {"creatinine": 5.0}, 4),
        ("renal", {"creatinine": 3.4}, 2),
        ("renal", {"urine_24h": 499.0}, 3),
        ("renal", {"urine_24h": 199.0}, 4),
    ],
)
def test_each_cut_of_the_score(component, changes, points):
    scored = sofa_components(**(HEALTHY | changes))
    expected = [points if name == component else 0 for name in COMPONENTS]
    np.testing.assert_array_equal(scored, expected)


def test_missing_inputs_score_nothing():
    missing = {key: np.nan for key in HEALTHY if key != "ventilated"}
    assert sofa_components(ventilated=True, **missing).sum() == 0


def test_batched_and_single_scores_agree_also_at_the_cuts():
    rng = np.random.default_rng(0)
    n = 600
    values = (TYPICAL * rng.uniform(0.2, 2.5, (n, len(TYPICAL)))).astype(np.float32)
    at_cuts = {"platelet": (20, 50, 100, 150), "bilirubin_total": (1.2, 2, 6, 12), "meanbp": (70,)}
    at_cuts |= {"creatinine": (1.2, 2, 3.5, 5), "pao2": (80, 120), "fio2": (0.3, 0.4, 0.8)}
    at_cuts |= {"gcs_eye": (1, 4), "gcs_verbal": (1, 5), "gcs_motor": (4, 6)}
    at_cuts["output_4hourly"] = (500 / 6, 200 / 6)
    for name, cuts in at_cuts.items():
        values[: n // 2, FEATURE_INDEX[name]] = rng.choice(cuts, n // 2)
    known = rng.random(values.shape) < 0.8
    ventilated = rng.random(n) < 0.5
    dose = rng.choice([0.0, 0.05, 0.1, 0.3], n).astype(np.float32)
    batched = state_sofa(values, known, ventilated, dose)
    single = [
        state_sofa(*(x[i : i + 1] for x in (values, known, ventilated, dose)))[0] for i in range(n)
    ]
    np.testing.assert_array_equal(batched, single)
    components = state_sofa_components(values, known, ventilated, dose)
    np.testing.assert_array_equal(batched, components.sum(-1))
    assert len(np.unique(batched)) > 8


def test_states_are_scored_by_the_rule_of_the_cohort():
    rng = np.random.default_rng(1)
    values = (TYPICAL * rng.uniform(0.2, 2.5, (300, len(TYPICAL)))).astype(np.float32)
    ventilated, dose = rng.random(300) < 0.5, rng.choice([0.0, 0.05, 0.3], 300)
    of = {name: values[:, index] for name, index in FEATURE_INDEX.items()}
    expected = sofa_components(
        pao2_fio2=of["pao2"] / of["fio2"],
        ventilated=ventilated,
        norepinephrine=dose,
        gcs=of["gcs_eye"] + of["gcs_verbal"] + of["gcs_motor"],
        urine_24h=6 * of["output_4hourly"],
        **{name: of[name] for name in ("platelet", "bilirubin_total", "meanbp", "creatinine")},
    )
    found = state_sofa_components(values, np.ones_like(values, bool), ventilated, dose)
    np.testing.assert_array_equal(found, expected)


def test_state_score_by_hand():
    values = TYPICAL.copy()[None]
    changes = {"pao2": 80, "fio2": 0.5, "platelet": 90, "bilirubin_total": 3, "creatinine": 2.2}
    changes |= {"meanbp": 60, "gcs_eye": 2, "gcs_verbal": 2, "gcs_motor": 5, "output_4hourly": 80}
    for name, value in changes.items():
        values[0, FEATURE_INDEX[name]] = value
    known = np.ones_like(values, bool)
    # P/F 160 ventilated 3, platelets 2, bilirubin 2, vasopressor 3, GCS 9 3, urine 480 mL/day 3
    assert state_sofa(values, known, np.array([True]), np.array([0.05])) == [16]
    known[0, FEATURE_INDEX["pao2"]] = False
    assert state_sofa(values, known, np.array([True]), np.array([0.05])) == [13]
