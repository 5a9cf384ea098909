"""Small MIMIC-IV folders written by hand, for the tests of the build."""

import csv
import gzip
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb

from sepsis_gym.cohort.assemble import AssemblyConfig
from sepsis_gym.cohort.concepts import MimicConfig, run_concepts
from sepsis_gym.cohort.mimic_folder import MimicFolder
from sepsis_gym.cohort.tables import TABLES

INTIME = datetime(2150, 1, 1, 8)
HEART_RATE, CREATININE, LACTATE, SALINE, NOREPINEPHRINE = 220045, 50912, 50813, 225158, 221906
PHENYLEPHRINE, VASOPRESSIN, CELSIUS, FAHRENHEIT, FOLEY = 221749, 222315, 223762, 223761, 226559
Rows = dict[str, list[dict[str, Any]]]


def at(hours: float) -> datetime:
    """A time so many hours after ICU admission."""
    return INTIME + timedelta(hours=hours)


def septic_stays(n: int = 12) -> Rows:
    """Stays of 30 h with an antibiotic, a blood culture and a creatinine of 4."""
    rows: Rows = {table.name: [] for table in TABLES}
    for i in range(1, n + 1):
        who = {"subject_id": i, "hadm_id": 1000 + i}
        rows["patients"].append(
            {"subject_id": i, "gender": "FM"[i % 2], "anchor_age": 60, "anchor_year": 2150}
        )
        rows["admissions"].append(
            {**who, "admittime": at(-5), "dischtime": at(100), "hospital_expire_flag": 0}
        )
        rows["icustays"].append({**who, "stay_id": 100 + i, "intime": INTIME, "outtime": at(30)})
        for hour in range(30):
            rows["chartevents"].append(chart(HEART_RATE, hour, 90, i))
        rows["labevents"].append(lab(CREATININE, 1, 4.0, subject_id=i))
        rows["prescriptions"].append(
            {**who, "starttime": at(3), "stoptime": at(50), "drug_type": "MAIN"}
            | {"drug": "CefePIME", "route": "IV"}
        )
        rows["microbiologyevents"].append(
            {
                "subject_id": i,
                "micro_specimen_id": i,
                "chartdate": INTIME.date(),
                "charttime": at(2),
            }
        )
    return rows


def chart(itemid: int, hour: float, value: float, i: int = 1, text: str = "") -> dict[str, Any]:
    return {
        "subject_id": i,
        "stay_id": 100 + i,
        "itemid": itemid,
        "charttime": at(hour),
        "value": text or value,
        "valuenum": value,
    }


def lab(itemid: int, hour: float, value: float, **more: Any) -> dict[str, Any]:
    row = {"subject_id": 1, "specimen_id": 7000, "itemid": itemid, "charttime": at(hour)}
    return {**row, "storetime": at(hour + 1), "value": value, "valuenum": value, **more}


def drug(itemid: int, start: float, end: float, **more: Any) -> dict[str, Any]:
    row = {"stay_id": 101, "itemid": itemid, "starttime": at(start), "endtime": at(end)}
    row |= {"amount": 1, "amountuom": "mg", "rateuom": "mcg/kg/min", "patientweight": 80}
    return {**row, "statusdescription": "FinishedRunning", **more}


def fluid(start: float, end: float, amount: float, **more: Any) -> dict[str, Any]:
    return drug(SALINE, start, end, amount=amount, amountuom="ml", rateuom=None, **more)


def rich_stays() -> Rows:
    """Stays with a row in every table."""
    rows = septic_stays()
    tube = {"specimen_id": 1, "value": "ART.", "valuenum": None}
    rows["labevents"] += [lab(50821, 5, 80, specimen_id=1), {**lab(52033, 5, 0), **tube}]
    rows["chartevents"] += [chart(223835, 4, 50), chart(226512, 0, 80)]
    rows["chartevents"] += [chart(226732, hour, 0, text="Endotracheal tube") for hour in (4, 9)]
    rows["inputevents"] = [
        fluid(1, 1, 250, orderid=1),
        fluid(2, 6, 400, rate=100, orderid=2),
        drug(NOREPINEPHRINE, 3, 9, rate=0.1, orderid=3),
        drug(NOREPINEPHRINE, 9, 12, rate=0.2, orderid=3, statusdescription="Rewritten"),
    ]
    rows["outputevents"] = [
        {"stay_id": 101, "itemid": FOLEY, "charttime": at(hour), "value": 60} for hour in range(30)
    ]
    rows["procedureevents"] = [
        {"stay_id": 102, "itemid": 225792, "starttime": at(2), "endtime": at(9)}
    ]
    rows["diagnoses_icd"] = [{"hadm_id": 1001, "icd_code": "E112", "icd_version": 10}]
    return rows


def write(folder: Path, rows: Rows) -> Path:
    """Writes the tables as MIMIC-IV lays them out, ``.csv.gz``."""
    for table in TABLES:
        path = folder / f"{table.path}.csv.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        names = [*(name for name, _ in table.columns), "subject_id", "caregiver_id", "row_id"]
        with gzip.open(path, "wt", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(names)), extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows[table.name])
    return folder


def computed(
    tmp_path: Path, rows: Rows, config: MimicConfig | None = None, **assembly: Any
) -> duckdb.DuckDBPyConnection:
    source = write(tmp_path / "source", rows)
    config = config or MimicConfig(threads=1)
    return run_concepts(MimicFolder(source), tmp_path / "cache", config, AssemblyConfig(**assembly))


def values(connection: duckdb.DuckDBPyConnection, feature: str) -> dict[int, float]:
    """The feature by bin, of the first stay."""
    query = f"SELECT bin, value FROM observations WHERE stay_id = 101 AND feature = '{feature}'"
    return dict(connection.execute(query).fetchall())


def grid(connection: duckdb.DuckDBPyConnection, column: str) -> list[float]:
    """A column of the grid, of the first stay."""
    query = f"SELECT {column} FROM grid WHERE stay_id = 101 ORDER BY bin"
    return [row[0] for row in connection.execute(query).fetchall()]
