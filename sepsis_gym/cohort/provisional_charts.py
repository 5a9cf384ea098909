"""PROVISIONAL: what is measured on the made-up patients: charts, laboratory, urine."""

from dataclasses import fields

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.cohort.items import GAS_FIO2_ITEM, SPECIMEN_ITEM
from sepsis_gym.cohort.provisional_patients import (
    HOURS_IN_ICU,
    Floats,
    State,
    Traits,
    pao2_fio2,
    relu,
    urine_ml_h,
)
from sepsis_gym.cohort.provisional_stays import Columns, Stays

Index = NDArray[np.int64]
_SENTINEL = 999999.0


class _Moments:
    """Chosen hours of all stays: stay index, hour, and what the patients were like then."""

    def __init__(self, stays: Stays, chosen: NDArray[np.bool_]) -> None:
        course = stays.course
        inside = np.arange(HOURS_IN_ICU)[:, None] < course.end_hour
        stay, hour = np.nonzero((chosen & inside).T)
        self.stay, self.hour = stay, hour
        hourly = course.hourly
        self.state = State(**{f.name: getattr(hourly, f.name)[hour, stay] for f in fields(State)})
        self.traits = Traits(
            **{f.name: getattr(course.traits, f.name)[stay] for f in fields(Traits)}
        )

    def __len__(self) -> int:
        return len(self.stay)


class _Person:
    """A lasting deviation of each patient per quantity, so that values repeat themselves."""

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        self._n, self._rng = n, rng

    def around(self, m: _Moments, mean: float, between: float, within: float) -> Floats:
        """Values about ``mean`` with these spreads between and within patients."""
        own = between * self._rng.standard_normal(self._n)
        return mean + own[m.stay] + within * self._rng.standard_normal(len(m))


def _fio2(m: _Moments) -> Floats:
    need = np.clip(95 / pao2_fio2(m.state), 0.21, 1)
    return np.where(m.state.ventilated > 0, np.clip(need * 1.1, 0.4, 1), need)


def chart_events(stays: Stays, rng: np.random.Generator) -> Columns:
    """icu/chartevents: vitals every hour, the rest every few."""
    person = _Person(len(stays), rng)
    shape = (HOURS_IN_ICU, len(stays))
    rows: list[tuple[_Moments, int, Floats, NDArray[np.str_] | None]] = []
    _vitals(rows, _Moments(stays, rng.random(shape) < 0.95), person, rng)
    quarter = np.arange(HOURS_IN_ICU)[:, None] % 4 == rng.integers(0, 4, len(stays))
    some = _Moments(stays, quarter)
    celsius = person.around(some, 36.9, 0.25, 0.35) + 0.35 * (some.state.inflammation - 0.8)
    fahrenheit = rng.random(len(some)) < 0.85
    rows.append((_keep(some, fahrenheit), 223761, (celsius * 1.8 + 32)[fahrenheit], None))
    wrong = np.where(rng.random((~fahrenheit).sum()) < 0.01, 1.8, 1.0)  # Fahrenheit in Celsius
    centigrade = celsius[~fahrenheit] * wrong + 32 * (wrong > 1)
    rows.append((_keep(some, ~fahrenheit), 223762, centigrade, None))
    _consciousness(rows, some, person)
    tube = some.state.ventilated > 0
    device = np.where(tube, "Endotracheal tube", "Nasal cannula")
    rows.append((some, 226732, np.full(len(some), np.nan), device))
    on = _keep(some, tube)
    rows.append((on, 223849, np.full(len(on), np.nan), np.full(len(on), "CMV/ASSIST")))
    rows.append((on, 223835, np.round(_fio2(on) * 20) * 5, None))
    first = _Moments(stays, np.arange(HOURS_IN_ICU)[:, None] == np.zeros(len(stays)))
    rows.append((first, 226512, np.round(first.traits.weight_kg, 1), None))
    return _chart_columns(stays, rows, rng)


