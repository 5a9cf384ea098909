"""Reading native MIMIC-IV tables: found, checked, filtered and typed into a Parquet cache."""

import csv
import gzip
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from sepsis_gym.errors import SchemaError, SourceError

KEYS = {"icustays": "stay_id", "admissions": "hadm_id", "patients": "subject_id"}
"""Columns that no two rows of a small table may share: joins would multiply stays and doses."""
SUFFIXES = (".parquet", ".csv.gz", ".csv")


@dataclass(frozen=True)
class SourceTable:
    """One table of a MIMIC-IV folder.

    Attributes:
        path: Where it lies in the folder, without suffix.
        columns: (name, DuckDB type) of the columns read; any others are ignored.
        kept: SQL condition on the rows worth caching; empty for small tables, which are read whole.
        optional: Columns that are all NULL where the file lacks them.
    """

    path: str
    columns: tuple[tuple[str, str], ...]
    kept: str = ""
    optional: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The table's own name, under which the concepts know it."""
        return self.path.rpartition("/")[2]


def source_table(path: str, columns: str, kept: str = "") -> SourceTable:
    """Reads ``name:TYPE name?:TYPE``; the question mark stands after optional columns."""
    pairs = [column.split(":") for column in columns.split()]
    optional = tuple(name[:-1] for name, _ in pairs if name.endswith("?"))
    kinds = tuple((name.removesuffix("?"), kind) for name, kind in pairs)
    return SourceTable(path, kinds, kept, optional)


