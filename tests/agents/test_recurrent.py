"""The imitation of clinicians that remembers the stay."""

from dataclasses import replace

import numpy as np
import pytest

from agents import agent_digest, load_agent, train_agent
from evaluation.target import agent_probabilities
from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.errors import ConfigError

pytest.importorskip("torch")
from agents.recurrent import RecurrentClinicianConfig, _stays

QUICK = RecurrentClinicianConfig(lstm_units=8, epochs=2)


def test_learns_what_only_the_past_tells(trajectories):
    """The action says on which side of its median one feature was two steps ago."""
    shown, log = trajectories.observations(), trajectories
    column = int(np.argmax([len(np.unique(shown[:, k])) for k in range(39)]))
    high = shown[:, column] > np.median(shown[:, column])
    before = np.roll(high, 2)
    for step in (0, 1):
        before[np.minimum(log.offsets[:-1] + step, len(before) - 1)] = False
    told = replace(log, action=np.where(log.is_decision, np.where(before, 24, 0), log.action))
    test = told.split("test")
    counts = test.is_decision

    def right(name, config=None):
        agent = train_agent(name, told, config=config)
        chosen = agent_probabilities(name, agent, test).probabilities.argmax(1)
        return (chosen[counts] == test.action[counts]).mean()

    config = RecurrentClinicianConfig(epochs=60, learning_rate=1e-2, batch_size=8, dropout=0)
    alone, remembering = right("clinician"), right("recurrent_clinician", config)
    print(f"right by the present state {alone:.3f}, by the stay {remembering:.3f}")
    assert remembering > alone + 0.1


def test_stays_are_laid_out_step_by_step(trajectories):
    seen, given = _stays(trajectories, "train")
    part = trajectories.split("train")
    for stay in (0, len(part) - 1):
        n = part.n_decisions[stay]
        rows = np.arange(part.offsets[stay], part.offsets[stay] + n)
        assert np.array_equal(given[stay, :n], part.action[rows])
        assert np.array_equal(seen[stay, :n], part.observations()[rows].clip(-5, 5))
        assert np.all(given[stay, n:] == -100)


def test_acts_by_what_torch_learned_survives_the_disk_and_repeats_with_its_seed(
    trajectories, tmp_path
):
    agent, twin, other = (
        train_agent("recurrent_clinician", trajectories, tmp_path / str(k), config=QUICK, seed=seed)
        for k, seed in enumerate((5, 5, 6))
    )
    assert agent_digest(agent) == agent_digest(twin) != agent_digest(other)
    loaded = load_agent(tmp_path / "0")
    rows = trajectories.observations()[:6]
    told = []
    for one in (agent, loaded):
        for _ in range(2):  # reset forgets
            one.reset()
            told.append(
                np.array([one.action_probabilities(row, {"step": k}) for k, row in enumerate(rows)])
            )
    for each in told[1:]:
        assert np.array_equal(each, told[0])
    assert told[0].shape == (6, N_ACTIONS)
    assert told[0].sum(1) == pytest.approx(np.ones(6), abs=1e-12)
    assert told[0].min() > 0  # no action is ever impossible


def test_a_training_that_diverges_says_so(trajectories):
    with pytest.raises(ConfigError, match="lower learning_rate"):
        train_agent("recurrent_clinician", trajectories, config=replace(QUICK, learning_rate=1e30))


def test_its_log_loss_is_that_of_what_it_tells(trajectories):
    config = replace(QUICK, marginal_share=1e-9)
    agent = train_agent("recurrent_clinician", trajectories, config=config)
    held_out = trajectories.split("validation")
    told = agent_probabilities("recurrent_clinician", agent, held_out).probabilities
    rows = np.flatnonzero(held_out.is_decision)
    loss = -np.log(told[rows, held_out.action[rows]]).mean()
    assert agent.provenance["validation_log_loss"] == pytest.approx(loss, abs=1e-4)


@pytest.mark.parametrize(
    "settings", [{"lstm_units": 0}, {"dropout": 1.0}, {"marginal_share": 0.0}, {"epochs": 0}]
)
def test_settings_outside_their_ranges_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        RecurrentClinicianConfig(**settings)
