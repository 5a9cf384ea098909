"""A made-up MIMIC-IV v3.1 folder of any size: rows by the million for speed, no patients.

What is charted, how often and for how long follows the open MIMIC-IV demo (56 stays): 52 chart rows
an hour of ICU stay, one in six of them an item the build keeps; 2.7 laboratory rows an hour, half
of them kept; a third of the stays septic. The tables' sizes to each other follow v3.1. Values are
drawn independently: nothing clinical can be learnt from them.
"""

import gzip
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
from mimic_scale_items import (
    ASSESSMENTS,
    CODES,
    COLUMNS,
    GROUPS,
    HEADERS,
    ITEMS,
    TEXTS,
    UNREAD,
    UNREAD_ITEM,
)
from numpy.typing import NDArray
from tqdm import tqdm

V31_CHART_ROWS, V31_LAB_ROWS = 433.0e6, 158.4e6
V31_STAYS, V31_ICU_PATIENTS, V31_PATIENTS = 94_458, 65_366, 364_627
LOG_HOURS = (math.log(46), 1.1)
"""Mean and deviation of the log of an ICU stay's hours: median 46 h, mean 84 h."""
HOURS_BEFORE = 2.2
"""Laboratory draws start this many ICU stays early: 31 % of a patient's draws are in the ICU."""
ELSEWHERE_HOURS = 110.0
"""Mean hours with draws of patients who never see the ICU: 300 laboratory rows."""
POOL = 64
"""Different values of one item."""
CHUNK = 500_000
"""Rows drawn at once."""
GRID_SECONDS = 1200
"""Charted times: three an hour, as in the demo."""


@dataclass(frozen=True)
class Items:
    """What one table charts.

    Attributes:
        itemid: [I] item ids.
        group: [I] index into ``GROUPS``.
        panel: [I] items of one panel are charted at the same moments.
        pace: [I] rows an hour.
        textual: [I] whether the value is a text, which then changes from stay to stay only.
        unit: [I] unit or None.
        value: [I x POOL] values, as text.
        number: [I x POOL] the same where they are numbers.
    """

    itemid: NDArray[np.int64]
    group: NDArray[np.intp]
    panel: NDArray[np.intp]
    pace: NDArray[np.float64]
    textual: NDArray[np.bool_]
    unit: pl.Series
    value: pl.Series
    number: pl.Series


def _items(table: str, rng: np.random.Generator) -> Items:
    rows = [line.split(maxsplit=6) for line in ITEMS[table].strip().split("\n")]
    texts = dict(TEXTS)
    for count, pace in UNREAD.get(table, ()):
        for nth in range(count):
            if table == "icu/chartevents" and nth % 5 > 1:  # two in five are numbers
                texts[UNREAD_ITEM + len(rows)] = "|".join(
                    rng.permutation(ASSESSMENTS.split("|"))[:4]
                )
            unit = "-" if nth % 2 else "units"
            rows.append(f"{UNREAD_ITEM + len(rows)} all {pace} 50 15 0 {unit}".split())
    values: list[str | None] = []
    numbers: list[str | None] = []
    for item, _, _, mean, deviation, decimals, _ in rows:
        drawn = np.round(rng.normal(float(mean), float(deviation), POOL), int(decimals))
        number = [f"{x:g}" for x in drawn] if float(mean) else [None] * POOL
        text = texts.get(int(item), "").split("|")
        values += [text[i % len(text)] for i in range(POOL)] if text[0] else number
        numbers += [None] * POOL if int(item) >= UNREAD_ITEM and text[0] else number
    return Items(
        itemid=np.array([int(row[0]) for row in rows]),
        group=np.array([list(GROUPS).index(row[1]) for row in rows]),
        panel=np.unique([f"{row[1]} {row[2]}" for row in rows], return_inverse=True)[1],
        pace=np.array([float(row[2]) for row in rows]),
        textual=np.array([int(row[0]) in texts for row in rows]),
        unit=pl.Series([None if row[6] == "-" else row[6] for row in rows], dtype=pl.String),
        value=pl.Series(values, dtype=pl.String),
        number=pl.Series(numbers, dtype=pl.String),
    )


def _hourly(windows: pl.DataFrame, items: Items) -> NDArray[np.float64]:
    """[W, I] rows an hour; none of items of a group that the window is not in."""
    return windows.select(list(GROUPS)).to_numpy()[:, items.group] * items.pace


