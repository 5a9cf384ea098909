"""What the made-up MIMIC-IV folder holds: items, how often they are charted, columns.

How often follows the open MIMIC-IV demo; the columns are the native ones of v3.1 in their order.
"""

import polars as pl

GROUPS = {"all": 1.0, "line": 0.4, "ventilated": 0.4, "pressor": 0.2, "infected": 0.55}
"""Share of stays with an arterial line and so on; an item is charted in the stays of one group."""

ITEMS = {
    "icu/chartevents": """
220045 all 1.15 90 18 0 bpm
220210 all 1.15 19 5 0 insp/min
220277 all 1.11 97 2 0 %
220179 all 0.72 115 20 0 mmHg
220180 all 0.72 63 13 0 mmHg
220181 all 0.72 78 13 0 mmHg
220050 line 1.13 113 20 0 mmHg
220051 line 1.13 60 10 0 mmHg
220052 line 1.13 78 14 0 mmHg
223761 all 0.27 98.4 0.9 1 °F
220739 all 0.25 4 0 0 -
223900 all 0.25 5 0 0 -
223901 all 0.25 6 0 0 -
226732 all 0.25 0 0 0 -
225664 all 0.125 140 50 0 -
220621 all 0.075 135 50 0 -
224639 all 0.04 82 15 1 kg
226512 all 0.01 82 15 1 kg
223834 all 0.1 3 1 0 L/min
223835 ventilated 0.25 45 12 0 -
224690 ventilated 0.18 19 5 0 insp/min
223849 ventilated 0.1 0 0 0 -
229314 ventilated 0.1 0 0 0 -
220339 ventilated 0.18 6 2 0 cmH2O
224685 ventilated 0.18 460 90 0 mL
224687 ventilated 0.18 8.5 2 1 L/min
224688 ventilated 0.11 16 4 0 insp/min
224696 ventilated 0.08 18 4 0 cmH2O
""",
    "hosp/labevents": """
50971 all 0.083 4.1 0.6 1 mEq/L
50902 all 0.083 102 5 0 mEq/L
50983 all 0.083 138 4 0 mEq/L
50912 all 0.083 1.4 0.6 1 mg/dL
51006 all 0.083 24 9 0 mg/dL
50882 all 0.083 25 4 0 mEq/L
50931 all 0.083 130 35 0 mg/dL
50960 all 0.083 2 0.3 1 mg/dL
50893 all 0.083 8.6 0.7 1 mg/dL
51221 all 0.08 30 6 1 %
51265 all 0.08 200 60 0 K/uL
51222 all 0.08 9.9 2 1 g/dL
51301 all 0.08 10 4 1 K/uL
51275 all 0.04 35 9 1 sec
51237 all 0.04 1.4 0.3 1 -
51274 all 0.04 15 4 1 sec
50885 all 0.033 1.1 0.5 1 mg/dL
50861 all 0.033 60 25 0 IU/L
50878 all 0.033 60 25 0 IU/L
50862 all 0.017 3.4 0.6 1 g/dL
50820 ventilated 0.06 7.38 0.07 2 units
50802 ventilated 0.06 -1 4 0 mEq/L
50804 ventilated 0.06 25 4 0 mEq/L
50821 ventilated 0.06 110 35 0 mm Hg
50818 ventilated 0.06 40 8 0 mm Hg
52033 ventilated 0.06 0 0 0 -
50813 all 0.02 1.9 0.7 1 mmol/L
50808 all 0.012 1.12 0.09 2 mmol/L
50822 all 0.012 4.1 0.6 1 mEq/L
""",
    "icu/inputevents": """
225158 all 0.28 100 50 0 ml
225943 all 0.1 60 20 0 ml
225828 all 0.02 250 80 0 ml
226089 all 0.02 100 20 0 ml
225168 all 0.01 300 40 0 ml
221906 pressor 0.41 0.15 0.05 3 mg
221749 pressor 0.16 1.2 0.4 2 mg
""",
    "icu/outputevents": "226559 all 0.47 110 60 0 ml\n226560 all 0.06 220 80 0 ml",
    "icu/procedureevents": "225792 ventilated 0.012 3000 500 0 min",
    "hosp/prescriptions": "1 all 0.35 0 0 0 -\n2 infected 0.03 0 0 0 -",
    "hosp/microbiologyevents": "3 all 0.034 0 0 0 -\n4 all 0.034 0 0 0 -",
}
"""Item, group, rows an hour, mean, deviation, decimals, unit (- for none)."""
PIGGYBACK = 226089
"""A fluid given at once, without a rate."""
TEXTS = {
    1: "Heparin|Insulin|Acetaminophen|Furosemide|Metoprolol Tartrate|Docusate Sodium",
    2: "Vancomycin|CefePIME|Piperacillin-Tazobactam",
    3: "BLOOD CULTURE",
    4: "BLOOD CULTURE",
    220739: "Spontaneously|Spontaneously|To Speech|To Pain|None",
    223900: "Oriented|Oriented|Confused|No Response-ETT|No Response",
    223901: "Obeys Commands|Obeys Commands|Localizes Pain",
    226732: "Nasal cannula|Nasal cannula|None|Endotracheal tube|Face tent",
    223849: "CMV/ASSIST/AutoFlow|CPAP/PSV|CMV/ASSIST",
    229314: "APV (cmv)|SPONT|P-CMV",
    52033: "ART.|ART.|VEN.",
}
ASSESSMENTS = "WNL|Intact|Yes|No|Normal|Present|Not applicable|Warm|Regular|Clear|Self|Soft |None"
UNREAD_ITEM = 990_000
"""The build reads no item from this one on."""
UNREAD = {
    "icu/chartevents": ((16, 1.0), (24, 0.5), (48, 0.25), (36, 0.125), (20, 0.083)),
    "hosp/labevents": ((11, 0.08), (20, 0.018)),
    "icu/inputevents": ((10, 0.08),),
    "icu/outputevents": ((2, 0.07),),
    "icu/procedureevents": ((10, 0.008),),
}
"""How many items that nobody keeps are charted how often an hour."""
CODES = "4019 I10 5849 N179 25000 E119 42731 I4891 4280 I5022 A419 99592 J189 486 E785 Z8673"

