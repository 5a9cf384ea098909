"""The MIMIC-IV concepts on small hand-written folders, where every number is checked by eye."""

from pathlib import Path
from typing import Any

import pytest
from mimic_folder import (
    CELSIUS,
    FAHRENHEIT,
    FOLEY,
    INTIME,
    LACTATE,
    NOREPINEPHRINE,
    PHENYLEPHRINE,
    SALINE,
    VASOPRESSIN,
    at,
    chart,
    computed,
    drug,
    fluid,
    grid,
    lab,
    septic_stays,
    values,
)

from sepsis_gym.cohort.charlson import charlson_rows, expand
from sepsis_gym.cohort.concepts import MimicConfig
from sepsis_gym.cohort.items import item_rows

# ------------------------------------------------------------------------------ measurements


def test_lab_counts_once_reported_in_the_causal_alignment(tmp_path: Path) -> None:
    rows = septic_stays(1)
    rows["labevents"].append(lab(LACTATE, 3.5, 5.0, storetime=at(4.6)))  # drawn in 0, seen in 1
    rows["labevents"].append(lab(LACTATE, -1, 2.0, storetime=at(0.5)))  # drawn before admission
    rows["labevents"].append(lab(LACTATE, 9, 3.0, storetime=None))
    assert values(computed(tmp_path, rows), "lactate") == {0: 2.0, 1: 5.0, 2: 3.0}
    drawn = computed(tmp_path / "drawn", rows, alignment="same_window")
    assert values(drawn, "lactate") == {-1: 2.0, 0: 5.0, 2: 3.0}


def test_nurses_copies_of_a_lab_are_not_read_but_fingersticks_are(tmp_path: Path) -> None:
    rows = septic_stays(1)
    rows["labevents"].append(lab(50931, 3.5, 151.0, storetime=at(4.6)))
    rows["chartevents"].append(chart(220621, 3.5, 151.0))  # would show it before its report
    rows["chartevents"].append(chart(225664, 2.0, 120.0))
    assert values(computed(tmp_path, rows), "glucose") == {0: 120.0, 1: 151.0}


def test_sentinels_texts_and_impossible_values_drop_alone(tmp_path: Path) -> None:
    rows = septic_stays(1)
    rows["chartevents"] += [
        chart(220045, 1.5, 0),  # heart rate: a lead that fell off
        chart(220181, 1, -23),  # mean pressures: below, above, and one that can be
        chart(220181, 1, 801),
        chart(220181, 1, 70),
        chart(220179, 1, 120),  # the systolic of the same moment stays
    ]
    rows["labevents"] += [
        lab(50885, 1, 999999),  # bilirubin
        lab(50885, 1, 1.2),
        lab(50862, 1, 0) | {"value": "<1.0", "valuenum": None},  # albumin: text only
        lab(50912, 5, 0) | {"value": "___", "valuenum": None},
    ]
    connection = computed(tmp_path, rows)
    assert values(connection, "heart_rate")[0] == 90
    assert values(connection, "meanbp") == {0: 70.0}
    assert values(connection, "sysbp") == {0: 120.0}
    assert values(connection, "bilirubin_total") == {0: pytest.approx(1.2)}
    assert values(connection, "albumin") == {}
    assert values(connection, "creatinine") == {0: 4.0}


def test_labs_of_the_patient_count_whatever_their_admission(tmp_path: Path) -> None:
    rows = septic_stays(1)
    rows["icustays"].append({**rows["icustays"][0], "stay_id": 999, "intime": at(40)})
    rows["icustays"][1]["outtime"] = at(60)
    rows["labevents"] += [lab(LACTATE, 1, 2.0), lab(LACTATE, 41, 5.0, hadm_id=None)]
    connection = computed(tmp_path, rows)
    assert values(connection, "lactate") == {0: 2.0}
    second = connection.execute(
        "SELECT bin, value FROM observations WHERE stay_id = 999 AND feature = 'lactate'"
    )
    assert second.fetchall() == [(0, 5.0)]


