"""What befalls a MIMIC-IV build: kills, full disks, damaged and strange files, impossible rows."""

import contextlib
import gzip
import os
import random
import re
import shutil
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from mimic_folder import (
    CREATININE,
    FOLEY,
    HEART_RATE,
    NOREPINEPHRINE,
    at,
    chart,
    computed,
    drug,
    fluid,
    grid,
    lab,
    rich_stays,
    septic_stays,
    values,
    write,
)

from sepsis_gym.cohort.assemble import AssemblyConfig
from sepsis_gym.cohort.mimic import MimicConfig, build_mimic
from sepsis_gym.errors import SchemaError, SourceError, TrajectoryError
from sepsis_gym.trajectories import Trajectories
from world_models.physiology.records.tables import write_tables

FILES = ("manifest.json", "stays.parquet", "steps.parquet")
MAIN = "from sepsis_gym.cli import main; main()"
# A build that is no more as soon as the file of this name is to be moved to its place.
KILLED_AT = """
import os, signal, sys
from sepsis_gym.cohort.mimic import build_mimic
move = os.replace
def deadly(source, target):
    if str(target).endswith("{name}"):
        os.kill(os.getpid(), signal.SIGKILL)
    move(source, target)
os.replace = deadly
build_mimic(sys.argv[4], sys.argv[6])
"""


def command(source: Path, out: Path, code: str = MAIN) -> list[str]:
    arguments = ["cohort", "mimic", "--mimic-dir", str(source), "--out", str(out)]
    return [sys.executable, "-c", code, *arguments]


def run(source: Path, out: Path, code: str = MAIN) -> int:
    return subprocess.run(command(source, out, code), capture_output=True, check=False).returncode


def contents(out: Path) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in FILES}


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def begun(path: Path) -> bool:
    """Whether something of it is written already."""
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size > 0
    return False


def count(connection: duckdb.DuckDBPyConnection, query: str) -> Any:
    return connection.execute(f"SELECT count(*) FROM {query}").fetchall()[0][0]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("source") / "tables"
    write_tables(folder, n_patients=300, seed=0)
    return folder


