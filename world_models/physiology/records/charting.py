"""How the bedside values of a course get into a record: devices, cuffs, thermometers, rounding.

Everything here changes what a reader of the record sees, so tables and trajectories share it.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.cohort.items import ESTIMATED_FIO2
from sepsis_gym.features import FEATURE_INDEX
from world_models.physiology.bedside import TESTS
from world_models.physiology.binning import mean_of_known, whole_bins
from world_models.physiology.courses import FLAGS, Courses
from world_models.physiology.records.rows import Flags, Numbers

DEVICES = ("None", "Nasal cannula", "High flow nasal cannula", "Endotracheal tube")
NO_DEVICE, CANNULA, HIGH_FLOW, TUBE = range(4)
PRESSURES = ("sysbp", "diabp", "meanbp")
_LITRES = np.array(list(ESTIMATED_FIO2["Nasal cannula"])[1:])
_CANNULA_FIO2 = np.array(list(ESTIMATED_FIO2["Nasal cannula"].values())[1:])
"""Flows above none, L/min, and the inspired oxygen that they stand for."""
_ROOM_AIR, _MOST_BY_CANNULA = 0.225, 0.445
_DEVICE_EVERY_HOURS = 4
_FAHRENHEIT_SHARE, _MISTYPED_SHARE = 0.88, 0.01
_CUFF_TOO_SHARE, _CUFF_BIAS, _CUFF_SPREAD = 0.10, 2.0, 7.0
_LOWEST_CUFF = 10
_FLOW_CHARTED_SHARE, _FINGERSTICKS_PER_HOUR = 0.45, 0.09


def feature(values: NDArray[Any], name: str) -> NDArray[Any]:
    """[...] the feature's column of [..., 39] values."""
    return values[..., FEATURE_INDEX[name]]


class Bedside(NamedTuple):
    """What there is to chart in T hours of n patients.

    Attributes:
        readings: [T, n, 39] hourly readings, NaN where a value cannot be had; urine is four times
            the mL charted in the hour.
        charted: [T, n, 39] which of them are charted.
        ventilated: [T, n] invasive ventilation.
        dose: [T, n] vasopressor, ug/kg/min.
        tested: [n, 6] whether each of ``TESTS`` is ever done.
    """

    readings: NDArray[np.float32]
    charted: Flags
    ventilated: Flags
    dose: NDArray[np.float32]
    tested: NDArray[np.float32]

    @classmethod
    def of(cls, courses: Courses) -> Self:
        """Of whole courses."""
        ventilated = courses.flags[..., FLAGS.index("ventilated")] > 0
        tested = courses.instruments.tested
        return cls(courses.readings, courses.charted, ventilated, courses.dose, tested)


