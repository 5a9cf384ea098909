"""Agreement with mimic-code on the open MIMIC-IV demo, column by column.

    python tests/sepsis_gym/oracle_agreement.py FOLDER

prints the table of docs/cohort.md; FOLDER holds mimic-iv-demo and mimic-iv-demo-oracle.
"""

import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import duckdb

from sepsis_gym.cohort.assemble import AssemblyConfig
from sepsis_gym.cohort.concepts import MimicConfig, run_concepts
from sepsis_gym.cohort.mimic_folder import MimicFolder
from sepsis_gym.features import FEATURE_NAMES
from sepsis_gym.sofa import COMPONENTS

ALL_STAYS = MimicConfig(min_age=0, min_hours=0, fio2="charted", threads=2)
WHOLE_STAYS = 24 * 365
VIEWS = ("oracle_4h_grid", "oracle_cohort", "sofa", "gcs", "charlson", "ventilation")
CLOSE = 1e-4  # the oracle rounds doses to four digits


class Row(NamedTuple):
    column: str
    compared: int
    equal: float
    largest: float | None
    why: str


EXPLAINED = {
    "glucose": "fingersticks are added",
    "output_4hourly": "below zero is clipped",
    "norepinephrine_equivalent": "capped at 5 ug/kg/min",
    "norepinephrine_equivalent_mean": "capped; bins cut short by discharge",
    "fluid_ml": "slow rows without a rate are shared out; repeated rows; bins cut short",
    "ventilated": "devices without a flow; the procedure",
    "respiration": "ventilation",
    "sofa_24h": "ventilation",
}


def open_concepts(demo: Path, cache: Path) -> duckdb.DuckDBPyConnection:
    """All concepts of all stays, labs at the time of the draw as the oracle takes them."""
    oracle = demo / "mimic-iv-demo-oracle"
    literature = AssemblyConfig(alignment="same_window")
    connection = run_concepts(
        MimicFolder(demo / "mimic-iv-demo"), cache, ALL_STAYS, literature, horizon_hours=WHOLE_STAYS
    )
    for name in VIEWS:
        view = name if name.startswith("oracle") else f"oracle_{name}"
        connection.execute(f"CREATE VIEW {view} AS FROM '{oracle}/{name}.parquet'")
    # The oracle's grid runs on to the end of the last 4 h and, after death, to ICU discharge.
    connection.execute(
        "CREATE VIEW compared AS SELECT o.*, g.* EXCLUDE (stay_id), b.ends_at = o.t1 AS whole "
        "FROM oracle_4h_grid o "
        "JOIN stays s USING (stay_id) JOIN bins b ON b.stay_id = o.stay_id AND b.bin = o.step "
        "AND b.starts_at = o.t0 AND b.ends_at = least(o.t1, s.outtime) "
        "JOIN grid g ON g.stay_id = o.stay_id AND g.bin = o.step"
    )
    return connection


def _row(connection: duckdb.DuckDBPyConnection, column: str, pairs: str) -> Row:
    """Compares ``ours`` and ``theirs`` of a query; equal means both missing, or alike."""
    found = connection.execute(
        "SELECT count(*), avg((ours IS NULL AND theirs IS NULL OR coalesce(abs(ours - theirs) <= "
        f"{CLOSE} * (1 + abs(theirs)), FALSE))::INTEGER), max(abs(ours - theirs)) FROM ({pairs})"
    ).fetchone()
    assert found is not None
    return Row(column, *found, EXPLAINED.get(column, "") if found[1] < 1 else "")


def agreement(connection: duckdb.DuckDBPyConnection) -> list[Row]:
    """One row per column of the 4-h grid, of the hourly SOFA and of the stays."""
    rows = [
        _row(
            connection,
            feature,
            f"SELECT o.value AS ours, c.{feature} AS theirs FROM compared c LEFT JOIN observations "
            f"o ON o.stay_id = c.stay_id AND o.bin = c.step AND o.feature = '{feature}' "
            f"WHERE o.value IS NOT NULL OR c.{feature} IS NOT NULL",
        )
        for feature in FEATURE_NAMES
    ]
    for ours, theirs in (
        ("norepinephrine_equivalent", "ne_max"),
        ("norepinephrine_equivalent_mean", "ne_twa"),
        ("fluid_ml", "fluid_4h"),
        ("ventilated", "mechvent"),
    ):
        query = f"SELECT {ours}::DOUBLE AS ours, {theirs}::DOUBLE AS theirs FROM compared"
        rows.append(_row(connection, ours, query))
    hourly = "FROM oracle_sofa o LEFT JOIN sofa s ON s.stay_id = o.stay_id AND s.hour = o.hr"
    for name in COMPONENTS:
        query = f"SELECT s.{name} AS ours, o.{name}_24hours AS theirs {hourly}"
        rows.append(_row(connection, name, query))
    query = f"SELECT s.sofa_24h AS ours, o.sofa_24hours AS theirs {hourly}"
    rows.append(_row(connection, "sofa_24h", query))
    rows.append(
        _row(
            connection,
            "GCS total",
            "SELECT g.gcs AS ours, o.gcs AS theirs FROM gcs g FULL JOIN oracle_gcs o "
            "ON o.stay_id = g.stay_id AND o.charttime = g.time",
        )
    )
    rows.append(
        _row(
            connection,
            "Charlson index",
            "SELECT c.charlson AS ours, o.charlson_comorbidity_index AS theirs "
            "FROM charlson c JOIN stays USING (stay_id) JOIN oracle_charlson o USING (hadm_id)",
        )
    )
    return rows


def markdown(rows: list[Row]) -> str:
    lines = ["| column | compared | equal | largest difference | why |", "|---|---|---|---|---|"]
    for row in rows:
        largest = f"{row.largest:.2g}" if (row.largest or 0) >= CLOSE else "0"
        share = "all" if row.equal == 1 else f"{100 * row.equal:.1f} %"
        lines.append(f"| {row.column} | {row.compared} | {share} | {largest} | {row.why} |")
    return "\n".join(lines)


if __name__ == "__main__":
    with (
        tempfile.TemporaryDirectory() as folder,
        open_concepts(Path(sys.argv[1]), Path(folder)) as opened,
    ):
        print(markdown(agreement(opened)))
