"""The 39 dynamic features, their units, limits and MIMIC-IV items: the one table of them.

Item ids and keep-ranges are those of MIT-LCP/mimic-code and the MIMIC-IV dictionary tables;
the selection of features follows SepsisAgent. ``hold_hours`` bounds how long a value is carried
forward when nothing new is measured. Everything else (masks, columns, spaces) derives from here.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["vital", "gcs", "lab", "gas", "urine"]


@dataclass(frozen=True)
class Feature:
    """One dynamic feature.

    Attributes:
        name: Column name in every table of the project.
        unit: Clinical unit.
        kind: How it is measured; ``gas`` is kept from arterial samples only.
        low: Smallest value kept; anything below is dropped before aggregation.
        high: Largest value kept.
        typical: Fill value where a training split holds no measurement at all.
        hold_hours: Longest time a value is carried forward.
        log: Whether models see ``log1p`` of it (right-skewed and never negative).
        chart_items: itemids in icu/chartevents.
        lab_items: itemids in hosp/labevents.
        output_items: itemids in icu/outputevents.
    """

    name: str
    unit: str
    kind: Kind
    low: float
    high: float
    typical: float
    hold_hours: float
    log: bool = False
    chart_items: tuple[int, ...] = ()
    lab_items: tuple[int, ...] = ()
    output_items: tuple[int, ...] = ()


def _vital(
    name: str, unit: str, low: float, high: float, typical: float, chart: tuple[int, ...]
) -> Feature:
    return Feature(name, unit, "vital", low, high, typical, 8, chart_items=chart)


def _gcs(name: str, high: float, item: int) -> Feature:
    return Feature(name, "points", "gcs", 1, high, high, 24, chart_items=(item,))


def _lab(
    name: str,
    unit: str,
    low: float,
    high: float,
    typical: float,
    lab: tuple[int, ...],
    *,
    log: bool = False,
    kind: Kind = "lab",
    hold: float = 36,
    chart: tuple[int, ...] = (),
) -> Feature:
    return Feature(name, unit, kind, low, high, typical, hold, log, chart, lab)


FEATURES: tuple[Feature, ...] = (
    _vital("heart_rate", "bpm", 1, 300, 88, (220045,)),
    _vital("sysbp", "mmHg", 1, 400, 117, (220050, 220179, 225309)),
    _vital("diabp", "mmHg", 1, 300, 62, (220051, 220180, 225310)),
    _vital("meanbp", "mmHg", 1, 300, 78, (220052, 220181, 225312)),
    _vital("resp_rate", "/min", 1, 70, 20, (220210, 224690)),
    _vital("spo2", "%", 1, 100, 97, (220277,)),
    _vital("temp_c", "deg C", 25, 45, 37, (223762, 223761)),
    Feature("fio2", "fraction", "vital", 0.21, 1, 0.21, 24, chart_items=(223835,)),
    _gcs("gcs_eye", 4, 220739),
    _gcs("gcs_verbal", 5, 223900),
    _gcs("gcs_motor", 6, 223901),
    _lab("albumin", "g/dL", 0.1, 10, 2.9, (50862,), hold=72),
    _lab("alt", "IU/L", 0, 30000, 35, (50861,), log=True, hold=72),
    _lab("ast", "IU/L", 0, 30000, 45, (50878,), log=True, hold=72),
    _lab("base_excess", "mEq/L", -50, 50, -1, (50802,), kind="gas", hold=24),
    _lab("bicarbonate", "mEq/L", 1, 60, 23, (50882, 50803)),
    _lab("bilirubin_total", "mg/dL", 0, 100, 0.7, (50885,), log=True, hold=72),
    _lab("bun", "mg/dL", 0, 300, 24, (51006,), log=True),
    _lab("calcium_free", "mmol/L", 0.2, 5, 1.12, (50808,)),
    _lab("calcium_total", "mg/dL", 1, 30, 8.3, (50893,)),
    _lab("chloride", "mEq/L", 50, 180, 104, (50902, 50806)),
    _lab("creatinine", "mg/dL", 0.05, 40, 1.1, (50912, 52024), log=True),
    _lab("glucose", "mg/dL", 10, 2500, 130, (50931, 50809), log=True, chart=(225664,)),
    _lab("hemoglobin", "g/dL", 1, 30, 10, (51222, 50811)),
    _lab("hematocrit", "%", 3, 75, 31, (51221, 50810)),
    _lab("inr", "ratio", 0.3, 40, 1.3, (51237,), log=True),
    _lab("lactate", "mmol/L", 0.1, 50, 1.6, (50813,), log=True, hold=24),
    _lab("magnesium", "mg/dL", 0.1, 20, 2.1, (50960,)),
    _lab("paco2", "mmHg", 5, 250, 40, (50818,), kind="gas", hold=24),
    _lab("pao2", "mmHg", 10, 800, 100, (50821,), log=True, kind="gas", hold=24),
    _lab("ph", "pH", 6.5, 8, 7.38, (50820,), kind="gas", hold=24),
    _lab("platelet", "K/uL", 1, 3000, 190, (51265,), log=True),
    _lab("potassium", "mEq/L", 0.8, 20, 4.1, (50971, 50822)),
    _lab("pt", "s", 5, 200, 14, (51274,), log=True),
    _lab("ptt", "s", 10, 200, 33, (51275,), log=True),
    _lab("sodium", "mEq/L", 80, 200, 138, (50983, 50824)),
    _lab("total_co2", "mEq/L", 1, 80, 25, (50804,), kind="gas", hold=24),
    _lab("wbc", "K/uL", 0, 1000, 10, (51301,), log=True),
    Feature(
        "output_4hourly",
        "mL per 4 h",
        "urine",
        0,
        12000,
        250,
        0,
        log=True,
        output_items=(
            226559,
            226560,
            226561,
            226584,
            226563,
            226564,
            226565,
            226567,
            226557,
            226558,
            227489,
        ),
    ),
)
"""Order is fixed: it is the order of every feature axis in the project."""

N_FEATURES = len(FEATURES)
FEATURE_NAMES: tuple[str, ...] = tuple(feature.name for feature in FEATURES)
FEATURE_INDEX: dict[str, int] = {name: index for index, name in enumerate(FEATURE_NAMES)}
MASKED_FEATURES: tuple[str, ...] = FEATURE_NAMES[:-1]
"""The 38 features whose measurement is shown to agents; urine is charted or not, never sampled."""
STATIC_NAMES: tuple[str, ...] = ("age", "male", "charlson")

LOW = np.array([feature.low for feature in FEATURES], dtype=np.float32)
HIGH = np.array([feature.high for feature in FEATURES], dtype=np.float32)
TYPICAL = np.array([feature.typical for feature in FEATURES], dtype=np.float32)
LOG = np.array([feature.log for feature in FEATURES])
HOLD_HOURS = np.array([feature.hold_hours for feature in FEATURES], dtype=np.float32)
