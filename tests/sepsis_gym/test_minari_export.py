"""Minari reads back what was logged and what was played."""

import gymnasium as gym
import numpy as np
import pytest

from agents import make_agent
from sepsis_gym.cli import main
from sepsis_gym.errors import ConfigError
from sepsis_gym.minari_export import logged_episodes, played_episodes, write_minari
from sepsis_gym.registration import SAMPLE_COHORT
from sepsis_gym.trajectories import Trajectories

minari = pytest.importorskip("minari", reason="the minari extra is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@pytest.fixture(autouse=True)
def datasets(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))


def test_logged_stays_come_back_to_the_last_number(trajectories):
    name = "sepsis/random-v0"
    write_minari(logged_episodes(trajectories), name, trajectories.manifest, algorithm="clinicians")
    read = minari.load_dataset(name)
    assert read.total_episodes == len(trajectories)
    assert read.total_steps == trajectories.is_decision.sum()
    decision = trajectories.is_decision
    episodes = list(read.iterate_episodes())
    assert np.array_equal(
        np.concatenate([e.observations for e in episodes]), trajectories.observations()
    )
    for column, own in (("actions", trajectories.action), ("rewards", trajectories.reward)):
        assert np.array_equal(np.concatenate([getattr(e, column) for e in episodes]), own[decision])
    assert all(e.terminations[-1] and not e.terminations[:-1].any() for e in episodes)
    with pytest.raises(ConfigError, match="random-v0"):
        write_minari([], name, trajectories.manifest, algorithm="clinicians")


def test_played_episodes_are_those_of_the_environment():
    agent, env = make_agent("fixed_dose", action=6), gym.make("SepsisWM-v0")
    played = list(played_episodes(env, agent, 3, seed=4))
    again, _ = env.reset(seed=4)
    assert np.array_equal(played[0]["observations"][0], again)
    for episode in played:
        assert len(episode["observations"]) == len(episode["actions"]) + 1
        assert np.all(episode["actions"] == 6)
        assert episode["terminations"][-1]


def test_the_command_writes_both_kinds(capsys):
    cohort = Trajectories.load(SAMPLE_COHORT)
    export = ["cohort", "minari", "--cohort", str(SAMPLE_COHORT), "--name"]
    main([*export, "sepsis/logged-v0"])
    assert f"{len(cohort)} episodes" in capsys.readouterr().out
    main([*export, "sepsis/played-v0", "--agent", "no_treatment", "--episodes", "5"])
    assert "5 episodes" in capsys.readouterr().out
    assert minari.load_dataset("sepsis/played-v0").total_episodes == 5
    assert minari.load_dataset("sepsis/logged-v0").total_episodes == len(cohort)
