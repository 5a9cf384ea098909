"""CLIF 2.1 categories and units, and the MIMIC-IV items they stand for.

Categories are those of the CLIF data dictionary and its mCIDE tables; they are compared in lower
case, as CLIF 3.0 spells them. Molar masses are those of clifpy.
"""

import re

from sepsis_gym.cohort.antibiotics import antibiotic_pattern
from sepsis_gym.cohort.items import DRUG_ITEMS, OXYGEN_FLOW_ITEMS, TEXT_ITEMS, WEIGHT_ITEMS
from sepsis_gym.features import FEATURE_INDEX, FEATURES

Units = dict[str, float]

VITALS = {
    "heart_rate": "heart_rate",
    "sbp": "sysbp",
    "dbp": "diabp",
    "map": "meanbp",
    "respiratory_rate": "resp_rate",
    "spo2": "spo2",
    "temp_c": "temp_c",
}
"""Feature by vital_category; ``weight_kg`` is no feature."""
VENTILATOR_RATE_ITEM = 224690
ASSESSMENTS = ("gcs_eye", "gcs_verbal", "gcs_motor")
"""assessment_category of the same name; a verbal response of 0 is an intubated patient's."""

_MASS: Units = {"g/dl": 1, "g/l": 0.1}
_ENZYME: Units = {"u/l": 1, "iu/l": 1, "units/l": 1}
_CELLS: Units = {"10^3/ul": 1, "k/ul": 1, "10^9/l": 1, "k/mm3": 1, "cells/ul": 1e-3}
_MOLAR: Units = {"mmol/l": 1, "meq/l": 1}
_SECONDS: Units = {"sec": 1, "s": 1, "seconds": 1}
_TENSION: Units = {"mmhg": 1, "kpa": 7.50062}
_PURE: Units = {"": 1, "(nounits)": 1, "ratio": 1, "ph": 1}
_GLUCOSE: Units = {"mg/dl": 1, "mmol/l": 18.0}
LABS: dict[str, tuple[str, Units]] = {
    "albumin": ("albumin", _MASS),
    "alt": ("alt", _ENZYME),
    "ast": ("ast", _ENZYME),
    "bicarbonate": ("bicarbonate", _MOLAR),
    "bilirubin_total": ("bilirubin_total", {"mg/dl": 1, "umol/l": 0.0584}),
    "bun": ("bun", {"mg/dl": 1, "mmol/l": 2.8}),
    "calcium_ionized": ("calcium_free", {"mmol/l": 1, "mg/dl": 1 / 4}),
    "calcium_total": ("calcium_total", {"mg/dl": 1, "mmol/l": 4}),
    "chloride": ("chloride", _MOLAR),
    "creatinine": ("creatinine", {"mg/dl": 1, "umol/l": 0.0113}),
    "glucose_fingerstick": ("glucose", _GLUCOSE),
    "glucose_serum": ("glucose", _GLUCOSE),
    "hematocrit": ("hematocrit", {"%": 1}),  # not in 2.1, but in later versions
    "hemoglobin": ("hemoglobin", _MASS),
    "inr": ("inr", _PURE),
    "lactate": ("lactate", {"mmol/l": 1, "mg/dl": 1 / 9.01}),
    "magnesium": ("magnesium", {"mg/dl": 1, "mmol/l": 2.4, "meq/l": 1.2}),
    "pco2_arterial": ("paco2", _TENSION),
    "ph_arterial": ("ph", _PURE),
    "platelet_count": ("platelet", _CELLS),
    "po2_arterial": ("pao2", _TENSION),
    "potassium": ("potassium", _MOLAR),
    "pt": ("pt", _SECONDS),
    "ptt": ("ptt", _SECONDS),
    "sodium": ("sodium", _MOLAR),
    "wbc": ("wbc", _CELLS),
}
"""Feature and factors from spelled units to its own, by lab_category."""

DEVICES = {
    "imv": "Endotracheal tube",
    "nippv": "Bipap mask",
    "cpap": "CPAP mask",
    "high flow nc": "High flow nasal cannula",
    "face mask": "Face tent",
    "trach collar": "Trach mask",
    "nasal cannula": "Nasal cannula",
    "room air": "None",
}
"""The charted device that means the same respiratory support, by device_category."""
CONTROLLED_MODES = (
    "assist control-volume control",
    "pressure control",
    "pressure-regulated volume control",
    "simv",
)
"""mode_category values that tell an invasive ventilator where no device is charted; pressure
support may come through a mask."""

