"""What simulated stays are given: icu/inputevents and icu/procedureevents, cut at every change."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.actions import NOREPINEPHRINE_EQUIVALENT_WEIGHTS
from sepsis_gym.cohort.items import FLUID_TONICITY, VENTILATION_PROCEDURE_ITEM
from world_models.physiology.courses import FLAGS
from world_models.physiology.records.rows import (
    Columns,
    Flags,
    Index,
    Numbers,
    Rows,
    looked_up,
    sometimes,
)
from world_models.physiology.records.stays import IDS_PER_BLOCK, Stays

LABELS = {
    221749: "Phenylephrine",
    221906: "Norepinephrine",
    222315: "Vasopressin",
    225158: "NaCl 0.9%",
    225802: "Dialysis - CRRT",
    225828: "LR",
    225943: "Solution",
    221289: "Epinephrine",
    221653: "Dobutamine",
    221662: "Dopamine",
    220862: "Albumin 25%",
    220864: "Albumin 5%",
    220970: "Fresh Frozen Plasma",
    220995: "Sodium Bicarbonate 8.4%",
    225159: "NaCl 0.45%",
    225168: "Packed Red Blood Cells",
    225170: "Platelets",
    225171: "Cryoprecipitate",
    225823: "D5 1/2NS",
    225825: "D5NS",
    225827: "D5LR",
    226089: "Piggyback",
    227533: "Sodium Bicarbonate 8.4% (Amp)",
    VENTILATION_PROCEDURE_ITEM: "Invasive Ventilation",
}
LINKS = dict.fromkeys(LABELS, "inputevents") | dict.fromkeys(
    (225802, VENTILATION_PROCEDURE_ITEM), "procedureevents"
)
_PHENYLEPHRINE, _NOREPINEPHRINE, _VASOPRESSIN = 221749, 221906, 222315
_SALINE, _RINGER, _CARRIER, _DIALYSIS_ITEM = 225158, 225828, 225943, 225802
_PROCEDURES = {"ventilated": VENTILATION_PROCEDURE_ITEM, "dialysed": _DIALYSIS_ITEM}
PHENYLEPHRINE_FIRST_SHARE, PHENYLEPHRINE_UP_TO = 0.15, 0.15
"""Patients who get it first, and the dose at which it gives way to norepinephrine."""
VASOPRESSIN_ABOVE, VASOPRESSIN_UNITS_H = 0.25, 2.4
"""Dose from which a fixed rate of it takes over its share."""
_EQUIVALENT = NOREPINEPHRINE_EQUIVALENT_WEIGHTS["goradia"]
_OTHER_BOLUSES = (220862, 220864, 220970, 220995, 225168, 225170, 225171, 227533)
_OTHER_CARRIERS = (225159, 225823, 225825, 225827, 226089)
_OTHER_FLUID_SHARE, _OTHER_DRUG_SHARE = 0.10, 0.06
"""Fluids and first drugs that are not the usual ones; volumes are by tonicity."""
_EPINEPHRINE, _DOPAMINE, _DOBUTAMINE = 221289, 221662, 221653
_DOBUTAMINE_ABOVE, _DOBUTAMINE_RATE, _DOPAMINE_UP_TO = 0.4, 5.0, 0.2
_CANCELLED_SHARE, _BAG_HOURS, _BAG_OVERLAP_MINUTES = 0.01, 2, 4


@dataclass(frozen=True)
class Runs(Rows):
    """Stretches of one unchanged positive value: [r] each, minutes; whether another follows."""

    stay: Index
    start: Index
    end: Index
    value: Numbers
    followed: Flags


def runs_of(hourly: NDArray[np.floating], stays: Stays) -> Runs:
    """Stretches of the positive values of [T, n] hours, cut at the end of each stay."""
    inside = np.arange(len(hourly))[:, None] < stays.courses.end_hour
    values = np.pad(np.where(inside, hourly, 0).T.astype(np.float64), ((0, 0), (1, 1)))
    now, before, after = values[:, 1:-1], values[:, :-2], values[:, 2:]
    stay, first = np.nonzero((now > 0) & (now != before))
    _, last = np.nonzero((now > 0) & (now != after))
    return Runs(
        stay=stay,
        start=first * 60,
        end=np.minimum((last + 1) * 60, stays.end_minute[stay]),
        value=now[stay, first],
        followed=after[stay, last] > 0,
    )


@dataclass(frozen=True)
class Orders(Rows):
    """Rows of inputevents: [r] each; the rate is NaN for a bolus."""

    stay: Index
    start: Index
    end: Index
    item: Index
    amount: Numbers
    rate: Numbers
    unit: Index
    status: Index


_UNITS = ("mcg/kg/min", "units/hour", "mL/hour", None)
_AMOUNT_UNITS = ("mg", "units", "ml", "ml")
_CATEGORIES = ("01-Drips", "01-Drips", "02-Fluids (Crystalloids)", "03-IV Fluid Bolus")
_DESCRIPTIONS = ("Continuous Med", "Continuous Med", "Continuous IV", "Bolus")
_BY_WEIGHT, _PER_HOUR, _ML_PER_HOUR, _BOLUS = range(4)
_STATUS = ("FinishedRunning", "Stopped", "ChangeDose/Rate", "Rewritten")
_FINISHED, _STOPPED, _CHANGED, _REWRITTEN = range(4)


def input_events(stays: Stays, block: int, rng: np.random.Generator) -> Columns:
    """icu/inputevents: drips cut at each change, boluses without a rate, cancelled orders."""
    fluids = Orders.joined(
        [
            _renamed(_carriers(stays), _OTHER_CARRIERS, rng),
            _renamed(_boluses(stays, rng), _OTHER_BOLUSES, rng),
        ]
    )
    parts = [*_vasopressors(stays, rng), fluids]
    rows = Orders.joined(parts)
    cancelled = rows.take(rng.random(len(rows)) < _CANCELLED_SHARE)
    # ordered at another dose and never run: whoever counts them counts wrong
    cancelled = replace(
        cancelled,
        amount=2 * cancelled.amount,
        rate=2 * cancelled.rate,
        status=np.full(len(cancelled), _REWRITTEN),
    )
    rows = Orders.joined([rows, cancelled])
    rows = rows.take(np.lexsort((rows.status, rows.item, rows.start, rows.stay)))
    starts = stays.time(rows.stay, rows.start)
    order = block * IDS_PER_BLOCK + 1 + np.arange(len(rows.stay))
    amount, rate = np.round(rows.amount, 4), np.round(rows.rate, 5)
    return {
        **stays.ids(rows.stay),
        "caregiver_id": stays.caregiver(rows.stay, rows.start),
        "starttime": starts,
        "endtime": stays.time(rows.stay, rows.end),
        "storetime": starts + np.timedelta64(3, "m"),
        "itemid": rows.item,
        "amount": amount,
        "amountuom": looked_up(rows.unit, _AMOUNT_UNITS),
        "rate": rate,
        "rateuom": looked_up(rows.unit, _UNITS),
        "orderid": order,
        "linkorderid": order,
        "ordercategoryname": looked_up(rows.unit, _CATEGORIES),
        "ordercomponenttypedescription": "Main order parameter",
        "ordercategorydescription": looked_up(rows.unit, _DESCRIPTIONS),
        "patientweight": np.round(stays.courses.people.weight_kg[rows.stay].astype(float), 1),
        "totalamount": amount,
        "totalamountuom": looked_up(rows.unit, _AMOUNT_UNITS),
        "isopenbag": 0,
        "continueinnextdept": 0,
        "statusdescription": looked_up(rows.status, _STATUS),
        "originalamount": amount,
        "originalrate": rate,
    }


def _drip(runs: Runs, item: int, unit: int, per_hour: float | Numbers) -> Orders:
    """Rows of a drip; the amount is the rate times ``per_hour`` ([r]) times the hours."""
    return Orders(
        stay=runs.stay,
        start=runs.start,
        end=runs.end,
        item=np.full(len(runs.stay), item),
        amount=runs.value * per_hour * (runs.end - runs.start) / 60,
        rate=runs.value,
        unit=np.full(len(runs.stay), unit),
        status=np.where(runs.followed, _CHANGED, _STOPPED),
    )


def _vasopressors(stays: Stays, rng: np.random.Generator) -> list[Orders]:
    """Drugs whose norepinephrine equivalents add up to the dose."""
    dose = stays.courses.dose.astype(np.float64)
    second = dose > VASOPRESSIN_ABOVE
    units = VASOPRESSIN_UNITS_H * second
    first_drug = dose - _EQUIVALENT["vasopressin"] * units
    chosen = rng.random(dose.shape[1]) < PHENYLEPHRINE_FIRST_SHARE
    highest = np.maximum.accumulate(dose, 0)
    weak = chosen & (highest <= PHENYLEPHRINE_UP_TO)
    kg = stays.courses.people.weight_kg.astype(np.float64)
    other = rng.random(dose.shape[1])
    by_epinephrine = ~weak & (other < _OTHER_DRUG_SHARE / 2)
    by_dopamine = (
        ~weak & ~by_epinephrine & (other < _OTHER_DRUG_SHARE) & (highest <= _DOPAMINE_UP_TO)
    )
    usual = ~(weak | by_epinephrine | by_dopamine)
    inotrope = np.where((dose > _DOBUTAMINE_ABOVE) & (other > 0.7), _DOBUTAMINE_RATE, 0)
    drips = []
    for item, rate in (
        (_PHENYLEPHRINE, np.where(weak, first_drug, 0) / _EQUIVALENT["phenylephrine"]),
        (_EPINEPHRINE, np.where(by_epinephrine, first_drug, 0)),
        (_DOPAMINE, np.where(by_dopamine, first_drug, 0) / _EQUIVALENT["dopamine"]),
        (_NOREPINEPHRINE, np.where(usual, first_drug, 0)),
        (_DOBUTAMINE, inotrope),  # no vasopressor: counts for SOFA only
    ):
        runs = _changing_bags(runs_of(rate, stays))
        drips.append(_drip(runs, item, _BY_WEIGHT, kg[runs.stay] * 60 / 1000))
    return [*drips, _drip(runs_of(units, stays), _VASOPRESSIN, _PER_HOUR, 1.0)]


def _changing_bags(runs: Runs) -> Runs:
    """Splits long stretches in two that overlap a little, at one rate."""
    long = runs.end - runs.start >= _BAG_HOURS * 60
    middle = (runs.start + runs.end) // 2
    overlapping = np.where(long, middle + _BAG_OVERLAP_MINUTES, runs.end)
    old = replace(runs, end=overlapping, followed=runs.followed | long)
    return Runs.joined([old, replace(runs, start=middle).take(long)])


def _renamed(rows: Orders, others: tuple[int, ...], rng: np.random.Generator) -> Orders:
    """Fluids of which some are others, of the volume that stands for as much isotonic fluid."""
    item = sometimes(rows.item, others, _OTHER_FLUID_SHARE, rng)
    factor = np.array([FLUID_TONICITY[one] for one in item.tolist()])
    return replace(rows, item=item, amount=rows.amount / factor, rate=rows.rate / factor)


def _carriers(stays: Stays) -> Orders:
    runs = runs_of(1000 * stays.courses.carrier_l_h.astype(np.float64), stays)
    return _drip(runs, _CARRIER, _ML_PER_HOUR, 1.0)


def _boluses(stays: Stays, rng: np.random.Generator) -> Orders:
    """One row each, within its hour: most with a minute for a duration, some with half an hour."""
    inside = np.arange(len(stays.courses.bolus_l))[:, None] < stays.courses.end_hour
    hour, stay = np.nonzero((stays.courses.bolus_l > 0) & inside)
    n = len(stay)
    start = hour * 60 + rng.integers(0, 12, n)
    end = start + np.where(rng.random(n) < 0.6, 1, 30)
    return Orders(
        stay=stay,
        start=start,
        end=end,
        item=np.where(rng.random(n) < 0.5, _SALINE, _RINGER),
        amount=1000 * stays.courses.bolus_l[hour, stay].astype(np.float64),
        rate=np.full(n, np.nan),
        unit=np.full(n, _BOLUS),
        status=np.full(n, _FINISHED),
    )


def procedure_events(stays: Stays, block: int, rng: np.random.Generator) -> Columns:
    """icu/procedureevents: invasive ventilation and renal replacement.

    A tube is placed within its first hour and drawn within its last.
    """
    runs = {
        item: runs_of(stays.courses.flags[..., FLAGS.index(flag)], stays)
        for flag, item in _PROCEDURES.items()
    }
    items = np.repeat(list(runs), [len(part) for part in runs.values()])
    rows = Runs.joined(list(runs.values()))
    first, last = rng.integers(0, 9, len(rows)), rng.integers(1, 6, len(rows))
    starts = rows.start + first * (rows.start > 0)
    ends = np.maximum(rows.end - last, starts + 1)
    order = np.lexsort((items, starts, rows.stay))
    stay, start, end, item = rows.stay[order], starts[order], ends[order], items[order]
    number = block * IDS_PER_BLOCK + 1 + np.arange(len(stay))
    return {
        **stays.ids(stay),
        "caregiver_id": stays.caregiver(stay, start),
        "starttime": stays.time(stay, start),
        "endtime": stays.time(stay, end),
        "storetime": stays.time(stay, end),
        "itemid": item,
        "value": end - start,
        "valueuom": "min",
        "orderid": number,
        "linkorderid": number,
        "ordercategoryname": np.where(item == _DIALYSIS_ITEM, "Dialysis", "Ventilation"),
        "ordercategorydescription": "Task",
        "patientweight": np.round(stays.courses.people.weight_kg[stay].astype(float), 1),
        "isopenbag": 0,
        "continueinnextdept": 0,
        "statusdescription": "FinishedRunning",
    }
