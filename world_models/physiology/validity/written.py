"""Validity of what is written: whether a build finds in the tables what was simulated."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from sepsis_gym.cohort.assemble import AssemblyConfig, assemble
from sepsis_gym.cohort.mimic import build_mimic
from sepsis_gym.cohort.tables import header
from sepsis_gym.features import FEATURE_NAMES
from sepsis_gym.trajectories import Trajectories
from world_models.physiology.clinician import ClinicianConfig
from world_models.physiology.records.blocks import simulated
from world_models.physiology.records.recovery import (
    CLOSE,
    TRUTHS,
    Agreement,
    agreement,
    path_agreement,
    recovery,
)
from world_models.physiology.records.tables import COLUMNS, write_tables
from world_models.physiology.records.trajectories import raw_cohort
from world_models.physiology.validity.checks import Check, at_least

EARLIEST_SUSPICION_HOURS = 27
"""Before the first antibiotic: a culture up to 3 h before it, of which some have only the date."""


class Built(NamedTuple):
    """MIMIC-IV tables and the cohort that the build makes of them.

    Attributes:
        tables: Folder with hosp/ and icu/.
        cache: Folder of the rows that the build read.
        cohort: 4-h steps, causal alignment.
    """

    tables: Path
    cache: Path
    cohort: Trajectories


def built(tables: Path, out: Path) -> Built:
    """Builds the cohort of a MIMIC-IV folder, with default rules."""
    return Built(tables, out / "cache", build_mimic(tables, out, credentialed=False))


def written(n: int, seed: int, folder: Path) -> Built:
    """Simulates, writes and builds n patients."""
    write_tables(folder / "tables", n_patients=n, seed=seed)
    return built(folder / "tables", folder / "cohort")


def recovered(synthetic: Built, n: int, seed: int) -> Iterator[Check]:
    """The tables' cohort beside the hidden truth, and beside the same courses laid out directly.

    Args:
        synthetic: Of ``written``.
        n: Its patients.
        seed: Its seed.
    """
    cohort = synthetic.cohort
    blocks = simulated(n, seed, ClinicianConfig())
    direct = raw_cohort(blocks, step_hours=4, seed=seed)
    by_path = {row.column: row for row in path_agreement(cohort, direct)}
    straight = assemble(direct, AssemblyConfig(), source="simulated", credentialed=False)
    straight = straight.select(np.isin(straight.stays.stay_id, cohort.stays.stay_id))
    rows = [
        *recovery(synthetic.tables, cohort),
        *(by_path[name] for name in ("steps", "end", "weight_kg", "verbal_untestable", "meanbp")),
        agreement("sofa", cohort.sofa, straight.sofa),
    ]
    for row in rows:
        yield _equal(row)
    others = [by_path[name] for name in FEATURE_NAMES]
    worst = min(others, key=lambda row: row.equal)
    yield _equal(worst._replace(column=f"all 39 features (worst: {worst.column})"))
    yield _suspicion(synthetic)


def _equal(row: Agreement) -> Check:
    return at_least(0, f"ETL recovers {row.column}, share equal", row.equal, 1.0, 4)


def _suspicion(synthetic: Built) -> Check:
    """An antibiotic or, before it, a culture: when infection is suspected."""
    stays = synthetic.cohort.stays
    table = pq.read_table(synthetic.tables / "truth_stays.parquet")
    place = np.searchsorted(table["stay_id"].to_numpy(), stays.stay_id)
    lead = table["first_antibiotic_hour"].to_numpy()[place] - stays.suspected_hours
    near = (lead >= -CLOSE) & (lead <= EARLIEST_SUSPICION_HOURS)
    name = f"ETL suspects infection 0-{EARLIEST_SUSPICION_HOURS} h before antibiotics, share"
    return at_least(0, name, float(near.mean()), 1.0, 4)


def concealed(synthetic: Built) -> Check:
    """Test 21: what is hidden stays out of the tables."""
    secret: set[str] = set()
    for name in TRUTHS:
        secret |= set(pq.read_schema(synthetic.tables / f"{name}.parquet").names)
    shown = {column for path in COLUMNS for column in header(synthetic.tables / f"{path}.csv.gz")}
    told = sorted((secret - {"stay_id"}) & shown)
    return Check(
        21, "hidden columns in hosp/ and icu/", "none", f"{len(told)}", not told, ", ".join(told)
    )
