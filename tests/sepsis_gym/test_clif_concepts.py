"""What CLIF tables turn into: stays, doses, laboratory, ventilation, antibiotics."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from clif_agreement import ALL_STAYS, DEMO_ZONE
from clif_folder import (
    WHO,
    at,
    bed,
    computed,
    device,
    dose,
    lab,
    one_stay,
    tables_of,
    vital,
    write_clif,
)

from sepsis_gym.cohort import clif_items
from sepsis_gym.cohort.assemble import AssemblyConfig
from sepsis_gym.cohort.clif import ClifFolder
from sepsis_gym.cohort.concepts import run_concepts
from sepsis_gym.errors import SchemaError

# ---------------------------------------------------------------------------------------- stays


def rows_of(connection: duckdb.DuckDBPyConnection, query: str) -> list[tuple[Any, ...]]:
    return connection.execute(query).fetchall()


@pytest.mark.parametrize(
    ("between", "stays"),
    [
        ([bed("procedural", 10, 13)], [30.0]),  # a trip to the operating room
        ([bed("ward", 10, 13)], [10.0, 17.0]),
        ([], [30.0]),  # nobody charted where the patient was for 3 h
    ],
)
def test_icu_beds_are_one_stay_unless_another_bed_lies_between(
    tmp_path: Path, between: list[dict[str, Any]], stays: list[float]
) -> None:
    rows = one_stay()
    rows["adt"] = [bed("ed", -3, 0), bed("icu", 0, 10), *between, bed("icu", 13, 20)]
    rows["adt"].append(bed("ICU", 20, 30))
    connection = computed(tmp_path, rows)
    assert rows_of(connection, "SELECT hours FROM stays ORDER BY intime") == [(h,) for h in stays]


def test_a_bed_that_is_not_left_yet_is_left_at_discharge(tmp_path: Path) -> None:
    rows = one_stay()
    rows["adt"][0]["out_dttm"] = None
    assert rows_of(computed(tmp_path, rows), "SELECT hours FROM stays") == [(100.0,)]


def test_a_long_gap_between_icu_beds_ends_the_stay(tmp_path: Path) -> None:
    rows = one_stay()
    rows["adt"] = [bed("icu", 0, 10), bed("icu", 17, 30)]
    assert len(rows_of(computed(tmp_path, rows), "FROM stays")) == 2


def test_ids_that_are_numbers_stay_and_others_are_counted(tmp_path: Path) -> None:
    rows = one_stay()
    rows["patient"].append({"patient_id": "p0", "sex_category": "Female"})
    rows["hospitalization"].append(
        {**rows["hospitalization"][0], "patient_id": "p0", "hospitalization_id": "h0"}
    )
    rows["adt"].append({**bed("icu", 0, 9), "hospitalization_id": "h0"})
    query = "SELECT subject_id, hadm_id, stay_id, male FROM stays ORDER BY stay_id"
    counted = rows_of(computed(tmp_path / "text", rows), query)
    assert counted == [(1, 1, 1, False), (2, 2, 2, True)]  # p0 before p1, h0 before h1
    named = {"p1": "77", "p0": "800", "h1": "10", "h0": "9"}
    for table in rows.values():
        for row in table:
            row |= {key: named.get(value, value) for key, value in row.items()}
    numbers = rows_of(computed(tmp_path / "numbers", rows), query)
    assert numbers == [(77, 10, 1, True), (800, 9, 2, False)]


def test_death_falls_on_the_local_date(tmp_path: Path) -> None:
    rows = one_stay()  # admitted on 1 January; day 90 is 1 April
    rows["patient"][0]["death_dttm"] = datetime(2150, 4, 2, 2, tzinfo=UTC)
    query = "SELECT died_90d, intime FROM stays"
    utc = rows_of(computed(tmp_path / "utc", rows), query)
    assert utc == [(False, datetime(2150, 1, 1, 8))]
    local = rows_of(computed(tmp_path / "local", rows, DEMO_ZONE), query)
    assert local == [(True, datetime(2150, 1, 1, 3))]  # 9 in the evening of 1 April


def test_summer_time_stretches_no_interval(tmp_path: Path) -> None:
    rows = one_stay()
    start = datetime(2024, 3, 9, 20, tzinfo=UTC)  # clocks go forward on 10 March at 7:00 UTC
    shift = start - at(0)
    for table in rows.values():
        for row in table:
            row |= {k: v + shift for k, v in row.items() if isinstance(v, datetime)}
    connection = computed(tmp_path, rows, "America/New_York")
    assert rows_of(connection, "SELECT intime, hours FROM stays") == [
        (datetime(2024, 3, 9, 15), 30.0)
    ]
    last = rows_of(connection, "SELECT max(charttime) FROM chartevents")
    assert last == [(datetime(2024, 3, 10, 20),)]


def test_a_patient_discharged_as_expired_died_in_hospital(tmp_path: Path) -> None:
    rows = one_stay()
    rows["hospitalization"][0] |= {"discharge_category": "Expired", "discharge_dttm": at(20)}
    query = "SELECT died_in_hospital, died_in_icu, died_90d, hours FROM stays"
    assert rows_of(computed(tmp_path / "a", rows), query) == [(True, True, True, 20.0)]
    rows["patient"][0]["death_dttm"] = at(19)
    assert rows_of(computed(tmp_path / "b", rows), query) == [(True, True, True, 19.0)]
    rows["patient"][0]["death_dttm"] = datetime(2150, 1, 2, tzinfo=UTC)  # a date, no time of day
    assert rows_of(computed(tmp_path / "c", rows), query) == [(True, True, True, 20.0)]
    rows["hospitalization"][0]["discharge_category"] = None
    rows["patient"][0]["death_dttm"] = None
    assert rows_of(computed(tmp_path / "d", rows), query) == [(False, False, False, 30.0)]


# ---------------------------------------------------------------------------------------- doses


def pressor(connection: duckdb.DuckDBPyConnection) -> list[float]:
    """Highest norepinephrine equivalent of each 4-h bin."""
    query = "SELECT round(norepinephrine_equivalent, 6) FROM grid ORDER BY bin"
    return [row[0] for row in rows_of(connection, query)]


@pytest.mark.parametrize(
    "ends", [dose(6, None, None, "stop"), dose(6, 0.0), dose(6, 0.3, "", "stop")]
)
def test_stop_and_dose_zero_end_an_infusion(tmp_path: Path, ends: dict[str, Any]) -> None:
    rows = one_stay()
    rows["medication_admin_continuous"] = [dose(1, 0.1), dose(3, 0.2), ends]
    assert pressor(computed(tmp_path, rows)) == [0.2, 0.2, 0, 0, 0, 0, 0, 0]


def test_a_restart_beats_the_stop_of_the_same_moment_and_a_row_without_dose_changes_nothing(
    tmp_path: Path,
) -> None:
    rows = one_stay()
    rows["medication_admin_continuous"] = [
        *(dose(0, 0.1), dose(4, 0.1, action="stop"), dose(4, 0.4, action="start")),
        *(dose(8, None, action="verify"), dose(12, 0.0)),
    ]
    connection = computed(tmp_path, rows)
    assert pressor(connection) == [0.1, 0.4, 0.4, 0, 0, 0, 0, 0]


def test_an_infusion_without_an_end_is_held_for_twelve_hours_and_counted(tmp_path: Path) -> None:
    rows = one_stay()
    rows["medication_admin_continuous"] = [dose(4, 0.1)]
    connection = computed(tmp_path, rows)
    assert pressor(connection) == [0, 0.1, 0.1, 0.1, 0, 0, 0, 0]
    source = ClifFolder(tmp_path / "clif")
    assert source.notes(connection)["clif_infusions_of_assumed_end"] == 1


def test_dose_units_are_converted(tmp_path: Path) -> None:
    rows = one_stay(32)  # of 80 kg
    tenths = [(0.1, "mcg/kg/min"), (0.1, "µg/kg/min"), (6, "mcg/kg/hr"), (0.0001, "mg/kg/min")]
    tenths += [(100, "ng/kg/min"), (8, "mcg/min"), (0.48, "mg/hour"), (0.1, "MCG/KG/MINUTE")]
    for number, (amount, unit) in enumerate(tenths):
        start = dose(4 * number, amount, unit), dose(4 * number + 2, 0, unit)
        rows["medication_admin_continuous"] += start
    assert pressor(computed(tmp_path, rows)) == [0.1] * 8


def test_an_unknown_dose_unit_is_dropped_and_counted(tmp_path: Path) -> None:
    rows = one_stay()
    rows["medication_admin_continuous"] = [dose(0, 5, "mL/hr"), dose(4, 0, "mL/hr")]
    connection = computed(tmp_path, rows)
    assert max(pressor(connection)) == 0
    assert rows_of(connection, "SELECT dropped FROM inputs") == [("unknown_unit",)]


def test_fluids_by_strength_and_boluses_all_at_once(tmp_path: Path) -> None:
    rows = one_stay()
    saline = {"med_category": "sodium chloride", "med_name": "Sodium chloride 0.45% IV"}
    rows["medication_admin_continuous"] = [
        {**dose(0, 100, "mL/hr"), **saline},
        {**dose(2, 0, "mL/hr", "stop"), **saline},
    ]
    bolus = {**WHO, "admin_dttm": at(5), "med_category": "lactated_ringers_solution"}
    bolus |= {"med_dose": 0.5, "med_dose_unit": "L"}
    rows["medication_admin_intermittent"] = [
        {**bolus, "mar_action_category": "given"},
        {**bolus, "mar_action_category": "not_given"},
    ]
    connection = computed(tmp_path, rows)
    fluid = rows_of(connection, "SELECT round(fluid_ml, 6) FROM grid ORDER BY bin LIMIT 2")
    assert fluid == [(100.0,), (500.0,)]  # 200 mL of half the tonicity


def test_items_by_category_and_name() -> None:
    item = clif_items.medication_item
    assert item("sodium chloride", "3 % NaCl", "mL/hr") == 225161
    assert item("sodium_chloride", None, "mL") == 225158
    assert item("albumin_infusion", "Albumin 25% 50 mL", "mL") == 220862
    assert item("albumin_infusion", "ALBUMIN 5 %", "mL") == 220864
    assert item("sodium bicarbonate", "8.4 % syringe", "mL") == 220995
    assert item("sodium bicarbonate", "150 mEq/1000 mL in D5W", "mEq/hr") == 220995
    assert item("sodium bicarbonate", "150 mEq/1000 mL in D5W", "mL/hr") == 225158  # isotonic
    assert item("dextrose_in_water_d5w", "D5W", "mL/hr") is None  # nor in the MIMIC-IV path
    assert item(None, "norepinephrine", None) is None
    assert clif_items.is_antibiotic("piperacillin_tazobactam", None)
    assert not clif_items.is_antibiotic("oseltamivir", "Tamiflu")
    assert clif_items.dose_unit("units/min") == ("units/hour", 60.0)
    assert clif_items.dose_unit("puffs/day") == ("puffs/day", 1.0)


# ------------------------------------------------------------------------ laboratory and charts


def value(connection: duckdb.DuckDBPyConnection, feature: str) -> list[tuple[int, float]]:
    return rows_of(
        connection,
        f"SELECT bin, round(value, 4) FROM observations WHERE feature = '{feature}' ORDER BY bin",
    )


def test_lab_units_are_converted_and_a_result_counts_once_it_is_seen(tmp_path: Path) -> None:
    expected = {
        "creatinine": (lab("creatinine", 3.5, 200, "µmol/L"), 2.26),
        "calcium_free": (lab("calcium_ionized", 3.5, 4.4, "mg/dL"), 1.1),
        "hemoglobin": (lab("hemoglobin", 3.5, 95, "g/L"), 9.5),
        "platelet": (lab("platelet_count", 3.5, 150, "10*3/uL"), 150),
        "wbc": (lab("wbc", 3.5, 9, "x10^3/μL"), 9),
        "inr": (lab("inr", 3.5, 1.4, None), 1.4),
        "pao2": (lab("po2_arterial", 3.5, 10, "kPa"), 75.0062),
        "glucose": (lab("glucose_fingerstick", 3.5, 5, "mmol/L"), 90),
        "sodium": (lab("sodium", 3.5, 140, "mEq/L"), 140),
    }
    rows = one_stay()
    rows["labs"] = [row for row, _ in expected.values()]
    connection = computed(tmp_path, rows)
    for feature, (_, converted) in expected.items():
        assert value(connection, feature) == [(1, converted)], feature  # seen an hour later


def test_unknown_lab_unit_is_refused_with_table_category_and_unit(tmp_path: Path) -> None:
    rows = one_stay()
    rows["labs"] = [lab("creatinine", 1, 2, "mg/dL"), lab("creatinine", 2, 2, "mg/24h")]
    rows["labs"].append(lab("bun", 2, 2, None))
    with pytest.raises(SchemaError, match=r"clif_labs.parquet: .*bun in None \(1 of 1 rows\)") as e:
        computed(tmp_path, rows)
    assert "creatinine in 'mg/24h' (1 of 2 rows)" in str(e.value)
    assert "\n" not in str(e.value)


def test_few_rows_of_an_unknown_unit_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = one_stay()
    rows["labs"] = [lab("creatinine", 1, 2.0, "mg/dL")] * 100
    rows["labs"].append(lab("creatinine", 1, 9.0, "mg/24h"))
    connection = computed(tmp_path, rows)
    assert value(connection, "creatinine") == [(0, 2.0)]
    notes = ClifFolder(tmp_path / "clif").notes(connection)
    assert notes["clif_lab_rows_of_unknown_unit"] == 1


def test_only_arterial_gases_count(tmp_path: Path) -> None:
    rows = one_stay()
    rows["labs"] = [lab("ph_arterial", 0, 7.2, None), lab("ph_venous", 0, 7.1, None)]
    assert value(computed(tmp_path, rows), "ph") == [(0, 7.2)]


def test_verbal_response_of_zero_is_untestable(tmp_path: Path) -> None:
    rows = one_stay()
    rows["patient_assessments"] = [
        {**WHO, "recorded_dttm": at(1), "assessment_category": name, "numerical_value": score}
        for name, score in (("gcs_eye", 2), ("gcs_verbal", 0), ("gcs_motor", 4))
    ]
    connection = computed(tmp_path, rows)
    assert value(connection, "gcs_verbal") == []
    assert value(connection, "gcs_motor") == [(0, 4.0)]
    assert rows_of(connection, "SELECT gcs FROM gcs") == [(15,)]


def test_ventilation_by_device_and_by_mode(tmp_path: Path) -> None:
    rows = one_stay()
    rows["respiratory_support"] = [
        device(-1, "IMV"),  # on arrival
        device(3, None, "Pressure Support/CPAP"),  # goes on with the device before
        device(5, "Nasal Cannula"),
        device(9, None, "Pressure Support/CPAP"),  # may come through a mask
        device(13, None, "Assist Control-Volume Control"),
        device(14, None, "SIMV"),
        device(15, "Face Mask"),
        device(17, "Face Mask"),
    ]
    connection = computed(tmp_path, rows)
    ventilated = rows_of(connection, "SELECT ventilated FROM grid ORDER BY bin")
    assert [v for (v,) in ventilated] == [True, True, False, True, False, False, False, False]


def test_rows_outside_the_icu_stay_do_not_count_but_weights_before_it_do(tmp_path: Path) -> None:
    rows = one_stay()
    rows["adt"] = [bed("ward", 0, 10), bed("icu", 10, 30)]
    rows["vitals"].append(vital("map", 9, 40))
    connection = computed(tmp_path, rows)
    assert value(connection, "meanbp") == []
    assert rows_of(connection, "SELECT weight_kg, imputed FROM weight") == [(80.0, False)]
    assert rows_of(connection, "SELECT min(monitored_from) FROM hours") == [
        (at(10).replace(tzinfo=None),)
    ]


def test_urine_from_the_intake_and_output_table(tmp_path: Path) -> None:
    rows = one_stay()
    found = {**WHO, "intake_dttm": at(1), "amount": 200, "in_out_flag": 0}
    rows["intake_output"] = [
        {**found, "fluid_name": "Urine, indwelling catheter"},
        {**found, "fluid_name": "Stool"},
        {**found, "fluid_name": "Urine bag rinse", "in_out_flag": 1},
    ]
    tables = tables_of(rows)
    flags = tables["intake_output"]["in_out_flag"].cast(pa.int32())
    at_column = tables["intake_output"].column_names.index("in_out_flag")
    tables["intake_output"] = tables["intake_output"].set_column(at_column, "in_out_flag", flags)
    source = ClifFolder(write_clif(tmp_path / "clif", tables))
    connection = run_concepts(source, tmp_path / "cache", ALL_STAYS, AssemblyConfig())
    assert value(connection, "output_4hourly") == [(0, 200.0)]


# ---------------------------------------------------------------------------- antibiotics, codes


def test_antibiotics_are_courses_and_cultures_have_their_time(tmp_path: Path) -> None:
    rows = one_stay()
    given = {**WHO, "med_category": "cefepime", "mar_action_category": "given"}
    hours = (1, 9, 17, 80)  # every 8 h, then again after more than two days
    rows["medication_admin_intermittent"] = [{**given, "admin_dttm": at(h)} for h in hours]
    rows["microbiology_culture"] = [
        {**WHO, "collect_dttm": at(0.5), "fluid_category": "blood", "method_category": method}
        for method in ("culture", "gram stain", "culture")
    ]
    connection = computed(tmp_path, rows)
    courses = rows_of(connection, "SELECT starttime, stoptime FROM prescriptions ORDER BY 1")
    naive = {h: at(h).replace(tzinfo=None) for h in (*hours, 0.5)}
    assert courses == [(naive[1], naive[17]), (naive[80], naive[80])]
    assert rows_of(connection, "SELECT DISTINCT micro_specimen_id FROM microbiologyevents") == [
        (1,)
    ]
    suspected = rows_of(connection, "SELECT suspected_at FROM suspicion ORDER BY antibiotic_time")
    assert suspected == [(naive[0.5],), (None,)]


def test_codes_of_both_formats_and_one_of_neither(tmp_path: Path) -> None:
    rows = one_stay()
    rows["hospital_diagnosis"] = [
        {**WHO, "diagnosis_code": code, "diagnosis_code_format": form}
        for code, form in (("428.0", "ICD9CM"), ("i25.2", "ICD-10-CM"), ("I252", "SNOMED"))
    ]
    connection = computed(tmp_path, rows)
    assert rows_of(connection, "SELECT charlson FROM charlson") == [(4,)]  # 1 + 1, 60 years: 2
    notes = ClifFolder(tmp_path / "clif").notes(connection)
    assert notes["clif_diagnoses_of_unknown_format"] == 1
