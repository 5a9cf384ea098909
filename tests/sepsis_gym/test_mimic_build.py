"""The MIMIC-IV build on small hand-written folders: cohort, broken sources, infection."""

import gzip
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from mimic_folder import (
    HEART_RATE,
    INTIME,
    at,
    chart,
    computed,
    septic_stays,
    write,
)

from sepsis_gym.cohort.assemble import AssemblyConfig
from sepsis_gym.cohort.concepts import MimicConfig, run_concepts
from sepsis_gym.cohort.mimic import build_mimic
from sepsis_gym.cohort.mimic_folder import MimicFolder
from sepsis_gym.errors import ConfigError, EmptyCohortError, SchemaError, SourceError
from sepsis_gym.features import FEATURE_INDEX
from sepsis_gym.trajectories import Trajectories

WEIGHT = 226512

# ------------------------------------------------------------------------------ the whole build


def test_build_makes_trajectories_with_flow_and_notes(tmp_path: Path) -> None:
    rows = septic_stays()
    rows["admissions"][0] |= {"deathtime": at(29), "hospital_expire_flag": 1}
    rows["icustays"][1]["outtime"] = at(100)
    cohort = build_mimic(write(tmp_path / "in", rows), tmp_path / "out")
    assert len(cohort) == 12
    assert cohort.manifest.credentialed
    assert cohort.manifest.source == "in"
    assert cohort.manifest.flow[-1][1] == 12
    assert cohort.stays.end.tolist()[:3] == [2, 3, 1]  # died, cut by the horizon, discharged
    assert cohort.n_decisions.tolist()[:3] == [6, 18, 6]
    assert cohort.stays.died_90d.tolist()[:2] == [True, False]
    assert cohort.stays.charlson.tolist() == [2.0] * 12  # age 60-69
    assert np.nanmax(cohort.sofa_24h) == 3  # NaN once the heart rate is no longer charted
    built = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert built == [
        "cache",
        "manifest.json",
        "sofa_hourly.parquet",
        "stays.parquet",
        "steps.parquet",
    ]
    hourly = pq.read_table(tmp_path / "out" / "sofa_hourly.parquet").to_pylist()
    assert hourly[0] == {
        "stay_id": 101,
        "hours_from_admission": 0.0,  # the first heart rate, at admission
        **dict.fromkeys(["respiration", "coagulation", "liver", "cardiovascular", "cns"], 0),
        "renal": 0,
        "sofa_24h": 0,
    }
    assert (hourly[1]["renal"], hourly[1]["sofa_24h"]) == (3, 3)


def test_csv_and_parquet_sources_build_the_same(tmp_path: Path) -> None:
    source = write(tmp_path / "in", septic_stays())
    packed = build_mimic(source, tmp_path / "a")
    for number, path in enumerate(sorted(source.rglob("*.csv.gz"))):
        plain = path.with_suffix("")
        plain.write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
        if number % 2:
            table = pyarrow.csv.read_csv(plain)
            pq.write_table(table, plain.with_suffix(".parquet"))
            plain.unlink()
    assert build_mimic(source, tmp_path / "b").content_hash == packed.content_hash


def test_cached_rows_stand_in_one_order_whatever_the_order_of_the_source(tmp_path: Path) -> None:
    rows = septic_stays(2)
    rows["chartevents"].reverse()
    build_mimic(write(tmp_path / "in", rows), tmp_path / "out")
    cached = pq.read_table(tmp_path / "out" / "cache" / "chartevents.parquet").to_pylist()
    assert len(cached) == 60
    assert cached == sorted(cached, key=lambda row: (row["stay_id"], row["charttime"]))


def test_first_stay_only_keeps_one_stay_of_each_patient(tmp_path: Path) -> None:
    rows = septic_stays()
    second = {**rows["icustays"][0], "stay_id": 999, "intime": at(40), "outtime": at(60)}
    rows["icustays"].append(second)
    source = write(tmp_path / "in", rows)
    both = build_mimic(source, tmp_path / "a")
    first = build_mimic(source, tmp_path / "b", MimicConfig(first_stay_only=True))
    assert dict(first.manifest.flow)["first ICU stay of the patient"] == 12
    assert both.manifest.flow[0][1] == 13


def test_switches_for_weight_and_early_deaths_are_counted_in_the_flow(tmp_path: Path) -> None:
    rows = septic_stays()
    weighed = range(2, 13)
    rows["chartevents"] += [chart(WEIGHT, 1, 80, i) for i in weighed]
    rows["admissions"][2] |= {"deathtime": at(50), "hospital_expire_flag": 1}  # 20 h after 30 h
    rows["admissions"][3] |= {"deathtime": at(55), "hospital_expire_flag": 1}
    source = write(tmp_path / "in", rows)
    plain = build_mimic(source, tmp_path / "plain")
    assert plain.stays.weight_kg.tolist() == [80.0] * 12  # the first is the cohort's median
    assert plain.manifest.notes["stays_without_weight"] == 1
    config = MimicConfig(weight_required=True, quirks=("no_early_deaths",))
    strict = build_mimic(source, tmp_path / "strict", config)
    assert dict(strict.manifest.flow)["weight known"] == 11
    assert strict.manifest.flow[-1] == ("alive 24 h after the last step", 10)
    assert 3 not in strict.stays.subject_id
    assert 4 in strict.stays.subject_id