HEADERS = {
    "hosp/patients": "subject_id gender anchor_age anchor_year anchor_year_group dod",
    "hosp/admissions": "subject_id hadm_id admittime dischtime deathtime admission_type "
    "admit_provider_id admission_location discharge_location insurance language marital_status "
    "race edregtime edouttime hospital_expire_flag",
    "hosp/diagnoses_icd": "subject_id hadm_id seq_num icd_code icd_version",
    "hosp/prescriptions": "subject_id hadm_id pharmacy_id poe_id poe_seq order_provider_id "
    "starttime stoptime drug_type drug formulary_drug_cd gsn ndc prod_strength form_rx dose_val_rx "
    "dose_unit_rx form_val_disp form_unit_disp doses_per_24_hrs route",
    "hosp/microbiologyevents": "microevent_id subject_id hadm_id micro_specimen_id "
    "order_provider_id chartdate charttime spec_itemid spec_type_desc test_seq storedate storetime "
    "test_itemid test_name org_itemid org_name isolate_num quantity ab_itemid ab_name "
    "dilution_text dilution_comparison dilution_value interpretation comments",
    "hosp/labevents": "labevent_id subject_id hadm_id specimen_id itemid order_provider_id "
    "charttime storetime value valuenum valueuom ref_range_lower ref_range_upper flag priority "
    "comments",
    "icu/icustays": "subject_id hadm_id stay_id first_careunit last_careunit intime outtime los",
    "icu/procedureevents": "subject_id hadm_id stay_id caregiver_id starttime endtime storetime "
    "itemid value valueuom location locationcategory orderid linkorderid ordercategoryname "
    "ordercategorydescription patientweight isopenbag continueinnextdept statusdescription "
    "originalamount originalrate",
    "icu/outputevents": "subject_id hadm_id stay_id caregiver_id charttime storetime itemid value "
    "valueuom",
    "icu/inputevents": "subject_id hadm_id stay_id caregiver_id starttime endtime storetime itemid "
    "amount amountuom rate rateuom orderid linkorderid ordercategoryname "
    "secondaryordercategoryname ordercomponenttypedescription ordercategorydescription "
    "patientweight totalamount totalamountuom isopenbag continueinnextdept statusdescription "
    "originalamount originalrate",
    "icu/chartevents": "subject_id hadm_id stay_id caregiver_id charttime storetime itemid value "
    "valuenum valueuom warning",
}
"""The native columns in the native order."""

