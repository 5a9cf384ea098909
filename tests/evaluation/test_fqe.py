from dataclasses import replace

import numpy as np
import pytest
from conftest import make_raw_cohort

from evaluation.fqe import FQEConfig, FQEDesign, permitted_returns
from sepsis_gym.actions import N_ACTIONS, decode_action
from sepsis_gym.cohort.assemble import AssemblyConfig, assemble
from sepsis_gym.errors import ConfigError
from sepsis_gym.trajectories import Trajectories

EXACT = FQEConfig(ridge=1e-9)


@pytest.fixture(scope="module")
def two_steps() -> Trajectories:
    """Stays of two decisions; each pays the fluid level, and the vasopressor level a step later.

    So the true Q is linear in the features, and values are known for any policy.
    """
    cohort = make_raw_cohort(2500)
    bins = np.arange(cohort.offsets[-1]) - np.repeat(cohort.offsets[:-1], np.diff(cohort.offsets))
    kept = bins < 3
    names = ("raw", "ventilated", "fluid_ml", "norepinephrine_equivalent", "sofa_24h")
    short = replace(
        cohort,
        offsets=3 * np.arange(len(cohort.offsets)),
        **{name: getattr(cohort, name)[kept] for name in names},
    )
    stays = assemble(short, AssemblyConfig(), source="two steps", credentialed=False)
    fluid, _ = decode_action(np.where(stays.is_decision, stays.action, 0))
    return replace(stays, reward=np.where(stays.is_decision, fluid + previous_level(stays), np.nan))


def previous_level(stays: Trajectories) -> np.ndarray:
    dose = stays.previous_norepinephrine_equivalent
    return stays.preprocessing.action_bins.vasopressor_level(dose)


@pytest.mark.parametrize(("action", "fluid", "vasopressor"), [(0, 0, 0), (13, 2, 3), (24, 4, 4)])
def test_known_values_of_constant_policies(two_steps, action, fluid, vasopressor):
    train, test = two_steps.split("train"), two_steps.split("test")
    constant = np.zeros((len(train.action), N_ACTIONS))
    constant[:, action] = 1
    q = FQEDesign(train, EXACT).fit(constant, gamma=0.5)
    values = q.values(test.observations())
    first, second = test.offsets[:-1], test.offsets[:-1] + 1
    before = previous_level(test)
    at_first = before[first] + fluid + 0.5 * (vasopressor + fluid)
    np.testing.assert_allclose(values[first, action], at_first, atol=0.02)
    np.testing.assert_allclose(values[second, action], before[second] + fluid, atol=0.02)
    # Another first action: its own fluid now, its vasopressor paid for a step later.
    np.testing.assert_allclose(values[first, 9], before[first] + 1 + 0.5 * (4 + fluid), atol=0.02)


def test_known_value_of_a_random_policy(two_steps):
    train, test = two_steps.split("train"), two_steps.split("test")
    uniform = np.full((len(train.action), N_ACTIONS), 1 / N_ACTIONS)
    q = FQEDesign(train, EXACT).fit(uniform, gamma=1.0)
    first = test.offsets[:-1]
    v = q.values(test.observations())[first].mean(1)
    np.testing.assert_allclose(v, previous_level(test)[first] + 2 + (2 + 2), atol=0.03)


def test_values_outside_the_rewards_are_counted_not_clipped(two_steps):
    q = FQEDesign(two_steps).fit(np.full((len(two_steps.action), N_ACTIONS), 0.04), gamma=1.0)
    assert q.lowest == 0
    assert q.outside_share(np.array([q.lowest - 1, 0.0, 1.0, q.highest + 1])) == 0.5
    assert np.abs(replace(q, weights=q.weights * 1e3).values(two_steps.observations())).max() > 1e3


def test_permitted_returns_by_hand(trajectories):
    reward = np.where(trajectories.terminated, 10.0, -1.0)
    reward[~trajectories.is_decision] = np.nan
    low, high = permitted_returns(replace(trajectories, reward=reward), gamma=1.0)
    assert (low, high) == (10 - 17, 10)


def test_arguments_are_checked(trajectories):
    with pytest.raises(ConfigError, match="ridge"):
        FQEConfig(ridge=0)
    with pytest.raises(ValueError, match="probabilities must be"):
        FQEDesign(trajectories).fit(np.ones((3, N_ACTIONS)), gamma=1.0)
