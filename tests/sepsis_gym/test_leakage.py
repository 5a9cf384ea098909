"""No state holds what could only be known after the window of its action opened.

The source tables are cut at the end of a bin, as the bedside had them then; everything up to that
bin must come out as it does from the whole tables.
"""

import os
from dataclasses import replace
from pathlib import Path

import duckdb
import numpy as np
import pytest

from sepsis_gym.cohort.assemble import AssemblyConfig, RawCohort, assemble
from sepsis_gym.cohort.concepts import MimicConfig, run_concepts
from sepsis_gym.cohort.mimic_folder import MimicFolder
from sepsis_gym.cohort.tables import TABLES
from sepsis_gym.features import HIGH, LOW, N_FEATURES
from sepsis_gym.trajectories import Trajectories
from world_models.physiology.records.tables import write_tables

DEMO = os.environ.get("SEPSIS_GYM_MIMIC_DEMO")
EVERYONE = MimicConfig(min_age=0, min_hours=0, threads=1)
WHOLE = 10**6
RUNNING = (
    "SELECT t.* REPLACE (least(t.endtime, s.cut) AS endtime{}) FROM {} t JOIN cuts s "
    "USING (stay_id) WHERE t.starttime < s.cut"
)
GIVEN_SO_FAR = (
    ", CASE WHEN t.endtime > s.cut THEN t.amount * epoch(s.cut - t.starttime) "
    "/ epoch(t.endtime - t.starttime) ELSE t.amount END AS amount"
)
AT_THE_BEDSIDE = {
    "icustays": "FROM first_stays",
    "chartevents": "SELECT t.* FROM chartevents t JOIN cuts s USING (stay_id) "
    "WHERE charttime < cut",
    "outputevents": "SELECT t.* FROM outputevents t JOIN cuts s USING (stay_id) "
    "WHERE charttime < cut",
    "labevents": "SELECT t.* FROM labevents t JOIN cuts s USING (subject_id) "
    "WHERE greatest(charttime, coalesce(storetime, charttime)) < cut",
    "inputevents": RUNNING.format(GIVEN_SO_FAR, "inputevents"),
    "procedureevents": RUNNING.format("", "procedureevents"),
}
"""What the tables held at the cut; the others tell who is in the cohort, not its states."""


def as_known_after(source: Path, target: Path, hours: float) -> Path:
    """A copy of the tables, with one stay per patient, cut so many hours after ICU admission."""
    with duckdb.connect() as connection:
        for table in TABLES:
            path = next(source.glob(f"{table.path}.csv*"))
            needed = [pair for pair in table.columns if pair[0] not in table.optional]
            columns = ", ".join(f"{name}::{kind} AS {name}" for name, kind in needed)
            columns += ", 1 AS caregiver_id"  # what tells v2.2 from older releases
            connection.execute(
                f"CREATE VIEW {table.name} AS SELECT {columns} "
                f"FROM read_csv('{path}', all_varchar = true, nullstr = '')"
            )
        connection.execute(
            "CREATE TABLE first_stays AS FROM icustays QUALIFY row_number() OVER "
            "(PARTITION BY subject_id ORDER BY intime, stay_id) = 1; CREATE TABLE cuts AS "
            f"SELECT subject_id, stay_id, intime + INTERVAL {hours} HOUR AS cut FROM first_stays"
        )
        for table in TABLES:
            file = target / f"{table.path}.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            query = AT_THE_BEDSIDE.get(table.name, f"FROM {table.name}")
            connection.execute(f"COPY ({query}) TO '{file}'")
    return target


def states(source: Path, cache: Path, last_bin: int, assembly: AssemblyConfig) -> list[tuple]:
    """Everything that states are made of, up to a bin, sorted."""
    with run_concepts(MimicFolder(source), cache, EVERYONE, assembly) as connection:
        measured = connection.execute(
            "SELECT stay_id, bin, feature, round(value, 5) FROM observations "
            f"WHERE bin <= {last_bin} ORDER BY ALL"
        ).fetchall()
        grid = connection.execute(
            "SELECT stay_id, bin, ventilated, verbal_untestable, round(fluid_ml, 3), "
            "round(norepinephrine_equivalent, 6), round(norepinephrine_equivalent_mean, 6) "
            f"FROM grid WHERE bin <= {last_bin} ORDER BY ALL"
        ).fetchall()
    return measured + grid


@pytest.fixture(scope="module", params=["synthetic", "demo"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if request.param == "demo":
        if DEMO is None:
            pytest.skip("SEPSIS_GYM_MIMIC_DEMO names no folder with mimic-iv-demo")
        return Path(DEMO) / "mimic-iv-demo"
    folder = tmp_path_factory.mktemp("made_up")
    write_tables(folder, n_patients=40, seed=3)
    return folder


@pytest.mark.parametrize("last_bin", [0, 3])
def test_states_do_not_change_when_all_that_came_later_is_taken_away(
    source: Path, tmp_path: Path, last_bin: int
) -> None:
    causal = AssemblyConfig()
    whole = as_known_after(source, tmp_path / "whole", WHOLE)
    then = as_known_after(source, tmp_path / "then", (last_bin + 1) * causal.step_hours)
    expected = states(whole, tmp_path / "a", last_bin, causal)
    assert len(expected) > 500
    assert states(then, tmp_path / "b", last_bin, causal) == expected


def test_the_same_comparison_finds_the_leak_of_the_literature_s_alignment(tmp_path: Path) -> None:
    write_tables(tmp_path / "tables", n_patients=40, seed=3)
    whole = as_known_after(tmp_path / "tables", tmp_path / "whole", WHOLE)
    then = as_known_after(tmp_path / "tables", tmp_path / "then", 8)
    leaky = AssemblyConfig(alignment="same_window")
    assert states(then, tmp_path / "b", 1, leaky) != states(whole, tmp_path / "a", 1, leaky)


def test_later_rows_of_a_held_out_stay_change_none_of_its_earlier_states(
    raw_cohort: RawCohort, trajectories: Trajectories
) -> None:
    rng = np.random.default_rng(0)
    held_out = (trajectories.stays.split == "test")[trajectories.stay_of_row]
    later = held_out & (trajectories.step > 1)
    noise = rng.uniform(LOW, HIGH, (len(later), N_FEATURES)).astype(np.float32)
    changed = replace(
        raw_cohort,
        raw=np.where(later[:, None], noise, raw_cohort.raw),
        ventilated=raw_cohort.ventilated ^ later,
        fluid_ml=raw_cohort.fluid_ml + np.float32(99) * later,
        norepinephrine_equivalent=raw_cohort.norepinephrine_equivalent + np.float32(1) * later,
    )
    other = assemble(changed, AssemblyConfig(), source="test", credentialed=False)
    assert other.preprocessing == trajectories.preprocessing
    np.testing.assert_array_equal(other.observations()[~later], trajectories.observations()[~later])
    assert (other.observations()[later] != trajectories.observations()[later]).any()