AMOUNT, IS_DRUG = pl.col("value").cast(pl.Float64), pl.col("valueuom") == "mg"
MINUTES = pl.when(IS_DRUG).then((60 / pl.col("pace")).cast(pl.Int64)).otherwise(60)
ORDERS = {
    "starttime": pl.col("charttime"),
    "endtime": pl.col("charttime") + pl.duration(minutes=MINUTES),
    "amount": pl.when(IS_DRUG).then(AMOUNT * 80 * MINUTES / 1000).otherwise(AMOUNT),
    "amountuom": pl.col("valueuom"),
    "rate": pl.when(pl.col("itemid") != PIGGYBACK).then(AMOUNT),
    "rateuom": pl.when(IS_DRUG).then(pl.lit("mcg/kg/min")).otherwise(pl.lit("mL/hour")),
    "orderid": pl.col("stay_id"),
    "ordercategoryname": pl.lit("02-Fluids (Crystalloids)"),
    "patientweight": 60 + pl.col("stay_id") % 60,
    "statusdescription": pl.lit("FinishedRunning"),
}
"""Drugs run on and on, fluids for an hour."""
TUBE = 10 * pl.col("row").first() + pl.struct("subject_id", "charttime", "panel").rle_id()
HAS_UNIT = pl.col("valueuom").is_not_null()
COLUMNS: dict[str, dict[str, pl.Expr]] = {
    "icu/chartevents": {"warning": pl.when(pl.col("valuenum").is_not_null()).then(0)},
    "icu/inputevents": ORDERS,
    "icu/procedureevents": ORDERS,
    "icu/outputevents": {},
    "hosp/labevents": {
        "labevent_id": pl.col("row"),
        "specimen_id": TUBE,
        "hadm_id": pl.when(pl.col("hadm_id") % 9 > 3).then("hadm_id"),
        "order_provider_id": pl.format("P{}", pl.col("hadm_id") % 90_000 + 10_000),
        "ref_range_lower": pl.when(HAS_UNIT).then(pl.col("itemid") % 9),
        "ref_range_upper": pl.when(HAS_UNIT).then(pl.col("itemid") % 90),
        "flag": pl.when(pl.col("row") % 3 == 0).then(pl.lit("abnormal")),
        "priority": pl.when(pl.col("panel") < 3).then(pl.lit("STAT")).otherwise(pl.lit("ROUTINE")),
    },
    "hosp/prescriptions": {
        "starttime": pl.col("charttime"),
        "stoptime": pl.col("charttime") + pl.duration(hours=36),
        "drug_type": pl.lit("MAIN"),
        "drug": pl.col("value"),
        "route": pl.lit("IV"),
    },
    "hosp/microbiologyevents": {
        "microevent_id": pl.col("row"),
        "micro_specimen_id": TUBE,
        "chartdate": pl.col("charttime").dt.truncate("1d"),
        "spec_type_desc": pl.col("value"),
        "test_name": pl.lit("Blood Culture, Routine"),
    },
}
"""What a table holds besides the columns that all charted rows have."""