def _vitals(
    rows: list[tuple[_Moments, int, Floats, NDArray[np.str_] | None]],
    m: _Moments,
    person: _Person,
    rng: np.random.Generator,
) -> None:
    s, n = m.state, len(m)
    mean = s.map_mmhg + 3 * rng.standard_normal(n)
    pulse = np.clip(person.around(m, 55, 10, 7), 20, 110)
    arterial = (s.norepinephrine > 0) | (s.ventilated > 0)
    rate = person.around(m, 78, 10, 5) + 9 * s.inflammation + 0.35 * relu(72 - s.map_mmhg)
    breathing = (
        person.around(m, 17.5, 2.5, 3) + 1.8 * s.inflammation + 0.012 * relu(320 - pao2_fio2(s))
    )
    saturation = 98.5 - 5 * relu(s.lung_water - 1.2) ** 0.5 + person.around(m, 0, 0.7, 1.1)
    for item, values in (
        (220045, rate + 8 * s.norepinephrine),
        (220210, breathing),
        (220277, np.minimum(saturation, 100)),
    ):
        rows.append((m, item, np.round(values), None))
    for at, items in ((arterial, (220050, 220051, 220052)), (~arterial, (220179, 220180, 220181))):
        part = _keep(m, at)
        diastolic = mean[at] - 0.3 * pulse[at]
        for item, values in zip(items, (diastolic + pulse[at], diastolic, mean[at]), strict=True):
            rows.append((part, item, np.round(values), None))


def _consciousness(
    rows: list[tuple[_Moments, int, Floats, NDArray[np.str_] | None]],
    m: _Moments,
    person: _Person,
) -> None:
    sedated = m.state.ventilated > 0
    clouded = m.state.encephalopathy + 0.8 * sedated + person.around(m, 0, 0.3, 0.25)
    rows.append((m, 220739, np.clip(np.round(4.4 - 1.9 * clouded), 1, 4), None))
    rows.append((m, 223901, np.clip(np.round(6.6 - 2.0 * clouded), 1, 6), None))
    verbal = np.where(sedated, 1, np.clip(np.round(5.4 - 2.4 * clouded), 1, 5))
    rows.append((m, 223900, verbal, np.where(sedated, "No Response-ETT", "")))


def _keep(m: _Moments, chosen: NDArray[np.bool_]) -> _Moments:
    """The moments at which ``chosen`` holds."""
    part = object.__new__(_Moments)
    part.stay, part.hour = m.stay[chosen], m.hour[chosen]
    part.state = State(**{f.name: getattr(m.state, f.name)[chosen] for f in fields(State)})
    part.traits = Traits(**{f.name: getattr(m.traits, f.name)[chosen] for f in fields(Traits)})
    return part


def _chart_columns(
    stays: Stays,
    rows: list[tuple[_Moments, int, Floats, NDArray[np.str_] | None]],
    rng: np.random.Generator,
) -> Columns:
    stay = np.concatenate([m.stay for m, *_ in rows])
    minute = np.concatenate([m.hour for m, *_ in rows]) * 60 + rng.integers(1, 59, len(stay))
    values = np.concatenate([v for _, _, v, _ in rows])
    values = np.where(rng.random(len(stay)) < 2e-4, _SENTINEL, values)
    texts = [np.full(len(m), "") if t is None else t for m, _, _, t in rows]
    item = np.concatenate([np.full(len(m), i) for m, i, *_ in rows])
    order = np.lexsort((item, minute, stay))
    hours = minute[order] / 60
    ends = stays.course.end_hour[stay[order]]
    times = stays.time(stay[order], np.minimum(hours, ends - 1 / 60))
    text = np.concatenate(texts)[order]
    number = np.round(values, 2)[order]
    return {
        **stays.ids(stay[order]),
        "charttime": times,
        "storetime": times + np.timedelta64(5, "m"),
        "itemid": item[order],
        "value": np.where(text == "", number.astype(str), text),
        "valuenum": number,
        "warning": np.zeros(len(order), np.int64),
    }


