"""Writes simulated patients as MIMIC-IV tables, and what is hidden in them as a file beside.

The folder has the native hosp/ and icu/ layout of MIMIC-IV v3.1, so that one build reads it and
real data, and a fair share of what real tables hold against a build: Fahrenheit, sentinels, double
entries, venous gases, cancelled orders, overlapping bags, date-only cultures, results stored after
they were drawn. ``truth.parquet`` and ``truth_stays.parquet`` hold what the bedside did not show.
"""

import gzip
import io
import os
import shutil
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from tqdm import tqdm

from sepsis_gym.errors import SourceError
from sepsis_gym.files import check_target, whole_folder
from world_models.physiology.clinician import ClinicianConfig
from world_models.physiology.courses import Courses
from world_models.physiology.records import charts, labs, orders
from world_models.physiology.records.blocks import BLOCK_SIZE, record_draws, simulated, slip_draws
from world_models.physiology.records.charting import Bedside, Charting
from world_models.physiology.records.diagnoses import diagnoses
from world_models.physiology.records.infection import Suspicion, cultures, prescriptions
from world_models.physiology.records.rows import Columns
from world_models.physiology.records.stays import Stays, stay_tables
from world_models.physiology.records.truth import hourly_truth, stay_truth

COLUMNS = {
    "hosp/patients": "subject_id gender anchor_age anchor_year anchor_year_group dod",
    "hosp/admissions": "subject_id hadm_id admittime dischtime deathtime admission_type "
    "admit_provider_id admission_location discharge_location insurance language marital_status "
    "race edregtime edouttime hospital_expire_flag",
    "hosp/diagnoses_icd": "subject_id hadm_id seq_num icd_code icd_version",
    "hosp/labevents": "labevent_id subject_id hadm_id specimen_id itemid order_provider_id "
    "charttime storetime value valuenum valueuom ref_range_lower ref_range_upper flag priority "
    "comments",
    "hosp/d_labitems": "itemid label fluid category",
    "hosp/prescriptions": "subject_id hadm_id pharmacy_id poe_id poe_seq order_provider_id "
    "starttime stoptime drug_type drug formulary_drug_cd gsn ndc prod_strength form_rx dose_val_rx "
    "dose_unit_rx form_val_disp form_unit_disp doses_per_24_hrs route",
    "hosp/microbiologyevents": "microevent_id subject_id hadm_id micro_specimen_id "
    "order_provider_id chartdate charttime spec_itemid spec_type_desc test_seq storedate storetime "
    "test_itemid test_name org_itemid org_name isolate_num quantity ab_itemid ab_name "
    "dilution_text dilution_comparison dilution_value interpretation comments",
    "icu/icustays": "subject_id hadm_id stay_id first_careunit last_careunit intime outtime los",
    "icu/chartevents": "subject_id hadm_id stay_id caregiver_id charttime storetime itemid value "
    "valuenum valueuom warning",
    "icu/inputevents": "subject_id hadm_id stay_id caregiver_id starttime endtime storetime itemid "
    "amount amountuom rate rateuom orderid linkorderid ordercategoryname "
    "secondaryordercategoryname ordercomponenttypedescription ordercategorydescription "
    "patientweight totalamount totalamountuom isopenbag continueinnextdept statusdescription "
    "originalamount originalrate",
    "icu/outputevents": "subject_id hadm_id stay_id caregiver_id charttime storetime itemid value "
    "valueuom",
    "icu/procedureevents": "subject_id hadm_id stay_id caregiver_id starttime endtime storetime "
    "itemid value valueuom location locationcategory orderid linkorderid ordercategoryname "
    "ordercategorydescription patientweight isopenbag continueinnextdept statusdescription "
    "originalamount originalrate",
    "icu/d_items": "itemid label abbreviation linksto category unitname param_type "
    "lownormalvalue highnormalvalue",
}
"""Columns of each table in MIMIC-IV v3.1, in order."""
NOTICE = "SYNTHETIC_COHORT.txt"


