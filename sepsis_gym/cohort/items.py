"""MIMIC-IV items that are no dynamic feature: treatments, ventilation, weight, specimens.

Item ids are those of the MIMIC-IV dictionary tables; which of them count, and for how much, follows
MIT-LCP/mimic-code and, for the fluids and estimated oxygen, Komorowski et al. 2018.
"""

from sepsis_gym.actions import NOREPINEPHRINE_EQUIVALENT_WEIGHTS, VasopressorWeights
from sepsis_gym.features import FEATURES

Item = tuple[str, int, str, float | None, str | None]

FAHRENHEIT_ITEM = 223761
SPECIMEN_ITEM = 52033
"""Its text says what kind of tube the other results of the same specimen come from."""
GAS_FIO2_ITEM = 50816
VENTILATION_PROCEDURE_ITEM = 225792
IRRIGANT_IN_ITEM = 227488
WEIGHT_ITEMS = (226512, 224639)
OXYGEN_FLOW_ITEMS = (223834, 227287)
TEXT_ITEMS = {"oxygen_device": 226732, "ventilator_mode": 223849, "hamilton_mode": 229314}

DRUG_ITEMS = {
    221906: "norepinephrine",
    221289: "epinephrine",
    221749: "phenylephrine",
    221662: "dopamine",
    222315: "vasopressin",
    229709: "angiotensin",
    229764: "angiotensin",
    221653: "dobutamine",  # an inotrope: scored by SOFA, not a norepinephrine equivalent
}

FLUID_TONICITY: dict[int, float] = {
    225158: 1.0,  # NaCl 0.9 %
    225828: 1.0,  # lactated Ringer's
    225943: 1.0,  # solution (carrier of drugs)
    226089: 1.0,  # piggyback
    225825: 1.0,  # dextrose 5 % in NaCl 0.9 %
    225827: 1.0,  # dextrose 5 % in lactated Ringer's
    225941: 1.0,  # dextrose 5 % in NaCl 0.225 %
    220864: 1.0,  # albumin 5 %
    225168: 1.0,  # packed red cells
    220970: 1.0,  # fresh frozen plasma
    225170: 1.0,  # platelets
    225171: 1.0,  # cryoprecipitate
    225159: 0.5,  # NaCl 0.45 %
    225823: 0.5,  # dextrose 5 % in NaCl 0.45 %
    227531: 2.75,  # mannitol
    225161: 3.0,  # NaCl 3 %
    220862: 5.0,  # albumin 25 %
    220995: 6.66,  # sodium bicarbonate 8.4 %
    227533: 6.66,  # sodium bicarbonate 8.4 %, ampoule
    228341: 8.0,  # NaCl 23.4 %
}
"""Volume of isotonic fluid that one volume stands for."""
BICARBONATE_ITEMS = (220995, 227533)
"""Sometimes charted in mEq; 8.4 % holds 1 mEq per mL."""

_INVASIVE_MODES = (
    "(S) CMV|APRV|APRV/Biphasic+ApnPress|APRV/Biphasic+ApnVol|APV (cmv)|Ambient|Apnea Ventilation|"
    "CMV|CMV/ASSIST|CMV/ASSIST/AutoFlow|CMV/AutoFlow|CPAP/PPS|CPAP/PSV|CPAP/PSV+Apn TCPL|"
    "CPAP/PSV+ApnPres|CPAP/PSV+ApnVol|MMV|MMV/AutoFlow|MMV/PSV|MMV/PSV/AutoFlow|P-CMV|PCV+|"
    "PCV+/PSV|PCV+Assist|PRES/AC|PRVC/AC|PRVC/SIMV|PSV/SBT|SIMV|SIMV/AutoFlow|SIMV/PRES|SIMV/PSV|"
    "SIMV/PSV/AutoFlow|SIMV/VOL|SYNCHRON MASTER|SYNCHRON SLAVE|VOL/AC"
)
_OXYGEN_DEVICES = (
    "Non-rebreather|Face tent|Aerosol-cool|Venti mask|Medium conc mask|Ultrasonic neb|Vapomist|"
    "Oxymizer|High flow neb|Nasal cannula"
)
VENTILATION_TEXT: tuple[tuple[str, str, str], ...] = (
    ("tracheostomy", "oxygen_device", "Tracheostomy tube|Trach mask"),
    ("invasive", "oxygen_device", "Endotracheal tube"),
    ("invasive", "ventilator_mode", _INVASIVE_MODES),
    (
        "invasive",
        "hamilton_mode",
        "APRV|APV (cmv)|Ambient|(S) CMV|P-CMV|SIMV|APV (simv)|P-SIMV|VS|ASV",
    ),
    ("noninvasive", "oxygen_device", "Bipap mask|CPAP mask"),
    ("noninvasive", "hamilton_mode", "DuoPaP|NIV|NIV-ST"),
    ("high_flow", "oxygen_device", "High flow nasal cannula"),
    ("oxygen", "oxygen_device", _OXYGEN_DEVICES),
    ("none", "oxygen_device", "None"),
)
"""Status, the item's role, and the charted texts that mean it; the first that matches wins."""


