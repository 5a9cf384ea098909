"""Whether the build finds in a simulated record what was simulated.

``recovery`` compares a cohort, built from the tables of ``write_tables``, with the hidden truth
beside them; ``path_agreement`` compares it with the same courses laid out directly.
"""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sepsis_gym.cohort.assemble import RawCohort
from sepsis_gym.errors import SourceError
from sepsis_gym.features import FEATURE_NAMES
from sepsis_gym.trajectories import Trajectories

CLOSE = 1e-3
"""Largest difference that counts as equal, each column's own unit."""


TRUTHS = ("truth", "truth_stays")


class Agreement(NamedTuple):
    """One column of a comparison.

    Attributes:
        column: Its name.
        compared: Steps, or stays, in which either side has a value.
        equal: Share of them in which both have it and agree.
        largest: Largest difference where both have it.
    """

    column: str
    compared: int
    equal: float
    largest: float


def agreement(column: str, found: NDArray[Any], meant: NDArray[Any]) -> Agreement:
    """Compares two [r] columns, NaN where one has no value."""
    found, meant = np.asarray(found, np.float64), np.asarray(meant, np.float64)
    either = ~(np.isnan(found) & np.isnan(meant))
    difference = np.abs(found - meant)[either]
    both = ~np.isnan(difference)
    return Agreement(
        column,
        int(either.sum()),
        float((difference <= CLOSE).mean()) if either.any() else float("nan"),
        float(difference[both].max()) if both.any() else float("nan"),
    )


def recovery(tables: str | os.PathLike[str], cohort: Trajectories) -> list[Agreement]:
    """Doses, ventilation, outcomes, age and Charlson index against what the tables hide.

    Args:
        tables: Folder of ``write_tables``.
        cohort: What the build made of it, causal alignment.

    Raises:
        SourceError: The folder has no truth, or that of other stays.
    """
    hours, stays = (_columns(Path(tables) / f"{name}.parquet") for name in TRUTHS)
    place = _places(cohort.stays.stay_id, stays["stay_id"], f"{tables}")
    coded = {"age": "age_coded", "charlson": "charlson_coded"}
    rows = [
        agreement(name, getattr(cohort.stays, name), stays[coded.get(name, name)][place])
        for name in ("age", "male", "charlson", "died_in_hospital", "died_90d")
    ]
    # Rows of the truth are by stay and hour; all steps of a cohort are whole.
    first = np.searchsorted(hours["stay_id"], cohort.stays.stay_id)[cohort.stay_of_row]
    step_hours = cohort.preprocessing.step_hours
    hour = (first + cohort.step * step_hours)[:, None] + np.arange(step_hours)
    fluid = (hours["bolus_ml"] + hours["carrier_ml"])[hour].sum(1)
    dose = hours["dose"][hour]
    decision = np.flatnonzero(cohort.is_decision)
    mean = cohort.norepinephrine_equivalent_mean[decision]
    highest = cohort.previous_norepinephrine_equivalent
    return [
        *rows,
        agreement("ventilated", cohort.ventilated, hours["ventilated"][hour].any(1)),
        agreement("fluid_ml", cohort.previous_fluid_ml, fluid),
        agreement("norepinephrine_equivalent", highest, dose.max(1)),
        agreement("norepinephrine_equivalent_mean", mean, dose.mean(1)[decision + 1]),
    ]


def path_agreement(cohort: Trajectories, direct: RawCohort) -> list[Agreement]:
    """Every column of a cohort against the same courses laid out by ``raw_cohort``.

    Args:
        cohort: Built from tables, causal alignment.
        direct: The stays of the cohort and maybe others, same step length and seed.

    Raises:
        SourceError: ``direct`` lacks a stay of the cohort.
    """
    place = _places(cohort.stays.stay_id, direct.stays["stay_id"], "courses")
    n_rows = np.diff(direct.offsets)[place]
    rows = [agreement("steps", cohort.n_decisions + 1, n_rows)]
    for name in direct.stays:
        if name not in ("stay_id", "subject_id"):
            found = getattr(cohort.stays, name)
            rows.append(agreement(name, found, direct.stays[name][place]))
    shared = cohort.step < n_rows[cohort.stay_of_row]
    at = (direct.offsets[place][cohort.stay_of_row] + cohort.step)[shared]
    measured = np.where(cohort.measured, cohort.values, np.nan)[shared]
    for index, name in enumerate(FEATURE_NAMES):
        rows.append(agreement(name, measured[:, index], direct.raw[at, index]))
    for name, found in (
        ("ventilated", cohort.ventilated),
        ("verbal_untestable", cohort.verbal_untestable),
        ("fluid_ml", cohort.previous_fluid_ml),
        ("norepinephrine_equivalent", cohort.previous_norepinephrine_equivalent),
    ):
        rows.append(agreement(name, found[shared], getattr(direct, name)[at]))
    return rows


def _columns(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise SourceError(f"{path}: no such file; name a folder written by write_tables")
    table = pq.read_table(path)
    return {name: table[name].to_numpy() for name in table.column_names}


def _places(
    stay_id: NDArray[np.integer], known: NDArray[np.integer], where: str
) -> NDArray[np.int64]:
    """Where the stays stand among the known ones, which are sorted."""
    place = np.minimum(np.searchsorted(known, stay_id), len(known) - 1)
    strange = known[place] != stay_id
    if strange.any():
        raise SourceError(f"{where}: holds nothing of stay {stay_id[strange][0]}")
    return place