def test_celsius_column_holding_fahrenheit_is_converted_not_dropped(tmp_path: Path) -> None:
    rows = septic_stays(1)
    rows["chartevents"] += [
        chart(FAHRENHEIT, 1, 100.4),
        chart(CELSIUS, 5, 37.0),
        chart(CELSIUS, 9, 98.6),  # Fahrenheit in the wrong column
        chart(CELSIUS, 13, 60.0),  # neither: 15.6 C after conversion
    ]
    connection = computed(tmp_path, rows)
    temperature = values(connection, "temp_c")
    assert temperature == {0: pytest.approx(38), 1: pytest.approx(37), 2: pytest.approx(37)}
    repaired = connection.execute("SELECT count(*) FROM chart_readings WHERE repaired AND in_range")
    assert repaired.fetchone() == (1,)


def test_fio2_is_a_fraction_and_intubated_verbal_is_missing(tmp_path: Path) -> None:
    rows = septic_stays(1)
    rows["chartevents"] += [
        chart(223835, 1, 50),
        chart(223835, 5, 0.6),
        chart(223835, 9, 7),  # neither percent nor fraction
        chart(223900, 1, 1, text="No Response-ETT"),
        chart(223900, 5, 1, text="No Response"),
    ]
    connection = computed(tmp_path, rows)
    assert values(connection, "fio2") == {0: pytest.approx(0.5), 1: pytest.approx(0.6)}
    assert values(connection, "gcs_verbal") == {1: 1.0}


def test_fio2_is_noted_with_a_gas_or_estimated_where_it_is_not_charted(tmp_path: Path) -> None:
    rows = septic_stays(1)
    rows["chartevents"] += [
        chart(226732, 1, 0, text="Nasal cannula"),
        chart(223834, 1, 3),  # 3 L/min: 32 %
        chart(223834, 2, 7),  # between 6 and 8: 50 %
        chart(226732, 5, 0, text="Venti mask "),
        chart(223834, 6, 20),  # beyond the mask's last flow: 75 %
        chart(226732, 9, 0, text="None"),  # room air
        chart(226732, 13, 0, text="Endotracheal tube"),
        chart(223834, 13, 10),  # the ventilator sets the oxygen: no estimate
        chart(226732, 17, 0, text="Nasal cannula"),
        chart(223834, 17, 2),
        chart(223835, 18, 60),  # charted: neither gas nor flow counts
    ]
    rows["labevents"] += [
        lab(50816, 17, 90, storetime=at(17.5)),
        lab(50816, 21, 40, storetime=at(21.5)),
        lab(50816, 21, 5, specimen_id=7001),  # litres, no fraction
    ]
    for fio2, expected in (
        ("estimated", {0: 0.41, 1: 0.75, 2: 0.21, 4: 0.6, 5: 0.4}),
        ("noted", {4: 0.6, 5: 0.4}),
        ("charted", {4: 0.6}),
    ):
        config = MimicConfig(threads=1, fio2=fio2)
        assert values(computed(tmp_path / fio2, rows, config), "fio2") == pytest.approx(expected)


def test_untestable_verbal_responses_are_flagged(tmp_path: Path) -> None:
    rows = septic_stays(1)
    rows["chartevents"].append(chart(223900, 5, 1, text="No Response-ETT"))
    flagged = grid(computed(tmp_path, rows), "verbal_untestable")
    assert flagged == [False, True, *[False] * 6]


def test_values_from_before_admission_are_known_as_far_back_as_they_hold(tmp_path: Path) -> None:
    rows = septic_stays(1)
    rows["labevents"] += [
        lab(LACTATE, -30, 9.0),  # lactate holds for 24 h
        lab(LACTATE, -6, 4.0),
        lab(LACTATE, -1.5, 3.0, storetime=at(-0.5)),
        lab(50862, -70, 2.5),  # albumin, which holds for 72 h
        lab(50862, -80, 1.5),
    ]
    connection = computed(tmp_path, rows)
    assert values(connection, "lactate") == {-2: 4.0, -1: 3.0}
    assert values(connection, "albumin") == {-18: 2.5}


def test_gases_are_kept_from_arterial_tubes_only(tmp_path: Path) -> None:
    rows = septic_stays(1)
    for specimen, text, pressure in ((1, "ART.", 90), (2, "VEN.", 40), (3, None, 60)):
        rows["labevents"].append(lab(50821, 1, pressure, specimen_id=specimen))
        rows["labevents"].append(lab(LACTATE, 1, specimen, specimen_id=specimen))
        if text:
            tube = {"value": text, "valuenum": None, "specimen_id": specimen}
            rows["labevents"].append({**lab(52033, 1, 0), **tube})
    connection = computed(tmp_path, rows)
    assert values(connection, "pao2") == {0: 90.0}
    assert values(connection, "lactate") == {0: 2.0}  # any tube will do: the mean of 1, 2, 3


