"""PROVISIONAL: what the made-up patients are given: infusions, ventilation, antibiotics."""

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.cohort.provisional_patients import HOURS_IN_ICU
from sepsis_gym.cohort.provisional_stays import Columns, Stays

Index = NDArray[np.int64]
_SALINE, _RINGER, _CARRIER, _NOREPINEPHRINE = 225158, 225828, 225943, 221906
_PHENYLEPHRINE, _VASOPRESSIN, _VENTILATION = 221749, 222315, 225792
_DRUGS = ("Vancomycin", "Piperacillin-Tazobactam", "CefePIME", "Meropenem", "CeftriaXONE")
_VASOPRESSIN_ABOVE = 0.3  # ug/kg/min
_VASOPRESSIN_UNITS_H = 2.4  # 0.1 ug/kg/min norepinephrine equivalent
_VASOPRESSIN_EQUIVALENT = 0.1


def _runs(
    hourly: NDArray[np.float64], stays: Stays
) -> tuple[Index, Index, Index, NDArray[np.float64]]:
    """Stretches of unchanged, positive hourly values: stay, first hour, end hour, value."""
    inside = np.arange(HOURS_IN_ICU)[:, None] < stays.course.end_hour
    values = np.where(inside, hourly, 0.0).T
    before = np.pad(values, ((0, 0), (1, 0)))[:, :-1]
    stay, first = np.nonzero((values > 0) & (values != before))
    changes = np.concatenate([values[:, 1:] != values[:, :-1], np.ones((len(stays), 1), bool)], 1)
    _, last = np.nonzero(changes & (values > 0))
    return stay, first, last + 1, values[stay, first]


def input_events(stays: Stays, rng: np.random.Generator) -> Columns:
    """icu/inputevents: drips cut at each change, boluses without a rate, some cancelled rows."""
    hourly, kg = stays.course.hourly, stays.course.traits.weight_kg
    dose = hourly.norepinephrine
    both = dose > _VASOPRESSIN_ABOVE
    uses_phenylephrine = rng.random(len(stays)) < 0.1
    parts: list[dict[str, NDArray[np.generic]]] = []

    def drip(rate: NDArray[np.float64], item: int, unit: str, factor: float) -> None:
        stay, first, end, value = _runs(rate, stays)
        shown = value * factor
        weighted = np.where("kg" in unit, kg[stay] * 60 / 1000, 1.0)  # ug/kg/min to mg/h
        amount = shown * (end - first) * weighted
        what = "ml" if "mL" in unit else "units" if "units" in unit else "mg"
        parts.append(_rows(stay, first, end, item, amount, what, shown, unit))

    kept = np.where(both, dose - _VASOPRESSIN_EQUIVALENT, dose)
    drip(np.where(uses_phenylephrine, 0, kept), _NOREPINEPHRINE, "mcg/kg/min", 1.0)
    drip(np.where(uses_phenylephrine, kept, 0), _PHENYLEPHRINE, "mcg/kg/min", 10.0)
    drip(np.where(both, _VASOPRESSIN_UNITS_H, 0), _VASOPRESSIN, "units/hour", 1.0)
    drip(hourly.carrier_ml, _CARRIER, "mL/hour", 1.0)
    stay, first, _, _ = _runs(hourly.bolus_ml + 1e-6 * np.arange(HOURS_IN_ICU)[:, None], stays)
    given = hourly.bolus_ml[first, stay]
    stay, first, given = stay[given > 0], first[given > 0], given[given > 0]
    item = np.where(rng.random(len(stay)) < 0.5, _SALINE, _RINGER)
    half_hour = first + 0.5
    nothing = np.full(len(stay), np.nan)
    parts.append(_rows(stay, first, half_hour, item, given, "ml", nothing, ""))
    columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    cancelled = np.flatnonzero(rng.random(len(columns["stay"])) < 0.01)
    columns = {key: np.concatenate([c, c[cancelled]]) for key, c in columns.items()}
    n_kept = len(columns["stay"]) - len(cancelled)
    status = np.where(np.arange(len(columns["stay"])) < n_kept, "FinishedRunning", "Rewritten")
    return _input_columns(stays, columns, status)