class Source(Protocol):
    """Fills the native tables the concepts read, from whatever a folder holds."""

    folder: Path

    def load_small(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Creates ``icustays``, ``admissions`` and ``patients``, with all their rows."""

    def load_big(
        self,
        connection: duckdb.DuckDBPyConnection,
        table: SourceTable,
        cache: Path,
        selection: str,
    ) -> None:
        """Creates one other table, with the rows of ``stays`` and ``items``."""

    def notes(self, connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
        """Counts of what reading the source dropped or assumed, over the stays left."""


_OF_STAY = "stay_id IN (SELECT stay_id FROM stays) AND itemid IN ({items})"
_OF_PATIENT = "subject_id IN (SELECT subject_id FROM stays)"
_ITEMS = "SELECT itemid FROM items WHERE source = '{}'"

TABLES: tuple[SourceTable, ...] = (
    source_table(
        "icu/icustays",
        "subject_id:BIGINT hadm_id:BIGINT stay_id:BIGINT intime:TIMESTAMP outtime:TIMESTAMP",
    ),
    source_table(
        "hosp/admissions",
        "hadm_id:BIGINT admittime:TIMESTAMP dischtime:TIMESTAMP deathtime:TIMESTAMP "
        "hospital_expire_flag:INTEGER age?:INTEGER",  # years; MIMIC-IV has it by patient
    ),
    source_table(
        "hosp/patients",
        "subject_id:BIGINT gender:VARCHAR anchor_age:INTEGER anchor_year:INTEGER dod:DATE",
    ),
    source_table(
        "hosp/diagnoses_icd",
        "hadm_id:BIGINT icd_code:VARCHAR icd_version:INTEGER",
        "hadm_id IN (SELECT hadm_id FROM stays)",
    ),
    source_table(
        "hosp/prescriptions",
        "subject_id:BIGINT hadm_id:BIGINT starttime:TIMESTAMP stoptime:TIMESTAMP "
        "drug_type:VARCHAR drug:VARCHAR route:VARCHAR",
        f"{_OF_PATIENT} AND regexp_matches(lower(drug), getvariable('antibiotics'))",
    ),
    source_table(
        "hosp/microbiologyevents",
        "subject_id:BIGINT micro_specimen_id:BIGINT chartdate:TIMESTAMP charttime:TIMESTAMP",
        _OF_PATIENT,
    ),
    source_table(
        "icu/procedureevents",
        "stay_id:BIGINT itemid:BIGINT starttime:TIMESTAMP endtime:TIMESTAMP",
        _OF_STAY.format(items=_ITEMS.format("procedureevents")),
    ),
    source_table(
        "icu/outputevents",
        "stay_id:BIGINT itemid:BIGINT charttime:TIMESTAMP value:DOUBLE",
        _OF_STAY.format(items=_ITEMS.format("outputevents")),
    ),
    source_table(
        "icu/inputevents",
        "stay_id:BIGINT itemid:BIGINT starttime:TIMESTAMP endtime:TIMESTAMP amount:DOUBLE "
        "amountuom:VARCHAR rate:DOUBLE rateuom:VARCHAR patientweight:DOUBLE "
        "statusdescription:VARCHAR",
        _OF_STAY.format(items=_ITEMS.format("inputevents")),
    ),
    source_table(
        "hosp/labevents",
        "subject_id:BIGINT specimen_id:BIGINT itemid:BIGINT charttime:TIMESTAMP "
        "storetime:TIMESTAMP value:VARCHAR valuenum:DOUBLE",
        f"{_OF_PATIENT} AND itemid IN ({_ITEMS.format('labevents')})",
    ),
    source_table(
        "icu/chartevents",
        "subject_id:BIGINT stay_id:BIGINT itemid:BIGINT charttime:TIMESTAMP value:VARCHAR "
        "valuenum:DOUBLE",
        _OF_STAY.format(items=_ITEMS.format("chartevents")),
    ),
)


def locate(folder: Path) -> dict[str, Path]:
    """Finds the file of every table and checks that it has the columns the build reads.

    Args:
        folder: A MIMIC-IV folder with ``hosp`` and ``icu``.

    Returns:
        File by table name.

    Raises:
        SourceError: A table is missing or its header cannot be read.
        SchemaError: A column is missing.
    """
    files = {}
    for table in TABLES:
        found = [p for suffix in SUFFIXES if (p := folder / f"{table.path}{suffix}").is_file()]
        if not found:
            raise SourceError(
                f"{folder / table.path}{SUFFIXES[1]}: no such file (nor {SUFFIXES[0]} or "
                f"{SUFFIXES[2]}); the folder must hold MIMIC-IV's hosp/ and icu/"
            )
        present = header(found[0])
        needed = [name for name, _ in table.columns if name not in table.optional]
        missing = [name for name in needed if name not in present]
        if missing:
            raise SchemaError(
                f"{found[0]}: column {missing[0]!r} is missing; MIMIC-IV v2.2 or later has it"
            )
        files[table.name] = found[0]
    return files


def header(path: Path) -> list[str]:
    """Names of a file's columns.

    Raises:
        SourceError: It cannot be read.
    """
    try:
        if path.suffix == ".parquet":
            return list(pq.read_schema(path).names)
        with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as lines:
            return next(csv.reader(lines), [])
    except (OSError, EOFError, UnicodeDecodeError, pa.ArrowException) as error:
        raise SourceError(f"{path}: cannot be read ({_one_line(error)}); copy it again") from error


def _one_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0]


def _fault(error: duckdb.Error) -> str:
    """Where and what of a parsing error, without the whole row that DuckDB quotes."""
    lines = str(error).strip().split("\n")
    what = [line for line in lines[1:] if line.startswith(("Error when", "Expected"))]
    return "; ".join([lines[0], *what[:1]])


def _escaped(path: Path) -> str:
    return str(path).replace("'", "''")


def typed(table: SourceTable, path: Path) -> str:
    """SQL that yields the table's columns by name, with their declared types."""
    present, kinds = header(path), dict(table.columns)
    columns = ", ".join(
        f"{name if name in present else 'NULL'}::{kind} AS {name}" for name, kind in table.columns
    )
    if path.suffix == ".parquet":
        return f"SELECT {columns} FROM read_parquet('{_escaped(path)}')"
    struct = ", ".join(f"'{name}': '{kinds.get(name, 'VARCHAR')}'" for name in present)
    return (
        f"SELECT {columns} FROM read_csv('{_escaped(path)}', columns = {{{struct}}}, "
        "header = true, auto_detect = false, delim = ',', quote = '\"', escape = '\"', "
        "nullstr = '')"
    )


def check_key(connection: duckdb.DuckDBPyConnection, name: str, key: str, path: Path) -> None:
    """Refuses a table, read from ``path``, of which two rows share a key.

    Raises:
        SchemaError: Two rows share one.
    """
    twice = connection.execute(
        f"SELECT {key} FROM {name} WHERE {key} IS NOT NULL GROUP BY {key} HAVING count(*) > 1 "
        f"ORDER BY {key} LIMIT 1"
    ).fetchone()
    if twice:
        raise SchemaError(f"{path}: {key} {twice[0]} stands in more than one row; keep one of them")


def cache_query(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    query: str,
    cache: Path,
    *,
    files: Sequence[Path],
    path: Path,
    selection: str,
) -> None:
    """Makes a query's rows available to the concepts, reading the source at most once.

    The Parquet file carries a fingerprint of what it was made from; a file with the same one is
    used again.

    Args:
        connection: Holds the tables ``stays`` and ``items`` that say which rows to keep.
        name: The table to make.
        query: Its rows.
        cache: Folder of the cached tables.
        files: All files the query reads.
        path: The file or folder to blame where they cannot be read.
        selection: Text that changes whenever the rows to keep do.

    Raises:
        SourceError: The source file is cut short or otherwise unreadable.
        SchemaError: A column does not hold its type.
    """
    target = cache / f"{name}.parquet"
    statuses = [(str(file.resolve()), file.stat()) for file in files]
    made_from = [[file, status.st_size, status.st_mtime_ns] for file, status in statuses]
    fingerprint = hashlib.sha256(json.dumps([made_from, query, selection]).encode()).hexdigest()
    if _fingerprint(connection, target) != fingerprint:
        partial = target.with_suffix(".partial")
        cache.mkdir(parents=True, exist_ok=True)
        try:
            # In one order: the same rows make the same bytes, however many threads read them.
            statement = (
                f"COPY (SELECT * FROM ({query}) ORDER BY ALL) TO '{_escaped(partial)}' "
                f"(FORMAT parquet, COMPRESSION zstd, KV_METADATA {{fingerprint: '{fingerprint}'}})"
            )
            _execute(connection, statement, path, partial)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    connection.execute(
        f"CREATE OR REPLACE VIEW {name} AS SELECT * FROM read_parquet('{_escaped(target)}')"
    )


def _fingerprint(connection: duckdb.DuckDBPyConnection, path: Path) -> str | None:
    if not path.is_file():
        return None
    query = "SELECT decode(value) FROM parquet_kv_metadata(?) WHERE decode(key) = 'fingerprint'"
    try:
        row = connection.execute(query, [str(path)]).fetchone()
    except duckdb.Error:  # a file that is no Parquet is written anew
        return None
    return row[0] if row else None


def _execute(
    connection: duckdb.DuckDBPyConnection, statement: str, path: Path, target: Path | None = None
) -> None:
    """Runs a statement that reads ``path`` and may write ``target``, blaming the one at fault."""
    try:
        connection.execute(statement)
    except (duckdb.ConversionException, duckdb.InvalidInputException) as error:
        raise SchemaError(
            f"{path}: {_fault(error)}; see the table's description at physionet.org"
        ) from error
    except duckdb.IOException as error:
        if target is not None and str(target) in str(error):
            raise SourceError(f"{target}: cannot be written ({_one_line(error)})") from error
        raise SourceError(
            f"{path}: cannot be read ({_one_line(error)}); copy or download it again"
        ) from error


class MimicFolder:
    """A MIMIC-IV folder as a :class:`Source`."""

    def __init__(self, folder: Path) -> None:
        """Finds and checks its files.

        Raises:
            SourceError: The folder or a table is missing.
            SchemaError: A table lacks a column.
        """
        if not folder.is_dir():
            raise SourceError(f"{folder}: no such folder; give the one that holds hosp/ and icu/")
        self.folder = folder
        self.files = locate(folder)

    def load_small(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Reads the tables that are small whatever the cohort."""
        for table in TABLES:
            if not table.kept:
                path = self.files[table.name]
                statement = f"CREATE OR REPLACE TABLE {table.name} AS {typed(table, path)}"
                _execute(connection, statement, path)
                check_key(connection, table.name, KEYS[table.name], path)

    def load_big(
        self,
        connection: duckdb.DuckDBPyConnection,
        table: SourceTable,
        cache: Path,
        selection: str,
    ) -> None:
        """Filters one big table into the cache."""
        path = self.files[table.name]
        query = f"SELECT * FROM ({typed(table, path)}) WHERE {table.kept}"
        cache_query(
            connection, table.name, query, cache, files=[path], path=path, selection=selection
        )

    def notes(self, connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
        """Nothing: native tables are read as they are."""
        return {}