def lab_events(stays: Stays, rng: np.random.Generator) -> Columns:
    """hosp/labevents: panels of one tube each, seen 20 to 60 minutes after they were drawn."""
    person = _Person(len(stays), rng)
    chance = rng.random((5, HOURS_IN_ICU, len(stays)))
    hourly = stays.course.hourly
    first = np.arange(HOURS_IN_ICU)[:, None] < 1
    sick = (hourly.norepinephrine > 0) | (hourly.ventilated > 0)
    with_gas = rng.random(len(stays)) < 0.85
    with_liver = rng.random(len(stays)) < 0.65
    panels = (
        (_Moments(stays, (chance[0] < 0.12) | first), _chemistry),
        (_Moments(stays, (chance[1] < 0.10) | first), _blood_count),
        (_Moments(stays, (chance[2] < 0.08) | first), _coagulation),
        (_Moments(stays, ((chance[3] < 0.06) | first) & with_liver), _liver),
        (_Moments(stays, (chance[4] < np.where(sick, 0.22, 0.05)) & with_gas), _gas),
    )
    parts: list[tuple[Index, Index, Index, Index, Floats]] = []
    first_tube = 1
    for m, panel in panels:
        tubes = first_tube + np.arange(len(m))
        first_tube += len(m)
        for itemid, results in panel(m, person).items():
            parts.append((m.stay, m.hour, np.full(len(m), itemid), tubes, results))
    stay, hour, item, tube, values = (np.concatenate(p) for p in zip(*parts, strict=True))
    minute = hour * 60 + (tube * 7919) % 59  # all results of a tube were drawn together
    again = np.flatnonzero(rng.random(len(stay)) < 2e-3)  # double entries
    rows = np.concatenate([np.arange(len(stay)), again])
    rows = rows[np.lexsort((item[rows], tube[rows], minute[rows], stay[rows]))]
    values = np.where(rng.random(len(values)) < 2e-4, _SENTINEL, values)
    drawn = stays.time(stay[rows], minute[rows] / 60)
    lag = (20 + (tube[rows] * 104729) % 41).astype("timedelta64[m]")
    typed = item[rows] == SPECIMEN_ITEM
    number = np.where(typed, np.nan, np.round(values[rows], 2))
    return {
        "labevent_id": np.arange(1, len(rows) + 1),
        "subject_id": stays.subject_id[stay[rows]],
        "hadm_id": stays.hadm_id[stay[rows]],
        "specimen_id": tube[rows],
        "itemid": item[rows],
        "charttime": drawn,
        "storetime": drawn + lag,
        "value": np.where(typed, np.where(values[rows] > 0, "ART.", "VEN."), number.astype(str)),
        "valuenum": number,
    }


def _chemistry(m: _Moments, person: _Person) -> dict[int, Floats]:
    s = m.state
    sodium = person.around(m, 138.7, 4.5, 1.6)
    bicarbonate = (
        person.around(m, 24.5, 3, 1.5) - 0.9 * (s.lactate - 1.4) - 3 * relu(0.5 - s.kidney)
    )
    return {
        50912: np.exp(person.around(m, 0.0, 0.2, 0.05)) * 0.85 / np.maximum(s.kidney, 0.1) ** 0.95,
        51006: np.exp(person.around(m, 0.0, 0.35, 0.08)) * 17 / np.maximum(s.kidney, 0.12) ** 0.85,
        50983: sodium,
        50902: person.around(m, 104, 3, 1.5) + 0.8 * (sodium - 138.7) - 0.4 * (bicarbonate - 23.4),
        50971: person.around(m, 4.1, 0.4, 0.35) + 0.5 * relu(0.5 - s.kidney),
        50882: np.clip(bicarbonate, 5, 45),
        50931: np.exp(person.around(m, 4.85, 0.25, 0.2)) + 15 * s.inflammation,
        50960: person.around(m, 2.1, 0.25, 0.2),
        50893: person.around(m, 8.3, 0.55, 0.35),
    }


