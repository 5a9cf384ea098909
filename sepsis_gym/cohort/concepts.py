"""The concepts of a cohort of MIMIC-IV tables: one SQL file each, computed by DuckDB.

Big tables are read once into a filtered Parquet cache, then the files of ``sql/`` run in the order
of ``CONCEPTS``. Item ids, limits and weights live in Python tables that the SQL sees as ``items``,
``features``, ``charlson_codes`` and so on.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, get_args

import duckdb
import numpy as np
import pyarrow as pa
from tqdm import tqdm

from sepsis_gym.actions import VasopressorWeights
from sepsis_gym.cohort.antibiotics import (
    EXCLUDED_NAMES,
    EXCLUDED_ROUTES,
    infection_rows,
)
from sepsis_gym.cohort.assemble import AssemblyConfig
from sepsis_gym.cohort.charlson import charlson_rows
from sepsis_gym.cohort.items import (
    GAS_FIO2_ITEM,
    SPECIMEN_ITEM,
    item_rows,
    oxygen_rows,
    ventilation_rows,
)
from sepsis_gym.cohort.tables import SPILL, TABLES, Source, clear_leftovers
from sepsis_gym.errors import ConfigError, EmptyCohortError
from sepsis_gym.features import FEATURE_INDEX, FEATURES
from sepsis_gym.preprocessing import HORIZON_HOURS
from sepsis_gym.sofa import COMPONENTS, sofa_components

CONCEPTS = (
    "weight",
    "suspicion",
    "infections",
    "chart_readings",
    "lab_readings",
    "urine",
    "respiratory_support",
    "ventilation",
    "inputs",
    "gcs",
    "blood_gases",
    "hours",
    "urine_24h",
    "sofa_inputs",
    "sofa",
    "sepsis",
    "bins",
    "urine_bins",
    "fio2_fallback",
    "observations",
    "ventilated",
    "vasopressors",
    "fluids",
    "charlson",
    "grid",
)
"""In this order: what tells who is in the cohort, the cheapest first, then what its bins hold."""
ONSET_WINDOW_HOURS = (-24, 48)
"""When infection must be suspected, from ICU admission: later sepsis is not what is decided on."""
PLAUSIBLE_WEIGHT_KG = (30, 300)
RATE_CAP = 5.0
"""Highest norepinephrine equivalent of one row, ug/kg/min; above are purges and typing errors."""

Rules = Sequence[tuple[str, str]]
"""What each rule asks for, and the SQL condition on a row of ``stays``."""
Infection = Literal["sepsis3_or_fallback", "sepsis3", "fallback"]
Fio2 = Literal["charted", "noted", "estimated"]
Quirk = Literal[
    "celsius_only",
    "intubated_verbal_is_1",
    "no_base_deficit",
    "uncharted_urine_is_0",
    "no_early_deaths",
]
"""Peculiarities of published extracts, to reproduce their numbers; each makes the data worse.