_CANNULA_FIO2 = {
    0: 0.21, 1: 0.24, 2: 0.28, 3: 0.32, 4: 0.36, 5: 0.40, 6: 0.44, 8: 0.50, 10: 0.55, 12: 0.62,
    15: 0.70,
}  # fmt: skip
_MASK_FIO2 = {4: 0.36, 6: 0.40, 8: 0.58, 10: 0.66, 12: 0.69, 15: 0.75}
_MASKS = "Face tent|Aerosol-cool|Venti mask|Medium conc mask|Ultrasonic neb|Vapomist|High flow neb"
ESTIMATED_FIO2: dict[str, dict[int, float]] = {
    "None": {0: 0.21},
    "Nasal cannula": _CANNULA_FIO2,
    "Oxymizer": _CANNULA_FIO2,
    **dict.fromkeys(_MASKS.split("|"), _MASK_FIO2),
}
"""Inspired oxygen by device and flow, L/min."""


def item_rows(
    weights: VasopressorWeights = "goradia",
) -> list[Item]:
    """All items the build reads: (source table, itemid, role, factor, unit), by these weights.

    The role is a feature's name, a drug's name, ``fluid``, or what the item says; the factor is a
    norepinephrine-equivalent weight (None: an inotrope), a tonicity, or -1 for irrigant put in.
    """
    rows: list[Item] = []
    for feature in FEATURES:
        for item in feature.chart_items:
            unit = "fahrenheit" if item == FAHRENHEIT_ITEM else None
            rows.append(("chartevents", item, feature.name, 1.0, unit))
        rows += [("labevents", item, feature.name, 1.0, None) for item in feature.lab_items]
        rows += [("outputevents", item, feature.name, 1.0, None) for item in feature.output_items]
    rows.append(("outputevents", IRRIGANT_IN_ITEM, "irrigant", -1.0, None))
    rows.append(("labevents", SPECIMEN_ITEM, "specimen", 1.0, None))
    rows.append(("labevents", GAS_FIO2_ITEM, "gas_fio2", 1.0, None))
    rows.append(("procedureevents", VENTILATION_PROCEDURE_ITEM, "ventilation", 1.0, None))
    rows += [("chartevents", item, "weight", 1.0, "kg") for item in WEIGHT_ITEMS]
    rows += [("chartevents", item, role, 1.0, None) for role, item in TEXT_ITEMS.items()]
    rows += [("chartevents", item, "oxygen_flow", 1.0, "L/min") for item in OXYGEN_FLOW_ITEMS]
    for item, drug in DRUG_ITEMS.items():
        weight = NOREPINEPHRINE_EQUIVALENT_WEIGHTS[weights].get(drug)
        rows.append(("inputevents", item, drug, weight, None))
    for item, tonicity in FLUID_TONICITY.items():
        unit = "1 mEq/mL" if item in BICARBONATE_ITEMS else None
        rows.append(("inputevents", item, "fluid", tonicity, unit))
    return rows


def oxygen_rows() -> list[tuple[str, int, float]]:
    """(device, flow in L/min, fraction) of every tabulated estimate of inspired oxygen."""
    return [
        (device, litres, fio2)
        for device, table in ESTIMATED_FIO2.items()
        for litres, fio2 in table.items()
    ]


def ventilation_rows() -> list[tuple[str, str, str, int]]:
    """(role, text, status, rank) of every charted text that tells the respiratory support."""
    return [
        (role, text, status, rank)
        for rank, (status, role, texts) in enumerate(VENTILATION_TEXT)
        for text in texts.split("|")
    ]
