"""Who the simulated patients are in a hospital's books: ids, dates, and how it ended.

The simulated part of a course ends at ICU discharge, at death or after its last recorded hour.
What follows is drawn here, from the risk that the course left behind, with draws that no policy
moves: two policies that start from one seed meet the same fate where the risk is the same.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.dynamics import End
from world_models.physiology.courses import Courses
from world_models.physiology.people import People
from world_models.physiology.records.rows import Columns, Flags, Index, Numbers

FIRST_SUBJECT, FIRST_ADMISSION, FIRST_STAY = 90_000_000, 95_000_000, 99_000_000
"""Ids beyond any real one."""
IN_HOSPITAL_SHARE = 0.70
"""Of the deaths by day 90 that the simulated part does not hold."""
REMAINING_HOURS, REMAINING_SPREAD = 104.0, 0.9
"""Log-normal ICU stay after the simulated part: the cohort's stays come near 27 / 75 / 295 h."""
IDS_PER_BLOCK = 10_000_000
"""Rows, tubes or orders that a block of stays may number."""
LONGEST_STAY_HOURS = 60 * 24
_DAY = 24.0
_OLDEST = 89  # older ages are stored as 91
_ERAS = np.array(["2008 - 2010", "2011 - 2013", "2014 - 2016", "2017 - 2019", "2020 - 2022"])
OLD_CODING_ERAS = 2
"""Admissions of so many first eras carry ICD-9 codes."""


@dataclass(frozen=True)
class Fates:
    """How n stays go on after their simulated part, h from ICU admission.

    Attributes:
        icu_hours: [n] ICU discharge or death there.
        hospital_hours: [n] hospital discharge or death there.
        death_hours: [n] death within a year; infinite otherwise.
        died_90d: [n] death by day 90.
        died_in_hospital: [n] death before hospital discharge.
    """

    icu_hours: Numbers
    hospital_hours: Numbers
    death_hours: Numbers
    died_90d: Flags
    died_in_hospital: Flags

    @classmethod
    def draw(cls, courses: Courses, rng: np.random.Generator) -> Self:
        """One uniform number decides who of those not yet dead dies by day 90."""
        n = len(courses.people)
        chance, normal = rng.random((4, n)), rng.standard_normal((3, n))
        simulated = courses.end_hour.astype(np.float64)
        in_icu, beyond = courses.end == End.DIED, courses.end == End.HORIZON
        late = ~in_icu & (chance[0] < courses.late_risk)
        in_ward = late & (chance[1] < IN_HOSPITAL_SHARE)
        remaining = REMAINING_HOURS * np.exp(REMAINING_SPREAD * normal[0])
        icu = np.minimum(simulated + np.where(beyond, remaining, 0), LONGEST_STAY_HOURS)
        days_to_death = np.clip(4 * np.exp(0.8 * normal[1]), 0.2, 20)
        death = np.where(in_icu, simulated, np.inf)
        death = np.where(in_ward, simulated + _DAY * days_to_death, death)
        icu = np.where(in_ward & beyond, death, icu)  # they never leave it
        hospital = icu + _DAY * np.clip(5 * np.exp(0.7 * normal[2]), 0.5, 20)
        hospital = np.where(in_icu | in_ward, death, hospital)
        at_home = hospital + chance[2] ** 2 * (89 * _DAY - hospital)
        death = np.where(late & ~in_ward, at_home, death)
        in_the_year = ~in_icu & ~late & (chance[3] < 0.4 * courses.late_risk)
        death = np.where(in_the_year, _DAY * (92 + 270 * chance[2]), death)
        return cls(icu, hospital, death, in_icu | late, in_icu | in_ward)


def stay_ids(first: int, n: int) -> Index:
    """[n] ids of the patients from the ``first`` on."""
    return FIRST_STAY + first + np.arange(n)


