"""Boosted trees in numpy, and the imitation of clinicians by them."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier

from agents import agent_digest, load_agent, train_agent
from agents.boosted import BoostedClinicianConfig, Trees
from sepsis_gym.actions import N_ACTIONS, N_LEVELS
from sepsis_gym.errors import ConfigError

QUICK = BoostedClinicianConfig(trees=5, decisions_per_leaf=5)


@pytest.mark.parametrize("levels", [[0, 1, 2, 3, 4], [0, 2, 3], [1, 4], [2]])
def test_trees_in_numpy_are_those_of_scikit_learn(levels):
    """Above all that its private arrays mean what is read from them."""
    rng = np.random.default_rng(len(levels))
    inputs = rng.normal(size=(600, 6))
    level = np.array(levels)[rng.integers(len(levels), size=600)]
    level[inputs[:, 2] > 0.3] = levels[0]
    config = BoostedClinicianConfig(trees=12, decisions_per_leaf=10)
    trees = Trees.fit(inputs, level, config, 0)
    other = rng.normal(size=(200, 6))
    told, expected = trees(other), np.zeros((200, N_LEVELS))
    if len(levels) == 1:
        expected[:, levels] = 1
    else:
        model = HistGradientBoostingClassifier(
            max_iter=12, max_leaf_nodes=8, min_samples_leaf=10, l2_regularization=10,
            early_stopping=False, random_state=0,
        ).fit(inputs, level)  # fmt: skip
        expected[:, levels] = model.predict_proba(other)
    np.testing.assert_allclose(told, expected, atol=1e-6)


def test_both_drugs_are_told_together(trajectories):
    """The vasopressor's shares are those of its own trees, whatever the fluid."""
    agent = train_agent(
        "boosted_clinician", trajectories, config=replace(QUICK, marginal_share=1e-9)
    )
    rows = trajectories.observations()[:50]
    told = agent.batch_probabilities(rows)
    assert told.shape == (50, N_ACTIONS)
    assert told.sum(1) == pytest.approx(np.ones(50), abs=1e-12)
    from sepsis_gym.patients import tree_inputs

    alone = agent._vasopressor(tree_inputs(rows))
    np.testing.assert_allclose(told.reshape(50, N_LEVELS, N_LEVELS).sum(1), alone, atol=1e-6)


def test_it_survives_the_disk_and_repeats(trajectories, tmp_path):
    agent, twin = (
        train_agent("boosted_clinician", trajectories, tmp_path / name, config=QUICK)
        for name in "ab"
    )
    rows = trajectories.observations()[:30]
    loaded = load_agent(tmp_path / "a")
    assert np.array_equal(loaded.batch_probabilities(rows), agent.batch_probabilities(rows))
    assert agent_digest(loaded) == agent_digest(agent) == agent_digest(twin)
    assert agent.provenance["validation_log_loss"] < np.log(N_ACTIONS)


@pytest.mark.parametrize(
    ("part", "damage", "message"),
    [
        ("left", lambda x: np.zeros_like(x), "leads back"),
        ("right", lambda x: x + 10**6, "leads back"),
        ("feature", lambda x: np.where(x == 0, 99, x) + 99 * (x > 0), "over 46 inputs"),
        ("feature", lambda x: x - 1, "over 46 inputs"),
        ("value", lambda x: x[:, :1], "over 46 inputs"),
        ("value", lambda x: x * np.nan, "over 46 inputs"),
    ],
)
def test_damaged_trees_are_refused(trajectories, part, damage, message):
    agent = train_agent("boosted_clinician", trajectories, config=QUICK)
    record = agent.to_record()
    record.weights[f"vasopressor.{part}"] = damage(record.weights[f"vasopressor.{part}"])
    with pytest.raises(ConfigError, match=message):
        type(agent).from_record(record)
    del record.weights[f"vasopressor.{part}"]
    with pytest.raises(ConfigError, match=f"vasopressor.{part} is missing"):
        type(agent).from_record(record)


@pytest.mark.parametrize("settings", [{"trees": 0}, {"leaves": 1}, {"l2": -1.0}])
def test_settings_outside_their_ranges_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        BoostedClinicianConfig(**settings)
