"""Sepsis cohorts from a CLIF folder (Common Longitudinal ICU data Format 2.1).

The CLIF tables are read as the MIMIC-IV tables that the concepts know, one SQL file each; all that
follows is the path of a MIMIC-IV cohort.
"""

import os
from collections.abc import Sequence
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from sepsis_gym.cohort import clif_items
from sepsis_gym.cohort.assemble import AssemblyConfig
from sepsis_gym.cohort.concepts import MimicConfig
from sepsis_gym.cohort.mimic import build_cohort
from sepsis_gym.cohort.tables import (
    KEYS,
    SourceTable,
    cache_query,
    check_key,
    header,
    source_table,
    typed,
)
from sepsis_gym.errors import ConfigError, SchemaError, SourceError
from sepsis_gym.trajectories import Trajectories

BED_GAP_HOURS = 6
"""Longest time between two ICU beds of one stay."""
LEAD_HOURS = 14
"""How long before the ICU a device still tells how the patient breathes on arrival: the longest
silence within an episode of ventilation."""
HOLD_HOURS = 12
"""How long an infusion is taken to run when nothing follows its last row."""
COURSE_GAP_HOURS = 48
"""A dose of an antibiotic after this long without it starts a course."""
UNKNOWN_UNIT_SHARE = 0.01
"""Rows of a laboratory category in an unknown unit: dropped up to this share, refused above."""

_MEDICATION = (
    "hospitalization_id admin_dttm med_name? med_category med_dose:DOUBLE med_dose_unit "
    "med_route_category? "
)
_REQUIRED = {
    "patient": "patient_id sex_category death_dttm",
    "hospitalization": "patient_id hospitalization_id admission_dttm discharge_dttm "
    "age_at_admission:DOUBLE discharge_category",
    "adt": "hospitalization_id in_dttm out_dttm location_category",
    "vitals": "hospitalization_id recorded_dttm vital_category vital_value:DOUBLE",
    "labs": "hospitalization_id lab_collect_dttm lab_result_dttm lab_category lab_value "
    "lab_value_numeric?:DOUBLE reference_unit",
    "medication_admin_continuous": _MEDICATION + "med_order_id? mar_action_category",
    "medication_admin_intermittent": _MEDICATION + "mar_action_category?",
    "respiratory_support": "hospitalization_id recorded_dttm device_category mode_category "
    "fio2_set:DOUBLE lpm_set?:DOUBLE resp_rate_obs?:DOUBLE",
    "patient_assessments": "hospitalization_id recorded_dttm assessment_category "
    "numerical_value:DOUBLE",
}
_OPTIONAL = {
    "hospital_diagnosis": "hospitalization_id diagnosis_code diagnosis_code_format",
    "microbiology_culture": "hospitalization_id collect_dttm fluid_category method_category?",
    "output": "hospitalization_id recorded_dttm output_group output_value:DOUBLE output_unit?",
    "intake_output": "hospitalization_id intake_dttm fluid_name amount:DOUBLE in_out_flag:INTEGER",
}


def _clif_table(name: str, columns: str) -> SourceTable:
    """Times end in ``_dttm``; what has no type is text."""
    kinds = (
        column if ":" in column else f"{column}:{'TIMESTAMP' if '_dttm' in column else 'VARCHAR'}"
        for column in columns.split()
    )
    return source_table(f"clif_{name}", " ".join(kinds))


TABLES = tuple(_clif_table(*table) for table in (_REQUIRED | _OPTIONAL).items())


def build_clif(
    clif_dir: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: MimicConfig | None = None,
    assembly: AssemblyConfig | None = None,
    *,
    timezone: str = "UTC",
    credentialed: bool = True,
    source: str | None = None,
) -> Trajectories:
    """Builds a sepsis cohort from CLIF tables and saves it.

    Args:
        clif_dir: Folder of ``clif_<table>.parquet`` files.
        out: Folder of the cohort; the filtered tables stay in its ``cache``.
        config: Which stays.
        assembly: Clock, alignment, splits, reward.
        timezone: IANA name of the hospital's time zone; decides on which date somebody died.
        credentialed: Whether a data use agreement forbids sharing rows with third parties.
        source: Name and version of the data, for the manifest; the folder's name if not given.

    Returns:
        The cohort, as saved, with the cohort flow and the counts of repairs in its manifest.

    Raises:
        ConfigError: There is no such time zone, or ``memory_limit`` does not suffice.
        SourceError: A table is missing or cannot be read.
        SchemaError: A column is missing or of the wrong type, or a unit is unknown.
        EmptyCohortError: No stay is left; names the rule that removed the last one.
    """
    config, assembly = config or MimicConfig(), assembly or AssemblyConfig()
    folder = ClifFolder(Path(clif_dir), timezone)
    build = {**asdict(config), "timezone": timezone, "tables_absent": folder.absent}
    return build_cohort(
        folder,
        out,
        config,
        assembly,
        credentialed=credentialed,
        name=source,
        build={"clif": build},
    )


