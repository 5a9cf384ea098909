"""How far the CLIF path and the MIMIC-IV path agree on the same patients, bin by bin.

Prints a table for the open demo:
``python tests/sepsis_gym/clif_agreement.py FOLDER`` with mimic-iv-demo and clif-demo in it.
"""

import sys
import tempfile
from pathlib import Path

import duckdb

from sepsis_gym.cohort.assemble import AssemblyConfig
from sepsis_gym.cohort.clif import ClifFolder
from sepsis_gym.cohort.concepts import MimicConfig, run_concept, run_concepts
from sepsis_gym.cohort.mimic_folder import MimicFolder
from sepsis_gym.cohort.tables import Source
from sepsis_gym.features import FEATURE_NAMES
from sepsis_gym.sofa import COMPONENTS

ALL_STAYS = MimicConfig(min_age=0, min_hours=0, fio2="charted", threads=2)
WHOLE_STAYS = 24 * 365
DEMO_ZONE = "Etc/GMT+5"
"""The demo's UTC times are the local ones plus 5 h, summer and winter."""
OUTCOMES = ("intime", "outtime", "age", "male", "charlson", "died_in_hospital", "died_90d")
DOSES = ("ventilated", "norepinephrine_equivalent", "fluid_ml", "sofa_24h")
SHARED_FLUIDS = (225158, 225159, 220862, 220864, 220995, 227533)
"""Saline, albumin and bicarbonate: the demo's export to CLIF has no other fluids of ours."""
BY_HOUR = tuple(f"24-h SOFA, {organ}, by hour" for organ in COMPONENTS)
NAMES = (*FEATURE_NAMES, *DOSES, "fluid_ml of the fluids in both", *BY_HOUR)
Row = tuple[str, int, int, int, int, float]


def paired(mimic: Source, clif: Source, work: Path) -> duckdb.DuckDBPyConnection:
    """Tables ``bins_m``, ``bins_c`` (subject, intime, bin, name, value) and ``stays_m``, ``_c``."""
    for letter, source in (("m", mimic), ("c", clif)):
        with run_concepts(
            source, work / letter, ALL_STAYS, AssemblyConfig(), horizon_hours=WHOLE_STAYS
        ) as connection:
            _recount_shared_fluids(connection)
            queries = [f"SELECT stay_id, bin, '{n}', {n}::DOUBLE FROM grid" for n in DOSES]
            queries.append(f"SELECT stay_id, bin, '{NAMES[-7]}', ml FROM shared_fluids")
            queries += [
                f"SELECT stay_id, epoch(ends_at)::BIGINT // 3600, '{name}', {organ} FROM sofa"
                for name, organ in zip(BY_HOUR, COMPONENTS, strict=True)
            ]
            doses = " UNION ALL ".join(queries)
            for table, query in {
                "stays": "SELECT * FROM stays JOIN charlson USING (stay_id)",
                "bins": "SELECT s.subject_id, s.intime, v.* FROM stays s JOIN (SELECT stay_id, "
                "bin, feature AS name, value FROM observations WHERE bin >= 0 UNION ALL "
                f"{doses}) v "
                "USING (stay_id)",
            }.items():
                target = work / f"{table}_{letter}.parquet"
                connection.execute(f"COPY ({query}) TO '{target}'")
    both = duckdb.connect()
    for name in ("stays_m", "stays_c", "bins_m", "bins_c"):
        both.execute(f"CREATE TABLE {name} AS FROM '{work / name}.parquet'")
    both.execute(
        "CREATE TABLE compared AS SELECT name, m.value AS m, c.value AS c FROM "
        "(FROM bins_m SEMI JOIN stays_c USING (subject_id, intime)) m FULL JOIN "
        "(FROM bins_c SEMI JOIN stays_m USING (subject_id, intime)) c "
        "USING (subject_id, intime, bin, name)"
    )
    return both


def _recount_shared_fluids(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("CREATE TABLE all_inputs AS FROM inputevents")
    connection.execute(
        "CREATE OR REPLACE VIEW inputevents AS SELECT * FROM all_inputs "
        f"WHERE itemid IN {SHARED_FLUIDS}"
    )
    grid = "SELECT stay_id, bin, coalesce(volume_ml, 0) AS ml FROM grid "
    for concept in ("inputs", "fluids"):
        run_concept(connection, concept)
    connection.execute(
        f"CREATE TABLE shared_fluids AS {grid} LEFT JOIN fluids USING (stay_id, bin)"
    )


def agreement(both: duckdb.DuckDBPyConnection) -> list[Row]:
    """(name, bins of MIMIC-IV, of CLIF, of both, equal in both, largest difference) by name."""
    counted = both.execute(
        "SELECT name, count(m), count(c), count(m + c), "
        "count(*) FILTER (abs(m - c) <= 1e-4 * (1 + abs(m))), coalesce(max(abs(m - c)), 0) "
        "FROM compared GROUP BY name"
    ).fetchall()
    rows = {row[0]: row for row in counted}
    return [rows.get(name, (name, 0, 0, 0, 0, 0.0)) for name in NAMES]


def main(folder: Path) -> None:
    """Prints the agreement as a Markdown table."""
    mimic = MimicFolder(folder / "mimic-iv-demo")
    clif = ClifFolder(folder / "clif-demo", DEMO_ZONE)
    with tempfile.TemporaryDirectory() as work, paired(mimic, clif, Path(work)) as both:
        print("| per 4-h bin | MIMIC-IV | CLIF | both | equal | largest difference |")
        print("|---|---|---|---|---|---|")
        for name, m, c, n, equal, worst in agreement(both):
            share = f"{equal / n:.1%}" if n else "-"
            print(f"| {name} | {m} | {c} | {n} | {share} | {worst:.4g} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
