import filecmp
import gzip

import numpy as np
import pytest

from sepsis_gym.cohort.assemble import AssemblyConfig
from sepsis_gym.cohort.mimic import build_mimic
from sepsis_gym.cohort.provisional import COLUMNS, write_provisional_tables
from sepsis_gym.cohort.provisional_patients import (
    HOURS_IN_ICU,
    State,
    Traits,
    clinician,
    simulate_course,
)
from sepsis_gym.errors import ConfigError, SourceError
from sepsis_gym.features import FEATURE_NAMES

N = 250


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("provisional") / "tables"
    write_provisional_tables(folder, n_patients=N, seed=3)
    return folder


@pytest.fixture(scope="module")
def cohort(tables, tmp_path_factory):
    out = tmp_path_factory.mktemp("cohort")
    return build_mimic(tables, out, None, AssemblyConfig(), credentialed=False, source="made up")


def test_same_seed_writes_the_same_bytes(tables, tmp_path):
    write_provisional_tables(tmp_path / "again", n_patients=N, seed=3)
    for path in COLUMNS:
        one, two = tables / f"{path}.csv.gz", tmp_path / "again" / f"{path}.csv.gz"
        assert filecmp.cmp(one, two, shallow=False), path
    write_provisional_tables(tmp_path / "again", n_patients=N, seed=4)
    two = tmp_path / "again" / "icu/chartevents.csv.gz"
    assert not filecmp.cmp(tables / "icu/chartevents.csv.gz", two, shallow=False)


def test_tables_have_the_columns_of_mimic_iv(tables, mimic_demo):
    for path in COLUMNS:
        with gzip.open(tables / f"{path}.csv.gz", "rt") as lines:
            mine = next(lines).strip().replace('"', "")
        with gzip.open(mimic_demo / "mimic-iv-demo" / f"{path}.csv.gz", "rt") as lines:
            assert mine == next(lines).strip(), path


def test_foreign_folders_and_bad_settings_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SourceError, match="no provisional cohort"):
        write_provisional_tables(tmp_path, n_patients=5, seed=0)
    with pytest.raises(ConfigError, match="n_patients"):
        write_provisional_tables(tmp_path / "new", n_patients=0, seed=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt"]


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    write_provisional_tables(tmp_path / "tables", n_patients=20, seed=0)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def full_disk(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr("sepsis_gym.cohort.provisional._compressed_csv", full_disk)
        with pytest.raises(OSError, match="no space"):
            write_provisional_tables(tmp_path / "tables", n_patients=20, seed=1)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    write_provisional_tables(tmp_path / "tables", n_patients=20, seed=1)
    assert {p for p in tmp_path.rglob("*") if p.is_file()} == set(before)


def test_the_cohort_looks_like_an_intensive_care_unit(cohort):
    assert 0.75 * N < len(cohort) < N
    assert 0.12 < cohort.stays.died_90d.mean() < 0.35
    assert (cohort.stays.died_in_hospital <= cohort.stays.died_90d).all()
    decision = cohort.is_decision
    assert 0.2 < (cohort.norepinephrine_equivalent[decision] > 0).mean() < 0.45
    assert 0.15 < (cohort.fluid_ml[decision] == 0).mean() < 0.4
    assert 0.25 < cohort.ventilated.mean() < 0.5
    measured = dict(zip(FEATURE_NAMES, cohort.measured.mean(0), strict=True))
    assert min(measured.values()) > 0.1
    assert measured["heart_rate"] > 0.95
    assert measured["lactate"] < 0.6
    for note in ("celsius_rows_converted_from_fahrenheit", "input_rows_cancelled"):
        assert cohort.manifest.notes[note] > 0
    assert cohort.manifest.flow[0][1] == N


def dosing(fluid_ml_h, dose):
    def policy(traits: Traits, state: State, hour: int, rng: np.random.Generator):
        n = len(traits.age)
        return np.zeros(n), np.full(n, fluid_ml_h), np.full(n, dose)

    return policy


def test_treatment_works_in_moderation():
    n, seed = 600, 5
    untreated = simulate_course(n, seed, dosing(0.0, 0.0))
    pressor = simulate_course(n, seed, dosing(0.0, 0.1))
    flooded = simulate_course(n, seed, dosing(400.0, 0.0))
    treated = simulate_course(n, seed, clinician)
    np.testing.assert_array_equal(untreated.traits.age, treated.traits.age)
    together = np.minimum(untreated.end_hour, pressor.end_hour) > 12
    rise = pressor.hourly.map_mmhg[:12] - untreated.hourly.map_mmhg[:12]
    assert 5 < rise[:, together].mean() < 20
    assert treated.risk.mean() < untreated.risk.mean() - 0.05
    assert flooded.risk.mean() > untreated.risk.mean() + 0.1
    assert (treated.end_hour <= HOURS_IN_ICU).all()


def test_randomised_patients_are_dosed_whatever_their_state():
    course = simulate_course(800, 1, randomised_share=0.5)
    drawn = course.traits.randomised > 0
    assert 0.4 < drawn.mean() < 0.6
    day_one = np.arange(24)[:, None] < course.end_hour
    dose = course.hourly.norepinephrine[:24]
    low = course.hourly.map_mmhg[:24] < 65

    def gap(group):
        here = day_one & group
        return (dose > 0)[here & low].mean() - (dose > 0)[here & ~low].mean()

    assert gap(~drawn) > 0.2
    assert gap(drawn) < 0
