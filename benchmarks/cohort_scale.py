"""How long the MIMIC-IV cohort build takes, next to just unpacking the biggest table.

    pip install -e ".[bench]"
    python benchmarks/cohort_scale.py

Writes a made-up MIMIC-IV folder once (about 250 MB), then measures each pass in a process of its
own, so that each one's peak memory is its own. What matters are the ratios to ``zcat`` in the same
run: a busy machine slows both. All files are read from the page cache. Linux only.
"""

import multiprocessing
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import duckdb
import pyarrow.parquet as pq
import tyro
from rich.console import Console
from rich.table import Table

from sepsis_gym.cohort import concepts
from sepsis_gym.cohort.items import item_rows
from sepsis_gym.cohort.mimic import build_mimic
from sepsis_gym.cohort.mimic_folder import MimicFolder

try:
    import polars as pl
    from mimic_scale_folder import V31_CHART_ROWS, V31_LAB_ROWS, write_folder
except ImportError as error:
    raise SystemExit(f'{error}: pip install -e ".[bench]"') from error

TARGET_ROWS_PER_SECOND, TARGET_ZCAT_RATIO = 1.3e6, 2.2
TARGET_PEAK_MIB, TARGET_CACHED_SHARE = 4096, 0.15


@dataclass(frozen=True)
class Cost:
    """What a piece of work took.

    Attributes:
        seconds: Wall time.
        cpu_seconds: Of all threads and child processes; above wall time where they ran at once.
        peak_mib: Highest resident memory of the process.
        result: What the work returned.
    """

    seconds: float
    cpu_seconds: float
    peak_mib: float
    result: Any


