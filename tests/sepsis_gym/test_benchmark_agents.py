"""``benchmark agents``: trains what needs it, keeps it, ranks it."""

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="the torch extra is not installed")

from evaluation.leaderboard import load_leaderboard
from sepsis_gym.cli import main
from sepsis_gym.registration import SAMPLE_COHORT

OWN = f"{Path(__file__).parents[2] / 'examples' / 'add_your_agent.py'}:PressureAgent"
QUICK = ["--truth-patients", "16", "--resamples", "20", "--rollout-episodes", "64"]


def benchmark(out, *more):
    given = ["--cohort", str(SAMPLE_COHORT), "--out", str(out), "--seeds", "0", "1", *QUICK]
    main(["benchmark", "agents", *given, *more])


def files(folder):
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    board = folder.parent / "board.json"
    benchmark(folder, "--agents", "guideline", "clinician", OWN, "--leaderboard", str(board))
    return folder


def test_every_agent_gets_an_entry_with_its_provenance(out):
    found = {entry.agent: entry for entry in load_leaderboard(out / "leaderboard.json")}
    always = {"clinicians", "no_treatment", "low_fluid", "maximum_dose", "random"}
    assert set(found) == {"guideline", "clinician", "PressureAgent"} | always
    assert (found["clinician"].seeds, found["guideline"].seeds) == (2, 1)
    assert found["guideline"].config["map_target_mmhg"] == 65
    assert found["clinician"].world_model.startswith("default, sha256 ")
    rows = {r["agent"]: r for r in json.loads((out / "results.json").read_text())["rows"]}
    seeds = [rows[f"clinician/{seed}"]["truth"]["value"]["value"] for seed in (0, 1)]
    told = found["clinician"].figures["truth"]
    assert told.value == pytest.approx(sum(seeds) / 2)
    assert (told.low, told.high) == pytest.approx((min(seeds), max(seeds)))
    assert seeds[0] != seeds[1]
    for measure in ("true_survival", "world_model", "dr", "adherence"):
        assert measure in found["clinician"].figures
    assert (out.parent / "board.json").read_text() == (out / "leaderboard.json").read_text()
    assert (out / "agents" / "clinician" / "1" / "agent.json").is_file()
    assert (out / "agents" / "guideline" / "agent.json").is_file()


def test_a_second_run_trains_and_scores_nothing(out, capsys):
    kept = {p: content for p, content in files(out).items() if p.parent.name != out.name}
    benchmark(out, "--agents", "guideline", "clinician", OWN)
    told = capsys.readouterr().out
    assert "training" not in told
    assert told.count("(kept)") == 7  # two seeds, guideline, four baselines; one cannot be saved
    assert {p: content for p, content in files(out).items() if p in kept} == kept


@pytest.mark.parametrize("what", ["content_hash", "world_model_sha256"])
def test_an_agent_of_another_cohort_or_world_model_is_not_taken_for_ours(
    out, tmp_path, capsys, what
):
    shutil.copytree(out / "agents", tmp_path / "agents")
    file = tmp_path / "agents/clinician/1/agent.json"
    described = json.loads(file.read_text())
    described["provenance"][what] = "another"
    file.write_text(json.dumps(described))
    with pytest.raises(SystemExit):
        benchmark(tmp_path, "--agents", "clinician")
    assert "clinician/1: was trained on another cohort" in capsys.readouterr().err


def test_ray_gives_the_same(out, tmp_path, monkeypatch):
    ray = pytest.importorskip("ray", reason="the ray extra is not installed")
    monkeypatch.setenv("RAY_worker_niceness", "0")  # by default its workers wait for all others
    benchmark(tmp_path, "--agents", "guideline", "clinician", OWN, "--ray")
    ray.shutdown()
    mine, theirs = (load_leaderboard(f / "leaderboard.json") for f in (tmp_path, out))
    assert mine == theirs


def test_what_cannot_be_is_refused(out, capsys):
    for more, complaint in (
        (["--agents", "doctor"], "no agent 'doctor'"),
        (["--agents", "bcq", "bcq"], "same name"),
        (["--seeds", "1", "1"], "different numbers"),
        (["--agents", "random", "--leaderboard", str(out / "results.json")], "is no leaderboard"),
    ):
        with pytest.raises(SystemExit):
            benchmark(out, *more)
        assert complaint in capsys.readouterr().err