def _chart(windows: pl.DataFrame, items: Items, rng: np.random.Generator) -> Iterator[pl.DataFrame]:
    """Rows of every item at its own pace, by window and time, about ``CHUNK`` at once."""
    total = float((_hourly(windows, items).sum(axis=1) * windows["hours"].to_numpy()).sum())
    step = max(1, int(len(windows) * CHUNK / total))
    rows = 0
    for part in windows.iter_slices(step):
        phase = rng.random((len(part), items.panel.max() + 1))[:, items.panel].ravel()
        wanted = part["hours"].to_numpy()[:, None] * _hourly(part, items)
        n = np.ceil(wanted.ravel() - phase).clip(0).astype(np.int64)
        cell = np.repeat(np.arange(n.size), n)
        nth = np.arange(len(cell)) - np.repeat(np.cumsum(n) - n, n)
        window, item = np.divmod(cell, len(items.pace))
        seconds = (nth + phase[cell]) / items.pace[item] * 3600 + part["start"].to_numpy()[window]
        time = seconds.astype(np.int64) // GRID_SECONDS * GRID_SECONDS
        constant = (phase[cell] * POOL).astype(np.int64)
        draw = np.where(items.textual[item], constant, rng.integers(POOL, size=len(cell)))
        frame = part[window].with_columns(
            itemid=pl.Series(items.itemid[item]),
            panel=pl.Series(items.panel[item]),
            pace=pl.Series(items.pace[item]),
            valueuom=items.unit.gather(item),
            value=items.value.gather(item * POOL + draw),
            valuenum=items.number.gather(item * POOL + draw),
            charttime=pl.from_epoch(pl.Series(time), "s"),
            storetime=pl.from_epoch(pl.Series(time + 60 * (5 + time // 1200 % 80)), "s"),
            caregiver_id=pl.Series(10_000 + (time // 43_200 * 7919 + window) % 20_000),
        )
        frame = frame[np.lexsort((item, items.panel[item], time, window))]
        yield frame.with_columns(row=pl.int_range(rows, rows + len(frame)))
        rows += len(frame)


def _windows(
    subjects: NDArray[np.int64], hours: NDArray[np.float64], rng: np.random.Generator, first_id: int
) -> pl.DataFrame:
    """One admission each, in the order of the patients, years apart: start (s since 1970)."""
    n = len(subjects)
    subjects = np.sort(subjects)
    earlier = np.arange(n) - np.searchsorted(subjects, subjects)
    start = 180 * 365 * 86_400 + earlier * 500 * 86_400 + rng.integers(86_400, size=n) // 60 * 60
    return pl.DataFrame(
        {
            "subject_id": subjects,
            "hadm_id": 20_000_000 + first_id + rng.permutation(n),
            "stay_id": 30_000_000 + first_id + rng.permutation(n),
            "start": start,
            "hours": hours,
            **{group: rng.random(n) < share for group, share in GROUPS.items()},
        }
    )


def _stays_and_visits(size: float, rng: np.random.Generator) -> tuple[pl.DataFrame, pl.DataFrame]:
    """ICU stays; and the longer windows of laboratory draws, with the patients without ICU."""
    subjects = 10_000_000 + rng.permutation(10_000_000)[: round(V31_PATIENTS * size)]
    in_icu = subjects[: round(V31_ICU_PATIENTS * size)]
    others = subjects[len(in_icu) :]
    n = round(V31_STAYS * size)
    hours = np.clip(rng.lognormal(*LOG_HOURS, size=n), 4, 2000)
    stays = _windows(rng.choice(in_icu, n), hours, rng, 0)
    elsewhere = _windows(others, rng.exponential(ELSEWHERE_HOURS, len(others)), rng, n)
    drawn = stays.with_columns(
        start=(pl.col("start") - HOURS_BEFORE * 3600 * pl.col("hours")).cast(pl.Int64),
        hours=pl.col("hours") * (1 + HOURS_BEFORE),
    )
    return stays, pl.concat([drawn, elsewhere]).sort("subject_id", "start")


def _filling(rows: int, windows: pl.DataFrame, items: Items) -> Items:
    """The items at the pace that fills so many rows."""
    expected = float((_hourly(windows, items).sum(axis=1) * windows["hours"].to_numpy()).sum())
    return replace(items, pace=items.pace * (rows / expected))


def _diagnoses(visits: pl.DataFrame, rng: np.random.Generator) -> pl.DataFrame:
    coded = visits[np.repeat(np.arange(len(visits)), 12)]
    code = pl.Series(rng.choice(CODES.split(), len(coded)))
    return coded.with_columns(
        seq_num=1 + pl.int_range(len(coded)) % 12,
        icd_code=code,
        icd_version=pl.Series(np.where(code.str.contains("^[A-Z]").to_numpy(), 10, 9)),
    )


def _people(stays: pl.DataFrame, visits: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The three small tables; one patient in eleven dies as the ICU stay ends."""
    until = pl.from_epoch(pl.col("start") + (pl.col("hours") * 3600).cast(pl.Int64), "s")
    timed = pl.concat([visits.join(stays, "hadm_id", "anti"), stays], how="diagonal").with_columns(
        intime=pl.from_epoch("start", "s"), outtime=until
    )
    dies = pl.col("hadm_id").is_in(stays["hadm_id"].implode()) & (pl.col("subject_id") % 11 == 0)
    admissions = timed.with_columns(
        admittime=pl.col("intime").dt.offset_by("-8h"),
        dischtime=pl.when(dies).then("outtime").otherwise(pl.col("outtime").dt.offset_by("3d")),
        deathtime=pl.when(dies).then("outtime"),
        admission_type=pl.lit("EW EMER."),
        hospital_expire_flag=dies.cast(pl.Int8),
    ).sort("subject_id", "start")
    icustays = timed.join(stays, "hadm_id", "semi").with_columns(
        first_careunit=pl.lit("Medical Intensive Care Unit (MICU)"),
        last_careunit=pl.lit("Medical Intensive Care Unit (MICU)"),
        los=(pl.col("hours") / 24).round(6),
    )
    patients = admissions.unique("subject_id", keep="first", maintain_order=True).with_columns(
        gender=pl.when(pl.col("subject_id") % 2 == 0).then(pl.lit("F")).otherwise(pl.lit("M")),
        anchor_age=18 + pl.col("subject_id") % 73,
        anchor_year=pl.col("intime").dt.year(),
        anchor_year_group=pl.lit("2017 - 2019"),
    )
    return {"hosp/patients": patients, "hosp/admissions": admissions, "icu/icustays": icustays}


def _write(folder: Path, table: str, frames: Iterable[pl.DataFrame]) -> None:
    names = HEADERS[table].split()
    path = folder / f"{table}.csv.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wb", compresslevel=6) as file:
        file.write((",".join(names) + "\n").encode())
        for frame in frames:
            columns = [
                name if name in frame.columns else pl.lit(None).alias(name) for name in names
            ]
            text = frame.select(columns).write_csv(
                include_header=False, datetime_format="%Y-%m-%d %H:%M:%S"
            )
            file.write(text.encode())


def write_folder(folder: Path, chart_rows: int, lab_rows: int) -> None:
    """Writes the tables that the build reads, under a temporary name until all are complete.

    Args:
        folder: Where; nothing is done if it exists.
        chart_rows: Rows of ``icu/chartevents``; the other tables follow in v3.1's proportions.
        lab_rows: Rows of ``hosp/labevents``.
    """
    if folder.exists():
        return
    rng = np.random.default_rng(0)
    stays, visits = _stays_and_visits(chart_rows / V31_CHART_ROWS, rng)
    items = {table: _items(table, rng) for table in ITEMS}
    items["icu/chartevents"] = _filling(chart_rows, stays, items["icu/chartevents"])
    items["hosp/labevents"] = _filling(lab_rows, visits, items["hosp/labevents"])

    partial = folder.with_name(folder.name + ".partial")
    _write(partial, "hosp/diagnoses_icd", [_diagnoses(visits, rng)])
    for table, frame in _people(stays, visits).items():
        _write(partial, table, [frame])
    for table, columns in tqdm(COLUMNS.items(), desc=str(folder), disable=None):
        charted = _chart(stays if table.startswith("icu") else visits, items[table], rng)
        _write(partial, table, (frame.with_columns(**columns) for frame in charted))
    os.replace(partial, folder)
