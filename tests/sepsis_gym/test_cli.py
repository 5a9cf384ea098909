import gzip
import json
import shutil
from pathlib import Path

import gymnasium as gym
import numpy as np
import pyarrow.parquet as pq
import pytest

pytest.importorskip("torch", reason="the torch extra is not installed")
pytest.importorskip("d3rlpy", reason="the offline extra is not installed")

from evaluation.evaluate import Evaluation
from sepsis_gym.cli import main
from sepsis_gym.registration import SAMPLE_COHORT
from sepsis_gym.trajectories import Trajectories
from world_models.physiology.records.tables import write_tables


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source") / "tables"
    write_tables(folder, n_patients=60, seed=0)
    return folder


def fails(capsys, *args):
    """Runs a command that must fail and returns its one line of complaint."""
    with pytest.raises(SystemExit) as stopped:
        main([str(arg) for arg in args])
    assert stopped.value.code == 1
    complaint = capsys.readouterr().err.strip().splitlines()
    assert len(complaint) == 1, complaint
    return complaint[0]


def copied(tables: Path, target: Path) -> Path:
    shutil.copytree(tables, target)
    return target


def test_missing_table(capsys, tables, tmp_path):
    source = copied(tables, tmp_path / "source")
    (source / "hosp/labevents.csv.gz").unlink()
    told = fails(capsys, "cohort", "mimic", "--mimic-dir", source, "--out", tmp_path / "out")
    assert "hosp/labevents.csv.gz: no such file" in told
    assert not (tmp_path / "out").exists()


def test_missing_column(capsys, tables, tmp_path):
    source = copied(tables, tmp_path / "source")
    file = source / "icu/icustays.csv.gz"
    text = gzip.decompress(file.read_bytes()).replace(b"intime", b"in_time", 1)
    file.write_bytes(gzip.compress(text))
    told = fails(capsys, "cohort", "mimic", "--mimic-dir", source, "--out", tmp_path / "out")
    assert "icu/icustays.csv.gz: column 'intime' is missing" in told
    assert not (tmp_path / "out").exists()


def test_truncated_table(capsys, tables, tmp_path):
    source = copied(tables, tmp_path / "source")
    file = source / "icu/chartevents.csv.gz"
    file.write_bytes(file.read_bytes()[:-5000])
    told = fails(capsys, "cohort", "mimic", "--mimic-dir", source, "--out", tmp_path / "out")
    assert "icu/chartevents.csv.gz" in told
    assert not (tmp_path / "out/steps.parquet").exists()
    assert not (tmp_path / "out/cache/chartevents.parquet").exists()
    assert not list((tmp_path / "out").rglob("*.partial"))


def test_empty_cohort(capsys, tables, tmp_path):
    told = fails(
        capsys,
        *("cohort", "mimic", "--mimic-dir", tables, "--out", tmp_path / "out", "--min-age", 130),
    )
    assert "no stay is left after the rule '130 years or older'" in told
    assert not (tmp_path / "out/steps.parquet").exists()


def test_unknown_world_model_agent_and_cohort(capsys, tmp_path):
    out = tmp_path / "out"
    evaluate = ("evaluate", "--cohort", SAMPLE_COHORT, "--out", out)
    assert "no world model 'nowhere'" in fails(capsys, *evaluate, "--world-model", "nowhere")
    assert "no agent 'doctor'" in fails(capsys, *evaluate, "--agents", "doctor")
    training = ("--cohort", SAMPLE_COHORT, "--out", out)
    assert "no agent 'doctor'" in fails(capsys, "agent", "train", "doctor", *training)
    assert "needs no training" in fails(capsys, "agent", "train", "random", *training)
    missing = ("world-model", "train", "--cohort", tmp_path / "nothing", "--out", out)
    assert "manifest.json: no such file" in fails(capsys, *missing)
    assert not out.exists()


