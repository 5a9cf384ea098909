"""icu/chartevents and icu/outputevents of simulated stays."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sepsis_gym.features import FEATURE_INDEX
from world_models.physiology.records.charting import (
    CANNULA,
    DEVICES,
    HIGH_FLOW,
    PRESSURES,
    TUBE,
    Charting,
    fahrenheit,
    feature,
)
from world_models.physiology.records.rows import (
    Columns,
    Flags,
    Index,
    Numbers,
    Rows,
    looked_up,
    units_of,
)
from world_models.physiology.records.stays import Stays

SENTINEL = 999999.0
_SENTINEL_SHARE, _UNREADABLE_SHARE, _DOUBLE_SHARE = 2e-4, 5e-4, 2e-3
_FRACTION_SHARE = 0.01  # inspired oxygen typed as a fraction
_IRRIGATED_SHARE, _IRRIGATION_ML = 0.002, 30.0
_ON_THE_HOUR_SHARE, _LATEST_MINUTE = 0.5, 10

LABELS = {
    220045: "Heart Rate",
    220050: "Arterial Blood Pressure systolic",
    220051: "Arterial Blood Pressure diastolic",
    220052: "Arterial Blood Pressure mean",
    220179: "Non Invasive Blood Pressure systolic",
    220180: "Non Invasive Blood Pressure diastolic",
    220181: "Non Invasive Blood Pressure mean",
    220210: "Respiratory Rate",
    220277: "O2 saturation pulseoxymetry",
    224639: "Daily Weight",
    224690: "Respiratory Rate (Total)",
    225309: "ART BP Systolic",
    225310: "ART BP Diastolic",
    225312: "ART BP Mean",
    226567: "Straight Cath",
    227287: "O2 Flow (additional cannula)",
    229314: "Ventilator Mode (Hamilton)",
    220739: "GCS - Eye Opening",
    223761: "Temperature Fahrenheit",
    223762: "Temperature Celsius",
    223834: "O2 Flow",
    223835: "Inspired O2 Fraction",
    223849: "Ventilator Mode",
    223900: "GCS - Verbal Response",
    223901: "GCS - Motor Response",
    225664: "Glucose finger stick (range 70-100)",
    226512: "Admission Weight (Kg)",
    226559: "Foley",
    226560: "Void",
    226732: "O2 Delivery Device(s)",
    227488: "GU Irrigant Volume In",
    227489: "GU Irrigant/Urine Volume Out",
}
LINKS = dict.fromkeys((226559, 226560, 226567, 227488, 227489), "outputevents")
"""Tables of the items that are not in chartevents."""
_MONITOR = {"heart_rate": 220045, "resp_rate": 220210, "spo2": 220277}
_LINE = dict(zip(PRESSURES, (220050, 220051, 220052), strict=True))
_SECOND_LINE = dict(zip(PRESSURES, (225309, 225310, 225312), strict=True))
_CUFF = dict(zip(PRESSURES, (220179, 220180, 220181), strict=True))
_FAHRENHEIT, _CELSIUS, _FIO2, _FLOW, _MODE, _DEVICE = 223761, 223762, 223835, 223834, 223849, 226732
_FINGERSTICK, _WEIGHT, _DAILY_WEIGHT = 225664, 226512, 224639
_VENTILATOR_RATE, _SECOND_FLOW, _HAMILTON, _STRAIGHT = 224690, 227287, 229314, 226567
_OTHER_STAY_SHARE, _OTHER_ROW_SHARE = 0.08, 0.25
"""Stays with other equipment, and rows charted under another item."""
_FOLEY, _VOID, _IRRIGANT_IN, _IRRIGANT_OUT = 226559, 226560, 227488, 227489
_UNITS = {
    220045: "bpm",
    220210: "insp/min",
    220277: "%",
    _FAHRENHEIT: "°F",
    _CELSIUS: "°C",
    _FLOW: "L/min",
    _FINGERSTICK: "mg/dL",
    _WEIGHT: "kg",
    _DAILY_WEIGHT: "kg",
    _VENTILATOR_RATE: "insp/min",
    _SECOND_FLOW: "L/min",
    **dict.fromkeys((*_LINE.values(), *_SECOND_LINE.values(), *_CUFF.values()), "mmHg"),
}
_EYE = ("None", "To Pain", "To Speech", "Spontaneously")
_VERBAL = (
    "No Response", "Incomprehensible sounds", "Inappropriate Words", "Confused", "Oriented",
)  # fmt: skip
_MOTOR = (
    "No response", "Abnormal extension", "Abnormal Flexion", "Flex-withdraws", "Localizes Pain",
    "Obeys Commands",
)  # fmt: skip
_MODES = ("CPAP/PSV", "CMV/ASSIST", "ASV", "(S) CMV")
_TEXTS = (None, "___", "No Response-ETT", *DEVICES, *_MODES, *_EYE, *_VERBAL, *_MOTOR)
_UNREADABLE, _UNTESTABLE, _FIRST_DEVICE = 1, 2, 3  # places among the texts
_FIRST_MODE = _FIRST_DEVICE + len(DEVICES)
_FIRST_EYE = _FIRST_MODE + len(_MODES)
_FIRST_VERBAL = _FIRST_EYE + len(_EYE)
_GCS = {
    "gcs_eye": (220739, _FIRST_EYE),
    "gcs_verbal": (223900, _FIRST_VERBAL),
    "gcs_motor": (223901, _FIRST_VERBAL + len(_VERBAL)),
}
"""Items, and the place of the text that means one point."""


@dataclass(frozen=True)
class ChartRows(Rows):
    """Charted rows: [r] stay, minute from ICU admission, item, number (NaN: none), text code."""

    stay: Index
    minute: Index
    item: Index
    number: Numbers
    text: NDArray[np.int16]


class _Sheet:
    """Collects the rows of hours [T, n] at the minutes of each."""

    def __init__(self, stays: Stays, minute: NDArray[np.integer]) -> None:
        hour = np.arange(len(minute))[:, None]
        self._inside = hour < stays.courses.end_hour
        self._at = hour * 60 + minute
        self._shape = minute.shape
        self.parts: list[ChartRows] = []

    def add(
        self,
        chosen: Flags,
        item: int | NDArray[np.integer],
        number: NDArray[np.floating] | float,
        text: NDArray[np.integer] | int = 0,
        minute: NDArray[np.integer] | None = None,
    ) -> None:
        """Charts ``number`` [T, n] in the chosen hours that lie within the stay."""
        where = np.nonzero((chosen & self._inside).T)

        def cells(values: NDArray[Any] | float, kind: type) -> NDArray[Any]:
            return np.broadcast_to(values, self._shape).T[where].astype(kind)

        self.parts.append(
            ChartRows(
                stay=where[0],
                minute=cells(self._at if minute is None else minute, np.int64),
                item=cells(item, np.int64),
                number=cells(number, np.float64).round(2),
                text=cells(text, np.int16),
            )
        )


def chart_events(stays: Stays, charting: Charting, rng: np.random.Generator) -> Columns:
    """icu/chartevents: monitor, thermometer, consciousness, oxygen, weight."""
    shape = stays.courses.dose.shape
    late = rng.integers(1, _LATEST_MINUTE, shape)
    sheet = _Sheet(stays, np.where(rng.random(shape) < _ON_THE_HOUR_SHARE, 0, late))
    _monitor(sheet, stays, charting, rng)
    _consciousness(sheet, stays, charting)
    _oxygen(sheet, stays, charting, rng)
    first = np.zeros(shape, bool)
    first[0] = rng.random(shape[1]) < 0.95
    weight = stays.courses.people.weight_kg.round(1)
    sheet.add(first, _WEIGHT, weight)
    daily = np.zeros(shape, bool)
    daily[24::24] = rng.random(daily[24::24].shape) < _OTHER_ROW_SHARE
    sheet.add(daily, _DAILY_WEIGHT, weight)
    rows = _in_order(_with_slips(ChartRows.joined(sheet.parts), rng), stays)
    times = stays.time(rows.stay, rows.minute)
    number = pa.array(rows.number, from_pandas=True)
    return {
        **stays.ids(rows.stay),
        "caregiver_id": stays.caregiver(rows.stay, rows.minute),
        "charttime": times,
        "storetime": times + np.timedelta64(4, "m"),
        "itemid": rows.item,
        "value": pc.coalesce(looked_up(rows.text, _TEXTS), number.cast(pa.string())),
        "valuenum": number,
        "valueuom": units_of(rows.item, _UNITS),
        "warning": np.zeros(len(times), np.int64),
    }


def _in_order(rows: ChartRows, stays: Stays) -> ChartRows:
    """The rows before the end of each stay, by stay, time and item."""
    rows = rows.take(rows.minute < stays.end_minute[rows.stay])
    return rows.take(np.lexsort((rows.text, rows.item, rows.minute, rows.stay)))


def _monitor(sheet: _Sheet, stays: Stays, charting: Charting, rng: np.random.Generator) -> None:
    courses = stays.courses
    charted, readings = courses.charted, courses.readings
    by_ventilator = charting.ventilated & (rng.random(charting.arterial.shape) < _OTHER_ROW_SHARE)
    for name, item in _MONITOR.items():
        items = np.where(by_ventilator & (name == "resp_rate"), _VENTILATOR_RATE, item)
        sheet.add(feature(charted, name), items, feature(readings, name))
    second = rng.random(len(stays)) < _OTHER_STAY_SHARE
    for name in PRESSURES:
        here, value = feature(charted, name), feature(readings, name)
        line = np.where(second, _SECOND_LINE[name], _LINE[name])
        sheet.add(here, np.where(charting.arterial, line, _CUFF[name]), value)
        both = here & ~np.isnan(charting.cuff)
        sheet.add(both, _CUFF[name], value + charting.cuff)
    sheet.add(charting.fingerstick, _FINGERSTICK, feature(readings, "glucose"))
    warmth = feature(readings, "temp_c")
    sheet.add(
        feature(charted, "temp_c"),
        np.where(charting.celsius, _CELSIUS, _FAHRENHEIT),
        np.where(charting.fahrenheit, fahrenheit(warmth).round(1), warmth),
    )


def _consciousness(sheet: _Sheet, stays: Stays, charting: Charting) -> None:
    """A tube makes the verbal response untestable, which is charted as 1."""
    looked = feature(stays.courses.charted, "gcs_eye")
    for name, (item, first) in _GCS.items():
        points = feature(stays.courses.readings, name)
        if name == "gcs_verbal":
            points = np.where(charting.ventilated, 1, points)
        text = first - 1 + points.astype(np.int64)
        if name == "gcs_verbal":
            text = np.where(charting.ventilated, _UNTESTABLE, text)
        sheet.add(looked, item, points, text)


def _oxygen(sheet: _Sheet, stays: Stays, charting: Charting, rng: np.random.Generator) -> None:
    """Inspired oxygen, flow, device; extubation is charted in the hour before its first without."""
    shape = charting.device.shape
    oxygen, charted = (
        feature(array, "fio2") for array in (stays.courses.readings, stays.courses.charted)
    )
    percent = np.round(100 * oxygen)
    fraction = rng.random(shape) < _FRACTION_SHARE
    sheet.add(charted, _FIO2, np.where(fraction, percent / 100, percent))
    other = rng.random((3, shape[1])) < _OTHER_STAY_SHARE
    sheet.add(~np.isnan(charting.litres), np.where(other[0], _SECOND_FLOW, _FLOW), charting.litres)
    none = np.full(shape, np.nan)
    devices = _FIRST_DEVICE + charting.device
    sheet.add(charting.device >= 0, _DEVICE, none, devices)
    weaning = stays.courses.readings[..., FEATURE_INDEX["fio2"]] < 0.45
    mode = np.where(weaning, _FIRST_MODE, _FIRST_MODE + 1) + 2 * other[1]
    sheet.add(charting.device == TUBE, np.where(other[1], _HAMILTON, _MODE), none, mode)
    off = np.zeros(shape, bool)
    off[1:] = charting.ventilated[:-1] & ~charting.ventilated[1:]
    before = np.arange(shape[0])[:, None] * 60 - rng.integers(1, 9, shape)
    instead = np.where(charting.device == HIGH_FLOW, HIGH_FLOW, CANNULA)
    sheet.add(off, _DEVICE, none, _FIRST_DEVICE + instead, before)


def _with_slips(rows: ChartRows, rng: np.random.Generator) -> ChartRows:
    """Adds rows that say nothing: double entries, sentinels, unreadable numbers."""
    chance = rng.random(len(rows))
    numeric = ~np.isnan(rows.number)
    # not of pressures: where a cuff stands beside the line, it would shift their mean
    once = np.isin(rows.item, (*_LINE.values(), *_SECOND_LINE.values(), *_CUFF.values()))
    double = rows.take((chance < _DOUBLE_SHARE) & ~once)
    sentinel = rows.take(numeric & (chance > 1 - _SENTINEL_SHARE))
    edge = 1 - _SENTINEL_SHARE - _UNREADABLE_SHARE
    lost = rows.take(numeric & (chance > edge) & (chance <= 1 - _SENTINEL_SHARE))
    sentinel.number[:], sentinel.text[:] = SENTINEL, 0
    lost.number[:], lost.text[:] = np.nan, _UNREADABLE
    return ChartRows.joined([rows, double, sentinel, lost])


def output_events(stays: Stays, charting: Charting, rng: np.random.Generator) -> Columns:
    """icu/outputevents: urine, and a few catheters rinsed with as much as comes back."""
    shape = charting.urine_ml.shape
    sheet = _Sheet(stays, rng.integers(0, _LATEST_MINUTE, shape))
    charted = ~np.isnan(charting.urine_ml)
    passed = np.where(rng.random(shape) < _OTHER_STAY_SHARE, _STRAIGHT, _VOID)
    sheet.add(charted, np.where(charting.catheter, _FOLEY, passed), charting.urine_ml)
    rinsed = charted & charting.catheter & (rng.random(shape) < _IRRIGATED_SHARE)
    for item in (_IRRIGANT_IN, _IRRIGANT_OUT):
        sheet.add(rinsed, item, _IRRIGATION_ML)
    rows = _in_order(ChartRows.joined(sheet.parts), stays)
    times = stays.time(rows.stay, rows.minute)
    return {
        **stays.ids(rows.stay),
        "caregiver_id": stays.caregiver(rows.stay, rows.minute),
        "charttime": times,
        "storetime": times + np.timedelta64(10, "m"),
        "itemid": rows.item,
        "value": rows.number,
        "valueuom": "ml",
    }
