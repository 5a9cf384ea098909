"""Sepsis cohorts from a MIMIC-IV folder, or from any source that fills the same tables."""

import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sepsis_gym.cohort.assemble import AssemblyConfig, RawCohort, assemble
from sepsis_gym.cohort.concepts import (
    ONSET_WINDOW_HOURS,
    MimicConfig,
    Rules,
    run_concept,
    run_concepts,
)
from sepsis_gym.cohort.mimic_folder import MimicFolder
from sepsis_gym.cohort.tables import SPILL, Source
from sepsis_gym.dynamics import End
from sepsis_gym.errors import ConfigError, SourceError
from sepsis_gym.features import N_FEATURES
from sepsis_gym.preprocessing import HORIZON_HOURS, NEVER
from sepsis_gym.sofa import COMPONENTS
from sepsis_gym.trajectories import Trajectories
from sepsis_gym.trajectory_files import write_folder

__all__ = ["MimicConfig", "build_cohort", "build_mimic"]


def build_mimic(
    mimic_dir: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: MimicConfig | None = None,
    assembly: AssemblyConfig | None = None,
    *,
    credentialed: bool = True,
    source: str | None = None,
    beside: Mapping[str, Any] | None = None,
) -> Trajectories:
    """Builds a sepsis cohort and saves it.

    Args:
        mimic_dir: A MIMIC-IV folder, v2.2 or later, of ``.csv.gz``, ``.csv`` or ``.parquet``.
        out: Folder of the cohort; the filtered tables stay in its ``cache``.
        config: Which stays.
        assembly: Clock, alignment, splits, reward.
        credentialed: Whether a data use agreement forbids sharing rows with third parties.
        source: Name and version of the data, for the manifest; the folder's name if not given.
        beside: How the tables were made, for the manifest.

    Returns:
        The cohort, as saved, with the cohort flow and the counts of repairs in its manifest.

    Raises:
        ConfigError: ``memory_limit`` does not suffice.
        SourceError: A table is missing or cannot be read.
        SchemaError: A table lacks a column or a column holds the wrong type.
        EmptyCohortError: No stay is left; names the rule that removed the last one.
    """
    config, assembly = config or MimicConfig(), assembly or AssemblyConfig()
    folder = MimicFolder(Path(mimic_dir))
    build = {"mimic": asdict(config), "mimic_version": folder.version, **(beside or {})}
    return build_cohort(
        folder, out, config, assembly, credentialed=credentialed, name=source, build=build
    )


def build_cohort(
    source: Source,
    out: str | os.PathLike[str],
    config: MimicConfig,
    assembly: AssemblyConfig,
    *,
    credentialed: bool,
    name: str | None,
    build: dict[str, Any],
) -> Trajectories:
    """Builds a sepsis cohort from any source of native tables and saves it.

    Args:
        source: Where the native tables come from.
        out: Folder of the cohort; the filtered tables stay in its ``cache``.
        config: Which stays.
        assembly: Clock, alignment, splits, reward.
        credentialed: Whether a data use agreement forbids sharing rows with third parties.
        name: Name and version of the data, for the manifest; the folder's name if None.
        build: The source's own settings, for the manifest.

    Returns:
        The cohort, as saved, with the cohort flow and the counts of repairs in its manifest.

    Raises:
        ConfigError: ``memory_limit`` does not suffice.
        SourceError: A table cannot be read.
        SchemaError: A column holds the wrong type.
        EmptyCohortError: No stay is left; names the rule that removed the last one.
    """
    target = Path(out)
    try:
        built = _compute(source, target / "cache", config, assembly)
    except duckdb.OutOfMemoryException as error:
        raise ConfigError(
            f"memory_limit {config.memory_limit} is too little: raise it, lower threads, or make "
            f"room for {target / 'cache' / SPILL}"
        ) from error
    except duckdb.Error as error:
        reason, cache = str(error).strip().splitlines()[0], target / "cache"
        if str(cache / SPILL) in reason:
            raise SourceError(f"{reason}; make room and run it again") from error
        raise SourceError(
            f"{source.folder}: {reason}; if its tables are sound, delete {cache}"
        ) from error
    trajectories = assemble(
        built.cohort,
        assembly,
        source=name or source.folder.resolve().name,
        credentialed=credentialed,
        build=build,
        flow=built.flow,
        notes=built.notes,
    )
    write_folder(trajectories, target, {"sofa_hourly": built.sofa_hourly})
    return trajectories


class _Built(NamedTuple):
    cohort: RawCohort
    flow: tuple[tuple[str, int], ...]
    notes: dict[str, int]
    sofa_hourly: pa.Table


def _compute(source: Source, cache: Path, config: MimicConfig, assembly: AssemblyConfig) -> _Built:
    """What the concepts say of the stays that stay in."""
    inclusion = _inclusion(config, assembly)
    with run_concepts(source, cache, config, assembly, inclusion=inclusion) as connection:
        flow = tuple(
            connection.execute("SELECT rule, stays FROM flow ORDER BY position").fetchall()
        )
        cohort = _raw_cohort(connection, assembly)
        run_concept(connection, "notes")
        notes = dict(connection.execute("SELECT note, n FROM notes ORDER BY note").fetchall())
        notes |= source.notes(connection)
        hourly = connection.sql(
            "SELECT stay_id, epoch(h.ends_at - intime) / 3600 AS hours_from_admission, "
            f"{', '.join(COMPONENTS)}, sofa_24h FROM sofa h JOIN stays USING (stay_id) "
            "ORDER BY stay_id, hour"
        ).to_arrow_table()
    return _Built(cohort, flow, notes, hourly)