def test_settings_of_an_agent(capsys, tmp_path):
    """They reach its config, are checked, and the validation split chooses unless told not to."""
    out, training = tmp_path / "cql", ("agent", "train", "cql", "--cohort", SAMPLE_COHORT, "--out")
    told = ("--set", "n_steps=40", "check_interval=20", "hidden_units=8,8", "learning_rate=1e-3")
    main([str(arg) for arg in (*training, out, *told)])
    description = json.loads((out / "agent.json").read_text())
    assert description["config"]["hidden_units"] == [8, 8]
    assert description["config"]["learning_rate"] == 1e-3
    assert description["provenance"]["updates"] == 40
    assert description["provenance"]["best_update"] in (20, 40)
    main([str(arg) for arg in (*training, tmp_path / "last", "--no-select", *told)])
    assert "best_update" not in (tmp_path / "last" / "agent.json").read_text()
    assert "n_steps: expected NAME=VALUE" in fails(capsys, *training, out, "--set", "n_steps")
    for wrong, message in (
        ("n_steps=0", "n_steps must be positive"),
        ("steps=1", "Unrecognized options"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main([str(arg) for arg in (*training, out, "--set", wrong)])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main([str(arg) for arg in (*training, out, "--set", "help")])
    assert stopped.value.code == 0
    assert "--alpha" in capsys.readouterr().out


def test_an_output_that_is_a_file_and_a_clock_that_is_none(capsys, tmp_path):
    taken = tmp_path / "taken"
    taken.write_text("mine")
    synthetic = ("cohort", "synthetic", "--patients", "20", "--out")
    assert "taken" in fails(capsys, *synthetic, taken)
    training = ("agent", "train", "clinician", "--cohort", SAMPLE_COHORT, "--out", taken)
    assert "taken: is a file; name a folder" in fails(capsys, *training)
    assert taken.read_text() == "mine"
    with pytest.raises(SystemExit) as stopped:
        main([*synthetic, str(tmp_path / "out"), "--step-hours", "3"])
    assert stopped.value.code == 2  # a flag that cannot be, told by the parser
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_settings_that_cannot_be_end_in_one_line_before_any_work(capsys, tables, tmp_path):
    out = tmp_path / "out"
    assert "seed" in fails(capsys, "cohort", "synthetic", "--out", out, "--seed", "-1")
    training = ("agent", "train", "clinician", "--cohort", SAMPLE_COHORT, "--out", out)
    assert "seed" in fails(capsys, *training, "--seed", "-1")
    mimic = ("cohort", "mimic", "--mimic-dir", tables, "--out", out)
    assert "memory_limit 1KB is too little" in fails(capsys, *mimic, "--memory-limit", "1KB")
    assert not (out / "steps.parquet").exists()


def test_a_damaged_cache_says_what_to_delete(capsys, tables, tmp_path):
    mimic = ("cohort", "mimic", "--mimic-dir", str(tables), "--out", str(tmp_path / "out"))
    main(list(mimic))
    capsys.readouterr()
    cached = tmp_path / "out/cache/chartevents.parquet"
    content = bytearray(cached.read_bytes())
    content[1000:60000] = bytes(59000)  # the footer with its fingerprint stays whole
    cached.write_bytes(content)
    told = fails(capsys, *mimic)
    assert f"delete {tmp_path / 'out/cache'}" in told


def test_a_target_that_cannot_be_is_told_before_the_training(capsys, tmp_path, monkeypatch):
    taken = tmp_path / "taken"
    taken.write_text("mine")
    monkeypatch.setattr("agents.clinician.ClinicianAgent.train", None)  # never reached
    training = ("agent", "train", "clinician", "--cohort", SAMPLE_COHORT, "--out", taken)
    assert "taken: is a file" in fails(capsys, *training)


def test_a_language_model_needs_an_endpoint_and_a_name(capsys, tmp_path):
    evaluate = ("evaluate", "--cohort", SAMPLE_COHORT, "--out", tmp_path / "out")
    told = fails(capsys, *evaluate, "--base-url", "http://127.0.0.1:9/v1")
    assert "--llm-model" in told


def test_agents_of_another_cohort_are_refused(capsys, tables, tmp_path):
    main(["cohort", "mimic", "--mimic-dir", str(tables), "--out", str(tmp_path / "cohort")])
    capsys.readouterr()
    name = ("agent", "train", "clinician", "--cohort", tmp_path / "cohort")
    main([str(arg) for arg in (*name, "--out", tmp_path / "agent")])
    told = fails(
        capsys,
        *("evaluate", "--cohort", SAMPLE_COHORT, "--out", tmp_path / "out"),
        *("--agents", tmp_path / "agent"),
    )
    assert "trained on other data" in told
    assert not (tmp_path / "out").exists()


def test_a_language_model_is_scored_beside_the_others(capsys, tmp_path, prescribing_server):
    pytest.importorskip("openai", reason="the llm extra is not installed")
    server = ("--base-url", prescribing_server, "--llm-model", "m", "--truth-patients", "8")
    main(["evaluate", "--cohort", str(SAMPLE_COHORT), "--out", str(tmp_path / "out"), *server])
    told = capsys.readouterr().out
    rows = json.loads((tmp_path / "out/results.json").read_text())["rows"]
    llm, low_fluid = (
        next(row for row in rows if row["agent"] == name) for name in ("llm", "low_fluid")
    )
    decisions = Trajectories.load(SAMPLE_COHORT).split("test").n_decisions.sum()
    assert llm["counts"]["decisions"] == decisions
    assert llm["counts"]["fallbacks"] == 0
    assert llm["truth"]["episodes"] == 8
    assert f"decisions {decisions}" in told
    # it did what the constant agent does, so its weights are the same
    assert llm["estimates"]["wis"]["value"] == low_fluid["estimates"]["wis"]["value"]
    assert llm["safety"]["adherence"] == low_fluid["safety"]["adherence"]


def test_what_a_language_model_knows_stands_beside_the_world_model(
    capsys, tmp_path, prescribing_server
):
    pytest.importorskip("openai", reason="the llm extra is not installed")
    asked = ("llm", "knowledge", "--cohort", SAMPLE_COHORT, "--out", tmp_path / "out")
    server = ("--base-url", prescribing_server, "--llm-model", "m")
    told = fails(capsys, *asked, *server)
    assert "token log-probabilities" in told
    assert not (tmp_path / "out").exists()
    main([str(arg) for arg in (*asked, *server, "--samples", "3")])
    assert "AUROC" in capsys.readouterr().out
    scores = json.loads((tmp_path / "out/knowledge.json").read_text())["scores"]
    assert [score["predictor"] for score in scores] == ["m", "world model default"] * 2
    for score in scores:
        assert score["malformed"] == 0
        if score["predictor"] == "m" and score["positive"]:  # it always says yes
            assert score["auroc"]["value"] == 0.5
            assert score["auprc"]["value"] == pytest.approx(score["positive"] / score["asked"])


def test_an_evaluation_that_was_killed_goes_on_and_ends_alike(capsys, tmp_path, monkeypatch):
    agents = tmp_path / "agents"
    for seed in ("0", "1"):
        training = ("agent", "train", "clinician", "--cohort", SAMPLE_COHORT)
        where = ("--out", agents / "clinician" / f"seed-{seed}", "--seed", seed)
        main([str(arg) for arg in (*training, *where)])
    quick = ("--resamples", "20", "--refits", "2", "--world-model", "None", "--truth-patients", "8")
    evaluate = ("evaluate", "--cohort", SAMPLE_COHORT, "--agents", agents / "clinician", *quick)
    scored = []
    row = Evaluation.row

    def stop_at_the_third(self, name, agent, *kept):
        scored.append(name)
        if len(scored) == 3:
            raise KeyboardInterrupt
        return row(self, name, agent, *kept)

    monkeypatch.setattr(Evaluation, "row", stop_at_the_third)
    with pytest.raises(SystemExit) as stopped:
        main([str(arg) for arg in (*evaluate, "--out", tmp_path / "killed")])
    assert stopped.value.code == 130
    assert not (tmp_path / "killed/results.json").exists()
    capsys.readouterr()
    main([str(arg) for arg in (*evaluate, "--out", tmp_path / "killed")])
    told = capsys.readouterr().out
    assert told.count("(kept)") == 2
    main([str(arg) for arg in (*evaluate, "--out", tmp_path / "whole")])
    killed, whole = (tmp_path / name / "results.json" for name in ("killed", "whole"))
    assert killed.read_bytes() == whole.read_bytes()
    results = json.loads(whole.read_text())
    names = [row["agent"] for row in results["rows"]]
    assert len(scored) == 3 + (len(names) - 1 - 2) + (len(names) - 1)
    assert {"clinician/seed-0", "clinician/seed-1"} < set(names)
    assert {each["group"] for each in results["seeds"]} == {"clinician"}


def test_credentialed_rows_are_not_sent_to_a_foreign_server(capsys, tables, tmp_path):
    pytest.importorskip("openai", reason="the llm extra is not installed")
    main(["cohort", "mimic", "--mimic-dir", str(tables), "--out", str(tmp_path / "cohort")])
    capsys.readouterr()
    told = fails(
        capsys,
        *("evaluate", "--cohort", tmp_path / "cohort", "--out", tmp_path / "out"),
        *("--base-url", "https://api.example.com/v1", "--llm-model", "m"),
    )
    assert "data use agreement" in told
    assert "--allow-host" in told


def test_agent_list(capsys):
    main(["agent", "list"])
    told = capsys.readouterr().out
    for name in ("bcq", "cql", "clinician", "no_treatment", "random", "fixed_dose"):
        assert name in told


def test_the_demo_runs_whole_and_its_world_model_opens(capsys, tmp_path):
    out = tmp_path / "demo"
    short = ("--patients", "120", "--epochs", "2", "--gradient-steps", "20")
    truth = ("--truth-patients", "32")
    main(["demo", "--out", str(out), *short, *truth])
    told = capsys.readouterr().out
    assert "never for patient care" in told
    assert str(out) in told.replace("\n", "")
    results = json.loads((out / "results/results.json").read_text())
    names = [row["agent"] for row in results["rows"]]
    assert names[0] == "clinicians"
    baselines = {"no_treatment", "low_fluid", "maximum_dose", "random"}
    assert {"clinician", "bcq", "cql", *baselines} == set(names[1:])
    assert all(row["world_model_return"] for row in results["rows"][1:])
    assert all(row["truth"]["episodes"] > 0 for row in results["rows"])
    assert (out / "report/report.html").stat().st_size > 100_000
    assert (out / "results/results.csv").read_text().count("\n") == len(names) + 1
    cohort = Trajectories.load(out / "cohort")
    env = gym.make("SepsisWM-v0", model=out / "world-model")
    assert env.unwrapped.preprocessing == cohort.preprocessing
    assert not cohort.manifest.credentialed
    again = ("evaluate", "--cohort", out / "cohort", "--out", tmp_path / "again")
    agents = ("--agents", out / "agents/bcq", "random", "--world-model", out / "world-model")
    main([str(arg) for arg in (*again, *agents, *truth)])
    repeated = json.loads((tmp_path / "again/results.json").read_text())["rows"]
    before = next(row for row in results["rows"] if row["agent"] == "bcq")
    assert before in repeated


def test_synthetic_cohorts_by_way_of_tables_and_straight_hold_the_same_states(capsys, tmp_path):
    made = ("cohort", "synthetic", "--patients", "60", "--seed", "3")
    logged = ("--decision-interval-hours", "4", "--exploration", "0.2")
    main([*made, *logged, "--out", str(tmp_path / "tables")])
    main([*made, *logged, "--no-tables", "--out", str(tmp_path / "straight")])
    capsys.readouterr()
    by_tables, straight = (Trajectories.load(tmp_path / name) for name in ("tables", "straight"))
    both = np.isin(straight.stays.stay_id, by_tables.stays.stay_id)  # SOFA below 2 is left out
    assert len(by_tables) == both.sum()
    same = straight.select(both)
    np.testing.assert_array_equal(same.age, by_tables.age)
    measured = by_tables.measured
    np.testing.assert_allclose(same.values[measured], by_tables.values[measured], rtol=2e-3)
    for name in ("fluid_ml", "norepinephrine_equivalent"):
        np.testing.assert_allclose(getattr(same, name), getattr(by_tables, name), atol=1e-3)
    chances = pq.read_table(tmp_path / "tables" / "propensities.parquet")
    probability = np.stack([chances[f"p_{a}"].to_numpy() for a in range(25)], axis=1)
    action = by_tables.action[by_tables.is_decision]
    np.testing.assert_allclose(probability.sum(1), 1)
    taken = probability[np.arange(len(action)), action]
    expected = (probability**2).sum(1)
    spread = np.sqrt((probability**3).sum(1) - expected**2)
    assert abs((taken - expected).sum()) < 4 * np.sqrt((spread**2).sum())
    assert taken.min() > 0
    truth = pq.read_table(tmp_path / "tables" / "tables" / "truth_stays.parquet")
    assert set(by_tables.stays.stay_id) <= set(truth["stay_id"].to_pylist())


def test_propensities_are_for_one_decision_a_step_and_no_tables_for_causal_states(capsys, tmp_path):
    made = ("cohort", "synthetic", "--patients", "30", "--no-tables", "--out", tmp_path / "a")
    assert "causal" in fails(capsys, *made, "--alignment", "same_window")
    main([str(part) for part in made])
    assert not (tmp_path / "a" / "propensities.parquet").exists()
    with pytest.raises(SystemExit):
        main([*map(str, made), "--exploration", "2"])
    assert "exploration must lie in [0, 1], got 2.0" in " ".join(capsys.readouterr().err.split())


def test_a_cohort_takes_over_the_scales_of_a_world_model(capsys, tmp_path):
    synthetic = ("cohort", "synthetic", "--patients", "40", "--scales-of")
    main([*synthetic, "default", "--no-tables", "--out", str(tmp_path / "c")])
    scales = Trajectories.load(tmp_path / "c").preprocessing
    assert scales == Trajectories.load(SAMPLE_COHORT).preprocessing
    out = ("--out", tmp_path / "d")
    assert "add --no-tables" in fails(capsys, *synthetic, "default", *out)
    assert "no world model 'nowhere'" in fails(capsys, *synthetic, "nowhere", *out)
    hourly = ("--no-tables", "--step-hours", "1")
    assert "steps of 4 h" in fails(capsys, *synthetic, "default", *hourly, *out)