_AMOUNTS = {
    "ng": ("mcg", 1e-3),
    "mcg": ("mcg", 1.0),
    "ug": ("mcg", 1.0),
    "mg": ("mcg", 1e3),
    "g": ("mcg", 1e6),
    "grams": ("mcg", 1e6),
    "milliunits": ("units", 1e-3),
    "units": ("units", 1.0),
    "unit": ("units", 1.0),
    "u": ("units", 1.0),
    "ml": ("ml", 1.0),
    "l": ("ml", 1e3),
    "meq": ("meq", 1.0),
}
_PERCENT = re.compile(r"(?<![\d.])(\d*\.?\d+) ?%")
_SALINE_ITEMS = ((23.4, 228341), (3.0, 225161), (0.45, 225159))
_SALINE, _BICARBONATE, _ALBUMIN_5, _ALBUMIN_25 = 225158, 220995, 220864, 220862
_FLUID_ITEMS = {"lactated ringers solution": 225828, "plasma lyte": 225828}  # both isotonic


def spelled(unit: str | None) -> str:
    """One spelling of a unit: lower case, no blanks, ``u`` for micro, ``^`` for powers."""
    text = re.sub(r"\s", "", unit or "").lower()
    text = re.sub("[µμ]", "u", text).replace("mcl", "ul")
    text = re.sub(r"^x?10[*e^](?=\d)", "10^", text)
    return re.sub(r"/(mins|minutes?)$", "/min", re.sub(r"/(h|hrs?|hours)$", "/hour", text))


def dose_unit(unit: str | None) -> tuple[str, float]:
    """The unit the build knows and the factor to it; an unknown unit comes back as it is.

    Mass runs per minute, everything else per hour.
    """
    text = spelled(unit)
    if text in _AMOUNTS:
        return _AMOUNTS[text]
    amount, *rest = text.split("/")
    if amount not in _AMOUNTS or rest not in (["min"], ["hour"], ["kg", "min"], ["kg", "hour"]):
        return text, 1.0
    name, factor = _AMOUNTS[amount]
    time = "min" if name == "mcg" else "hour"
    hours = {("hour", "min"): 1 / 60, ("min", "hour"): 60.0}.get((rest[-1], time), 1.0)
    return "/".join([name, *rest[:-1], time]), factor * hours


_DRUGS = {drug: item for item, drug in DRUG_ITEMS.items()}


def medication_item(category: str | None, name: str | None, unit: str | None) -> int | None:
    """MIMIC-IV item of a vasoactive drug or a fluid; None for anything else.

    CLIF tells a strength by med_name only. Without one, saline is 0.9 %, albumin 5 % and a volume
    of bicarbonate the isotonic drip; bicarbonate in mEq is the salt, whatever its volume.
    """
    known = (category or "").lower().replace("_", " ")
    strengths = {float(number) for number in _PERCENT.findall((name or "").lower())}
    if known == "sodium chloride":
        return next((item for strength, item in _SALINE_ITEMS if strength in strengths), _SALINE)
    if known == "sodium bicarbonate":
        salt = spelled(unit).startswith("meq") or 8.4 in strengths
        return _BICARBONATE if salt else _SALINE
    if known in ("albumin infusion", "albumin 5", "albumin 25"):
        return _ALBUMIN_25 if known == "albumin 25" or 25 in strengths else _ALBUMIN_5
    return _DRUGS.get(known) or _FLUID_ITEMS.get(known)


def is_antibiotic(category: str | None, name: str | None) -> bool:
    """Whether a medication is one of the names that count as antibiotics."""
    return re.search(antibiotic_pattern(), f"{category} {name}".lower()) is not None


def category_rows() -> list[tuple[str, str, int, str | None]]:
    """(CLIF table, category, itemid, text) of vitals, assessments and respiratory support."""
    rows: list[tuple[str, str, int, str | None]] = [
        ("vitals", category, FEATURES[FEATURE_INDEX[name]].chart_items[0], None)
        for category, name in VITALS.items()
    ]
    rows.append(("vitals", "weight_kg", WEIGHT_ITEMS[0], None))
    rows += [
        ("assessments", name, FEATURES[FEATURE_INDEX[name]].chart_items[0], None)
        for name in ASSESSMENTS
    ]
    rows.append(("settings", "fio2_set", FEATURES[FEATURE_INDEX["fio2"]].chart_items[0], None))
    rows.append(("settings", "resp_rate_obs", VENTILATOR_RATE_ITEM, None))
    rows.append(("settings", "lpm_set", OXYGEN_FLOW_ITEMS[0], None))
    device = TEXT_ITEMS["oxygen_device"]
    rows += [("devices", category, device, text) for category, text in DEVICES.items()]
    rows += [("controlled modes", mode, device, None) for mode in CONTROLLED_MODES]
    return rows


def lab_row(category: str, unit: str | None) -> tuple[int, bool, float | None]:
    """(itemid, arterial, factor to the feature's unit or None) of a known lab_category."""
    name, factors = LABS[category]
    return (
        FEATURES[FEATURE_INDEX[name]].lab_items[0],
        category.endswith("_arterial"),
        factors.get(spelled(unit)),
    )
