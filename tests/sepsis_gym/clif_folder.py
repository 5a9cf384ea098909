"""CLIF folders for the tests: MIMIC-IV tables turned into CLIF 2.1, written apart from the product.

What a CLIF site does with its records is done to the MIMIC-IV tables: local times become UTC,
intervals become rows of a medication record, ICU stays become beds, tubes lose their type.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from sepsis_gym.cohort.assemble import AssemblyConfig
from sepsis_gym.cohort.clif import ClifFolder
from sepsis_gym.cohort.concepts import MimicConfig, run_concepts

Tables = dict[str, pa.Table]
Rows = dict[str, list[dict[str, Any]]]

LABS = """
    (50862, 'albumin', 'g/dL', 1), (50861, 'alt', 'U/L', 1), (50878, 'ast', 'U/L', 1),
    (50882, 'bicarbonate', 'mmol/L', 1), (50885, 'bilirubin_total', 'mg/dL', 1),
    (51006, 'bun', 'mg/dL', 1), (50808, 'calcium_ionized', 'mg/dL', 4),
    (50893, 'calcium_total', 'mg/dL', 1), (50902, 'chloride', 'mmol/L', 1),
    (50912, 'creatinine', 'mg/dL', 1), (50931, 'glucose_serum', 'mg/dL', 1),
    (51222, 'hemoglobin', 'g/dL', 1), (51237, 'inr', NULL, 1), (50813, 'lactate', 'mmol/L', 1),
    (50960, 'magnesium', 'mg/dL', 1), (51265, 'platelet_count', '10*3/µL', 1),
    (50971, 'potassium', 'mmol/L', 1), (51274, 'pt', 'sec', 1), (51275, 'ptt', 'sec', 1),
    (50983, 'sodium', 'mmol/L', 1), (51301, 'wbc', '10*3/µL', 1),
    (50818, 'pco2', 'mmHg', 1), (50821, 'po2', 'mmHg', 1), (50820, 'ph', NULL, 1)
"""
"""(itemid, lab_category, reference_unit, what the value is multiplied by); gases by vessel."""
MEDICATIONS = """
    (221906, 'norepinephrine', 'NORepinephrine 8 mg/250 mL', 'mcg/kg/min', 1),
    (221289, 'epinephrine', 'EPINEPHrine', 'mcg/kg/min', 1),
    (221662, 'dopamine', 'DOPamine', 'mcg/kg/min', 1),
    (221653, 'dobutamine', 'DOBUTamine', 'mcg/kg/min', 1),
    (221749, 'phenylephrine', 'phenylephrine', 'mcg/kg/hr', 60),
    (222315, 'vasopressin', 'vasopressin 20 units/100 mL', 'units/min', 1 / 60),
    (225943, 'sodium chloride', 'NaCl 0.9%', 'mL/hour', 1),
    (225158, 'sodium chloride', 'NaCl 0.9%', 'mL', 1),
    (225828, 'lactated_ringers_solution', 'Lactated Ringers', 'mL', 1)
