"""A MIMIC-IV folder as a source of the native tables: its files, its release."""

from pathlib import Path

import duckdb

from sepsis_gym.cohort.tables import (
    KEYS,
    TABLES,
    SourceTable,
    cache_query,
    check_key,
    execute,
    header,
    source_table,
    typed,
)
from sepsis_gym.errors import SchemaError, SourceError

SUFFIXES = (".parquet", ".csv.gz", ".csv")
ERAS = {"2008 - 2010", "2011 - 2013", "2014 - 2016", "2017 - 2019"}
"""The true years of patients.anchor_year_group up to v2.2; v3.0 added ``LAST_ERA``."""
LAST_ERA = "2020 - 2022"
NEVER_EMPTY = ("chartevents", "labevents")
"""Tables without which there are no states; in the others, no row may mean no treatment."""


def locate(folder: Path) -> dict[str, Path]:
    """Finds the file of every table and checks that it has the columns the build reads.

    Args:
        folder: A MIMIC-IV folder with ``hosp`` and ``icu``, of v2.2 or later.

    Returns:
        File by table name.

    Raises:
        SourceError: A table is missing or there twice, its header cannot be read, or the release is
            an older one.
        SchemaError: A column is missing or there twice.

    Source: the release notes of MIMIC-IV v2.0 (no more ``core``) and v2.2 (``caregiver_id``).
    """
    if (folder / "core").is_dir():
        raise SourceError(f"{folder / 'core'}: a folder of MIMIC-IV v1; use v2.2 or later")
    files = {}
    for table in TABLES:
        found = [p for suffix in SUFFIXES if (p := folder / f"{table.path}{suffix}").is_file()]
        if not found:
            raise SourceError(
                f"{folder / table.path}{SUFFIXES[1]}: no such file (nor {SUFFIXES[0]} or "
                f"{SUFFIXES[2]}); the folder must hold MIMIC-IV's hosp/ and icu/"
            )
        if len(found) > 1:
            raise SourceError(f"{found[0]} and {found[1]}: one table twice; keep one of them")
        present = header(found[0])
        needed = [name for name, _ in table.columns if name not in table.optional]
        if table.key == "stay_id":
            needed.append("caregiver_id")  # not read: tells v2.2 from what came before
        faulty = [name for name in needed if present.count(name) != 1]
        if faulty:
            what = "stands twice" if faulty[0] in present else "is missing"
            raise SchemaError(
                f"{found[0]}: column {faulty[0]!r} {what}; use MIMIC-IV v2.2 or later, "
                "with column names in lower case"
            )
        files[table.name] = found[0]
    return files


def mimic_version(files: dict[str, Path]) -> str:
    """Tells the release by the true years that ``patients.anchor_year_group`` holds.

    Returns:
        ``2.2`` (also an extract of a later one without its last years), ``3.0 or later``, or
        ``unknown``: the column is missing or says something else, as in rebuilt extracts.

    Raises:
        SourceError: The table cannot be read.

    Source: the release notes of MIMIC-IV v3.0, which added the stays of 2020 to 2022.
    """
    column = "anchor_year_group"
    if column not in header(files["patients"]):
        return "unknown"
    groups = typed(source_table("hosp/patients", f"{column}:VARCHAR"), files["patients"])
    with duckdb.connect() as connection:
        found = f"CREATE TABLE eras AS SELECT DISTINCT * FROM ({groups})"
        execute(connection, found, files["patients"])
        eras = {row[0] for row in connection.execute("FROM eras").fetchall()}
    if not eras or eras - ERAS - {LAST_ERA}:
        return "unknown"
    return "3.0 or later" if LAST_ERA in eras else "2.2"


class MimicFolder:
    """A MIMIC-IV folder as a :class:`Source`."""

    def __init__(self, folder: Path) -> None:
        """Finds and checks its files.

        Raises:
            SourceError: The folder or a table is missing, or of an older release.
            SchemaError: A table lacks a column.
        """
        if not folder.is_dir():
            raise SourceError(f"{folder}: no such folder; give the one that holds hosp/ and icu/")
        self.folder = folder
        self.files = locate(folder)
        self.version = mimic_version(self.files)

    def load_small(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Reads the tables that are small whatever the cohort."""
        for table in TABLES:
            if not table.key:
                path = self.files[table.name]
                statement = f"CREATE OR REPLACE TABLE {table.name} AS {typed(table, path)}"
                execute(connection, statement, path)
                check_key(connection, table.name, KEYS[table.name], path)

    def load_big(
        self, connection: duckdb.DuckDBPyConnection, table: SourceTable, cache: Path
    ) -> None:
        """Filters one big table into the cache.

        Raises:
            SourceError: Nothing was charted, or nothing measured, of any candidate: the table is
                empty or of other patients, and every feature would be an imputed one.
        """
        path = self.files[table.name]
        kept = [f"{column} IN ({query})" for column, query in table.wanted.items()]
        query = (
            f"SELECT * FROM ({typed(table, path)}) WHERE {' AND '.join([*kept, table.condition])}"
        )
        cache_query(connection, table, query, cache, files=[path], path=path)
        if (
            table.name in NEVER_EMPTY
            and not connection.sql(f"FROM {table.name} LIMIT 1").fetchall()
        ):
            raise SourceError(
                f"{path}: no row of any candidate's stay; take the whole table, of the same "
                "extract as icu/icustays"
            )

    def notes(self, connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
        """Nothing: native tables are read as they are."""
        return {}