def _rows(
    stay: Index,
    first: NDArray[np.number],
    end: NDArray[np.number],
    item: int | Index,
    amount: NDArray[np.floating],
    amount_unit: str,
    rate: NDArray[np.floating],
    rate_unit: str,
) -> dict[str, NDArray[np.generic]]:
    return {
        "stay": stay,
        "first": first.astype(np.float64),
        "end": end.astype(np.float64),
        "itemid": np.broadcast_to(item, stay.shape),
        "amount": np.round(amount, 4),
        "amountuom": np.full(len(stay), amount_unit),
        "rate": np.round(rate, 4),
        "rateuom": np.full(len(stay), rate_unit),
    }


def _input_columns(
    stays: Stays, rows: dict[str, NDArray[np.generic]], status: NDArray[np.str_]
) -> Columns:
    stay = rows["stay"].astype(np.int64)
    order = np.lexsort((rows["itemid"], rows["first"], stay))
    starts = stays.time(stay[order], rows["first"][order].astype(np.float64))
    kept = ("itemid", "amount", "amountuom", "rate", "rateuom")
    return {
        **stays.ids(stay[order]),
        "starttime": starts,
        "endtime": stays.time(stay[order], rows["end"][order].astype(np.float64)),
        "storetime": starts,
        **{key: rows[key][order] for key in kept},
        "orderid": np.arange(1, len(order) + 1),
        "patientweight": np.round(stays.course.traits.weight_kg[stay[order]], 1),
        "statusdescription": status[order],
    }


def procedure_events(stays: Stays) -> Columns:
    """icu/procedureevents: stretches of invasive ventilation."""
    stay, first, end, _ = _runs(stays.course.hourly.ventilated, stays)
    starts = stays.time(stay, first.astype(np.float64))
    return {
        **stays.ids(stay),
        "starttime": starts,
        "endtime": stays.time(stay, end.astype(np.float64)),
        "storetime": starts,
        "itemid": np.full(len(stay), _VENTILATION),
        "value": (end - first) * 60,
        "valueuom": np.full(len(stay), "min"),
        "statusdescription": np.full(len(stay), "FinishedRunning"),
    }


def prescriptions(stays: Stays, rng: np.random.Generator) -> Columns:
    """hosp/prescriptions: antibiotics of the septic and of a few others; fluids as carriers."""
    treated = (stays.course.traits.septic > 0) | (rng.random(len(stays)) < 0.2)
    stay = np.repeat(np.flatnonzero(treated), 2)
    hours = stays.course.traits.antibiotic_hour[stay]
    n = len(stay)
    route = np.where(rng.random(n) < 0.03, "", "IV")
    return {
        "subject_id": stays.subject_id[stay],
        "hadm_id": stays.hadm_id[stay],
        "pharmacy_id": np.arange(1, n + 1),
        "starttime": stays.time(stay, np.ceil(hours)),
        "stoptime": stays.time(stay, np.ceil(hours) + 120),
        "drug_type": np.full(n, "MAIN"),
        "drug": np.array(_DRUGS)[rng.integers(0, len(_DRUGS), n)],
        "route": route,
    }


def cultures(stays: Stays, rng: np.random.Generator) -> Columns:
    """hosp/microbiologyevents: blood cultures before the antibiotic, a third with a date only."""
    taken = (stays.course.traits.septic > 0) & (rng.random(len(stays)) < 0.9)
    stay = np.flatnonzero(taken)
    times = stays.time(stay, stays.course.traits.antibiotic_hour[stay] - 1)
    dated = rng.random(len(stay)) < 0.33
    return {
        "microevent_id": np.arange(1, len(stay) + 1),
        "subject_id": stays.subject_id[stay],
        "hadm_id": stays.hadm_id[stay],
        "micro_specimen_id": np.arange(1, len(stay) + 1),
        "chartdate": times.astype("M8[D]").astype("M8[s]"),
        "charttime": np.where(dated, np.datetime64("NaT"), times).astype("M8[s]"),
        "spec_itemid": np.full(len(stay), 70012),
        "spec_type_desc": np.full(len(stay), "BLOOD CULTURE"),
    }