"""
QUERIES = {
    "patient": """
        SELECT subject_id AS patient_id, CASE gender WHEN 'M' THEN 'Male' ELSE 'Female' END
            AS sex_category, utc(coalesce(max(a.deathtime)::TIMESTAMP, any_value(dod)::TIMESTAMP))
            AS death_dttm
        FROM patients LEFT JOIN admissions a USING (subject_id) GROUP BY ALL""",
    "hospitalization": """
        SELECT subject_id AS patient_id, hadm_id AS hospitalization_id,
            utc(admittime) AS admission_dttm, utc(dischtime) AS discharge_dttm,
            anchor_age::INTEGER + year(admittime::TIMESTAMP) - anchor_year::INTEGER
            AS age_at_admission, CASE hospital_expire_flag WHEN '1' THEN 'Expired' ELSE 'Home' END
            AS discharge_category
        FROM admissions JOIN patients USING (subject_id)""",
    "adt": """
        WITH stays AS (SELECT hadm_id, admittime::TIMESTAMP AS a, intime::TIMESTAMP AS i,
            outtime::TIMESTAMP AS o, dischtime::TIMESTAMP AS d, i + (o - i) / 2 AS half
            FROM icustays JOIN admissions USING (hadm_id)),
        beds AS (SELECT hadm_id, 'ed' AS c, a AS s, i AS e FROM stays
            UNION ALL SELECT hadm_id, 'icu', i, half - INTERVAL 1 HOUR FROM stays
            UNION ALL SELECT hadm_id, 'procedural', half - INTERVAL 1 HOUR, half FROM stays
            UNION ALL SELECT hadm_id, 'icu', half, o - INTERVAL 2 HOUR FROM stays
            UNION ALL SELECT hadm_id, 'icu', o - INTERVAL 2 HOUR, o FROM stays
            UNION ALL SELECT hadm_id, 'ward', o, d FROM stays)
        SELECT hadm_id AS hospitalization_id, utc(s) AS in_dttm, utc(e) AS out_dttm,
            c AS location_category FROM beds""",
    "vitals": """
        SELECT hadm_id AS hospitalization_id, utc(charttime) AS recorded_dttm, category
            AS vital_category, CASE itemid WHEN '223761' THEN (valuenum::DOUBLE - 32) / 1.8
            ELSE valuenum::DOUBLE END AS vital_value
        FROM chartevents JOIN (VALUES (220045, 'heart_rate'), (220210, 'respiratory_rate'),
            (220277, 'spo2'), (220050, 'sbp'), (220179, 'sbp'), (220051, 'dbp'), (220180, 'dbp'),
            (220052, 'map'), (220181, 'map'), (223761, 'temp_c'), (223762, 'temp_c'),
            (225309, 'sbp'), (225310, 'dbp'), (225312, 'map'), (224690, 'respiratory_rate'),
            (226512, 'weight_kg'), (224639, 'weight_kg')) v (item, category)
            ON item = itemid::INTEGER
        UNION ALL SELECT hadm_id, utc(starttime), 'weight_kg', patientweight::DOUBLE
        FROM inputevents""",
    "patient_assessments": """
        SELECT hadm_id AS hospitalization_id, utc(charttime) AS recorded_dttm, category
            AS assessment_category, CASE value WHEN 'No Response-ETT' THEN 0
            ELSE valuenum::DOUBLE END AS numerical_value
        FROM chartevents JOIN (VALUES (220739, 'gcs_eye'), (223900, 'gcs_verbal'),
            (223901, 'gcs_motor')) v (item, category) ON item = itemid::INTEGER""",
    "respiratory_support": """
        SELECT hadm_id AS hospitalization_id, utc(charttime) AS recorded_dttm,
            CASE max(value) FILTER (itemid = '226732') WHEN 'Endotracheal tube' THEN 'IMV'
            WHEN 'Nasal cannula' THEN 'Nasal Cannula' WHEN 'None' THEN 'Room Air'
            WHEN 'High flow nasal cannula' THEN 'High Flow NC' END AS device_category,
            max(CASE value WHEN 'CMV/ASSIST' THEN 'Assist Control-Volume Control' END)
            AS mode_category, avg(CASE WHEN valuenum::DOUBLE > 1 THEN valuenum::DOUBLE / 100
            ELSE valuenum::DOUBLE END) FILTER (itemid = '223835') AS fio2_set,
            max(valuenum::DOUBLE) FILTER (itemid IN ('223834', '227287')) AS lpm_set
        FROM chartevents
        WHERE itemid IN ('226732', '223849', '223835', '223834', '227287')
        GROUP BY hadm_id, charttime
        """,
    "labs": f"""
        WITH tubes AS (SELECT specimen_id, any_value(value) AS kind FROM labevents
            WHERE itemid = '52033' GROUP BY specimen_id)
        SELECT coalesce(l.hadm_id, a.hadm_id) AS hospitalization_id,
            utc(charttime) AS lab_collect_dttm, utc(storetime) AS lab_result_dttm,
            category || CASE WHEN itemid::INTEGER IN (50818, 50821, 50820)
            THEN CASE kind WHEN 'ART.' THEN '_arterial'
            ELSE '_venous' END ELSE '' END AS lab_category, value AS lab_value,
            valuenum::DOUBLE * factor AS lab_value_numeric, unit AS reference_unit
        FROM labevents l JOIN admissions a USING (subject_id)
        LEFT JOIN tubes USING (specimen_id)
        JOIN (VALUES {LABS}) v (item, category, unit, factor) ON item = itemid::INTEGER""",
    "medication_admin_continuous": f"""
        WITH runs AS (SELECT e.*, m.*, rate::DOUBLE * factor AS dose FROM inputevents e
            JOIN (VALUES {MEDICATIONS}) m (item, category, name, unit, factor)
            ON item = itemid::INTEGER WHERE rate IS NOT NULL AND statusdescription <> 'Rewritten'),
        rows_of AS (SELECT hadm_id, orderid, category, name, unit, starttime AS time, dose,
            'dose_change' AS action FROM runs
            UNION ALL SELECT hadm_id, orderid, category, name, unit, endtime, 0, 'stop' FROM runs)
        SELECT hadm_id AS hospitalization_id, orderid AS med_order_id,
            utc(time) AS admin_dttm, name AS med_name, category AS med_category, dose AS med_dose,
            unit AS med_dose_unit, action AS mar_action_category FROM rows_of""",
    "medication_admin_intermittent": f"""
        SELECT hadm_id AS hospitalization_id, utc(starttime) AS admin_dttm, name AS med_name,
            category AS med_category, amount::DOUBLE AS med_dose, unit AS med_dose_unit,
            'iv' AS med_route_category, 'given' AS mar_action_category
        FROM inputevents JOIN (VALUES {MEDICATIONS}) m (item, category, name, unit, factor)
            ON item = itemid::INTEGER WHERE rate IS NULL AND statusdescription <> 'Rewritten'
        UNION ALL SELECT hadm_id, utc(unnest(range(starttime::TIMESTAMP, stoptime::TIMESTAMP,
            INTERVAL 8 HOUR))), drug, replace(lower(drug), '-', '_'), 1, 'dose', 'iv', 'given'
        FROM prescriptions WHERE coalesce(route, 'IV') = 'IV'""",
    "hospital_diagnosis": """
        SELECT hadm_id AS hospitalization_id, icd_code AS diagnosis_code,
            'ICD' || icd_version || 'CM' AS diagnosis_code_format FROM diagnoses_icd""",
    "microbiology_culture": """
        SELECT hadm_id AS hospitalization_id, utc(charttime) AS collect_dttm,
            'Blood/Buffy Coat' AS fluid_category, 'culture' AS method_category
        FROM microbiologyevents""",
    "output": """
        SELECT hadm_id AS hospitalization_id, utc(charttime) AS recorded_dttm,
            'urine' AS output_group, CASE itemid WHEN '227488' THEN -1 ELSE 1 END * value::DOUBLE
            AS output_value, 'mL' AS output_unit FROM outputevents""",
}


def clif_tables(mimic: Path, utc_offset_hours: int = 5) -> Tables:
    """The CLIF tables of a MIMIC-IV folder whose clocks stand so many hours behind UTC."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for path in mimic.rglob("*.csv*"):
            name = path.name.partition(".")[0]
            connection.execute(f"CREATE VIEW {name} AS FROM read_csv('{path}', all_varchar = true)")
        connection.execute(
            "CREATE MACRO utc(local) AS "
            f"(local::TIMESTAMP + INTERVAL {utc_offset_hours} HOUR)::TIMESTAMPTZ"
        )
        return {name: connection.sql(q).to_arrow_table() for name, q in QUERIES.items()}


