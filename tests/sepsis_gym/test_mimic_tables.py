"""Layouts and releases of a MIMIC-IV folder, and which of its tables are read again."""

import csv
import gzip
import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mimic_folder import rich_stays, septic_stays, write

from sepsis_gym.cohort import concepts
from sepsis_gym.cohort.assemble import AssemblyConfig
from sepsis_gym.cohort.mimic import MimicConfig, build_mimic
from sepsis_gym.errors import SchemaError, SourceError
from sepsis_gym.trajectories import Trajectories


def changed(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(gzip.compress(change(gzip.decompress(path.read_bytes()))))


# ------------------------------------------------------------------------------ layouts


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Trajectories:
    """Of files whose lines end in CR LF, as Python's csv module writes them."""
    folder = tmp_path_factory.mktemp("plain")
    return build_mimic(write(folder / "in", rich_stays()), folder / "out")


def reordered(text: bytes, step: int = -1, quoting: Any = csv.QUOTE_MINIMAL) -> bytes:
    rows = [row[::step] for row in csv.reader(io.StringIO(text.decode(), newline=""))]
    out = io.StringIO()
    csv.writer(out, quoting=quoting).writerows(rows)
    return out.getvalue().encode()


def with_a_wild_column(text: bytes) -> bytes:
    wild = b'"a, ""b""\r\nc\nd",'
    header, *rows = text.split(b"\r\n")
    names = b'nurse\'s "comments",nurse\'s "comments",'
    return b"\n".join([names + header, *(wild + wild + row for row in rows if row), b""])


@pytest.mark.parametrize(
    "layout",
    [
        lambda text: text.replace(b"\r\n", b"\n"),
        lambda text: b"\xef\xbb\xbf" + text,
        lambda text: text + b"\r\n",
        lambda text: text.rstrip(b"\r\n"),
        reordered,
        lambda text: reordered(text, 1, csv.QUOTE_ALL),
        with_a_wild_column,
    ],
    ids=["LF", "byte-order mark", "blank line", "no last line end", "reordered", "quoted", "wild"],
)
def test_layouts_of_the_same_rows_build_the_same(
    plain: Trajectories, tmp_path: Path, layout: Callable[[bytes], bytes]
) -> None:
    source = write(tmp_path / "in", rich_stays())
    for number, path in enumerate(sorted(source.rglob("*.csv.gz"))):
        changed(path, layout)
        if number % 2:
            path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
            path.unlink()
    assert build_mimic(source, tmp_path / "out").content_hash == plain.content_hash


def test_column_names_in_upper_case_and_a_table_given_twice_are_refused(tmp_path: Path) -> None:
    source = write(tmp_path / "in", septic_stays())
    path = source / "hosp" / "labevents.csv.gz"
    shutil.copy(path, tmp_path / "spare")
    changed(path, lambda text: text.replace(b"valuenum", b"VALUENUM"))
    with pytest.raises(SchemaError, match=r"labevents.*'valuenum' is missing; .*lower case"):
        build_mimic(source, tmp_path / "out")
    changed(path, lambda text: text.replace(b"VALUENUM", b"value"))
    with pytest.raises(SchemaError, match=r"labevents.*'value' stands twice"):
        build_mimic(source, tmp_path / "out")
    shutil.copy(tmp_path / "spare", path)
    path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
    with pytest.raises(SourceError, match=r"labevents\.csv\.gz and .*labevents\.csv: .*keep one"):
        build_mimic(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------ releases


@pytest.mark.parametrize(
    ("eras", "version"),
    [
        (["2008 - 2010", "2017 - 2019"], "2.2"),
        (["2008 - 2010", "2020 - 2022"], "3.0 or later"),
        (["unknown", "2020 - 2022"], "unknown"),
        ([None, "2008 - 2010"], "unknown"),
        (None, "unknown"),  # no such column
    ],
)
def test_the_release_is_told_by_its_eras(
    tmp_path: Path, eras: list[str | None] | None, version: str
) -> None:
    source = write(tmp_path / "in", septic_stays(12))
    if eras is not None:
        column = ["anchor_year_group", *(eras * 6)]
        path = source / "hosp" / "patients.csv.gz"
        lines = gzip.decompress(path.read_bytes()).decode().split()
        widened = [f"{line},{era or ''}" for line, era in zip(lines, column, strict=True)]
        path.write_bytes(gzip.compress("\n".join(widened).encode()))
    built = build_mimic(source, tmp_path / "out")
    assert built.manifest.config["mimic_version"] == version
    assert Trajectories.load(tmp_path / "out").manifest.config["mimic_version"] == version


def test_releases_before_2_2_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    source = write(tmp_path / "in", septic_stays())
    changed(source / "icu" / "inputevents.csv.gz", lambda text: text.replace(b"caregiver_id", b"x"))
    with pytest.raises(SchemaError, match=r"inputevents\S+ column 'caregiver_id' .*use .*v2\.2"):
        build_mimic(source, tmp_path / "out")
    (source / "core").mkdir()
    with pytest.raises(SourceError, match=r"core: .*MIMIC-IV v1; use v2\.2 or later"):
        build_mimic(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------ what is built anew


def test_only_tables_whose_own_making_changed_are_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = write(tmp_path / "in", rich_stays()), tmp_path / "out"

    def rebuilt(
        config: MimicConfig | None = None, assembly: AssemblyConfig | None = None
    ) -> set[str]:
        before = {path.name: path.stat().st_mtime_ns for path in (out / "cache").glob("*")}
        build_mimic(source, out, config, assembly)
        after = {path.name: path.stat().st_mtime_ns for path in (out / "cache").glob("*")}
        return {name for name in after if after[name] != before.get(name)}

    assert len(rebuilt()) == 8
    assert rebuilt() == set()
    assert rebuilt(assembly=AssemblyConfig(2)) == set()
    assert rebuilt(MimicConfig(infection="sepsis3")) == set()
    items = concepts.item_rows()
    with monkeypatch.context() as patched:
        more = [*items, ("labevents", 1, "lactate", 1.0, None)]
        patched.setattr(concepts, "item_rows", lambda weights: more)
        assert rebuilt() == {"labevents.parquet"}
    assert rebuilt() == {"labevents.parquet"}
    os.utime(source / "icu" / "outputevents.csv.gz", (1, 1))
    assert rebuilt() == {"outputevents.parquet"}
    os.utime(source / "icu" / "icustays.csv.gz", (1, 1))
    assert rebuilt() == set()  # small tables are read every time; the stays are the same
    rows = rich_stays()
    rows["icustays"].pop()
    write(source, rows)
    assert len(rebuilt()) == 8
