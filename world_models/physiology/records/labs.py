"""hosp/labevents of simulated stays: panels of one tube each, seen a while after they are drawn."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sepsis_gym.cohort.items import GAS_FIO2_ITEM, SPECIMEN_ITEM
from sepsis_gym.features import FEATURE_INDEX, FEATURES
from world_models.physiology.bedside import GROUP, N_GROUPS
from world_models.physiology.records.charting import feature
from world_models.physiology.records.charts import SENTINEL
from world_models.physiology.records.rows import (
    Columns,
    Flags,
    Index,
    Numbers,
    Rows,
    looked_up,
    units_of,
)
from world_models.physiology.records.stays import IDS_PER_BLOCK, Stays

LABELS = {SPECIMEN_ITEM: "Specimen Type", GAS_FIO2_ITEM: "Oxygen"} | {
    item: lab.name.replace("_", " ") for lab in FEATURES for item in lab.lab_items
}
_UNITS = {item: lab.unit for lab in FEATURES for item in lab.lab_items} | {GAS_FIO2_ITEM: "%"}
_GAS, _LACTATE = (int(GROUP[FEATURE_INDEX[name]]) for name in ("ph", "lactate"))
_VENOUS = N_GROUPS  # a panel of its own
_WAIT_MINUTES = 20, 61  # from the draw to the result
_VENOUS_SHARE, _LACTATE_VENOUS_SHARE, _NO_ADMISSION_SHARE = 0.05, 0.4, 0.03
_DOUBLE_SHARE, _SENTINEL_SHARE, _UNREADABLE_SHARE, _MISTYPED_SHARE = 2e-3, 2e-4, 1e-3, 1e-3
_ANALYSER = {
    50882: 50803, 50902: 50806, 50931: 50809, 51221: 50810, 51222: 50811, 50971: 50822,
    50983: 50824, 50912: 52024,
}  # fmt: skip
_ANALYSER_SHARE = 0.05
"""Results that the whole-blood analyser gives as well, under its own items."""
_OTHER_UNIT = {51265: 1000.0, 51222: 10.0}
"""Platelets per uL and haemoglobin per L: typed now and then, and then corrected."""
_TEXTS = (None, "___", "ART.", "VEN.")
_UNREADABLE, _ARTERIAL_TUBE, _VENOUS_TUBE = 1, 2, 3  # places among the texts
_VENOUS_GAS = {"pao2": (0.40, 0), "paco2": (1, 5), "ph": (1, -0.03), "base_excess": (1, 0),
               "total_co2": (1, 1)}  # fmt: skip
"""Factor and shift from the arterial to the venous value."""


@dataclass(frozen=True)
class Results(Rows):
    """Rows of labevents: [r] tube, item, number (NaN: none), text code.

    A tube's number is the place of its panel, hour and stay in an array [panels, T, n].
    """

    tube: Index
    item: Index
    number: Numbers
    text: NDArray[np.int16]


def lab_events(stays: Stays, block: int, rng: np.random.Generator) -> Columns:
    """hosp/labevents; a result is stored within the hour of its reading, drawn shortly before."""
    courses = stays.courses
    hours, n = courses.dose.shape
    parts = [
        _results(courses.charted[..., i], int(GROUP[i]), lab.lab_items[0], courses.readings[..., i])
        for i, lab in enumerate(FEATURES)
        if lab.lab_items
    ]
    parts += _tube_types(stays, rng)
    rows = Results.joined(parts)
    again = rows.take(
        np.isin(rows.item, list(_ANALYSER)) & (rng.random(len(rows)) < _ANALYSER_SHARE)
    )
    again.item[:] = [_ANALYSER[item] for item in again.item.tolist()]
    rows = _with_slips(Results.joined([rows, again]), rng)
    panels = (N_GROUPS + 1, hours, n)
    stored = (np.arange(hours)[:, None] * 60 + rng.integers(1, 59, panels)).ravel()
    drawn = stored - rng.integers(*_WAIT_MINUTES, stored.shape)
    no_admission = rng.random(stored.shape) < _NO_ADMISSION_SHARE
    rows = rows.take(stored[rows.tube] < stays.end_minute[rows.tube % n])
    rows = rows.take(np.lexsort((rows.item, rows.tube, drawn[rows.tube], rows.tube % n)))
    tube = rows.tube
    stay = tube % n
    number = pa.array(rows.number, from_pandas=True)
    first = block * IDS_PER_BLOCK + 1
    return {
        "labevent_id": first + np.arange(len(tube)),
        "subject_id": stays.subject_id[stay],
        "hadm_id": pa.array(stays.hadm_id[stay], mask=no_admission[tube]),
        "specimen_id": first + tube,
        "itemid": rows.item,
        "charttime": stays.time(stay, drawn[tube]),
        "storetime": stays.time(stay, stored[tube]),
        "value": pc.coalesce(looked_up(rows.text, _TEXTS), number.cast(pa.string())),
        "valuenum": number,
        "valueuom": units_of(rows.item, _UNITS),
        "priority": "STAT",
    }


def _results(
    chosen: Flags,
    panel: int,
    item: int,
    number: NDArray[np.floating] | float,
    text: NDArray[np.integer] | int = 0,
) -> Results:
    """Results of the chosen hours, [T, n]."""
    hour, stay = np.nonzero(chosen)

    def cells(values: NDArray[Any] | float, kind: type) -> NDArray[Any]:
        return np.broadcast_to(values, chosen.shape)[hour, stay].astype(kind)

    return Results(
        tube=(panel * chosen.shape[0] + hour) * chosen.shape[1] + stay,
        item=np.full(len(stay), item, np.int64),
        number=cells(number, np.float64).round(2),
        text=cells(text, np.int16),
    )


def _tube_types(stays: Stays, rng: np.random.Generator) -> list[Results]:
    """What says where gases come from, the oxygen noted with them, and venous gases beside them."""
    courses = stays.courses
    oxygen = np.round(100 * feature(courses.readings, "fio2"))
    gas, lactate = (feature(courses.charted, name) for name in ("ph", "lactate"))
    venous = gas & (rng.random(gas.shape) < _VENOUS_SHARE)
    from_vein = rng.random(gas.shape) < _LACTATE_VENOUS_SHARE
    parts = [
        _results(gas, _GAS, SPECIMEN_ITEM, np.nan, _ARTERIAL_TUBE),
        _results(gas, _GAS, GAS_FIO2_ITEM, oxygen),
        _results(venous, _VENOUS, SPECIMEN_ITEM, np.nan, _VENOUS_TUBE),
        _results(
            lactate,
            _LACTATE,
            SPECIMEN_ITEM,
            np.nan,
            np.where(from_vein, _VENOUS_TUBE, _ARTERIAL_TUBE),
        ),
    ]
    for name, (factor, shift) in _VENOUS_GAS.items():
        item = FEATURES[FEATURE_INDEX[name]].lab_items[0]
        value = factor * feature(courses.readings, name) + shift
        parts.append(_results(venous, _VENOUS, item, value))
    return parts


def _with_slips(rows: Results, rng: np.random.Generator) -> Results:
    """Adds rows that say nothing: double entries, sentinels, unreadable and corrected numbers."""
    chance = rng.random(len(rows))
    numeric = ~np.isnan(rows.number)
    edges = 1 - np.cumsum([_SENTINEL_SHARE, _UNREADABLE_SHARE])
    sentinel = rows.take(numeric & (chance >= edges[0]))
    lost = rows.take(numeric & (chance >= edges[1]) & (chance < edges[0]))
    sentinel.number[:] = SENTINEL
    lost.number[:], lost.text[:] = np.nan, _UNREADABLE
    parts = [rows, rows.take(chance < _DOUBLE_SHARE), sentinel, lost]
    again = rng.random(len(rows)) < _MISTYPED_SHARE
    for item, factor in _OTHER_UNIT.items():
        mistyped = rows.take(again & (rows.item == item))
        mistyped.number[:] *= factor
        parts.append(mistyped)
    return Results.joined(parts)
