import numpy as np
import pytest

from sepsis_gym.features import FEATURE_INDEX, TYPICAL
from sepsis_gym.sofa import COMPONENTS, sofa_components, state_sofa

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


def test_batched_and_single_scores_agree():
    rng = np.random.default_rng(0)
    values = (TYPICAL * rng.uniform(0.2, 2.5, (200, len(TYPICAL)))).astype(np.float32)
    known = rng.random(values.shape) < 0.8
    ventilated, dose = rng.random(200) < 0.5, rng.choice([0.0, 0.05, 0.3], 200)
    batched = state_sofa(values, known, ventilated, dose)
    single = [
        state_sofa(*(x[i : i + 1] for x in (values, known, ventilated, dose)))[0]
        for i in range(200)
    ]
    np.testing.assert_array_equal(batched, single)
    assert len(np.unique(batched)) > 8


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
