import filecmp
import gzip
from dataclasses import replace
from itertools import pairwise

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest

from sepsis_gym.cohort.assemble import AssemblyConfig, assemble
from sepsis_gym.cohort.concepts import MimicConfig
from sepsis_gym.cohort.mimic import build_mimic
from sepsis_gym.dynamics import End
from sepsis_gym.errors import ConfigError, SourceError
from sepsis_gym.features import FEATURE_NAMES
from world_models.physiology.clinician import ClinicianConfig
from world_models.physiology.courses import FLAGS, HIDDEN
from world_models.physiology.people import draw_people
from world_models.physiology.records.blocks import simulated
from world_models.physiology.records.charting import fahrenheit
from world_models.physiology.records.diagnoses import coded_charlson
from world_models.physiology.records.recovery import agreement, path_agreement, recovery
from world_models.physiology.records.stays import Fates
from world_models.physiology.records.tables import COLUMNS, NOTICE, write_tables
from world_models.physiology.records.trajectories import raw_cohort

N, SEED = 60, 5
TRUTHS = ("truth.parquet", "truth_stays.parquet")


@pytest.fixture(scope="module")
def courses():
    (only,) = simulated(N, SEED, ClinicianConfig())
    return only


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "tables"
    write_tables(folder, n_patients=N, seed=SEED)
    return folder


def build(tables, out, step_hours=4):
    config = AssemblyConfig(step_hours=step_hours)
    return build_mimic(tables, out, MimicConfig(threads=1), config, credentialed=False)


@pytest.fixture(scope="module")
def cohort(tables, tmp_path_factory):
    return build(tables, tmp_path_factory.mktemp("cohort"))


def query(tables, sql):
    """Runs SQL in which {name} is a table of the folder, all columns as text."""
    paths = {path.rpartition("/")[2]: tables / f"{path}.csv.gz" for path in COLUMNS}
    readers = {name: f"read_csv('{path}', all_varchar=true)" for name, path in paths.items()}
    return duckdb.sql(sql.format(**readers)).fetchall()


def disagreeing(rows):
    return [row for row in rows if row.equal < 1]


def test_the_build_recovers_the_truth(tables, cohort):
    rows = {row.column: row for row in recovery(tables, cohort)}
    assert set(rows) >= {"age", "charlson", "died_90d", "ventilated", "fluid_ml"}
    assert disagreeing(rows.values()) == []
    assert rows["norepinephrine_equivalent"].compared == len(cohort.action)
    assert rows["norepinephrine_equivalent"].largest < 1e-4
    assert rows["fluid_ml"].largest < 1e-3
    assert 0.1 < cohort.ventilated.mean() < 0.7
    assert (cohort.norepinephrine_equivalent[cohort.is_decision] > 0).mean() > 0.1


@pytest.mark.parametrize("step_hours", [1, 4, 8])
def test_both_ways_to_trajectories_agree(tables, courses, tmp_path, step_hours):
    cohort = build(tables, tmp_path, step_hours)
    direct = raw_cohort([courses], step_hours=step_hours, seed=SEED)
    rows = {row.column: row for row in path_agreement(cohort, direct)}
    assert set(FEATURE_NAMES) < set(rows)
    assert disagreeing(rows.values()) == []
    assert min(row.compared for row in rows.values()) > 20