def write_clif(folder: Path, tables: Tables) -> Path:
    """Writes each table as ``clif_<table>.parquet``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        pq.write_table(table, folder / f"clif_{name}.parquet")
    return folder


# ------------------------------------------------------------------ one patient, written by hand

ADMITTED = datetime(2150, 1, 1, 8, tzinfo=UTC)
WHO = {"hospitalization_id": "h1"}
COLUMNS = {
    "patient": "patient_id sex_category death_dttm",
    "hospitalization": "patient_id hospitalization_id admission_dttm discharge_dttm "
    "age_at_admission discharge_category",
    "adt": "hospitalization_id in_dttm out_dttm location_category",
    "vitals": "hospitalization_id recorded_dttm vital_category vital_value",
    "labs": "hospitalization_id lab_collect_dttm lab_result_dttm lab_category lab_value "
    "lab_value_numeric reference_unit",
    "medication_admin_continuous": "hospitalization_id med_order_id admin_dttm med_name "
    "med_category med_dose med_dose_unit mar_action_category",
    "medication_admin_intermittent": "hospitalization_id admin_dttm med_name med_category "
    "med_dose med_dose_unit mar_action_category",
    "respiratory_support": "hospitalization_id recorded_dttm device_category mode_category "
    "fio2_set",
    "patient_assessments": "hospitalization_id recorded_dttm assessment_category numerical_value",
}
NUMBERS = (
    "vital_value",
    "lab_value_numeric",
    "med_dose",
    "fio2_set",
    "lpm_set",
    "numerical_value",
)
NUMBERS += ("age_at_admission", "output_value", "amount", "in_out_flag")


def at(hours: float) -> datetime:
    """A time so many hours after hospital and ICU admission."""
    return ADMITTED + timedelta(hours=hours)


def one_stay(hours: float = 30) -> Rows:
    """A man of 60, straight in the ICU, with a heart rate every hour and a weight of 80 kg."""
    rows: Rows = {name: [] for name in COLUMNS}
    rows["patient"].append({"patient_id": "p1", "sex_category": "Male"})
    rows["hospitalization"].append(
        {**WHO, "patient_id": "p1", "admission_dttm": at(0), "discharge_dttm": at(100)}
        | {"age_at_admission": 60, "discharge_category": "Home"}
    )
    rows["adt"].append(bed("icu", 0, hours))
    rows["vitals"] = [vital("heart_rate", hour, 90) for hour in range(int(hours))]
    rows["vitals"].append(vital("weight_kg", 0, 80))
    return rows


def bed(category: str, start: float, end: float) -> dict[str, Any]:
    return {**WHO, "location_category": category, "in_dttm": at(start), "out_dttm": at(end)}


def vital(category: str, hour: float, value: float) -> dict[str, Any]:
    return {**WHO, "recorded_dttm": at(hour), "vital_category": category, "vital_value": value}


def lab(category: str, hour: float, value: float, unit: str | None) -> dict[str, Any]:
    row = {**WHO, "lab_category": category, "lab_collect_dttm": at(hour)}
    row |= {"lab_result_dttm": at(hour + 1), "lab_value": str(value)}
    return {**row, "lab_value_numeric": value, "reference_unit": unit}


def dose(
    hour: float, dose: float | None, unit: str | None = "mcg/kg/min", action: str = "dose_change"
) -> dict[str, Any]:
    """A row of a norepinephrine infusion."""
    row = {**WHO, "med_order_id": "o1", "admin_dttm": at(hour), "med_category": "norepinephrine"}
    return {**row, "med_dose": dose, "med_dose_unit": unit, "mar_action_category": action}


def device(hour: float, category: str | None, mode: str | None = None) -> dict[str, Any]:
    row = {**WHO, "recorded_dttm": at(hour), "device_category": category}
    return {**row, "mode_category": mode}


def tables_of(rows: Rows) -> Tables:
    """Typed as CLIF types them: UTC times, numbers, text."""
    tables = {}
    for name, found in rows.items():
        columns = COLUMNS.get(name, " ".join(found[0]) if found else "").split()
        tables[name] = pa.table(
            {
                column: pa.array(
                    [row.get(column) for row in found],
                    pa.timestamp("us", "UTC")
                    if column.endswith("_dttm")
                    else pa.float64()
                    if column in NUMBERS
                    else pa.string(),
                )
                for column in columns
            }
        )
    return tables


def computed(tmp_path: Path, rows: Rows, timezone: str = "UTC") -> duckdb.DuckDBPyConnection:
    """All concepts of all stays of a hand-written folder."""
    source = ClifFolder(write_clif(tmp_path / "clif", tables_of(rows)), timezone)
    config = MimicConfig(min_age=0, min_hours=0, threads=1)
    return run_concepts(source, tmp_path / "cache", config, AssemblyConfig())