def _inclusion(config: MimicConfig, assembly: AssemblyConfig) -> dict[str, Rules]:
    """Who is in the cohort, by the concept that tells it."""
    start, stop = ONSET_WINDOW_HOURS
    two_steps = 2 * assembly.step_hours
    candidates = [(f"two whole steps of {assembly.step_hours} h", f"hours >= {two_steps}")]
    if config.weight_required:
        weighed = "stay_id IN (SELECT stay_id FROM weight WHERE NOT imputed)"
        candidates.append(("weight known", weighed))
    candidates.append(
        (
            f"infection ({config.infection}) suspected {start} to {stop} h from ICU admission",
            "stay_id IN (SELECT stay_id FROM infections)",
        )
    )
    septic = [
        (
            "SOFA of 2 or more from 48 h before to 24 h after",
            "stay_id IN (SELECT stay_id FROM sepsis WHERE septic)",
        )
    ]
    if "no_early_deaths" in config.quirks:
        watched = f"least(ends_at, intime + INTERVAL {HORIZON_HOURS} HOUR)"
        septic.append(
            (
                "alive 24 h after the last step",
                f"deathtime IS NULL OR deathtime > {watched} + INTERVAL 24 HOUR",
            )
        )
    return {"infections": candidates, "sepsis": septic}


def _raw_cohort(connection: duckdb.DuckDBPyConnection, assembly: AssemblyConfig) -> RawCohort:
    """Lays the stays left out as arrays, at most the horizon and one bin more of each."""
    last = HORIZON_HOURS // assembly.step_hours
    connection.execute(
        "CREATE OR REPLACE TEMP VIEW kept AS SELECT row_number() OVER (ORDER BY stay_id, bin) - 1 "
        f"AS row, g.* FROM grid g JOIN stays USING (stay_id) WHERE bin <= {last} "
        f"AND (bin + 1) * {assembly.step_hours} <= stays.hours"
    )
    rows = connection.execute("SELECT * FROM kept ORDER BY row").fetchnumpy()
    long = connection.execute(
        "SELECT k.row, f.position, o.value FROM observations o "
        "JOIN features f ON f.name = o.feature JOIN kept k USING (stay_id, bin)"
    ).fetchnumpy()
    raw = np.full((len(rows["bin"]), N_FEATURES), np.nan, np.float32)
    raw[long["row"], long["position"]] = long["value"]
    stays = connection.execute(
        "SELECT stays.*, charlson, weight_kg, "
        "epoch(infected_at - intime) / 3600 AS suspected_hours, "
        "epoch(sofa_2_at - intime) / 3600 AS sofa_2_hours FROM stays "
        "JOIN charlson USING (stay_id) JOIN weight USING (stay_id) JOIN sepsis USING (stay_id) "
        "ORDER BY stay_id"
    ).fetchnumpy()
    # Whole bins only: what little is given and passed in a bin that the end of the stay cuts short
    # would tie low doses to the outcome.
    n_bins = np.floor(stays["hours"] / assembly.step_hours).astype(np.int64)
    before, before_age = _history(connection, len(n_bins))
    in_icu_beyond = stays["hours"] > (last + 1) * assembly.step_hours
    end = np.where(stays["died_in_icu"], End.DIED, End.DISCHARGED)
    columns: dict[str, tuple[NDArray[Any], type]] = {
        "stay_id": (stays["stay_id"], np.int64),
        "subject_id": (stays["subject_id"], np.int64),
        "age": (stays["age"], np.float32),
        "male": (stays["male"], np.bool_),
        "charlson": (stays["charlson"], np.float32),
        "died_in_hospital": (stays["died_in_hospital"], np.bool_),
        "died_90d": (stays["died_90d"], np.bool_),
        "end": (np.where(in_icu_beyond, End.HORIZON, end), np.int8),
        "weight_kg": (stays["weight_kg"], np.float32),
        "suspected_hours": (stays["suspected_hours"], np.float32),
        "sofa_2_hours": (stays["sofa_2_hours"], np.float32),
    }
    return RawCohort(
        stays={name: np.asarray(column, dtype) for name, (column, dtype) in columns.items()},
        offsets=np.concatenate([[0], np.cumsum(np.minimum(n_bins, last + 1))]).astype(np.int64),
        raw=raw,
        ventilated=np.asarray(rows["ventilated"], np.bool_),
        fluid_ml=np.asarray(rows["fluid_ml"], np.float32),
        norepinephrine_equivalent=np.asarray(rows["norepinephrine_equivalent"], np.float32),
        sofa_24h=np.ma.filled(rows["sofa_24h"].astype(np.float32), np.nan),
        norepinephrine_equivalent_mean=np.asarray(
            rows["norepinephrine_equivalent_mean"], np.float32
        ),
        verbal_untestable=np.asarray(rows["verbal_untestable"], np.bool_),
        before=before,
        before_age=before_age,
    )


def _history(
    connection: duckdb.DuckDBPyConnection, n_stays: int
) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """[N, 39] each: the last values from before ICU admission and how many bins ago they are."""
    last = connection.execute(
        "WITH numbered AS (SELECT stay_id, row_number() OVER (ORDER BY stay_id) - 1 AS row "
        "FROM stays) SELECT n.row, f.position, o.value, -o.bin AS age FROM observations o "
        "JOIN numbered n USING (stay_id) JOIN features f ON f.name = o.feature WHERE o.bin < 0 "
        "QUALIFY row_number() OVER (PARTITION BY o.stay_id, o.feature ORDER BY o.bin DESC) = 1"
    ).fetchnumpy()
    before = np.full((n_stays, N_FEATURES), np.nan, np.float32)
    before_age = np.full((n_stays, N_FEATURES), NEVER, np.int16)
    before[last["row"], last["position"]] = last["value"]
    before_age[last["row"], last["position"]] = last["age"]
    return before, before_age