``celsius_only`` drops the Fahrenheit rows, most of all temperatures; ``intubated_verbal_is_1``
takes an untestable verbal response for none; ``no_base_deficit`` drops base excesses of 0 and less;
``uncharted_urine_is_0``; ``no_early_deaths`` drops stays that die within 24 h of their last step.
"""


@dataclass(frozen=True)
class MimicConfig:
    """Which stays make the cohort, what is measured how, and what the build may use.

    Attributes:
        min_age: Youngest age at hospital admission, years.
        min_hours: Shortest time in the ICU, h.
        first_stay_only: Whether to keep each patient's first ICU stay only.
        infection: ``sepsis3`` needs antibiotics and cultures; ``fallback`` antibiotics and an
            infection code; ``sepsis3_or_fallback`` uses the fallback for admissions that have no
            culture at all.
        weight_required: Whether to drop stays without a plausible weight; else theirs is the
            cohort's median by sex.
        fio2: Inspired oxygen is what was ``charted``; where it was not, ``noted`` with a blood
            gas; where neither, ``estimated`` from oxygen flow and device.
        vasopressor_weights: Scale of norepinephrine equivalents.
        quirks: Peculiarities of published extracts to reproduce.
        memory_limit: Most memory DuckDB may use.
        threads: Threads DuckDB may use; None for all.
    """

    min_age: int = 18
    min_hours: float = 8
    first_stay_only: bool = False
    infection: Infection = "sepsis3_or_fallback"
    weight_required: bool = False
    fio2: Fio2 = "estimated"
    vasopressor_weights: VasopressorWeights = "goradia"
    quirks: tuple[Quirk, ...] = ()
    memory_limit: str = "3GB"
    threads: int | None = None

    def __post_init__(self) -> None:
        """Rejects settings no cohort can be built with."""
        choices = {"infection": Infection, "fio2": Fio2, "vasopressor_weights": VasopressorWeights}
        for name, choice in choices.items():
            if (given := getattr(self, name)) not in get_args(choice):
                raise ConfigError(f"{name} must be one of {get_args(choice)}, got {given!r}")
        for quirk in self.quirks:
            if quirk not in get_args(Quirk):
                raise ConfigError(f"quirks must be of {get_args(Quirk)}, got {quirk!r}")
        if (
            self.min_age < 0
            or not 0 <= self.min_hours < float("inf")
            or (self.threads is not None and self.threads < 1)
        ):
            raise ConfigError(
                "min_age and min_hours must be numbers of 0 or more, threads 1 or more"
            )


def run_concepts(
    source: Source,
    cache: Path,
    config: MimicConfig,
    assembly: AssemblyConfig,
    *,
    horizon_hours: int = HORIZON_HOURS,
    inclusion: Mapping[str, Rules] | None = None,
) -> duckdb.DuckDBPyConnection:
    """Computes every concept for the stays that pass age, length and order of stay.

    Args:
        source: Where the native tables come from.
        cache: Folder of the filtered tables.
        config: Which stays.
        assembly: Clock and alignment.
        horizon_hours: How much of each stay is looked at, h from ICU admission; sepsis may be
            told by a little more.
        inclusion: Further rules, by the concept as soon as which is known they apply: the
            concepts after it are computed for the stays left only.

    Returns:
        A connection that holds one table per concept.

    Raises:
        SourceError: A table cannot be read.
        SchemaError: A column holds the wrong type.
        EmptyCohortError: No stay is left.
    """
    clear_leftovers(cache)
    connection = _connect(config, cache)
    _register(connection, config, assembly, horizon_hours)
    source.load_small(connection)
    run_concept(connection, "stays")
    connection.execute(
        "CREATE TABLE flow AS SELECT 0 AS position, 'ICU stays' AS rule, count(*) AS stays "
        "FROM icustays"
    )
    keep_stays(connection, tuple(_admission_rules(config)))
    big = [table for table in TABLES if table.key]
    with tqdm(total=len(big) + len(CONCEPTS), desc="cohort", disable=None) as progress:
        for table in big:
            progress.set_postfix_str(table.path)
            source.load_big(connection, table, cache)
            progress.update()
        for concept in CONCEPTS:
            progress.set_postfix_str(concept)
            run_concept(connection, concept)
            keep_stays(connection, (inclusion or {}).get(concept, ()))
            progress.update()
    return connection


def _connect(config: MimicConfig, cache: Path) -> duckdb.DuckDBPyConnection:
    settings: dict[str, Any] = {
        "memory_limit": config.memory_limit,
        "preserve_insertion_order": False,
        "temp_directory": str(cache / SPILL),
    }
    if config.threads is not None:
        settings["threads"] = config.threads
    try:
        connection = duckdb.connect(config=settings)
    except duckdb.Error as error:
        raise ConfigError(
            f"memory_limit {config.memory_limit!r} or threads {config.threads!r} is not "
            "understood; write memory as in '4GB'"
        ) from error
    connection.execute("SET enable_progress_bar = false")  # DuckDB's own would break ours
    return connection


def run_concept(connection: duckdb.DuckDBPyConnection, concept: str) -> None:
    """Computes one concept into the table of its name."""
    if concept == "sofa":
        _score_sofa(connection)
    sql = files("sepsis_gym.cohort").joinpath("sql", f"{concept}.sql").read_text()
    connection.execute(f"CREATE OR REPLACE TABLE {concept} AS\n{sql}")


def _register(
    connection: duckdb.DuckDBPyConnection,
    config: MimicConfig,
    assembly: AssemblyConfig,
    horizon_hours: int,
) -> None:
    """Hands the Python tables and settings to the SQL."""
    variables: dict[str, Any] = {
        "step_hours": assembly.step_hours,
        "last_bin": horizon_hours // assembly.step_hours,
        # the latest SOFA that can tell of sepsis: up to a day of doubt about a culture, and one on
        "last_hour": max(horizon_hours + assembly.step_hours, ONSET_WINDOW_HOURS[1] + 48),
        "labs_at": "reported" if assembly.alignment == "causal" else "drawn",
        "specimen_item": SPECIMEN_ITEM,
        "gas_fio2_item": GAS_FIO2_ITEM,
        "weight_low": PLAUSIBLE_WEIGHT_KG[0],
        "weight_high": PLAUSIBLE_WEIGHT_KG[1],
        "rate_cap": RATE_CAP,
        "infection": config.infection,
        "fio2": config.fio2,
        "quirks": list(config.quirks),
        "onset_from": ONSET_WINDOW_HOURS[0],
        "onset_to": ONSET_WINDOW_HOURS[1],
    }
    for name, value in variables.items():
        connection.execute(f"SET VARIABLE {name} = ?", [value])
    features = [
        (f.name, f.kind, f.low, f.high, int(f.hold_hours), FEATURE_INDEX[f.name]) for f in FEATURES
    ]
    tables: dict[str, tuple[str, Sequence[tuple[Any, ...]]]] = {
        "items": ("source itemid role factor unit", item_rows(config.vasopressor_weights)),
        "features": ("name kind low high hold_hours position", features),
        "oxygen_fio2": ("device litres fio2", oxygen_rows()),
        "ventilation_text": ("role value status rank", ventilation_rows()),
        "charlson_codes": ("comorbidity slot icd_version prefix weight", charlson_rows()),
        "infection_codes": ("icd_version prefix", infection_rows()),
        "excluded_routes": ("pattern", [(pattern,) for pattern in EXCLUDED_ROUTES]),
        "excluded_names": ("pattern", [(pattern,) for pattern in EXCLUDED_NAMES]),
    }
    for name, (columns, rows) in tables.items():
        _create(connection, name, dict(zip(columns.split(), zip(*rows, strict=True), strict=True)))


def _create(connection: duckdb.DuckDBPyConnection, name: str, columns: dict[str, Any]) -> None:
    connection.register("incoming", pa.table(columns))
    connection.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM incoming")
    connection.unregister("incoming")


def _score_sofa(connection: duckdb.DuckDBPyConnection) -> None:
    """Turns ``sofa_inputs`` into ``sofa_points`` by the project's one SOFA."""
    hourly = {
        name: np.ma.filled(column.astype(np.float64), np.nan) if np.ma.isMA(column) else column
        for name, column in connection.execute("SELECT * FROM sofa_inputs").fetchnumpy().items()
    }
    # Gases under ventilation and without it in the same hour: the worse of the two counts.
    points = sofa_components(
        pao2_fio2=np.stack([hourly["pao2_fio2_ventilated"], hourly["pao2_fio2_unventilated"]]),
        ventilated=np.array([[True], [False]]),
        platelet=hourly["platelet"],
        bilirubin_total=hourly["bilirubin_total"],
        meanbp=hourly["meanbp"],
        norepinephrine=hourly["norepinephrine"],
        dopamine=hourly["dopamine"],
        dobutamine=hourly["dobutamine"],
        gcs=hourly["gcs"],
        creatinine=hourly["creatinine"],
        urine_24h=hourly["urine_24h"],
    ).max(axis=0)
    organs = {name: points[:, index] for index, name in enumerate(COMPONENTS)}
    keys = {name: hourly[name].astype(np.int64) for name in ("stay_id", "hour")}
    _create(connection, "sofa_points", {**keys, **organs})


def _admission_rules(config: MimicConfig) -> Iterator[tuple[str, str]]:
    yield "with an admission, a patient and two years between in and out at most", "TRUE"
    yield f"{config.min_age} years or older", f"age >= {config.min_age}"
    yield f"{config.min_hours:g} h or longer in the ICU", f"hours >= {config.min_hours}"
    if config.first_stay_only:
        yield "first ICU stay of the patient", "admission_order = 1"


def keep_stays(connection: duckdb.DuckDBPyConnection, rules: Rules) -> None:
    """Applies inclusion rules to ``stays`` in turn and notes how many stays each leaves.

    Raises:
        EmptyCohortError: A rule leaves none.
    """
    for rule, condition in rules:
        connection.execute(f"DELETE FROM stays WHERE NOT coalesce({condition}, FALSE)")
        connection.execute(
            "INSERT INTO flow SELECT (SELECT count(*) FROM flow), ?, (SELECT count(*) FROM stays)",
            [rule],
        )
        if connection.execute("FROM stays LIMIT 1").fetchone() is None:
            raise EmptyCohortError(
                f"no stay is left after the rule {rule!r}; loosen it or check the source"
            )