def measured(work: Callable[[], Any]) -> Cost:
    """Runs the work in a new process and measures it there."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as executor:
        return executor.submit(_measure, work).result()


def _measure(work: Callable[[], Any]) -> Cost:
    started, cpu = time.perf_counter(), _cpu_seconds()
    result = work()
    seconds = time.perf_counter() - started
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Cost(seconds, _cpu_seconds() - cpu, peak_kib / 1024, result)


def _cpu_seconds() -> float:
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def count_lines(path: Path) -> int:
    """``zcat | wc -l``: the least that any reader of the file has to do."""
    return int(subprocess.check_output(f"zcat '{path}' | wc -l", shell=True)) - 1


def polars_pass(path: Path, out: Path) -> None:
    """The kept items of chartevents to Parquet by Polars; with a schema it streams ``.csv.gz``."""
    integers = dict.fromkeys(("subject_id", "stay_id", "itemid"), pl.Int64)
    names = pl.read_csv(path, n_rows=0).columns
    schema = dict.fromkeys(names, pl.String) | integers | {"valuenum": pl.Float64}
    kept = [item for source, item, *_ in item_rows() if source == "chartevents"]
    (
        pl.scan_csv(path, schema=schema)
        .filter(pl.col("itemid").is_in(kept))
        .select(
            *integers,
            pl.col("charttime").str.to_datetime("%Y-%m-%d %H:%M:%S"),
            "value",
            "valuenum",
        )
        .sink_parquet(out, compression="zstd")
    )


def build(source: Path, out: Path) -> tuple[dict[str, float], tuple[tuple[str, int], ...]]:
    """Builds the cohort: seconds of each table and concept, and the cohort flow."""
    seconds: dict[str, float] = {}

    def timed(work: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            started = time.perf_counter()
            result = work(*args)
            seconds[name(*args)] = time.perf_counter() - started
            return result

        return run

    # The build itself has no use for a stopwatch.
    load_big = timed(MimicFolder.load_big, lambda _, __, table, *___: table.path)
    run_concept = timed(concepts.run_concept, lambda _, concept: concept)
    with (
        patch.object(MimicFolder, "load_big", load_big),
        patch.object(concepts, "run_concept", run_concept),
    ):
        flow = build_mimic(source, out, credentialed=False).manifest.flow
    return seconds, flow


def main(
    chart_rows: int = 20_000_000, lab_rows: int = 8_000_000, folder: Path = Path("runs/scale")
) -> None:
    """Measures the cohort build at scale.

    Args:
        chart_rows: Rows of icu/chartevents; all other tables follow in v3.1's proportions.
        lab_rows: Rows of hosp/labevents.
        folder: Where the tables and the cohort are written.
    """
    source, out = folder / f"mimic-{chart_rows}-{lab_rows}", folder / "cohort"
    measured(partial(write_folder, source, chart_rows, lab_rows))
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    charts = source / "icu" / "chartevents.csv.gz"
    load = os.getloadavg()[0]
    zcat = measured(partial(count_lines, charts))
    labs = measured(partial(count_lines, source / "hosp" / "labevents.csv.gz"))
    polars = measured(partial(polars_pass, charts, out / "polars.parquet"))
    cold = measured(partial(build, source, out))
    cached = measured(partial(build, source, out))
    console = Console(width=100)
    console.print(
        f"{zcat.result / 1e6:.1f} M chart rows, {labs.result / 1e6:.1f} M laboratory rows; "
        f"{os.cpu_count()} CPUs, load {load:.1f} before and {os.getloadavg()[0]:.1f} after; "
        f"DuckDB {duckdb.__version__}, Polars {pl.__version__}"
    )
    console.print(_described(source, out, zcat.result, labs.result, cold))
    console.print(_times(zcat, labs, polars, cold, cached))
    console.print(_targets(zcat, cold, cached))
    console.print(_profile(cold, cached))


def _described(source: Path, out: Path, chart_rows: int, lab_rows: int, cold: Cost) -> str:
    """What the folder is like, to judge how much of it the build has to do with."""
    kept = [
        pq.read_metadata(out / "cache" / f"{table}.parquet").num_rows / rows
        for table, rows in (("chartevents", chart_rows), ("labevents", lab_rows))
    ]
    flow = cold.result[1]
    packed = (source / "icu" / "chartevents.csv.gz").stat().st_size / chart_rows
    return (
        f"kept: {kept[0]:.0%} of the chart rows, {kept[1]:.0%} of the laboratory rows, "
        f"{flow[-1][1]} of {flow[0][1]} stays; {packed:.1f} bytes a packed chart row"
    )


def _times(zcat: Cost, labs: Cost, polars: Cost, cold: Cost, cached: Cost) -> Table:
    rows, lab_rows = zcat.result, labs.result
    chart_seconds = cold.result[0]["icu/chartevents"]
    lab_seconds = cold.result[0]["hosp/labevents"]
    table = Table(title="Cohort build at scale; v3.1: in proportion to its rows")
    for name in ("", "s", "CPU s", "x zcat", "M rows/s", "peak MiB"):
        table.add_column(name, justify="right" if name else "left", no_wrap=True)

    def add(name: str, seconds: float, cost: Cost | None, n: int | None = None) -> None:
        table.add_row(
            name,
            f"{seconds:.1f}",
            f"{cost.cpu_seconds:.1f}" if cost else "",
            f"{seconds / zcat.seconds:.2f}",
            f"{n / seconds / 1e6:.2f}" if n else "",
            f"{cost.peak_mib:.0f}" if cost and cost is not zcat else "",
        )

    add("zcat chartevents | wc -l", zcat.seconds, zcat, rows)
    add("Polars: chartevents, its kept items to Parquet", polars.seconds, polars, rows)
    add("ours: chartevents into the cache", chart_seconds, None, rows)
    add("ours: labevents into the cache", lab_seconds, None, lab_rows)
    add("whole build, cold", cold.seconds, cold)
    share = f"{cached.seconds / cold.seconds:.0%} of cold"
    add(f"whole build, from the cache ({share})", cached.seconds, cached)
    table.add_section()
    more, more_labs = V31_CHART_ROWS / rows, V31_LAB_ROWS / lab_rows
    others = cold.seconds - chart_seconds - lab_seconds
    whole = chart_seconds * more + lab_seconds * more_labs + others * more
    for name, seconds in (
        ("zcat chartevents | wc -l", zcat.seconds * more),
        ("whole build, cold", whole),
        ("whole build, from the cache", cached.seconds * more),
    ):
        ratio = seconds / (zcat.seconds * more)
        table.add_row(f"v3.1: {name}", f"{seconds:.0f}", "", f"{ratio:.2f}", "", "")
    return table


def _targets(zcat: Cost, cold: Cost, cached: Cost) -> Table:
    chart_seconds = cold.result[0]["icu/chartevents"]
    speed, ratio = zcat.result / chart_seconds, chart_seconds / zcat.seconds
    peak, share = max(cold.peak_mib, cached.peak_mib), cached.seconds / cold.seconds
    table = Table("target", "measured", "", title="Targets")
    for target, figure, met in (
        (
            f"chartevents: {TARGET_ROWS_PER_SECOND / 1e6:.1f} M rows/s, or "
            f"{TARGET_ZCAT_RATIO} x zcat",
            f"{speed / 1e6:.2f} M rows/s, {ratio:.2f} x",
            speed >= TARGET_ROWS_PER_SECOND or ratio <= TARGET_ZCAT_RATIO,
        ),
        (f"peak below {TARGET_PEAK_MIB} MiB", f"{peak:.0f} MiB", peak < TARGET_PEAK_MIB),
        (
            f"from the cache below {TARGET_CACHED_SHARE:.0%} of cold",
            f"{share:.1%}",
            share < TARGET_CACHED_SHARE,
        ),
    ):
        table.add_row(target, figure, "met" if met else "missed")
    return table


def _profile(cold: Cost, cached: Cost) -> Table:
    """The tables and concepts that take most of either build."""
    table = Table(title="Where the time goes, s")
    for name in ("", "cold", "cached"):
        table.add_column(name, justify="right" if name else "left")
    builds = [cost.result[0] for cost in (cold, cached)]
    for name in sorted(builds[0], key=lambda name: -max(costs[name] for costs in builds)):
        if max(costs[name] / sum(costs.values()) for costs in builds) > 0.03:
            table.add_row(name, *(f"{costs[name]:.2f}" for costs in builds))
    others = [cost.seconds - sum(cost.result[0].values()) for cost in (cold, cached)]
    table.add_row("setting up, arrays, saving", *(f"{seconds:.2f}" for seconds in others))
    return table


if __name__ == "__main__":
    tyro.cli(main)
