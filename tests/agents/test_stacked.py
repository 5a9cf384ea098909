"""Offline agents that see the last states."""

from dataclasses import replace

import numpy as np
import pytest

from agents import load_agent, train_agent
from agents.stacked import StackedConfig, stacked
from evaluation.selection import validation_value
from evaluation.target import agent_probabilities
from sepsis_gym.errors import ConfigError

QUICK = {"n_steps": 40, "check_interval": 20, "hidden_units": (16,)}


def test_states_before_the_present_one_are_those_of_the_stay():
    rows = np.arange(10, dtype=np.float32).reshape(5, 2)
    seen = stacked(rows, np.array([0, 2, 5]), 3)
    assert seen.shape == (5, 6)
    assert seen[0].tolist() == [0, 1, 0, 0, 0, 0]
    assert seen[2].tolist() == [4, 5, 0, 0, 0, 0]
    assert seen[4].tolist() == [8, 9, 6, 7, 4, 5]


def test_learns_what_only_the_state_before_tells(trajectories):
    """The action says on which side of its median one feature was a step ago."""
    shown, log = trajectories.observations(), trajectories
    column = int(np.argmax([len(np.unique(shown[:, k])) for k in range(39)]))
    high = shown[:, column] > np.median(shown[:, column])
    before = np.roll(high, 1)
    before[log.offsets[:-1]] = False
    told = replace(log, action=np.where(log.is_decision, np.where(before, 24, 0), log.action))
    test = told.split("test")
    counts = test.is_decision

    def right(frames):
        config = StackedConfig(
            of="bc", frames=frames, n_steps=300, learning_rate=1e-3, hidden_units=(64,)
        )
        agent = train_agent("stacked", told, config=config)
        chosen = agent_probabilities("stacked", agent, test).probabilities.argmax(1)
        return (chosen[counts] == test.action[counts]).mean()

    alone, both = right(1), right(2)
    print(f"right by the present state {alone:.3f}, by the one before it too {both:.3f}")
    assert both > alone + 0.1


@pytest.mark.parametrize("of", ["cql", "wd3qne"])
def test_asked_step_by_step_it_answers_as_in_one_batch(trajectories, of, tmp_path):
    config = StackedConfig(of=of, frames=3, **QUICK)
    asked = []
    judge = validation_value(trajectories, gamma=0.99)

    def score(policy):
        asked.append(judge(policy))
        return asked[-1]

    agent = train_agent("stacked", trajectories, tmp_path, config=config, score=score)
    assert len(asked) == 2
    assert agent.provenance["validation_score"] == max(asked)
    loaded, log = load_agent(tmp_path), trajectories.split("validation")
    walked = agent_probabilities("stacked", loaded, log).probabilities
    batch = agent._policy.batch_probabilities(stacked(log.observations(), log.offsets, 3))
    counts = log.is_decision
    np.testing.assert_array_equal(walked[counts], batch[counts])
    assert len(np.unique(batch[counts].argmax(1))) > 1


def test_a_training_with_other_frames_is_not_gone_on_from(trajectories, tmp_path, monkeypatch):
    def train(frames):
        config = StackedConfig(of="cql", frames=frames, **QUICK)
        return train_agent("stacked", trajectories, tmp_path, config=config)

    monkeypatch.setattr("agents.training.Run.finish", lambda self: None)
    train(2)
    assert train(3).weights["q.0.weight"].shape[0] == 3 * 107


def test_config_is_checked():
    with pytest.raises(ConfigError, match="of must be bc, bcq"):
        StackedConfig(of="ppo")
    with pytest.raises(ConfigError, match="frames"):
        StackedConfig(frames=0)
