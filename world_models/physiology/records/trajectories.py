"""Straight from simulated courses to per-bin tables, as the build makes them of a MIMIC-IV folder.

The same values, without the way over files: what is charted, how devices, cuffs and thermometers
change it, and who dies when are the same draws as in ``write_tables`` with the same seed.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.cohort.assemble import RawCohort
from sepsis_gym.cohort.concepts import MimicConfig
from sepsis_gym.dynamics import End
from sepsis_gym.errors import ConfigError
from sepsis_gym.preprocessing import HORIZON_HOURS
from world_models.physiology.binning import whole_bins
from world_models.physiology.courses import Courses
from world_models.physiology.records.blocks import record_draws
from world_models.physiology.records.charting import Bedside, Charting, feature
from world_models.physiology.records.diagnoses import coded_charlson
from world_models.physiology.records.stays import Stays, age_years

ROW_COLUMNS = (
    "raw", "ventilated", "fluid_ml", "norepinephrine_equivalent", "sofa_24h",
    "norepinephrine_equivalent_mean", "verbal_untestable",
)  # fmt: skip
FEWEST_STEPS = 2


def raw_cohort(courses: Iterable[Courses], *, step_hours: int, seed: int) -> RawCohort:
    """Lays courses out as arrays: whole steps only, at most the horizon and one step more of each.

    Every course is taken for sepsis, and no hourly SOFA is scored; otherwise a build of the tables
    of the same courses and seed (causal alignment) has the same content.

    Args:
        courses: Blocks of courses, such as ``blocks.simulated`` yields or a list of one.
        step_hours: Length of a step, 1, 2, 4 or 8 h.
        seed: Of fates and of what is charted how.

    Raises:
        ConfigError: The courses' record ends before the horizon.
    """
    parts: list[_Part] = []
    first = 0
    for block, part in enumerate(courses):
        parts.append(_laid_out(part, first, step_hours, record_draws(seed, block)))
        first += len(part.people)
    lengths = np.concatenate([part.lengths for part in parts])
    return RawCohort(
        stays={name: np.concatenate([p.stays[name] for p in parts]) for name in parts[0].stays},
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        **{name: np.concatenate([part.rows[name] for part in parts]) for name in ROW_COLUMNS},
    )


class _Part(NamedTuple):
    """A block's stays, rows by name, and number of rows of each stay."""

    stays: dict[str, NDArray[Any]]
    rows: dict[str, NDArray[Any]]
    lengths: NDArray[np.int64]


def _laid_out(courses: Courses, first: int, step_hours: int, rng: np.random.Generator) -> _Part:
    last = HORIZON_HOURS // step_hours
    n_hours = (last + 1) * step_hours
    if len(courses.dose) < n_hours:
        raise ConfigError(
            f"courses of {len(courses.dose)} h are too short: steps of {step_hours} h need "
            f"{n_hours} h"
        )
    stays = Stays.of(courses, first, rng)
    bedside = Bedside.of(courses)
    charting = Charting.draw(bedside, rng)
    hours = stays.fates.icu_hours
    lengths = np.minimum(np.floor(hours / step_hours).astype(np.int64), last + 1)
    kept = (lengths >= FEWEST_STEPS) & (hours >= MimicConfig().min_hours)
    here = (np.arange(last + 1) < lengths[:, None]) & kept[:, None]
    binned = _binned(courses, bedside, charting, n_hours, step_hours)
    rows = {name: column.swapaxes(0, 1)[here] for name, column in binned.items()}
    died_in_icu = courses.end == End.DIED
    end = np.where(died_in_icu, End.DIED, End.DISCHARGED)
    people = courses.people
    columns: dict[str, tuple[NDArray[Any], type]] = {
        "stay_id": (stays.stay_id, np.int64),
        "subject_id": (stays.subject_id, np.int64),
        "age": (age_years(people), np.float32),
        "male": (people.male, np.bool_),
        "charlson": (coded_charlson(people), np.float32),
        "died_in_hospital": (stays.fates.died_in_hospital, np.bool_),
        "died_90d": (stays.fates.died_90d, np.bool_),
        "end": (np.where(hours > n_hours, End.HORIZON, end), np.int8),
        "weight_kg": (people.weight_kg.round(1), np.float32),
    }
    return _Part(
        {name: np.asarray(column[kept], kind) for name, (column, kind) in columns.items()},
        rows,
        lengths[kept],
    )


def _binned(
    courses: Courses, bedside: Bedside, charting: Charting, n_hours: int, step_hours: int
) -> dict[str, NDArray[Any]]:
    """Rows of every bin and patient, [B, n, ...], whether or not the patient is still there."""

    def bins(hourly: NDArray[Any]) -> NDArray[Any]:
        return whole_bins(hourly[:n_hours], step_hours)

    dose = bins(courses.dose)
    looked = feature(courses.charted, "gcs_eye")
    return {
        "raw": charting.binned(bedside, n_hours, step_hours),
        "ventilated": bins(charting.ventilated).any(1),
        "fluid_ml": 1000 * bins(courses.bolus_l + courses.carrier_l_h).sum(1),
        "norepinephrine_equivalent": dose.max(1),
        "norepinephrine_equivalent_mean": dose.mean(1),
        "verbal_untestable": bins(charting.ventilated & looked).any(1),
        "sofa_24h": np.full(dose[:, 0].shape, np.nan, np.float32),
    }