@pytest.fixture(scope="module")
def undisturbed(tables: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    build_mimic(tables, out)
    return out


# ------------------------------------------------------------------------------ killed


def test_a_build_killed_again_and_again_ends_as_if_undisturbed(
    tables: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out, cache = tmp_path / "out", tmp_path / "out" / "cache"
    whole_hash = Trajectories.load(undisturbed).content_hash
    moments = [
        (cache / "labevents.partial", 0.0),
        (cache / "chartevents.partial", 0.0),
        (cache / "chartevents.parquet", random.uniform(0, 2)),  # at a loss where
        (tmp_path / ".out.partial", 0.0),
    ]
    for awaited, seconds in moments:
        process = subprocess.Popen(
            command(tables, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while process.poll() is None and not begun(awaited):
            time.sleep(0.0005)
        time.sleep(seconds)
        process.kill()
        process.wait()
        for path in cache.glob("*.parquet"):  # whole, or not there
            rows = pq.read_metadata(undisturbed / "cache" / path.name).num_rows
            assert pq.read_metadata(path).num_rows == rows
        with contextlib.suppress(SourceError, TrajectoryError):  # whole, or refused
            assert Trajectories.load(out).content_hash == whole_hash
    assert run(tables, out) == 0
    assert contents(out) == contents(undisturbed)
    assert names(out) == names(undisturbed)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", FILES)
def test_a_build_killed_in_its_last_save_is_no_cohort_until_it_is_run_again(
    tmp_path: Path, name: str
) -> None:
    source, out = write(tmp_path / "in", septic_stays()), tmp_path / "out"
    older = build_mimic(source, out, assembly=AssemblyConfig(8))
    fresh = build_mimic(source, tmp_path / "fresh")
    assert run(source, out, KILLED_AT.format(name=name)) == -9
    if name == FILES[0]:  # nothing was moved yet
        assert Trajectories.load(out).content_hash == older.content_hash
    else:
        with pytest.raises(TrajectoryError, match="content differs from the hash"):
            Trajectories.load(out)
    assert build_mimic(source, out).content_hash == fresh.content_hash
    assert contents(out) == contents(tmp_path / "fresh")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fresh", "in", "out"]


def test_what_a_killed_build_left_is_removed_by_the_next(tmp_path: Path) -> None:
    source, out = write(tmp_path / "in", septic_stays()), tmp_path / "out"
    build_mimic(source, out)
    before = names(tmp_path)
    for left in ("out/cache/labevents.partial", "out/cache/tmp_labevents.partial"):
        (tmp_path / left).write_bytes(b"half a table")
    for left in ("out/cache/spill/duckdb_temp_storage-0.tmp", ".out.partial/steps.parquet"):
        (tmp_path / left).parent.mkdir()
        (tmp_path / left).write_bytes(b"half a table")
    build_mimic(source, out)
    assert names(tmp_path) == before


def test_the_same_input_builds_the_same_bytes_whatever_the_folder_and_the_threads(
    tables: Path, undisturbed: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(tables, tmp_path / "moved" / "tables")  # keeps the times of the files
    build_mimic(moved, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(undisturbed)
    build_mimic(tables, tmp_path / "one", MimicConfig(threads=1))
    for name in FILES[1:]:  # the manifest tells the number of threads
        assert (tmp_path / "one" / name).read_bytes() == (undisturbed / name).read_bytes()
    for path in (undisturbed / "cache").iterdir():
        other = tmp_path / "again" / "cache" / path.name
        difference = f"(FROM '{path}' EXCEPT ALL FROM '{other}')"
        assert count(duckdb.connect(), difference) == 0
        assert pq.read_metadata(path).num_rows == pq.read_metadata(other).num_rows
        assert (
            pq.read_metadata(path).metadata[b"fingerprint"]
            == (pq.read_metadata(other).metadata[b"fingerprint"])
        )


# ------------------------------------------------------------------------------ damaged files


@pytest.mark.parametrize("table", ["icu/icustays", "hosp/labevents"])
@pytest.mark.parametrize("lost", [1, 100])
def test_a_file_cut_short_is_named(tmp_path: Path, table: str, lost: int) -> None:
    source = write(tmp_path / "in", septic_stays())
    path = source / f"{table}.csv.gz"
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(SourceError, match=rf"{table}\.csv\.gz: cannot be read .*again") as caught:
        build_mimic(source, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "steps.parquet").exists()


@pytest.mark.parametrize("table", ["chartevents", "labevents"])
@pytest.mark.parametrize("theirs", ["nobody", "others"])
def test_a_table_of_nobody_in_the_cohort_is_named(tmp_path: Path, table: str, theirs: str) -> None:
    """And again from the cache; with its rows back, the build goes through."""
    rows = septic_stays()
    whole = rows[table]
    rows[table] = (
        [{**row, "subject_id": 900, "stay_id": 900} for row in whole] if theirs == "others" else []
    )
    for _ in range(2):
        with pytest.raises(SourceError, match=rf"{table}\.csv.*: no row of any candidate's stay"):
            build_mimic(write(tmp_path / "in", rows), tmp_path / "out", credentialed=False)
    rows[table] = whole
    shutil.rmtree(tmp_path / "in")
    built = build_mimic(write(tmp_path / "in", rows), tmp_path / "out", credentialed=False)
    assert len(built) == 12


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("icustays.csv.gz", b"", "is empty"),
        ("icustays.csv.gz", gzip.compress(b"", mtime=0), "is empty"),
        ("chartevents.csv", b"", "is empty"),
        ("icustays.csv.gz", b"subject_id,hadm_id,stay_id,intime,outtime\n", "cannot be read"),
        ("chartevents.parquet", b"stay_id,itemid\n1,2\n", "cannot be read"),
        ("chartevents.parquet", b"PAR1 no more than a beginning", "cannot be read"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_told_before_anything_is_read(
    tmp_path: Path, name: str, content: bytes, complaint: str
) -> None:
    source = write(tmp_path / "in", septic_stays())
    (source / "icu" / f"{name.partition('.')[0]}.csv.gz").unlink()
    (source / "icu" / name).write_bytes(content)
    with pytest.raises(SourceError, match=f"icu/{name}: {complaint}.*copy it again"):
        build_mimic(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------ full disk

# The disk is too small for the big tables, grows, and is filled before the last save.
FULL_DISK = """
mount -t tmpfs -o size=300k tmpfs "$DISK"
try() {
    "$@" >/dev/null 2>"$LOG/$STEP.told"
    echo "exit $?" >"$LOG/$STEP.left"
    ls -RA "$DISK" >>"$LOG/$STEP.left"
}
STEP=cache; try "$@"
mount -o remount,size=64m "$DISK"
STEP=more_room; try "$@"
cp -r "$DISK/out" "$LOG/out"
rm "$DISK"/out/*.*; cat /dev/zero >"$DISK/filler" 2>/dev/null
STEP=save; try "$@"
"""


def test_a_full_disk_ends_in_one_line_and_the_next_run_takes_it_up(
    tables: Path, undisturbed: Path, tmp_path: Path
) -> None:
    disk, log = tmp_path / "disk", tmp_path / "log"
    disk.mkdir()
    log.mkdir()
    own_mounts = ["unshare", "--user", "--map-root-user", "--mount"]
    probe = [*own_mounts, "mount", "-t", "tmpfs", "tmpfs", str(disk)]
    if not shutil.which("unshare") or subprocess.run(probe, check=False).returncode:
        pytest.skip("no small disk can be mounted here")
    subprocess.run(
        [*own_mounts, "bash", "-c", FULL_DISK, "-", *command(tables, disk / "out")],
        env={**os.environ, "DISK": str(disk), "LOG": str(log)},
        check=True,
    )
    complaints = {
        "cache": f"{disk}/out/cache/labevents.partial: cannot be written "
        "(No space left on device); make room and run it again",
        "save": f"{disk}/out: the disk is full; make room and run it again",
    }
    for step, complaint in complaints.items():
        told = re.split(r"[\r\n]", (log / f"{step}.told").read_text())
        assert [line for line in told if "error" in line] == [f"sepsis-gym: error: {complaint}"]
        left = (log / f"{step}.left").read_text()
        assert left.startswith("exit 1\n")
        assert "partial" not in left
        assert "steps" not in left
    assert (log / "more_room.left").read_text().startswith("exit 0\n")
    assert contents(log / "out") == contents(undisturbed)


# ------------------------------------------------------------------------------ wrong types


@pytest.mark.parametrize(
    ("table", "column", "text"),
    [
        ("hosp/labevents", "valuenum", "high"),
        ("icu/chartevents", "itemid", "pulse"),
        ("icu/inputevents", "starttime", "01/02/2150 8 am"),
        ("icu/icustays", "intime", "yesterday"),
        ("hosp/admissions", "hospital_expire_flag", "no"),
    ],
)
@pytest.mark.parametrize("suffix", ["csv.gz", "parquet"])
def test_a_text_that_is_not_of_its_columns_type_is_named(
    tmp_path: Path, table: str, column: str, text: str, suffix: str
) -> None:
    rows = septic_stays()
    rows["inputevents"] = [fluid(1, 2, 100)]
    rows[table.partition("/")[2]][0][column] = text
    source = write(tmp_path / "in", rows)
    if suffix == "parquet":
        packed = source / f"{table}.csv.gz"
        pq.write_table(pyarrow.csv.read_csv(packed), source / f"{table}.parquet")
        packed.unlink()
    with pytest.raises(SchemaError, match=rf"{table}\.{suffix}: .*\b{column}\b") as caught:
        build_mimic(source, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "steps.parquet").exists()


def test_words_that_read_as_numbers_are_counted_and_change_nothing(tmp_path: Path) -> None:
    rows = septic_stays()
    urine = {"stay_id": 101, "itemid": FOLEY, "charttime": at(1)}
    rows["outputevents"] = [{**urine, "value": 100}]
    plain = build_mimic(write(tmp_path / "plain", rows), tmp_path / "a")
    for word in ("NaN", "inf", "-Infinity"):
        rows["outputevents"].append({**urine, "value": word})
        rows["chartevents"].append(chart(HEART_RATE, 2, word))  # type: ignore[arg-type]
        rows["labevents"].append(lab(CREATININE, 2, word))  # type: ignore[arg-type]
    spoilt = build_mimic(write(tmp_path / "spoilt", rows), tmp_path / "b")
    assert spoilt.content_hash == plain.content_hash
    notes = spoilt.manifest.notes
    assert notes["urine_rows_not_finite"] == 3
    assert notes["chart_rows_out_of_range"] == notes["lab_rows_out_of_range"] == 3


# ------------------------------------------------------------------------------ repeated rows


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Trajectories:
    folder = tmp_path_factory.mktemp("once")
    return build_mimic(write(folder / "in", rich_stays()), folder / "out")


@pytest.mark.parametrize(
    ("table", "note"),
    [
        ("inputevents", "input_rows_repeated"),
        ("outputevents", "urine_rows_repeated"),
        ("labevents", None),
        ("chartevents", None),
        ("prescriptions", None),
        ("microbiologyevents", None),
        ("diagnoses_icd", None),
        ("procedureevents", None),
    ],
)
def test_rows_that_stand_twice_change_nothing(
    once: Trajectories, tmp_path: Path, table: str, note: str | None
) -> None:
    rows = rich_stays()
    rows[table] = [*rows[table], *rows[table]]
    twice = build_mimic(write(tmp_path / "twice", rows), tmp_path / "out")
    assert twice.content_hash == once.content_hash
    if note:
        assert once.manifest.notes.get(note, 0) == 0
        assert twice.manifest.notes[note] == len(rows[table]) / 2


def test_alike_doses_of_two_orders_both_count(tmp_path: Path) -> None:
    rows = septic_stays(1)
    rows["inputevents"] = [fluid(1, 1, 250, orderid=order) for order in (1, 2, 2)]
    assert grid(computed(tmp_path, rows), "fluid_ml")[0] == 500


# ------------------------------------------------------------------------------ wrong clocks


def test_stays_without_possible_times_are_counted_and_left_out(tmp_path: Path) -> None:
    rows = septic_stays(16)
    stays = rows["icustays"]
    for i, change in enumerate(
        (
            {"outtime": datetime(9999, 12, 31)},
            {"outtime": "infinity"},
            {"outtime": at(24 * 800)},
            {"outtime": None},
            {"intime": None},
            {"outtime": at(-1)},
            {"hadm_id": 1},
        )
    ):
        stays[i] |= change
    built = build_mimic(write(tmp_path / "in", rows), tmp_path / "out")
    assert [left for _, left in built.manifest.flow] == [16, 9, 9, 9, 9, 9, 9]
    assert len(built) == 9


def test_a_heart_rate_charted_millennia_late_does_not_unfold_into_hours(tmp_path: Path) -> None:
    rows = septic_stays()
    late = {"charttime": datetime(9999, 12, 31)}
    plain = build_mimic(write(tmp_path / "plain", rows), tmp_path / "a")
    rows["chartevents"] += [{**chart(HEART_RATE, 0, 90, i), **late} for i in range(1, 13)]
    built = build_mimic(write(tmp_path / "in", rows), tmp_path / "b")
    assert built.content_hash == plain.content_hash
    connection = computed(tmp_path, rows)
    assert count(connection, "hours") == 12 * (24 + 30)


def test_an_infusion_that_runs_for_a_month_is_an_error_of_the_clock(tmp_path: Path) -> None:
    rows = septic_stays(1)
    rows["inputevents"] = [
        drug(NOREPINEPHRINE, 1, 2, rate=0.1) | {"endtime": datetime(9999, 12, 31)},
        fluid(1, 2, 1000, rate=100) | {"endtime": at(1) + timedelta(days=31)},
        fluid(1, 2, 100, rate=100),
    ]
    connection = computed(tmp_path, rows)
    assert sum(grid(connection, "norepinephrine_equivalent")) == 0
    assert grid(connection, "fluid_ml")[0] == pytest.approx(100)
    assert count(connection, "inputs WHERE dropped = 'too_long'") == 2
    assert values(connection, "heart_rate")[0] == 90