def test_the_direct_way_makes_whole_trajectories(courses):
    direct = raw_cohort([courses], step_hours=4, seed=SEED)
    trajectories = assemble(direct, AssemblyConfig(), source="simulated", credentialed=False)
    assert trajectories.n_decisions.max() == 18
    ended = courses.end_hour[direct.stays["stay_id"] - 99_000_000]
    np.testing.assert_array_equal(direct.stays["end"] == End.HORIZON, ended > 76)
    np.testing.assert_array_equal(np.diff(direct.offsets), np.minimum(ended // 4, 19))


def test_a_bin_holds_its_own_hours(courses):
    direct = raw_cohort([courses], step_hours=4, seed=SEED)
    first = direct.stays["stay_id"][0] - 99_000_000
    np.testing.assert_allclose(
        direct.fluid_ml[1],
        1000 * (courses.bolus_l + courses.carrier_l_h)[4:8, first].sum(),
        rtol=1e-5,
    )
    dose = courses.dose[4:8, first]
    assert direct.norepinephrine_equivalent[1] == dose.max()
    np.testing.assert_allclose(direct.norepinephrine_equivalent_mean[1], dose.mean(), rtol=1e-6)
    rate = np.where(courses.charted, courses.readings, np.nan)[4:8, first, 0]
    np.testing.assert_allclose(direct.raw[1, 0], np.nanmean(rate), rtol=1e-6)


def test_records_that_end_too_early_are_refused(courses):
    short = replace(courses, dose=courses.dose[:40])
    with pytest.raises(ConfigError, match="76 h"):
        raw_cohort([short], step_hours=4, seed=SEED)


def test_blocks_are_one_cohort(courses):
    twice = raw_cohort([courses, courses], step_hours=4, seed=SEED)
    once = raw_cohort([courses], step_hours=4, seed=SEED)
    assert len(np.unique(twice.stays["stay_id"])) == len(twice.stays["stay_id"])
    rows = once.offsets[-1]
    np.testing.assert_array_equal(twice.raw[:rows], once.raw)
    np.testing.assert_array_equal(twice.fluid_ml[rows:], once.fluid_ml)


def test_tables_of_several_blocks_are_one_cohort(tmp_path, monkeypatch):
    for module in ("blocks", "tables"):
        monkeypatch.setattr(f"world_models.physiology.records.{module}.BLOCK_SIZE", 20)
    write_tables(tmp_path / "tables", n_patients=50, seed=SEED)
    cohort = build(tmp_path / "tables", tmp_path / "cohort")
    blocks = simulated(50, SEED, ClinicianConfig())
    direct = raw_cohort(blocks, step_hours=4, seed=SEED)
    assert disagreeing(path_agreement(cohort, direct)) == []
    for name, key in (("labevents", "labevent_id"), ("inputevents", "orderid")):
        sql = f"SELECT count(*) - count(DISTINCT {key}) FROM {{{name}}}"
        assert query(tmp_path / "tables", sql) == [(0,)], name
    of_two = "SELECT specimen_id FROM {labevents} GROUP BY 1 HAVING count(DISTINCT subject_id) > 1"
    assert query(tmp_path / "tables", of_two) == []
    assert query(tmp_path / "tables", "SELECT count(*) FROM {icustays}") == [(50,)]


def test_same_seed_writes_the_same_bytes(tables, tmp_path):
    write_tables(tmp_path / "again", n_patients=N, seed=SEED)
    for path in (*(f"{path}.csv.gz" for path in COLUMNS), *TRUTHS, NOTICE):
        assert filecmp.cmp(tables / path, tmp_path / "again" / path, shallow=False), path
    write_tables(tmp_path / "again", n_patients=N, seed=SEED + 1)
    other = tmp_path / "again" / "icu/chartevents.csv.gz"
    assert not filecmp.cmp(tables / "icu/chartevents.csv.gz", other, shallow=False)


def test_tables_have_the_columns_of_mimic_iv(tables, mimic_demo):
    for path in COLUMNS:
        with gzip.open(tables / f"{path}.csv.gz", "rt") as lines:
            mine = next(lines).strip().replace('"', "")
        with gzip.open(mimic_demo / "mimic-iv-demo" / f"{path}.csv.gz", "rt") as lines:
            assert mine == next(lines).strip(), path


def test_hidden_states_lie_outside_the_tables(tables):
    beside = {path.name for path in tables.iterdir() if path.is_file()}
    assert beside == {*TRUTHS, NOTICE}
    hidden = {*HIDDEN, *FLAGS, "risk", "severity", "frailty", "dose"}
    for columns in COLUMNS.values():
        assert not hidden & set(columns.split())
    hours = pq.read_table(tables / "truth.parquet")
    assert set(hours.column_names) >= {"stay_id", "hour", "bolus_ml", "carrier_ml", "dose"}
    assert set(hours.column_names) >= {*HIDDEN, *FLAGS}
    stays = pq.read_table(tables / "truth_stays.parquet").to_pandas()
    assert (stays.died_90d | (stays.end != "died")).all()
    assert stays.effective_antibiotic_hour.ge(stays.first_antibiotic_hour).all()


def test_foreign_folders_and_bad_settings_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SourceError, match="no synthetic cohort"):
        write_tables(tmp_path, n_patients=5, seed=0)
    with pytest.raises(ConfigError, match="is a file"):
        write_tables(tmp_path / "notes.txt", n_patients=5, seed=0)
    for bad in ({"n_patients": 0, "seed": 0}, {"n_patients": 5, "seed": -1}):
        with pytest.raises(ConfigError):
            write_tables(tmp_path / "new", **bad)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt"]


def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch):
    write_tables(tmp_path / "tables", n_patients=5, seed=0)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def full_disk(*_):
        raise OSError("no space left")

    with monkeypatch.context() as patched:
        patched.setattr("world_models.physiology.records.tables._arrow_table", full_disk)
        with pytest.raises(OSError, match="no space"):
            write_tables(tmp_path / "tables", n_patients=5, seed=1)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before
    write_tables(tmp_path / "tables", n_patients=5, seed=1)
    assert {p for p in tmp_path.rglob("*") if p.is_file()} == set(before)


