import importlib.util
from pathlib import Path

import numpy as np
import pytest

from agents import make_agent
from sepsis_gym.errors import UnknownNameError
from sepsis_gym.features import FEATURE_INDEX

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_examples_are_short():
    lengths = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    named = {"env_loop", "offline_agent", "online_agent", "llm_agent", "add_your_agent"}
    assert set(lengths) == {f"{name}.py" for name in named}
    assert max(lengths.values()) < 60
    assert lengths["add_your_agent.py"] < 40


def test_env_loop(capsys):
    total = load("env_loop").main(seed=3)
    told = capsys.readouterr().out
    assert f"return {total:+.2f}" in told
    assert "SOFA" in told


def test_offline_agent(capsys):
    pytest.importorskip("d3rlpy", reason="the offline extra is not installed")
    table = load("offline_agent").main(n_steps=30)
    assert "clinicians" in table
    assert "bcq" in table


def test_online_agent(capsys):
    pytest.importorskip("stable_baselines3", reason="the online extra is not installed")
    values = load("online_agent").main(steps=64, episodes=50)
    told = capsys.readouterr().out
    for name in ("SepsisWM-v0", "SepsisPhysio-v0"):
        assert -20 < values[name] < 20
        assert f"{name}: mean return {values[name]:+.2f} over 50 patients" in told


def test_an_agent_is_found_by_its_file():
    agent = make_agent(f"{EXAMPLES / 'add_your_agent.py'}:PressureAgent")
    seen = np.zeros((2, 107), np.float32)
    seen[1, FEATURE_INDEX["meanbp"]] = -2
    assert agent.batch_probabilities(seen).argmax(1).tolist() == [5, 7]
    with pytest.raises(UnknownNameError, match="NoAgent"):
        make_agent(f"{EXAMPLES / 'add_your_agent.py'}:NoAgent")
    with pytest.raises(UnknownNameError, match=r"nowhere\.py"):
        make_agent("nowhere.py:Agent")


def test_llm_agent(capsys, prescribing_server):
    pytest.importorskip("openai", reason="the llm extra is not installed")
    counts = load("llm_agent").main(prescribing_server, "m", seed=2)
    assert counts["decisions"] > 0
    assert (counts["repairs"], counts["fallbacks"]) == (0, 0)
    assert capsys.readouterr().out.count("action 5, reward") == counts["decisions"]
