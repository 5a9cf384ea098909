"""hosp/prescriptions and hosp/microbiologyevents of simulated stays."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from world_models.physiology.courses import FLAGS
from world_models.physiology.records.orders import runs_of
from world_models.physiology.records.rows import Columns, Flags, Index, Numbers
from world_models.physiology.records.stays import IDS_PER_BLOCK, Stays

RESISTANT_BELOW = 0.0125
"""Rate of bacterial killing, 1/h, of those whose first antibiotic does not work."""
_UNCULTURED_SHARE, _AFTER_SHARE, _DATE_ONLY_SHARE = 0.065, 0.2, 0.3
_POSITIVE_SHARE, _URINE_SHARE, _NO_ROUTE_SHARE = 0.3, 0.6, 0.03
_DRUGS = np.array(
    [
        ("Piperacillin-Tazobactam", "4.5", "g", "IV"),
        ("CefePIME", "2", "g", "IV"),
        ("Meropenem", "1000", "mg", "IV"),
        ("CeftriaXONE", "1", "g", "IV"),
        ("Vancomycin", "1000", "mg", "IV"),
        ("Hydrocortisone Na Succ.", "50", "mg", "IV"),
        ("Furosemide", "40", "mg", "IV"),
        ("Mupirocin Ointment 2%", "1", "Appl", "TP"),
    ]
)
"""Name, dose, unit, route."""
_MEROPENEM, _CEFTRIAXONE, _VANCOMYCIN, _STEROID, _DIURETIC, _OINTMENT = range(2, 8)
_N_BROAD = 3  # the first of them
_ORGANISMS = np.array(["ESCHERICHIA COLI", "STAPH AUREUS COAG +", "KLEBSIELLA PNEUMONIAE"])
_ORGANISM_ITEMS = np.array([80002, 80023, 80004])
_SPECIMENS = np.array(["BLOOD CULTURE", "URINE"])
_SPECIMEN_ITEMS, _TEST_ITEMS = np.array([70012, 70079]), np.array([90201, 90039])
_TESTS = np.array(["Blood Culture, Routine", "URINE CULTURE"])


class Suspicion(NamedTuple):
    """When infection is treated: [n] first antibiotic and effective one, h; no culture at all."""

    first_hour: Numbers
    effective_hour: Numbers
    uncultured: Flags

    @classmethod
    def draw(cls, stays: Stays, rng: np.random.Generator) -> "Suspicion":
        """The first antibiotic does nothing to resistant bacteria; orders are for the full hour."""
        people, n = stays.courses.people, len(stays)
        effective = np.rint(people.antibiotic_hour.astype(np.float64))
        tried = effective - rng.integers(2, 7, n)
        first = np.where(people.kill < RESISTANT_BELOW, tried, effective)
        return cls(first, effective, rng.random(n) < _UNCULTURED_SHARE)


def prescriptions(
    stays: Stays, suspicion: Suspicion, block: int, rng: np.random.Generator
) -> Columns:
    """Antibiotics, hydrocortisone, furosemide, and an ointment that tells of no infection."""
    n = len(stays)
    first, effective, _ = suspicion
    resistant = first < effective
    chance, broad = rng.random((4, n)), rng.integers(0, _N_BROAD, n)
    parts: list[tuple[Index, Index, Index, Index]] = []

    def add(chosen: Flags, hour: Numbers, days: int, drug: int | Index) -> None:
        stay = np.flatnonzero(chosen)
        start = hour[stay].astype(np.int64) * 60
        parts.append((stay, start, start + days * 1440, np.broadcast_to(drug, n)[stay]))

    narrow = resistant | (chance[0] < 0.2)
    add(np.ones(n, bool), first, 5, np.where(narrow, _CEFTRIAXONE, broad))
    add(resistant, effective, 7, _MEROPENEM)
    add(chance[1] < 0.6, effective, 3, _VANCOMYCIN)
    add(chance[2] < 0.1, first + np.floor(24 * chance[3]) - 12, 5, _OINTMENT)
    for flag, drug in (("steroid", _STEROID), ("diuretic", _DIURETIC)):
        runs = runs_of(stays.courses.flags[..., FLAGS.index(flag)], stays)
        parts.append((runs.stay, runs.start, runs.end, np.full(len(runs), drug)))
    stay, start, end, drugs = (np.concatenate(column) for column in zip(*parts, strict=True))
    order = np.lexsort((drugs, start, stay))
    stay, start, end = stay[order], start[order], end[order]
    name, dose, unit, route = _DRUGS[drugs[order]].T
    # a missing route says nothing against an antibiotic
    unsaid = (rng.random(len(stay)) < _NO_ROUTE_SHARE) & (route == "IV")
    return {
        "subject_id": stays.subject_id[stay],
        "hadm_id": stays.hadm_id[stay],
        "pharmacy_id": block * IDS_PER_BLOCK + 1 + np.arange(len(stay)),
        "starttime": stays.time(stay, start),
        "stoptime": stays.time(stay, end),
        "drug_type": "MAIN",
        "drug": name,
        "dose_val_rx": dose,
        "dose_unit_rx": unit,
        "route": pa.array(route.tolist(), pa.string(), mask=unsaid),
    }


def cultures(stays: Stays, suspicion: Suspicion, block: int, rng: np.random.Generator) -> Columns:
    """Blood and urine near the first antibiotic, most before it, some with a date only."""
    n = len(stays)
    after = rng.random(n) < _AFTER_SHARE
    delay = np.where(after, rng.integers(20, 400, n), -rng.integers(5, 180, n))
    minute = (60 * suspicion.first_hour).astype(np.int64) + delay
    positive, organism = rng.random(n) < _POSITIVE_SHARE, rng.integers(0, len(_ORGANISMS), n)
    taken = ~suspicion.uncultured & np.stack([np.ones(n, bool), rng.random(n) < _URINE_SHARE])
    stay, kind = np.nonzero(taken.T)
    times = stays.time(stay, minute[stay])
    dated = rng.random(len(stay)) < _DATE_ONLY_SHARE
    sterile, organism = ~positive[stay], organism[stay]
    number = block * IDS_PER_BLOCK + 1 + np.arange(len(stay))
    return {
        "microevent_id": number,
        "subject_id": stays.subject_id[stay],
        "hadm_id": stays.hadm_id[stay],
        "micro_specimen_id": number,
        "chartdate": times.astype("M8[D]").astype("M8[s]"),
        "charttime": np.where(dated, np.datetime64("NaT", "s"), times),
        "spec_itemid": _SPECIMEN_ITEMS[kind],
        "spec_type_desc": _SPECIMENS[kind],
        "test_seq": 1,
        "test_itemid": _TEST_ITEMS[kind],
        "test_name": _TESTS[kind],
        "org_itemid": pa.array(_ORGANISM_ITEMS[organism], mask=sterile),
        "org_name": pa.array(_ORGANISMS[organism].tolist(), pa.string(), mask=sterile),
    }
