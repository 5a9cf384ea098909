import numpy as np
import pytest

pytest.importorskip("d3rlpy")

from dataclasses import replace

from evaluation.neural_fqe import NeuralFQEConfig, neural_fqe
from sepsis_gym.actions import N_ACTIONS, decode_action
from sepsis_gym.errors import ConfigError


class Constant:
    """Always the same action, whatever is asked."""

    def __init__(self, action):
        self.probabilities = np.eye(N_ACTIONS)[action]

    def batch_probabilities(self, observations):
        return np.tile(self.probabilities, (len(observations), 1))


def test_known_value_where_each_dose_costs(trajectories):
    """Every decision pays minus its fluid level, so a constant policy's value is known."""
    fluid, _ = decode_action(np.where(trajectories.is_decision, trajectories.action, 0))
    paid = np.where(trajectories.is_decision, -fluid.astype(float), np.nan)
    log = replace(trajectories, reward=paid)
    train, test = log.split("train"), log.split("test")
    expected = -4 * (2 - 2 * 0.5**test.n_decisions).mean()
    config = NeuralFQEConfig(n_steps=500, target_update_interval=25)
    value = neural_fqe(Constant(20), train, test, config, gamma=0.5)
    assert value == pytest.approx(expected, abs=0.7)


def test_softened_policies_and_seeds(trajectories):
    train, test = trajectories.split("train"), trajectories.split("test")
    short = NeuralFQEConfig(n_steps=20)
    values = [
        neural_fqe(Constant(action), train, test, short, gamma=0.9, softening=share, seed=seed)
        for action, share, seed in ((20, 1.0, 3), (0, 1.0, 3), (20, 0.0, 3), (20, 1.0, 4))
    ]
    assert values[0] == values[1]  # wholly softened, all policies are the same
    assert len({*values[1:]}) == 3


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="n_steps must be positive"):
        NeuralFQEConfig(n_steps=0)