class ClifFolder:
    """A CLIF folder as a :class:`~sepsis_gym.cohort.tables.Source`."""

    def __init__(self, folder: Path, timezone: str = "UTC") -> None:
        """Finds and checks its files.

        Raises:
            ConfigError: There is no such time zone.
            SourceError: The folder or a required table is missing.
            SchemaError: A table lacks a column, or a column holds the wrong type.
        """
        with duckdb.connect() as connection:
            known = "SELECT 1 FROM pg_timezone_names() WHERE name = ?"
            if connection.execute(known, [timezone]).fetchone() is None:
                raise ConfigError(
                    f"timezone {timezone!r} is no IANA time zone; write it as in 'America/Chicago'"
                )
        if not folder.is_dir():
            raise SourceError(f"{folder}: no such folder; give the one that holds clif_*.parquet")
        self.folder, self._timezone, self._maps = folder, timezone, ""
        self.paths = {table.name: folder / f"{table.path}.parquet" for table in TABLES}
        self.absent = [name for name, path in self.paths.items() if not path.is_file()]
        for name in self.absent:
            if name.removeprefix("clif_") in _REQUIRED:
                raise SourceError(
                    f"{self.paths[name]}: no such file; the folder must hold CLIF 2.1's tables as "
                    "clif_<table>.parquet"
                )
        for table in TABLES:
            if table.name not in self.absent:
                _check_types(table, self.paths[table.name])

    def load_small(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Names the CLIF tables and makes the small native ones."""
        variables = {
            "timezone": self._timezone,
            "gap_hours": BED_GAP_HOURS,
            "lead_hours": LEAD_HOURS,
            "hold_hours": HOLD_HOURS,
            "course_gap_hours": COURSE_GAP_HOURS,
        }
        connection.execute("SET TimeZone = 'UTC'")  # casts time stamps to UTC without a zone
        for name, value in variables.items():
            connection.execute(f"SET VARIABLE {name} = ?", [value])
        for table in TABLES:
            rows = _no_rows(table)
            if table.name not in self.absent:
                rows = typed(table, self.paths[table.name])
            connection.execute(f"CREATE OR REPLACE VIEW {table.name} AS {rows}")
        for name, key in (("patient", "patient_id"), ("hospitalization", "hospitalization_id")):
            check_key(connection, f"clif_{name}", key, self.paths[f"clif_{name}"])
        self._map_units(connection)
        for name in ("hospitalizations", *KEYS):
            connection.execute(f"CREATE OR REPLACE TABLE {name} AS\n{_sql(name)}")
        connection.execute(f"CREATE OR REPLACE VIEW clif_doses AS\n{_sql('doses')}")

    def load_big(
        self, connection: duckdb.DuckDBPyConnection, table: SourceTable, cache: Path
    ) -> None:
        """Makes one native table of CLIF's, in the cache."""
        found = [path for name, path in self.paths.items() if name not in self.absent]
        settings = (self._maps, self._timezone, LEAD_HOURS, HOLD_HOURS, COURSE_GAP_HOURS)
        cache_query(
            connection,
            table,
            _sql(table.name),
            cache,
            files=found,
            path=self.folder,
            settings=f"{_sql(table.name)} {settings}",
        )

    def notes(self, connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
        """Counts of what reading CLIF dropped or assumed, over the stays left."""
        return dict(connection.execute(_sql("notes")).fetchall())

    def _map_units(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Creates the tables that say what the folder's categories and units stand for.

        Raises:
            SchemaError: Laboratory rows come in unknown units.
        """
        labs = self._lab_units(connection)
        medications = _medications(connection)
        categories = clif_items.category_rows()
        self._maps = repr((categories, labs, medications))
        _create(
            connection,
            "clif_categories",
            "source:VARCHAR category:VARCHAR itemid:BIGINT text:VARCHAR",
            categories,
        )
        _create(
            connection,
            "clif_lab_units",
            "lab_category:VARCHAR reference_unit:VARCHAR itemid:BIGINT arterial:BOOLEAN "
            "factor:DOUBLE",
            labs,
        )
        _create(
            connection,
            "clif_medications",
            "med_category:VARCHAR med_name:VARCHAR med_dose_unit:VARCHAR itemid:BIGINT "
            "antibiotic:BOOLEAN unit:VARCHAR factor:DOUBLE",
            medications,
        )

    def _lab_units(
        self, connection: duckdb.DuckDBPyConnection
    ) -> list[tuple[str, str | None, int, bool, float | None]]:
        counted = connection.execute(
            "SELECT lab_category, reference_unit, count(*), sum(count(*)) OVER "
            "(PARTITION BY lab_category) FROM clif_labs "
            "WHERE lower(lab_category) IN (SELECT unnest(?)) "
            "GROUP BY lab_category, reference_unit ORDER BY ALL",
            [list(clif_items.LABS)],
        ).fetchall()
        labs, refused = [], []
        for category, unit, n, of_category in counted:
            itemid, arterial, factor = clif_items.lab_row(category.lower(), unit)
            labs.append((category, unit, itemid, arterial, factor))
            if factor is None and n > UNKNOWN_UNIT_SHARE * of_category:
                refused.append(f"{category} in {unit!r} ({n} of {of_category} rows)")
        if refused:
            raise SchemaError(
                f"{self.paths['clif_labs']}: reference_unit is unknown for {', '.join(refused)}; "
                "convert to the unit of CLIF's lab_category table"
            )
        return labs


def _medications(connection: duckdb.DuckDBPyConnection) -> list[tuple[Any, ...]]:
    """Drugs, fluids and antibiotics among the medications, by category, name and unit."""
    found = connection.execute(
        "SELECT DISTINCT med_category, med_name, med_dose_unit FROM ("
        "SELECT med_category, med_name, med_dose_unit FROM clif_medication_admin_continuous "
        "UNION ALL "
        "SELECT med_category, med_name, med_dose_unit FROM clif_medication_admin_intermittent"
        ") WHERE med_category IS NOT NULL ORDER BY ALL"
    ).fetchall()
    rows = []
    for category, name, unit in found:
        item = clif_items.medication_item(category, name, unit)
        antibiotic = clif_items.is_antibiotic(category, name)
        if item is not None or antibiotic:
            rows.append((category, name, unit, item, antibiotic, *clif_items.dose_unit(unit)))
    return rows


def _sql(name: str) -> str:
    return files("sepsis_gym.cohort").joinpath("sql", "clif", f"{name}.sql").read_text()


def _no_rows(table: SourceTable) -> str:
    columns = ", ".join(f"NULL::{kind} AS {name}" for name, kind in table.columns)
    return f"SELECT {columns} WHERE FALSE"


def _check_types(table: SourceTable, path: Path) -> None:
    present = header(path)
    schema = pq.read_schema(path)
    for name, kind in table.columns:
        if name not in present:
            if name in table.optional:
                continue
            raise SchemaError(f"{path}: column {name!r} is missing; CLIF 2.1 has it")
        held = schema.field(name).type
        if pa.types.is_null(held) or kind == "VARCHAR":
            continue
        if kind == "TIMESTAMP" and getattr(held, "tz", None) is None:
            raise SchemaError(
                f"{path}: column {name!r} holds {held}; CLIF's times are timestamps in UTC, "
                "with their time zone"
            )
        if kind in ("DOUBLE", "INTEGER") and not (
            pa.types.is_integer(held) or pa.types.is_floating(held) or pa.types.is_decimal(held)
        ):
            raise SchemaError(f"{path}: column {name!r} holds {held}; write numbers")


def _create(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    columns: str,
    rows: Sequence[tuple[Any, ...]],
) -> None:
    """Creates a small table, also of no rows; ``columns`` as in :func:`source_table`."""
    kinds = {"VARCHAR": pa.string(), "BIGINT": pa.int64(), "DOUBLE": pa.float64()}
    kinds["BOOLEAN"] = pa.bool_()
    typed_columns = [column.split(":") for column in columns.split()]
    held = {
        column: pa.array([row[index] for row in rows], kinds[kind])
        for index, (column, kind) in enumerate(typed_columns)
    }
    connection.register("incoming", pa.table(held))
    connection.execute(f"CREATE OR REPLACE TABLE {name} AS SELECT * FROM incoming")
    connection.unregister("incoming")
