"""Reading native MIMIC-IV tables: found, checked, filtered and typed into a Parquet cache."""

import csv
import gzip
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from sepsis_gym.cohort.antibiotics import antibiotic_pattern
from sepsis_gym.errors import SchemaError, SourceError

KEYS = {"icustays": "stay_id", "admissions": "hadm_id", "patients": "subject_id"}
"""Columns that no two rows of a small table may share: joins would multiply stays and doses."""
SPILL = "spill"
"""Folder in the cache for rows that do not fit into memory."""


@dataclass(frozen=True)
class SourceTable:
    """One table of a MIMIC-IV folder.

    Attributes:
        path: Where it lies in the folder, without suffix.
        columns: (name, DuckDB type) of the columns read; any others are ignored.
        key: Column of ``stays`` by which rows are kept; empty for small tables, read whole.
        condition: What else a row must fulfil, as SQL.
        optional: Columns that are all NULL where the file lacks them.
    """

    path: str
    columns: tuple[tuple[str, str], ...]
    key: str = ""
    condition: str = "TRUE"
    optional: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The table's own name, under which the concepts know it."""
        return self.path.rpartition("/")[2]

    @property
    def wanted(self) -> dict[str, str]:
        """By column, the query of the values that a row worth caching holds."""
        queries = {self.key: f"SELECT DISTINCT {self.key} FROM stays"}
        if "itemid" in dict(self.columns):
            queries["itemid"] = f"SELECT DISTINCT itemid FROM items WHERE source = '{self.name}'"
        return queries


def source_table(path: str, columns: str, key: str = "", condition: str = "TRUE") -> SourceTable:
    """Reads ``name:TYPE name?:TYPE``; the question mark stands after optional columns."""
    pairs = [column.split(":") for column in columns.split()]
    optional = tuple(name[:-1] for name, _ in pairs if name.endswith("?"))
    kinds = tuple((name.removesuffix("?"), kind) for name, kind in pairs)
    return SourceTable(path, kinds, key, condition, optional)