@dataclass(frozen=True)
class Charting:
    """Of n patients, T hours each.

    Attributes:
        ventilated: [T, n] invasive ventilation.
        device: [T, n] oxygen device charted, its place in ``DEVICES``; -1 where none is.
        litres: [T, n] oxygen flow charted with it, L/min; NaN where none is.
        arterial: [T, n] pressures come from an arterial line, else from a cuff.
        cuff: [T, n] what a cuff beside the line adds to the pressures, mmHg; NaN where there is
            none.
        celsius: [T, n] the thermometer's column is Celsius.
        fahrenheit: [T, n] the number typed is Fahrenheit, a few times into the other's column.
        fingerstick: [T, n] glucose is read at the bedside.
        catheter: [T, n] urine is read from a catheter, else when passed.
        urine_ml: [T, n] urine charted; NaN where none is.
    """

    ventilated: Flags
    device: NDArray[np.int8]
    litres: Numbers
    arterial: Flags
    cuff: Numbers
    celsius: Flags
    fahrenheit: Flags
    fingerstick: Flags
    catheter: Flags
    urine_ml: Numbers

    @classmethod
    def draw(cls, bedside: Bedside, rng: np.random.Generator) -> Self:
        """Draws are made for every hour, whatever happens in it."""
        shape = bedside.dose.shape
        chance, normal = rng.random((4, *shape), np.float32), rng.standard_normal(shape)
        phase = rng.integers(0, _DEVICE_EVERY_HOURS, shape[1:])
        warm = rng.random(shape[1])
        ventilated = bedside.ventilated
        device, litres = _oxygen(feature(bedside.readings, "fio2"), ventilated, phase)
        arterial = ventilated | (bedside.dose > 0)
        bias = np.maximum(
            np.rint(_CUFF_BIAS + _CUFF_SPREAD * normal),
            _LOWEST_CUFF - feature(bedside.readings, "diabp"),
        )
        celsius = np.broadcast_to(warm > _FAHRENHEIT_SHARE, shape)
        catheter = arterial | (bedside.tested[:, TESTS.index("urinary catheter")] > 0)
        emptied = feature(bedside.charted, "output_4hourly")
        glucose = feature(bedside.charted, "glucose")
        return cls(
            ventilated=ventilated,
            device=device,
            litres=np.where(chance[3] < _FLOW_CHARTED_SHARE, litres, np.nan),
            arterial=arterial,
            cuff=np.where(arterial & (chance[0] < _CUFF_TOO_SHARE), bias, np.nan),
            celsius=celsius,
            fahrenheit=~celsius | (chance[1] < _MISTYPED_SHARE),
            fingerstick=~glucose & (chance[2] < _FINGERSTICKS_PER_HOUR),
            catheter=catheter,
            urine_ml=np.where(
                emptied, np.rint(feature(bedside.readings, "output_4hourly") / 4), np.nan
            ),
        )

    def values(self, bedside: Bedside) -> NDArray[np.float32]:
        """[T, n, 39] the hours' values as charted, NaN where they are not.

        Pressures are means over line and cuff, a temperature in Fahrenheit has lost a digit, and
        urine is the mL charted in the hour.
        """
        values = np.where(bedside.charted, bedside.readings, np.float32(np.nan))
        for name in PRESSURES:
            column = feature(values, name)
            column += np.where(np.isnan(self.cuff), 0, self.cuff / 2).astype(np.float32)
        temperature = feature(values, "temp_c")
        typed = (np.round(fahrenheit(temperature), 1) - 32) / 1.8
        temperature[self.fahrenheit] = typed[self.fahrenheit]
        sugar = feature(bedside.readings, "glucose")
        feature(values, "glucose")[self.fingerstick] = sugar[self.fingerstick]
        feature(values, "output_4hourly")[:] = self.urine_ml
        return values

    def binned(self, bedside: Bedside, n_hours: int, step_hours: int) -> NDArray[np.float32]:
        """[B, n, 39] means of what is charted in each whole bin of the first hours.

        Inspired oxygen that nobody charted is a blood gas' note of it, or else what device and flow
        stand for; urine is the pace of what was charted, mL per 4 h.
        """

        def bins(hourly: NDArray[Any]) -> NDArray[Any]:
            return whole_bins(hourly[:n_hours], step_hours)

        values = self.values(bedside)
        raw = mean_of_known(bins(values))
        gas = ~np.isnan(feature(values, "ph"))
        noted = np.where(gas, feature(bedside.readings, "fio2"), np.nan)
        oxygen = feature(raw, "fio2")
        for fallback in (noted, self.estimated_fio2()):
            oxygen[:] = np.where(np.isnan(oxygen), mean_of_known(bins(fallback)), oxygen)
        urine = bins(feature(values, "output_4hourly"))
        pace = np.nansum(urine, axis=1) * 4 / step_hours
        feature(raw, "output_4hourly")[:] = np.where(np.isnan(urine).all(1), np.nan, pace)
        return raw

    def estimated_fio2(self) -> Numbers:
        """[T, n] inspired oxygen that device and flow stand for; NaN where none is charted."""
        flow = np.where(np.isnan(self.litres), _LITRES[0], self.litres)
        by_flow = np.where(
            np.isnan(self.litres), np.nan, _CANNULA_FIO2[np.searchsorted(_LITRES, flow)]
        )
        return np.where(self.device == NO_DEVICE, ESTIMATED_FIO2["None"][0], by_flow)


def _oxygen(
    oxygen: NDArray[np.floating], ventilated: Flags, phase: NDArray[np.integer]
) -> tuple[NDArray[np.int8], Numbers]:
    """[T, n] devices charted every few hours and at each change, and the flow of cannulas."""
    changed = np.ones_like(ventilated)
    changed[1:] = ventilated[1:] != ventilated[:-1]
    hour = np.arange(len(ventilated))[:, None]
    looked = changed | ((hour - phase) % _DEVICE_EVERY_HOURS == 0)
    breathing = np.where(oxygen <= _MOST_BY_CANNULA, CANNULA, HIGH_FLOW)
    breathing = np.where(oxygen <= _ROOM_AIR, NO_DEVICE, breathing)
    device = np.where(looked, np.where(ventilated, TUBE, breathing), -1)
    place = np.minimum(np.searchsorted(_CANNULA_FIO2, oxygen - 1e-3), len(_LITRES) - 1)
    return device.astype(np.int8), np.where(device == CANNULA, _LITRES[place], np.nan)


def fahrenheit(celsius: NDArray[np.floating]) -> Numbers:
    """Degrees Celsius to Fahrenheit."""
    return np.asarray(celsius, np.float64) * 1.8 + 32