@pytest.mark.parametrize(("step_hours", "expected"), [(4, {0: 250.0, 1: 0.0}), (2, {0: 500.0})])
def test_urine_is_a_pace_and_irrigant_in_is_taken_off(
    tmp_path: Path, step_hours: int, expected: dict[int, float]
) -> None:
    rows = septic_stays(1)
    out = {"stay_id": 101, "itemid": FOLEY}
    rows["outputevents"] = [
        {**out, "charttime": at(0.5), "value": 100},
        {**out, "charttime": at(1), "value": 150},
        {"stay_id": 101, "itemid": 227488, "charttime": at(6), "value": 300},
        {**out, "charttime": at(6.5), "value": 200},
    ]
    urine = values(computed(tmp_path, rows, step_hours=step_hours), "output_4hourly")
    assert {b: urine[b] for b in expected} == expected
    assert len(urine) == 2  # nothing charted is no zero


def test_stay_ends_at_death(tmp_path: Path) -> None:
    rows = septic_stays(1)
    rows["admissions"][0] |= {"deathtime": at(10), "hospital_expire_flag": 1}
    rows["patients"][0]["dod"] = INTIME.date()  # midnight before admission, but the same day
    connection = computed(tmp_path, rows)
    stay = connection.execute("SELECT hours, died_in_icu, died_90d FROM stays").fetchone()
    assert stay == (10.0, True, True)
    assert sorted(values(connection, "heart_rate")) == [0, 1, 2]


# ------------------------------------------------------------------------------ treatments


def test_vasopressors_of_different_drugs_add_up_and_of_one_drug_do_not(tmp_path: Path) -> None:
    rows = septic_stays(1)
    rows["inputevents"] = [
        drug(NOREPINEPHRINE, 0, 2, rate=0.1),
        drug(NOREPINEPHRINE, 1.5, 3, rate=0.2),  # bag change: half an hour of overlap
        drug(PHENYLEPHRINE, 2.5, 5, rate=1.0),
        drug(NOREPINEPHRINE, 8, 12, rate=0.3, statusdescription="Rewritten"),
    ]
    connection = computed(tmp_path, rows)
    highest = grid(connection, "norepinephrine_equivalent")
    assert highest[:3] == [pytest.approx(0.3), pytest.approx(0.1), 0.0]
    mean = connection.execute("SELECT mean FROM vasopressors WHERE bin = 0").fetchone()
    # 1.5 h at 0.1, 1 h at 0.2, 0.5 h at 0.3, 1 h at 0.1
    assert mean == (pytest.approx((0.15 + 0.2 + 0.15 + 0.1) / 4),)
    dropped = connection.execute("SELECT dropped FROM inputs WHERE dropped IS NOT NULL")
    assert dropped.fetchall() == [("cancelled",)]


@pytest.mark.parametrize(
    ("itemid", "row", "expected"),
    [
        (VASOPRESSIN, {"rate": 2.4, "rateuom": "units/hour"}, 0.1),
        (VASOPRESSIN, {"rate": 0.04, "rateuom": "units/min"}, 0.1),
        (NOREPINEPHRINE, {"rate": 0.1}, 0.1),
        (NOREPINEPHRINE, {"rate": 0.0001, "rateuom": "mg/kg/min"}, 0.1),
        (NOREPINEPHRINE, {"rate": 0.1, "rateuom": "mg/kg/min", "patientweight": 1}, 0.1),
        (PHENYLEPHRINE, {"rate": 80, "rateuom": "mcg/min"}, 0.1),  # 80 kg: 1 ug/kg/min
        (221662, {"rate": 10}, 0.1),  # dopamine
        (229709, {"rate": 10, "rateuom": "ng/kg/min"}, 0.1),  # angiotensin II
        (221653, {"rate": 5}, 0),  # dobutamine is no vasopressor
        (NOREPINEPHRINE, {"rate": 50}, 5),  # capped
        (NOREPINEPHRINE, {"rate": 0.1, "rateuom": "mL/hour"}, 0),
        (NOREPINEPHRINE, {"rate": -0.1}, 0),
        (NOREPINEPHRINE, {"rate": 0.1, "endtime": at(1)}, 0),
    ],
)
def test_vasopressor_units(
    tmp_path: Path, itemid: int, row: dict[str, Any], expected: float
) -> None:
    rows = septic_stays(1)
    rows["inputevents"] = [drug(itemid, 1, 3, **row)]
    dose = grid(computed(tmp_path, rows), "norepinephrine_equivalent")
    assert dose[0] == pytest.approx(expected)
    assert sum(dose[1:]) == 0