@dataclass(frozen=True)
class Stays:
    """The ICU stays of some courses.

    Attributes:
        courses: What happened.
        fates: What happened afterwards.
        subject_id: [n].
        hadm_id: [n].
        stay_id: [n].
        intime: [n] ICU admission, s.
        admittime: [n] hospital admission, s.
        era: [n] which three calendar years.
    """

    courses: Courses
    fates: Fates
    subject_id: Index
    hadm_id: Index
    stay_id: Index
    intime: NDArray[np.datetime64]
    admittime: NDArray[np.datetime64]
    era: Index

    def __len__(self) -> int:
        """Number of stays."""
        return len(self.stay_id)

    @classmethod
    def of(cls, courses: Courses, first: int, rng: np.random.Generator) -> Self:
        """Gives the courses fates, ids from the ``first`` on, and dates.

        The hour of the day is that of the patients' clocks, by which their blood was drawn.
        """
        fates = Fates.draw(courses, rng)
        n = len(courses.people)
        number = first + np.arange(n)
        midnight = np.datetime64("2130-01-01", "s") + rng.integers(0, 25_000, n).astype("m8[D]")
        intime = midnight + _minutes(courses.instruments.clock).astype("m8[m]")
        # early enough for every order: cultures come up to 9 h before the effective antibiotic
        waited = np.maximum(6 + rng.gamma(1.5, 2.0, n), 10 - courses.people.antibiotic_hour)
        return cls(
            courses=courses,
            fates=fates,
            subject_id=FIRST_SUBJECT + number,
            hadm_id=FIRST_ADMISSION + number,
            stay_id=stay_ids(first, n),
            intime=intime,
            admittime=intime - _minutes(waited).astype("m8[m]"),
            era=rng.integers(0, len(_ERAS), n),
        )

    def ids(self, stay: Index) -> Columns:
        """The key columns of rows that belong to these stays."""
        return {
            "subject_id": self.subject_id[stay],
            "hadm_id": self.hadm_id[stay],
            "stay_id": self.stay_id[stay],
        }

    def time(self, stay: Index, minute: NDArray[np.integer]) -> NDArray[np.datetime64]:
        """Times so many minutes after the ICU admission of these stays."""
        return (self.intime[stay] + np.asarray(minute).astype("m8[m]")).astype("M8[s]")

    def caregiver(self, stay: Index, minute: NDArray[np.integer]) -> Index:
        """Whoever is on duty, 12 h at a time."""
        return np.asarray(10_000 + (self.stay_id[stay] * 37 + minute // 720) % 5_000)

    @property
    def end_minute(self) -> Index:
        """[n] when the simulated part, and with it all charting, is over."""
        return _minutes(self.courses.end_hour)


def _minutes(hours: NDArray[np.floating]) -> Index:
    return np.rint(np.asarray(hours, np.float64) * 60).astype(np.int64)


def age_years(people: People) -> Index:
    """[n] age as the books hold it: whole years, and 91 for anyone above 89."""
    age = np.floor(people.age).astype(np.int64)
    return np.where(age > _OLDEST, 91, age)


def stay_tables(stays: Stays) -> dict[str, Columns]:
    """Patients, admissions and ICU stays."""
    everyone, fates, people = np.arange(len(stays)), stays.fates, stays.courses.people
    never = np.datetime64("NaT", "s")
    lived = np.where(np.isinf(fates.death_hours), 0, fates.death_hours)
    death = np.where(np.isinf(fates.death_hours), never, stays.time(everyone, _minutes(lived)))
    surgical = people.surgical > 0
    expired = fates.died_in_hospital
    unit = "Surgical Intensive Care Unit (SICU)", "Medical Intensive Care Unit (MICU)"
    return {
        "hosp/patients": {
            "subject_id": stays.subject_id,
            "gender": np.where(people.male > 0, "M", "F"),
            "anchor_age": age_years(people),
            "anchor_year": stays.admittime.astype("M8[Y]").astype(np.int64) + 1970,
            "anchor_year_group": _ERAS[stays.era],
            "dod": death.astype("M8[D]"),
        },
        "hosp/admissions": {
            "subject_id": stays.subject_id,
            "hadm_id": stays.hadm_id,
            "admittime": stays.admittime,
            "dischtime": stays.time(everyone, _minutes(fates.hospital_hours)),
            "deathtime": np.where(expired, death, never),
            "admission_type": np.where(surgical, "URGENT", "EW EMER."),
            "admission_location": np.where(surgical, "PHYSICIAN REFERRAL", "EMERGENCY ROOM"),
            "discharge_location": np.where(expired, "DIED", "HOME HEALTH CARE"),
            "insurance": "Other",
            "race": "UNKNOWN",
            "hospital_expire_flag": expired.astype(np.int64),
        },
        "icu/icustays": {
            **stays.ids(everyone),
            "first_careunit": np.where(surgical, *unit),
            "last_careunit": np.where(surgical, *unit),
            "intime": stays.intime,
            "outtime": stays.time(everyone, _minutes(fates.icu_hours)),
            "los": np.round(fates.icu_hours / 24, 4),
        },
    }