class Source(Protocol):
    """Fills the native tables the concepts read, from whatever a folder holds."""

    folder: Path

    def load_small(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Creates ``icustays``, ``admissions`` and ``patients``, with all their rows."""

    def load_big(
        self, connection: duckdb.DuckDBPyConnection, table: SourceTable, cache: Path
    ) -> None:
        """Creates one other table, with the rows of ``stays`` and ``items``."""

    def notes(self, connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
        """Counts of what reading the source dropped or assumed, over the stays left."""


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
        "hadm_id",
    ),
    source_table(
        "hosp/prescriptions",
        "subject_id:BIGINT hadm_id:BIGINT starttime:TIMESTAMP stoptime:TIMESTAMP "
        "drug_type:VARCHAR drug:VARCHAR route:VARCHAR",
        "subject_id",
        f"regexp_matches(lower(drug), '{antibiotic_pattern()}')",
    ),
    source_table(
        "hosp/microbiologyevents",
        "subject_id:BIGINT micro_specimen_id:BIGINT chartdate:TIMESTAMP charttime:TIMESTAMP",
        "subject_id",
    ),
    source_table(
        "icu/procedureevents",
        "stay_id:BIGINT itemid:BIGINT starttime:TIMESTAMP endtime:TIMESTAMP",
        "stay_id",
    ),
    source_table(
        "icu/outputevents",
        "stay_id:BIGINT itemid:BIGINT charttime:TIMESTAMP value:DOUBLE",
        "stay_id",
    ),
    source_table(
        "icu/inputevents",
        "stay_id:BIGINT itemid:BIGINT starttime:TIMESTAMP endtime:TIMESTAMP amount:DOUBLE "
        "amountuom:VARCHAR rate:DOUBLE rateuom:VARCHAR patientweight:DOUBLE "
        "statusdescription:VARCHAR orderid:BIGINT",
        "stay_id",
    ),
    source_table(
        "hosp/labevents",
        "subject_id:BIGINT specimen_id:BIGINT itemid:BIGINT charttime:TIMESTAMP "
        "storetime:TIMESTAMP value:VARCHAR valuenum:DOUBLE",
        "subject_id",
    ),
    source_table(
        "icu/chartevents",
        "subject_id:BIGINT stay_id:BIGINT itemid:BIGINT charttime:TIMESTAMP value:VARCHAR "
        "valuenum:DOUBLE",
        "stay_id",
    ),
)


def header(path: Path) -> list[str]:
    """Names of a file's columns.

    Raises:
        SourceError: It cannot be read, or is empty.
    """
    try:
        if path.suffix == ".parquet":
            return list(pq.read_schema(path).names)
        code = "utf-8-sig"  # spreadsheets put a byte-order mark first
        packed = path.suffix == ".gz"
        with gzip.open(path, "rt", -1, code) if packed else path.open(encoding=code) as lines:
            names = next(csv.reader(lines), [])
    except (OSError, EOFError, UnicodeDecodeError, pa.ArrowException) as error:
        raise SourceError(f"{path}: cannot be read ({_one_line(error)}); copy it again") from error
    if not names:
        raise SourceError(f"{path}: is empty; copy it again")
    return names


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
    read = [name if name in kinds else f"unread {i}" for i, name in enumerate(present)]
    struct = ", ".join(f"'{name}': '{kinds.get(name, 'VARCHAR')}'" for name in read)
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
    table: SourceTable,
    query: str,
    cache: Path,
    *,
    files: Sequence[Path],
    path: Path,
    settings: str = "",
) -> None:
    """Makes a query's rows available to the concepts, reading the source at most once.

    The Parquet file carries a fingerprint of what it was made from; a file with the same one is
    used again.

    Args:
        connection: Holds the tables ``stays`` and ``items`` that say which rows to keep.
        table: The table to make.
        query: Its rows.
        cache: Folder of the cached tables.
        files: All files the query reads.
        path: The file or folder to blame where they cannot be read.
        settings: Text that changes whenever the rows do for another reason.

    Raises:
        SourceError: The source is cut short or otherwise unreadable, or the disk is full.
        SchemaError: A column does not hold its type.
    """
    target = cache / f"{table.name}.parquet"
    fingerprint = _fingerprint(connection, table, files, settings)
    if _stored_fingerprint(connection, target) != fingerprint:
        partial = target.with_suffix(".partial")
        cache.mkdir(parents=True, exist_ok=True)
        try:
            # In one order: the same rows make the same bytes, however many threads read them.
            statement = (
                f"COPY (SELECT * FROM ({query}) ORDER BY ALL) TO '{_escaped(partial)}' "
                f"(FORMAT parquet, COMPRESSION zstd, KV_METADATA {{fingerprint: '{fingerprint}'}})"
            )
            execute(connection, statement, path, partial)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    connection.execute(
        f"CREATE OR REPLACE VIEW {table.name} AS SELECT * FROM read_parquet('{_escaped(target)}')"
    )


def clear_leftovers(cache: Path) -> None:
    """Removes what a build that was killed left in its cache: half a table, spilled rows."""
    for partial in cache.glob("*.partial"):
        partial.unlink()
    shutil.rmtree(cache / SPILL, ignore_errors=True)


def _fingerprint(
    connection: duckdb.DuckDBPyConnection,
    table: SourceTable,
    files: Sequence[Path],
    settings: str,
) -> str:
    """Changes with the source files and with the rows that are kept of them, and nothing else.

    The folder is left out, so that the same data in another place give the same cache.
    """
    made_from: list[Any] = [repr(table), settings]
    for file in files:
        status = file.stat()
        made_from.append([file.name, status.st_size, status.st_mtime_ns])
    for query in table.wanted.values():
        made_from.append(connection.execute(f"{query} ORDER BY ALL").fetchall())
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()


def _stored_fingerprint(connection: duckdb.DuckDBPyConnection, path: Path) -> str | None:
    if not path.is_file():
        return None
    query = "SELECT decode(value) FROM parquet_kv_metadata(?) WHERE decode(key) = 'fingerprint'"
    try:
        row = connection.execute(query, [str(path)]).fetchone()
    except duckdb.Error:  # a file that is no Parquet is written anew
        return None
    return row[0] if row else None


def execute(
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
        if target is not None and str(target.parent) in str(error):
            full = "No space left on device"  # the rest of the message is DuckDB's inner life
            reason = full if full in str(error) else _one_line(error)
            raise SourceError(
                f"{target}: cannot be written ({reason}); make room and run it again"
            ) from error
        raise SourceError(
            f"{path}: cannot be read ({_one_line(error)}); copy or download it again"
        ) from error