def test_onset_times_count_from_icu_admission(tmp_path: Path) -> None:
    cohort = build_mimic(write(tmp_path / "in", septic_stays()), tmp_path / "out")
    # the culture at 2 h comes before the antibiotic; creatinine 4 drawn at 1 h
    assert cohort.stays.suspected_hours.tolist() == [2.0] * 12
    assert cohort.stays.sofa_2_hours.tolist() == [1.0] * 12
    loaded = Trajectories.load(tmp_path / "out")
    assert loaded.stays.suspected_hours.tolist() == [2.0] * 12


# ------------------------------------------------------------------------------ broken sources


def test_missing_folder_and_table_are_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="nowhere: no such folder"):
        build_mimic(tmp_path / "nowhere", tmp_path / "out")
    source = write(tmp_path / "in", septic_stays())
    (source / "hosp" / "labevents.csv.gz").unlink()
    with pytest.raises(SourceError, match=r"hosp/labevents\.csv\.gz: no such file"):
        build_mimic(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_column_is_named_before_anything_is_read(tmp_path: Path) -> None:
    source = write(tmp_path / "in", septic_stays())
    path = source / "icu" / "inputevents.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write("stay_id,itemid,starttime,endtime,amount,amountuom\n")
    with pytest.raises(SchemaError, match=r"inputevents\.csv\.gz: column 'rate' is missing"):
        build_mimic(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_wrong_type_names_file_and_column(tmp_path: Path) -> None:
    rows = septic_stays()
    rows["chartevents"].append({**chart(HEART_RATE, 1, 90), "charttime": "yesterday"})
    with pytest.raises(SchemaError, match=r"chartevents\.csv\.gz.*charttime") as caught:
        build_mimic(write(tmp_path / "in", rows), tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_truncated_file_leaves_no_half_written_table(tmp_path: Path) -> None:
    source = write(tmp_path / "in", septic_stays())
    path = source / "icu" / "chartevents.csv.gz"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(SourceError, match=r"chartevents\.csv\.gz: cannot be read") as caught:
        build_mimic(source, tmp_path / "out")
    assert "\n" not in str(caught.value)
    left = [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert "chartevents.parquet" not in left
    assert all(name.endswith(".parquet") for name in left)
    for name in left:
        pq.read_table(tmp_path / "out" / "cache" / name)


@pytest.mark.parametrize(
    ("config", "rule"),
    [
        (MimicConfig(min_age=70), "70 years or older"),
        (MimicConfig(min_hours=31), "31 h or longer in the ICU"),
        (MimicConfig(infection="fallback"), "infection \\(fallback\\)"),
    ],
)
def test_empty_cohort_names_the_rule(tmp_path: Path, config: MimicConfig, rule: str) -> None:
    with pytest.raises(EmptyCohortError, match=rule):
        build_mimic(write(tmp_path / "in", septic_stays(2)), tmp_path / "out", config)


def test_settings_out_of_range_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="infection must be"):
        MimicConfig(infection="guess")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="threads"):
        MimicConfig(threads=0)
    source = write(tmp_path / "in", septic_stays(1))
    with pytest.raises(ConfigError, match="memory_limit 'lots'"):
        build_mimic(source, tmp_path / "out", MimicConfig(memory_limit="lots"))


def test_concepts_after_a_rule_are_computed_for_the_stays_it_leaves_only(tmp_path: Path) -> None:
    rows = septic_stays(3)
    del rows["prescriptions"][1:]
    source = MimicFolder(write(tmp_path / "in", rows))
    rules = {"infections": [("infected", "stay_id IN (SELECT stay_id FROM infections)")]}
    settings = tmp_path / "cache", MimicConfig(threads=1), AssemblyConfig()
    with run_concepts(source, *settings, inclusion=rules) as connection:
        flow = connection.execute("SELECT rule, stays FROM flow ORDER BY position").fetchall()
        assert [stays for _, stays in flow] == [3, 3, 3, 3, 1]
        assert flow[-1] == ("infected", 1)
        for concept in ("weight", "chart_readings", "lab_readings", "sofa", "observations", "grid"):
            key = "subject_id" if concept == "lab_readings" else "stay_id - 100"
            found = connection.execute(
                f"SELECT DISTINCT {key} FROM {concept} ORDER BY 1"
            ).fetchall()
            assert found == ([(1,), (2,), (3,)] if concept == "weight" else [(1,)])


# ------------------------------------------------------------------------------ infection


@pytest.mark.parametrize(
    ("culture_date", "suspected"),
    [
        (INTIME.date(), datetime(2150, 1, 1)),  # same day, before or after: culture's day
        (INTIME.date() - timedelta(days=3), datetime(2149, 12, 29)),  # 3 days before: still counts
        (INTIME.date() - timedelta(days=4), None),
        (INTIME.date() + timedelta(days=1), at(3)),  # the day after: the antibiotic's time
        (INTIME.date() + timedelta(days=2), None),
    ],
)
def test_culture_with_a_date_only_is_paired_by_date(
    tmp_path: Path, culture_date: Any, suspected: datetime | None
) -> None:
    rows = septic_stays(1)
    rows["microbiologyevents"][0] |= {"chartdate": culture_date, "charttime": None}
    connection = computed(tmp_path, rows)
    found = connection.execute("SELECT suspected_at, suspected_until FROM suspicion").fetchall()
    by_culture = suspected is not None and suspected.hour == 0
    until = suspected + timedelta(days=1) if suspected and by_culture else suspected
    assert found == [(suspected, until)]


@pytest.mark.parametrize(
    ("culture", "suspected"),
    [(-69, -69), (-69.5, None), (2.5, 2.5), (26.5, 3), (27, None)],
)
def test_culture_with_a_time_is_paired_within_72_and_24_hours(
    tmp_path: Path, culture: float, suspected: float | None
) -> None:
    rows = septic_stays(1)
    rows["microbiologyevents"][0]["charttime"] = at(culture)
    connection = computed(tmp_path, rows)
    found = connection.execute("SELECT suspected_at FROM suspicion").fetchall()
    assert found == [(None if suspected is None else at(suspected),)]


def test_topical_antibiotics_and_carriers_are_no_suspicion_but_missing_routes_are(
    tmp_path: Path,
) -> None:
    rows = septic_stays(1)
    first = rows["prescriptions"][0]
    rows["prescriptions"] = [
        {**first, "route": "OU"},
        {**first, "route": "LEFT EYE"},
        {**first, "drug_type": "BASE"},
        {**first, "drug": "Gentamicin 0.1% Cream"},
        {**first, "drug": "Heparin"},
        {**first, "route": None, "drug": "Vancomycin"},
    ]
    connection = computed(tmp_path, rows)
    assert connection.execute("SELECT drug FROM suspicion").fetchall() == [("Vancomycin",)]


def test_fallback_is_for_admissions_without_any_culture(tmp_path: Path) -> None:
    rows = septic_stays()
    rows["diagnoses_icd"] = [
        {"hadm_id": 1000 + i, "icd_code": "A419", "icd_version": 10} for i in (1, 2)
    ]
    rows["microbiologyevents"].pop(0)  # patient 1: no culture at all
    rows["microbiologyevents"][0] |= {"charttime": at(60), "chartdate": at(60).date()}  # 2: late
    cohort = build_mimic(write(tmp_path / "in", rows), tmp_path / "out")
    assert cohort.stays.subject_id.tolist() == [1, *range(3, 13)]
    assert cohort.manifest.notes["stays_by_fallback"] == 1


def test_values_land_in_their_own_column(tmp_path: Path) -> None:
    cohort = build_mimic(write(tmp_path / "in", septic_stays()), tmp_path / "out")
    heart_rate = cohort.values[:, FEATURE_INDEX["heart_rate"]]
    assert np.all(heart_rate == 90)
    measured = cohort.measured.any(0)
    assert set(np.flatnonzero(measured)) == {FEATURE_INDEX[n] for n in ("heart_rate", "creatinine")}


def test_a_step_that_discharge_cuts_short_is_left_out(tmp_path: Path) -> None:
    # 30 h in the ICU are seven whole steps of 4 h: six decisions, none taken in the last 2 h
    built = build_mimic(write(tmp_path / "in", septic_stays()), tmp_path / "out")
    assert set(built.n_decisions) == {6}


@pytest.mark.parametrize(
    ("table", "key"),
    [("icustays", "stay_id"), ("admissions", "hadm_id"), ("patients", "subject_id")],
)
def test_a_row_that_stands_twice_is_named_before_it_multiplies_stays(
    tmp_path: Path, table: str, key: str
) -> None:
    rows = septic_stays()
    rows[table].append(dict(rows[table][3]))
    with pytest.raises(SchemaError, match=rf"{table}\.csv.*{key} \d+ stands in more than one row"):
        build_mimic(write(tmp_path / "in", rows), tmp_path / "out")
    assert not (tmp_path / "out" / "steps.parquet").exists()