def write_tables(
    out_dir: str | os.PathLike[str],
    *,
    n_patients: int,
    seed: int,
    clinician: ClinicianConfig | None = None,
) -> None:
    """Writes a MIMIC-IV folder of simulated patients; same arguments, same bytes.

    Charting ends 80 h after ICU admission; longer stays have their dates of discharge and death.

    Args:
        out_dir: Folder to write, whole or not at all.
        n_patients: Stays to make, one a patient.
        seed: Of everything.
        clinician: How the patients are dosed.

    Raises:
        ConfigError: ``n_patients`` is below 1, the seed below 0 or ``out_dir`` a file.
        SourceError: The folder holds something that this function did not write.
    """
    target = check_target(out_dir)
    if target.exists() and any(target.iterdir()) and not (target / NOTICE).is_file():
        raise SourceError(f"{target}: is no synthetic cohort; choose an empty folder")
    clinician = clinician or ClinicianConfig()
    courses = simulated(n_patients, seed, clinician)
    n_blocks = -(-n_patients // BLOCK_SIZE)
    with whole_folder(target) as temporary:
        with ExitStack() as stack:
            folder = _Folder(temporary, stack)
            blocks = tqdm(courses, "patients", n_blocks, unit_scale=BLOCK_SIZE, disable=None)
            for block, part in enumerate(blocks):
                folder.write(block, part, seed)
            folder.write_dictionaries()
        (temporary / NOTICE).write_text(
            f"Simulated patients ({n_patients}, seed {seed}, {clinician}), no real person's data; "
            "research software, never for patient care.\n"
        )
        shutil.rmtree(target, ignore_errors=True)  # an earlier synthetic cohort, or nothing


class _Folder:
    """The open files of a cohort being written."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder, self._stack = folder, stack
        self._tables: dict[str, gzip.GzipFile] = {}
        self._truths: dict[str, pq.ParquetWriter] = {}

    def write(self, block: int, courses: Courses, seed: int) -> None:
        """Adds a block of patients to every table."""
        tables, truths = _block(block, courses, seed)
        for path, columns in tables.items():
            self._append(path, columns)
        for name, table in truths.items():
            if name not in self._truths:
                writer = pq.ParquetWriter(self._folder / f"{name}.parquet", table.schema)
                self._truths[name] = self._stack.enter_context(writer)
            self._truths[name].write_table(table)

    def write_dictionaries(self) -> None:
        """Adds the tables that say what the items are."""
        for path, labels in (
            ("icu/d_items", {**charts.LABELS, **orders.LABELS}),
            ("hosp/d_labitems", labs.LABELS),
        ):
            items = sorted(labels)
            columns: Columns = {
                "itemid": np.array(items),
                "label": np.array([labels[item] for item in items]),
            }
            if path == "icu/d_items":
                links = [orders.LINKS.get(i) or charts.LINKS.get(i, "chartevents") for i in items]
                columns["linksto"] = np.array(links)
            self._append(path, columns)

    def _append(self, path: str, columns: Columns) -> None:
        """Bytes depend on the content only: no file name, no time."""
        new = path not in self._tables
        if new:
            file = self._folder / f"{path}.csv.gz"
            file.parent.mkdir(exist_ok=True)
            raw = self._stack.enter_context(file.open("wb"))
            self._tables[path] = self._stack.enter_context(
                gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=raw, mtime=0)
            )
        text = io.BytesIO()
        options = pa_csv.WriteOptions(include_header=new)
        pa_csv.write_csv(_arrow_table(columns, COLUMNS[path].split()), text, options)
        self._tables[path].write(text.getbuffer())


def _arrow_table(columns: Columns, names: list[str]) -> pa.Table:
    """The columns in order; those not given stay empty, and so does NaN."""
    n = len(next(iter(columns.values())))
    ordered = {}
    for name in names:
        column: Any = columns.get(name)
        if column is None:
            ordered[name] = pa.nulls(n, pa.string())
        elif isinstance(column, str | int):
            ordered[name] = pa.repeat(column, n)
        elif isinstance(column, np.ndarray) and column.dtype.kind == "U":
            ordered[name] = pa.array(column.tolist(), pa.string())
        else:
            ordered[name] = pa.array(column, from_pandas=True)
    return pa.table(ordered)


def _block(
    block: int, courses: Courses, seed: int
) -> tuple[dict[str, Columns], dict[str, pa.Table]]:
    """The tables and the truth of one block."""
    record, slips = record_draws(seed, block), slip_draws(seed, block)
    stays = Stays.of(courses, block * BLOCK_SIZE, record)
    charting = Charting.draw(Bedside.of(courses), record)
    suspicion = Suspicion.draw(stays, slips)
    tables = {
        **stay_tables(stays),
        "hosp/diagnoses_icd": diagnoses(stays, suspicion.uncultured, slips),
        "hosp/prescriptions": prescriptions(stays, suspicion, block, slips),
        "hosp/microbiologyevents": cultures(stays, suspicion, block, slips),
        "hosp/labevents": labs.lab_events(stays, block, slips),
        "icu/chartevents": charts.chart_events(stays, charting, slips),
        "icu/outputevents": charts.output_events(stays, charting, slips),
        "icu/inputevents": orders.input_events(stays, block, slips),
        "icu/procedureevents": orders.procedure_events(stays, block, slips),
    }
    return tables, {"truth": hourly_truth(stays), "truth_stays": stay_truth(stays, suspicion)}