def test_dose_without_weight_uses_the_charted_weight_then_the_median_by_sex(
    tmp_path: Path,
) -> None:
    rows = septic_stays(5)
    rows["inputevents"] = [
        drug(NOREPINEPHRINE, 1, 3, rate=8, rateuom="mcg/min", patientweight=0, stay_id=101),
        drug(NOREPINEPHRINE, 1, 3, rate=8, rateuom="mcg/min", patientweight=0, stay_id=105),
    ]
    rows["chartevents"] += [chart(226512, 1, kg, i) for i, kg in ((1, 80), (3, 100), (2, 50))]
    connection = computed(tmp_path, rows)
    dose = dict(connection.execute("SELECT stay_id, highest FROM vasopressors").fetchall())
    assert dose == {101: pytest.approx(0.1), 105: pytest.approx(8 / 90)}
    assert connection.execute("SELECT stay_id FROM weight WHERE imputed ORDER BY 1").fetchall() == [
        (104,),
        (105,),
    ]


def test_weights_of_the_ai_clinician_weigh_phenylephrine_more(tmp_path: Path) -> None:
    rows = septic_stays(1)
    rows["inputevents"] = [
        drug(PHENYLEPHRINE, 1, 3, rate=1),
        drug(VASOPRESSIN, 5, 6, rate=2.4, rateuom="units/hour"),
    ]
    config = MimicConfig(threads=1, vasopressor_weights="komorowski")
    dose = grid(computed(tmp_path, rows, config), "norepinephrine_equivalent")
    assert dose[:2] == [pytest.approx(0.45), pytest.approx(0.2)]


def test_bolus_at_a_bin_edge_counts_once_and_infusions_are_shared_out(tmp_path: Path) -> None:
    rows = septic_stays(1)
    rows["inputevents"] = [
        fluid(4, 4, 500),  # no duration, exactly on the edge: bin 1
        fluid(8, 12, 400, rate=100),  # exactly bin 2
        fluid(-2, 2, 100, rate=25),  # half of it before admission
        fluid(10, 18, 800, rate=100),  # 200, 400 and 200 mL
        drug(SALINE, 20, 21, amount=0.5, amountuom="L", rateuom=None),
        drug(220862, 20, 21, amount=10, amountuom="ml", rateuom=None),  # albumin 25 %: x 5
        drug(220995, 24, 25, amount=50, amountuom="mEq", rateuom=None),  # bicarbonate: x 6.66
        fluid(24, 25, 0),
        drug(SALINE, 24, 25, amount=3, amountuom="dose", rateuom=None),
    ]
    connection = computed(tmp_path, rows)
    expected = [50, 500, 400 + 200, 400, 200, 550, 333, 0]
    assert grid(connection, "fluid_ml") == pytest.approx(expected)
    dropped = connection.execute("SELECT dropped FROM inputs WHERE dropped IS NOT NULL ORDER BY 1")
    assert dropped.fetchall() == [("not_positive",), ("unknown_unit",)]


def test_ventilated_by_what_was_charted_so_far_or_by_the_procedure(tmp_path: Path) -> None:
    rows = septic_stays(2)
    tube, mode, cannula = "Endotracheal tube", "CMV/ASSIST", "Nasal cannula"
    rows["chartevents"] += [
        chart(226732, 5, 0, text=tube),
        chart(223849, 7, 0, text=mode),
        chart(226732, 9, 0, text=cannula),  # ends the episode
        chart(226732, 13, 0, text=cannula),
    ]
    rows["procedureevents"] = [
        {"stay_id": stay, "itemid": 225792, "starttime": at(14), "endtime": at(18)}
        for stay in (101, 102)
    ]
    connection = computed(tmp_path, rows)
    # tube at 5 h, last seen at 7 h and gone at 9 h; the procedure from 14 to 18 h
    assert grid(connection, "ventilated") == [False, True, True, True, True, *[False] * 3]
    second = connection.execute("SELECT bin FROM grid WHERE ventilated AND stay_id = 102")
    assert sorted(row[0] for row in second.fetchall()) == [3, 4]


