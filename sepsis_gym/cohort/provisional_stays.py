"""PROVISIONAL: who the made-up patients are, when they came and what became of them."""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.cohort.provisional_patients import Course

Columns = dict[str, NDArray[np.generic]]
Times = NDArray[np.datetime64]
FIRST_SUBJECT, FIRST_ADMISSION, FIRST_STAY = 90_000_000, 95_000_000, 99_000_000
"""Ids beyond any real one."""
_READMITTED_SHARE = 0.04
_COMORBIDITIES = ("I10", "E119", "I252", "J449", "N183", "C349", "K746", "E1122", "F039", "I739")


@dataclass(frozen=True)
class Stays:
    """One ICU stay per simulated course; some belong to one patient.

    Attributes:
        course: What happened.
        subject_id: [n].
        hadm_id: [n].
        stay_id: [n].
        intime: [n] ICU admission, s.
        outtime: [n] ICU discharge or death, s.
        dischtime: [n] hospital discharge, s.
        deathtime: [n] death in hospital, s; NaT otherwise.
        dod: [n] date of death; NaT if alive.
    """

    course: Course
    subject_id: NDArray[np.int64]
    hadm_id: NDArray[np.int64]
    stay_id: NDArray[np.int64]
    intime: Times
    outtime: Times
    dischtime: Times
    deathtime: Times
    dod: Times

    def __len__(self) -> int:
        """Number of stays."""
        return len(self.stay_id)

    @classmethod
    def of(cls, course: Course, rng: np.random.Generator) -> Self:
        """Gives the courses ids and dates."""
        n = len(course.end_hour)
        order = np.arange(n)
        minutes = rng.integers(0, 365 * 24 * 60, n) + 60
        intime = np.datetime64("2180-01-01", "s") + minutes.astype("timedelta64[m]")
        subject = FIRST_SUBJECT + order
        # the last few are second stays of earlier patients who lived on
        alive = np.flatnonzero(np.isinf(course.days_to_death[: n // 2]))
        again = min(int(n * _READMITTED_SHARE), len(alive))
        if again:
            subject[n - again :] = subject[alive[:again]]
            intime[n - again :] = intime[alive[:again]] + np.timedelta64(500, "D")
        outtime = intime + course.end_hour.astype("timedelta64[h]")
        ward_hours = np.ceil(rng.gamma(1.5, 60, n)).astype(np.int64) + 6
        days = course.days_to_death
        in_hospital = days * 24 <= ward_hours
        hours_left = np.where(in_hospital, np.where(np.isinf(days), 0, days) * 24, ward_hours)
        dischtime = outtime + hours_left.astype("timedelta64[h]")
        dead = np.isfinite(days)
        died_at = outtime + (np.where(dead, days, 0) * 24).astype("timedelta64[h]")
        return cls(
            course=course,
            subject_id=subject,
            hadm_id=FIRST_ADMISSION + order,
            stay_id=FIRST_STAY + order,
            intime=intime,
            outtime=outtime,
            dischtime=dischtime,
            deathtime=np.where(in_hospital, dischtime, np.datetime64("NaT")).astype("M8[s]"),
            dod=np.where(dead, died_at, np.datetime64("NaT")).astype("M8[D]"),
        )

    def ids(self, index: NDArray[np.integer]) -> Columns:
        """The key columns of rows that belong to these stays."""
        return {
            "subject_id": self.subject_id[index],
            "hadm_id": self.hadm_id[index],
            "stay_id": self.stay_id[index],
        }

    def time(self, index: NDArray[np.integer], hours: NDArray[np.floating]) -> Times:
        """Times so many hours after the ICU admission of these stays, to the minute."""
        minutes = np.round(np.asarray(hours) * 60).astype(np.int64).astype("timedelta64[m]")
        return (self.intime[index] + minutes).astype("M8[s]")


def stay_tables(stays: Stays, rng: np.random.Generator) -> dict[str, Columns]:
    """Patients, admissions, ICU stays and diagnoses."""
    traits = stays.course.traits
    patients, first = np.unique(stays.subject_id, return_index=True)
    latest = len(stays) - 1 - np.unique(stays.subject_id[::-1], return_index=True)[1]
    everyone = np.arange(len(stays))
    return {
        "hosp/patients": {
            "subject_id": patients,
            "gender": np.where(traits.male[first] > 0, "M", "F"),
            "anchor_age": traits.age[first].astype(np.int64),
            "anchor_year": np.full(len(patients), 2180),
            "anchor_year_group": np.full(len(patients), "2017 - 2019"),
            "dod": stays.dod[latest],
        },
        "hosp/admissions": {
            "subject_id": stays.subject_id,
            "hadm_id": stays.hadm_id,
            "admittime": stays.time(everyone, np.full(len(stays), -5.0)),
            "dischtime": stays.dischtime,
            "deathtime": stays.deathtime,
            "admission_type": np.full(len(stays), "EW EMER."),
            "hospital_expire_flag": (~np.isnat(stays.deathtime)).astype(np.int64),
        },
        "icu/icustays": {
            **stays.ids(everyone),
            "first_careunit": np.full(len(stays), "Medical Intensive Care Unit (MICU)"),
            "last_careunit": np.full(len(stays), "Medical Intensive Care Unit (MICU)"),
            "intime": stays.intime,
            "outtime": stays.outtime,
            "los": np.round(stays.course.end_hour / 24, 4),
        },
        "hosp/diagnoses_icd": _diagnoses(stays, rng),
    }


def _diagnoses(stays: Stays, rng: np.random.Generator) -> Columns:
    """Infection codes of the septic, heart failure where it is, and comorbidities by frailty."""
    traits = stays.course.traits
    who: list[NDArray[np.int64]] = []
    codes: list[str] = []
    versions: list[int] = []

    def add(chosen: NDArray[np.bool_], code: str, version: int = 10) -> None:
        who.append(np.flatnonzero(chosen))
        codes.append(code)
        versions.append(version)

    old_coding = rng.random(len(stays)) < 0.4
    coded = (traits.septic > 0) & (rng.random(len(stays)) < 0.8)
    add(coded & ~old_coding, "A419")
    add(coded & old_coding, "99591", 9)
    add(traits.heart_failure > 0, "I509")
    for code in _COMORBIDITIES:
        add(rng.random(len(stays)) < 0.14 + 0.05 * np.clip(traits.frailty, -2, 2), code)
    index = np.concatenate(who)
    counts = [len(part) for part in who]
    order = np.argsort(index, kind="stable")
    return {
        "subject_id": stays.subject_id[index][order],
        "hadm_id": stays.hadm_id[index][order],
        "seq_num": 1 + np.arange(len(index)) - np.searchsorted(index[order], index[order]),
        "icd_code": np.repeat(codes, counts)[order],
        "icd_version": np.repeat(versions, counts)[order],
    }
