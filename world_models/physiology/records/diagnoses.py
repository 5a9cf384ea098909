"""Diagnosis codes in line with what the patients have and with their Charlson index."""

import numpy as np

from world_models.physiology.courses import HIDDEN
from world_models.physiology.people import People
from world_models.physiology.records.rows import Columns, Flags, Index
from world_models.physiology.records.stays import OLD_CODING_ERAS, Stays, age_years

CODES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "heart_failure": (("4280",), ("I509",)),
    "dialysis": (("5856", "V4511"), ("N186", "Z992")),
    "kidney_disease": (("5859",), ("N189",)),
    "cirrhosis": (("5715",), ("K7460",)),
    "copd": (("496",), ("J449",)),
    "severe_liver": (("5722",), ("K7290",)),
    "metastasis": (("1977",), ("C787",)),
    "cancer": (("1629",), ("C3490",)),
    "complicated_diabetes": (("25040",), ("E1122",)),
    "paraplegia": (("34290",), ("G8190",)),
    "aids": (("042",), ("B20",)),
    "infarction": (("412",), ("I252",)),
    "peripheral": (("4439",), ("I739",)),
    "cerebral": (("43820",), ("I69354",)),
    "dementia": (("29410",), ("F0390",)),
    "rheumatic": (("7140",), ("M069",)),
    "ulcer": (("53370",), ("K257",)),
    "diabetes": (("25000",), ("E119",)),
    "hypertension": (("4019",), ("I10",)),
    "sepsis": (("0389", "99591"), ("A419",)),
    "organ_failure": (("99592",), ("R6520",)),
    "shock": (("78552",), ("R6521",)),
    "pneumonia": (("486",), ("J189",)),
    "urinary": (("5990",), ("N390",)),
    "kidney_injury": (("5849",), ("N179",)),
}
"""ICD-9 and ICD-10 codes of each condition."""
_OF_TRAITS = {"heart_failure": 1, "dialysis": 2, "kidney_disease": 2, "cirrhosis": 1, "copd": 1}
"""Charlson points of the traits that have any."""
_HEAVY = {
    "metastasis": (6, 0.12),
    "cancer": (2, 0.25),
    "severe_liver": (2, 0.30),  # more than cirrhosis, in whose slot it is
    "complicated_diabetes": (2, 0.30),
    "paraplegia": (2, 0.05),
    "aids": (6, 0.01),
}
"""Points of comorbidities that no trait stands for, and how often they fill up an index."""
_LIGHT = {"infarction": 0.12, "peripheral": 0.10, "cerebral": 0.12, "dementia": 0.06,
          "rheumatic": 0.03, "ulcer": 0.03, "diabetes": 0.25}  # fmt: skip
"""The same with one point each."""
_SAME_SLOT = {"kidney_disease": "dialysis", "metastasis": "cancer", "cancer": "metastasis"}
"""Of these pairs one counts and one is coded."""


def _age_points(people: People) -> Index:
    return np.clip((age_years(people) - 40) // 10, 0, 4)


def coded_charlson(people: People) -> Index:
    """[n] the index that the codes add up to: the patients' own, but at least their age points."""
    return np.maximum(people.charlson.astype(np.int64), _age_points(people))


def comorbidities(people: People, rng: np.random.Generator) -> dict[str, Flags]:
    """Which Charlson conditions are coded, so that the index comes out right.

    Traits come first, as far as the index leaves room for them; then others fill it up.
    """
    room = coded_charlson(people) - _age_points(people)
    coded = {name: np.zeros(len(people), bool) for name in CODES}

    def code(name: str, points: int, chosen: Flags) -> None:
        taken = chosen & (room >= points) & ~coded[name]
        if name in _SAME_SLOT:
            taken &= ~coded[_SAME_SLOT[name]]
        elif name == "severe_liver":
            taken &= coded["cirrhosis"]
        coded[name] |= taken
        room[taken] -= points

    for name, points in _OF_TRAITS.items():
        code(name, points, getattr(people, name) > 0)
    chance = rng.random((len(_HEAVY), len(people)))
    for (name, (points, share)), luck in zip(_HEAVY.items(), chance, strict=True):
        code(name, points, luck < share)
    for name, (points, _) in _HEAVY.items():  # where those of one point would not do
        code(name, points, room > len(_LIGHT) - coded["complicated_diabetes"])
    _fill_up(coded, room, people, rng)
    return coded


def _fill_up(
    coded: dict[str, Flags], room: Index, people: People, rng: np.random.Generator
) -> None:
    """Adds as many conditions of one point as there is room for, the frequent ones first."""
    shares = np.tile(np.array(list(_LIGHT.values()))[:, None], (1, len(people)))
    names = list(_LIGHT)
    shares[names.index("dementia")] *= np.where(people.age > 65, 1, 0.01)
    order = rng.random(shares.shape) ** (1 / shares)
    order[names.index("diabetes"), coded["complicated_diabetes"]] = -1
    rank = (-order).argsort(0).argsort(0)
    for position, name in enumerate(names):
        coded[name] = rank[position] < room


def diagnoses(stays: Stays, uncultured: Flags, rng: np.random.Generator) -> Columns:
    """hosp/diagnoses_icd.

    Args:
        stays: Of whom.
        uncultured: [n] without any culture: their infection is always coded.
        rng: For what the index leaves open.
    """
    courses, people = stays.courses, stays.courses.people
    n = len(stays)
    conditions = comorbidities(people, rng)
    inside = np.arange(len(courses.dose))[:, None] < courses.end_hour
    filtration = np.where(inside, courses.hidden[..., HIDDEN.index("filtration")], np.inf).min(0)
    shock = (np.where(inside, courses.dose, 0) > 0).any(0)
    site, certain = rng.random(n), rng.random(n)
    lungs = people.lung_injury > 0.9
    conditions["hypertension"] = people.hypertension > 0
    conditions["sepsis"] = uncultured | (certain < 0.9)
    conditions["shock"] = conditions["sepsis"] & shock
    conditions["organ_failure"] = conditions["sepsis"] & ~shock & (certain < 0.6)
    conditions["pneumonia"] = lungs & (site < 0.85)
    conditions["urinary"] = ~lungs & (site < 0.5)
    conditions["kidney_injury"] = (filtration < 0.6 * people.filtration) & (people.dialysis <= 0)
    first = ("sepsis", "shock", "organ_failure")
    return _rows(stays, {name: conditions[name] for name in (*first, *conditions)})


def _rows(stays: Stays, conditions: dict[str, Flags]) -> Columns:
    """One row per code, ICD-9 in the early eras."""
    old = stays.era < OLD_CODING_ERAS
    parts = [
        (np.flatnonzero(chosen & (old if version == 9 else ~old)), code, version)
        for name, chosen in conditions.items()
        for version, codes in zip((9, 10), CODES[name], strict=True)
        for code in codes
    ]
    stay = np.concatenate([who for who, _, _ in parts])
    counts = [len(who) for who, _, _ in parts]
    order = np.argsort(stay, kind="stable")
    stay = stay[order]
    return {
        "subject_id": stays.subject_id[stay],
        "hadm_id": stays.hadm_id[stay],
        "seq_num": 1 + np.arange(len(stay)) - np.searchsorted(stay, stay),
        "icd_code": np.repeat([code for _, code, _ in parts], counts)[order],
        "icd_version": np.repeat([version for _, _, version in parts], counts)[order],
    }
