"""PROVISIONAL: writes made-up patients as MIMIC-IV tables, until the mechanistic model does it.

The folder has the native hosp/ and icu/ layout, so that one build reads it and real data, and a
fair share of what real tables hold against a build: Fahrenheit, sentinels, double entries,
cancelled orders, overlapping infusions, date-only cultures, results stored after they were drawn.
"""

import gzip
import io
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
from numpy.typing import NDArray

from sepsis_gym.cohort import provisional_charts as charts
from sepsis_gym.cohort import provisional_orders as orders
from sepsis_gym.cohort.provisional_patients import simulate_course
from sepsis_gym.cohort.provisional_stays import Stays, stay_tables
from sepsis_gym.errors import ConfigError, SourceError
from sepsis_gym.files import whole_folder

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
NOTICE = "PROVISIONAL_SYNTHETIC_COHORT.txt"


def write_provisional_tables(
    out_dir: str | os.PathLike[str], *, n_patients: int, seed: int, randomised_share: float = 0.0
) -> None:
    """Writes a MIMIC-IV folder of made-up patients; same arguments, same bytes.

    Args:
        out_dir: Folder to write, whole or not at all.
        n_patients: Stays to make; a few patients have two.
        seed: Of everything.
        randomised_share: Share of stays whose doses are drawn at random every 4 h, so that what
            the doses do can be told from why clinicians give them.

    Raises:
        ConfigError: ``n_patients`` is below 1, the seed below 0 or the share no share.
        SourceError: The folder holds something that this function did not write.
    """
    if n_patients < 1:
        raise ConfigError(f"n_patients must be 1 or more, got {n_patients}")
    if seed < 0:
        raise ConfigError(f"seed must be 0 or more, got {seed}")
    if not 0 <= randomised_share <= 1:
        raise ConfigError(f"randomised_share must lie in [0, 1], got {randomised_share}")
    target = Path(out_dir)
    if target.exists() and any(target.iterdir()) and not (target / NOTICE).is_file():
        raise SourceError(f"{target}: is no provisional cohort; choose an empty folder")
    course = simulate_course(n_patients, seed, randomised_share=randomised_share)
    rng = np.random.default_rng([seed, 1])
    stays = Stays.of(course, rng)
    tables = stay_tables(stays, rng)
    tables["icu/chartevents"] = charts.chart_events(stays, rng)
    tables["hosp/labevents"] = charts.lab_events(stays, rng)
    tables["icu/outputevents"] = charts.output_events(stays, rng)
    tables["icu/inputevents"] = orders.input_events(stays, rng)
    tables["icu/procedureevents"] = orders.procedure_events(stays)
    tables["hosp/prescriptions"] = orders.prescriptions(stays, rng)
    tables["hosp/microbiologyevents"] = orders.cultures(stays, rng)
    tables["icu/d_items"] = {"itemid": np.unique(tables["icu/chartevents"]["itemid"])}
    tables["hosp/d_labitems"] = {"itemid": np.unique(tables["hosp/labevents"]["itemid"])}
    with whole_folder(target) as temporary:
        for path, names in COLUMNS.items():
            file = temporary / f"{path}.csv.gz"
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(_compressed_csv(tables[path], names.split()))
        (temporary / NOTICE).write_text(
            f"Made-up patients ({n_patients}, seed {seed}, {randomised_share:.0%} randomised), no "
            "real person's data; provisional, without clinical validity.\n"
        )
        shutil.rmtree(target, ignore_errors=True)  # an earlier provisional cohort, or nothing


def _compressed_csv(columns: dict[str, NDArray[np.generic]], names: list[str]) -> bytes:
    """Bytes that depend on the content only; columns not given stay empty."""
    n = len(next(iter(columns.values())))
    ordered = {}
    for name in names:
        column = columns.get(name)
        if column is None:
            ordered[name] = pa.nulls(n, pa.string())
        elif column.dtype.kind == "f":
            ordered[name] = pa.array(column, from_pandas=True)  # NaN becomes empty
        else:
            ordered[name] = pa.array(column)
    text = io.BytesIO()
    pa_csv.write_csv(pa.table(ordered), text)
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=packed, mtime=0) as file:
        file.write(text.getvalue())
    return packed.getvalue()