# ------------------------------------------------------------------------------ tables of codes


def test_code_ranges_are_written_out() -> None:
    assert expand("I60-I62 410 0931-0933") == ["I60", "I61", "I62", "410", "0931", "0932", "0933"]
    assert (("AIDS", "aids", 9, "043", 6)) in charlson_rows()


def test_heavier_comorbidity_of_a_slot_replaces_the_lighter(tmp_path: Path) -> None:
    rows = septic_stays(1)
    rows["diagnoses_icd"] = [
        {"hadm_id": 1001, "icd_code": code, "icd_version": version}
        for code, version in (("E119", 10), ("E112", 10), ("C50", 10), ("197", 9), ("B200", 9))
    ]
    connection = computed(tmp_path, rows)
    # age 60: 2, complicated diabetes: 2, metastasis: 6; B200 is no ICD-9 code
    assert connection.execute("SELECT charlson FROM charlson").fetchone() == (10,)


def test_no_item_has_two_meanings() -> None:
    items = [(source, item) for source, item, *_ in item_rows()]
    assert len(items) == len(set(items))


@pytest.mark.parametrize("word", ["NaN", "inf"])
def test_a_rate_or_amount_that_is_no_number_is_dropped_and_says_so(
    tmp_path: Path, word: str
) -> None:
    rows = septic_stays(1)
    rows["inputevents"] = [
        drug(NOREPINEPHRINE, 1, 3, rate=word),
        drug(NOREPINEPHRINE, 1, 3, rate=0.2),
        fluid(1, 1, word),
        fluid(1, 1, 250),
    ]
    connection = computed(tmp_path, rows)
    assert grid(connection, "norepinephrine_equivalent")[0] == pytest.approx(0.2)
    assert grid(connection, "fluid_ml")[0] == pytest.approx(250)
    dropped = connection.execute("SELECT dropped FROM inputs ORDER BY dropped").fetchall()
    assert dropped.count(("not_finite",)) == 2


# ------------------------------------------------------------------------------ quirks


def test_quirks_of_published_extracts_are_off_unless_named(tmp_path: Path) -> None:
    rows = septic_stays(1)
    tube = {"value": "ART.", "valuenum": None}
    rows["labevents"] += [lab(50802, 1, -6.0), {**lab(52033, 1, 0), **tube}]
    rows["labevents"] += [
        lab(50802, 5, 2.0, specimen_id=7001),
        {**lab(52033, 5, 0, specimen_id=7001), **tube},
    ]
    rows["chartevents"] += [
        chart(FAHRENHEIT, 1, 100.4),
        chart(CELSIUS, 5, 37.0),
        chart(223900, 1, 1, text="No Response-ETT"),
    ]
    rows["outputevents"] = [{"stay_id": 101, "itemid": FOLEY, "charttime": at(1), "value": 100}]
    plain = computed(tmp_path / "plain", rows)
    quirks = ("celsius_only", "intubated_verbal_is_1", "no_base_deficit", "uncharted_urine_is_0")
    published = computed(tmp_path / "published", rows, MimicConfig(threads=1, quirks=quirks))
    for feature, without, with_quirks in (
        ("base_excess", {0: -6.0, 1: 2.0}, {1: 2.0}),
        ("temp_c", {0: pytest.approx(38), 1: 37.0}, {1: 37.0}),
        ("gcs_verbal", {}, {0: 1.0}),
        ("output_4hourly", {0: 100.0}, {0: 100.0, **dict.fromkeys(range(1, 8), 0.0)}),
    ):
        assert values(plain, feature) == without
        assert values(published, feature) == with_quirks
    assert grid(plain, "verbal_untestable")[0]
    assert not grid(published, "verbal_untestable")[0]