def _blood_count(m: _Moments, person: _Person) -> dict[int, Floats]:
    hemoglobin = np.clip(person.around(m, 10.3, 1.7, 0.6) - 0.3 * m.state.plasma_l, 4, 18)
    return {
        51222: hemoglobin,
        51221: 2.93 * hemoglobin + person.around(m, 0, 0, 0.8),
        51265: np.exp(person.around(m, 5.35, 0.5, 0.1) - 0.6 * m.state.coagulation),
        51301: np.exp(person.around(m, 2.25, 0.4, 0.15) + 0.1 * m.state.inflammation),
    }


def _coagulation(m: _Moments, person: _Person) -> dict[int, Floats]:
    ratio = np.exp(person.around(m, 0.2, 0.2, 0.06) + 0.2 * m.state.coagulation)
    return {
        51237: ratio,
        51274: 10.7 * ratio,
        51275: np.clip(30 * ratio**0.6 * np.exp(person.around(m, 0, 0.25, 0.15)), 15, 150),
    }


def _liver(m: _Moments, person: _Person) -> dict[int, Floats]:
    injury = person.around(m, 3.4, 0.9, 0.15) + 0.9 * m.state.hypoperfusion
    return {
        50885: np.exp(person.around(m, -0.5, 0.8, 0.1) + 1.2 * m.state.liver),
        50861: np.exp(injury),
        50878: np.exp(injury + 0.25 + person.around(m, 0, 0.2, 0.1)),
        50862: np.clip(person.around(m, 2.95, 0.45, 0.1) - 0.15 * m.state.inflammation, 1.2, 5),
    }


def _gas(m: _Moments, person: _Person) -> dict[int, Floats]:
    s = m.state
    oxygen = pao2_fio2(s) * _fio2(m) * np.exp(person.around(m, 0, 0.05, 0.12))
    excess = person.around(m, 1.5, 2.2, 1.2) - 1.3 * (s.lactate - 1.2) - 4 * relu(0.5 - s.kidney)
    tension = person.around(m, 40, 6, 3.5) + 0.4 * excess
    bicarbonate = np.clip(24.3 + 0.93 * excess + 0.14 * (tension - 40), 4, 48)
    return {
        SPECIMEN_ITEM: np.where((m.hour * 31 + m.stay) % 10 > 0, 1.0, 0.0),  # 1 in 10 is venous
        GAS_FIO2_ITEM: np.round(_fio2(m) * 100),
        50821: np.clip(oxygen, 25, 500),
        50818: np.clip(tension, 15, 110),
        50820: np.clip(
            6.1 + np.log10(bicarbonate / (0.0307 * np.clip(tension, 15, 110))), 6.8, 7.7
        ),
        50802: excess,
        50804: bicarbonate + 0.031 * tension,
        50813: np.clip(s.lactate * np.exp(person.around(m, 0, 0.05, 0.08)), 0.3, 25),
        50808: person.around(m, 1.12, 0.06, 0.04),
    }


def output_events(stays: Stays, rng: np.random.Generator) -> Columns:
    """icu/outputevents: a Foley catheter read most hours, some irrigated."""
    shape = (HOURS_IN_ICU, len(stays))
    m = _Moments(stays, rng.random(shape) < 0.85)
    volume = urine_ml_h(m.traits, m.state) * np.exp(0.35 * rng.standard_normal(len(m)))
    rinsed = np.flatnonzero(rng.random(len(m)) < 0.002)
    stay = np.concatenate([m.stay, m.stay[rinsed]])
    times = stays.time(stay, np.concatenate([m.hour, m.hour[rinsed]]) + 0.9)
    return {
        **stays.ids(stay),
        "charttime": times,
        "storetime": times + np.timedelta64(10, "m"),
        "itemid": np.concatenate([np.full(len(m), 226559), np.full(len(rinsed), 227488)]),
        "value": np.round(np.concatenate([volume, np.full(len(rinsed), 30.0)])),
        "valueuom": np.full(len(stay), "ml"),
    }
