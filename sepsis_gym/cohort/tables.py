"""Reading native MIMIC-IV tables: found, checked, filtered and typed into a Parquet cache."""

import csv
import gzip
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

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
    """

    path: str
    columns: tuple[tuple[str, str], ...]
    kept: str = ""

    @property
    def name(self) -> str:
        """The table's own name, under which the concepts know it."""
        return self.path.rpartition("/")[2]


def _table(path: str, columns: str, kept: str = "") -> SourceTable:
    pairs = (column.split(":") for column in columns.split())
    return SourceTable(path, tuple((name, kind) for name, kind in pairs), kept)


_OF_STAY = "stay_id IN (SELECT stay_id FROM stays) AND itemid IN ({items})"
_OF_PATIENT = "subject_id IN (SELECT subject_id FROM stays)"
_ITEMS = "SELECT itemid FROM items WHERE source = '{}'"

TABLES: tuple[SourceTable, ...] = (
    _table(
        "icu/icustays",
        "subject_id:BIGINT hadm_id:BIGINT stay_id:BIGINT intime:TIMESTAMP outtime:TIMESTAMP",
    ),
    _table(
        "hosp/admissions",
        "hadm_id:BIGINT admittime:TIMESTAMP dischtime:TIMESTAMP deathtime:TIMESTAMP "
        "hospital_expire_flag:INTEGER",
    ),
    _table(
        "hosp/patients",
        "subject_id:BIGINT gender:VARCHAR anchor_age:INTEGER anchor_year:INTEGER dod:DATE",
    ),
    _table(
        "hosp/diagnoses_icd",
        "hadm_id:BIGINT icd_code:VARCHAR icd_version:INTEGER",
        "hadm_id IN (SELECT hadm_id FROM stays)",
    ),
    _table(
        "hosp/prescriptions",
        "subject_id:BIGINT hadm_id:BIGINT starttime:TIMESTAMP stoptime:TIMESTAMP "
        "drug_type:VARCHAR drug:VARCHAR route:VARCHAR",
        f"{_OF_PATIENT} AND regexp_matches(lower(drug), getvariable('antibiotics'))",
    ),
    _table(
        "hosp/microbiologyevents",
        "subject_id:BIGINT micro_specimen_id:BIGINT chartdate:TIMESTAMP charttime:TIMESTAMP",
        _OF_PATIENT,
    ),
    _table(
        "icu/procedureevents",
        "stay_id:BIGINT itemid:BIGINT starttime:TIMESTAMP endtime:TIMESTAMP",
        _OF_STAY.format(items=_ITEMS.format("procedureevents")),
    ),
    _table(
        "icu/outputevents",
        "stay_id:BIGINT itemid:BIGINT charttime:TIMESTAMP value:DOUBLE",
        _OF_STAY.format(items=_ITEMS.format("outputevents")),
    ),
    _table(
        "icu/inputevents",
        "stay_id:BIGINT itemid:BIGINT starttime:TIMESTAMP endtime:TIMESTAMP amount:DOUBLE "
        "amountuom:VARCHAR rate:DOUBLE rateuom:VARCHAR patientweight:DOUBLE "
        "statusdescription:VARCHAR",
        _OF_STAY.format(items=_ITEMS.format("inputevents")),
    ),
    _table(
        "hosp/labevents",
        "subject_id:BIGINT specimen_id:BIGINT itemid:BIGINT charttime:TIMESTAMP "
        "storetime:TIMESTAMP value:VARCHAR valuenum:DOUBLE",
        f"{_OF_PATIENT} AND itemid IN ({_ITEMS.format('labevents')})",
    ),
    _table(
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
        present = _header(found[0])
        missing = [name for name, _ in table.columns if name not in present]
        if missing:
            raise SchemaError(
                f"{found[0]}: column {missing[0]!r} is missing; MIMIC-IV v2.2 or later has it"
            )
        files[table.name] = found[0]
    return files


def _header(path: Path) -> list[str]:
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


def _typed(table: SourceTable, path: Path) -> str:
    """SQL that yields the table's columns by name, with their declared types."""
    columns = ", ".join(f"{name}::{kind} AS {name}" for name, kind in table.columns)
    if path.suffix == ".parquet":
        return f"SELECT {columns} FROM read_parquet('{_escaped(path)}')"
    kinds = dict(table.columns)
    struct = ", ".join(f"'{name}': '{kinds.get(name, 'VARCHAR')}'" for name in _header(path))
    return (
        f"SELECT {', '.join(kinds)} FROM read_csv('{_escaped(path)}', columns = {{{struct}}}, "
        "header = true, auto_detect = false, delim = ',', quote = '\"', escape = '\"', "
        "nullstr = '')"
    )


def load_small(connection: duckdb.DuckDBPyConnection, files: dict[str, Path]) -> None:
    """Reads the tables that are small whatever the cohort into DuckDB."""
    for table in TABLES:
        if not table.kept:
            statement = (
                f"CREATE OR REPLACE TABLE {table.name} AS {_typed(table, files[table.name])}"
            )
            _execute(connection, statement, files[table.name])
            _check_key(connection, table.name, files[table.name])


def _check_key(connection: duckdb.DuckDBPyConnection, name: str, path: Path) -> None:
    key = KEYS[name]
    twice = connection.execute(
        f"SELECT {key} FROM {name} WHERE {key} IS NOT NULL GROUP BY {key} HAVING count(*) > 1 "
        f"ORDER BY {key} LIMIT 1"
    ).fetchone()
    if twice:
        raise SchemaError(f"{path}: {key} {twice[0]} stands in more than one row; keep one of them")


def cache_table(
    connection: duckdb.DuckDBPyConnection,
    table: SourceTable,
    path: Path,
    cache: Path,
    selection: str,
) -> None:
    """Makes one big table's rows available to the concepts, reading the source at most once.

    The Parquet file carries a fingerprint of what it was made from; a file with the same one is
    used again.

    Args:
        connection: Holds the tables ``stays`` and ``items`` that say which rows to keep.
        table: What to read.
        path: The source file.
        cache: Folder of the cached tables.
        selection: Text that changes whenever the rows to keep do.

    Raises:
        SourceError: The source file is cut short or otherwise unreadable.
        SchemaError: A column does not hold its type.
    """
    target = cache / f"{table.name}.parquet"
    status = path.stat()
    made_from = [str(path.resolve()), status.st_size, status.st_mtime_ns, repr(table), selection]
    fingerprint = hashlib.sha256(json.dumps(made_from).encode()).hexdigest()
    if _fingerprint(connection, target) != fingerprint:
        partial = target.with_suffix(".partial")
        cache.mkdir(parents=True, exist_ok=True)
        try:
            statement = (
                f"COPY (SELECT * FROM ({_typed(table, path)}) WHERE {table.kept}) "
                f"TO '{_escaped(partial)}' (FORMAT parquet, COMPRESSION zstd, "
                f"KV_METADATA {{fingerprint: '{fingerprint}'}})"
            )
            _execute(connection, statement, path, partial)
            os.replace(partial, target)
        finally:
            partial.unlink(missing_ok=True)
    connection.execute(
        f"CREATE OR REPLACE VIEW {table.name} AS SELECT * FROM read_parquet('{_escaped(target)}')"
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