def test_tables_hold_what_a_build_must_survive(tmp_path):
    tables = tmp_path / "tables"
    write_tables(tables, n_patients=300, seed=SEED)
    cohort = build(tables, tmp_path / "cohort")
    assert disagreeing(recovery(tables, cohort)) == []
    notes = cohort.manifest.notes
    for note in ("celsius_rows_converted_from_fahrenheit", "input_rows_cancelled",
                 "gas_rows_not_arterial", "chart_rows_out_of_range", "stays_by_fallback",
                 "verbal_responses_untestable"):  # fmt: skip
        assert notes[note] > 0, note
    ((unreadable,),) = query(
        tables, "SELECT count(*) FROM {chartevents} WHERE value = '___' AND valuenum IS NULL"
    )
    assert unreadable > 0
    ((dated, timed),) = query(
        tables,
        "SELECT count(*) - count(charttime), count(charttime) FROM {microbiologyevents}",
    )
    assert 0 < dated < timed
    ((both,),) = query(
        tables,
        "SELECT count(*) FROM {chartevents} a JOIN {chartevents} b USING (stay_id, charttime) "
        "WHERE a.itemid = '220052' AND b.itemid = '220181' AND a.value <> b.value",
    )
    assert both > 0
    ((overlapping,),) = query(
        tables,
        "SELECT count(*) FROM {inputevents} a JOIN {inputevents} b USING (stay_id, itemid, rate) "
        "WHERE a.starttime < b.starttime AND b.starttime < a.endtime AND rate IS NOT NULL "
        "AND a.statusdescription <> 'Rewritten' AND b.statusdescription <> 'Rewritten'",
    )
    assert overlapping > 0


def test_results_are_stored_after_the_draw_and_within_the_stay(tables):
    ((shortest, longest),) = query(
        tables,
        "SELECT min(wait), max(wait) FROM (SELECT date_diff('minute', charttime::TIMESTAMP, "
        "storetime::TIMESTAMP) AS wait FROM {labevents})",
    )
    assert shortest >= 20
    assert longest <= 60
    for name, time in (("chartevents", "charttime"), ("outputevents", "charttime"),
                       ("inputevents", "starttime"), ("procedureevents", "endtime")):  # fmt: skip
        sql = (
            f"SELECT count(*) FROM {{{name}}} JOIN {{icustays}} s USING (stay_id) "
            f"WHERE {time} < intime OR {time} > outtime"
        )
        assert query(tables, sql) == [(0,)], name


def test_no_order_comes_before_hospital_admission(tables):
    for name in ("prescriptions", "microbiologyevents"):
        time = "starttime" if name == "prescriptions" else "charttime"
        sql = f"SELECT count(*) FROM {{{name}}} JOIN {{admissions}} USING (hadm_id) "
        assert query(tables, sql + f"WHERE {time} < admittime") == [(0,)]


def test_deaths_are_dated_alike_everywhere(tables, cohort):
    sql = (
        "SELECT count(*) FROM {admissions} a JOIN {patients} p USING (subject_id) WHERE "
        "(hospital_expire_flag = '1') <> (deathtime IS NOT NULL) "
        "OR (deathtime IS NOT NULL AND (deathtime::TIMESTAMP::DATE <> dod::DATE "
        "OR deathtime <> dischtime)) OR dod::DATE < admittime::TIMESTAMP::DATE"
    )
    assert query(tables, sql) == [(0,)]
    assert (cohort.stays.died_in_hospital <= cohort.stays.died_90d).all()
    assert 0.05 < cohort.stays.died_90d.mean() < 0.45


def test_a_fate_is_one_uniform_draw_at_the_risk(courses):
    still = replace(courses, end=np.full(N, End.DISCHARGED, np.int8))
    rising = [
        Fates.draw(replace(still, late_risk=np.full(N, risk)), np.random.default_rng(0)).died_90d
        for risk in (0.0, 0.3, 0.6, 1.0)
    ]
    assert not rising[0].any()
    assert rising[-1].all()
    for fewer, more in pairwise(rising):
        assert (fewer <= more).all()  # whoever dies at a low risk dies at a higher one


def test_the_codes_add_up_to_the_index():
    people = draw_people(400, np.random.default_rng(0))
    coded = coded_charlson(people)
    assert (coded == people.charlson).mean() > 0.95
    assert (coded >= people.charlson).all()  # age points alone may exceed a drawn index


def test_agreement_counts_what_only_one_side_has():
    row = agreement("x", np.array([1, np.nan, np.nan, 2.5]), np.array([1, 2, np.nan, 2]))
    assert row == ("x", 3, pytest.approx(1 / 3), pytest.approx(0.5))


def test_fahrenheit_of_body_temperature():
    assert fahrenheit(np.array([37.0])).round(1) == 98.6
