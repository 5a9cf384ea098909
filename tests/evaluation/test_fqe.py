from dataclasses import replace

import numpy as np
import pytest
from conftest import make_raw_cohort

from evaluation.fqe import (
    FQEConfig,
    FQEDesign,
    action_basis,
    permitted_returns,
    return_to_go,
)
from sepsis_gym.actions import N_ACTIONS, decode_action
from sepsis_gym.cohort.assemble import AssemblyConfig, assemble
from sepsis_gym.errors import ConfigError
from sepsis_gym.trajectories import Trajectories

EXACT = FQEConfig(ridges=(1e-9,))


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
    q = FQEDesign(train, EXACT, gamma=0.5).fit(constant)
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
    q = FQEDesign(train, EXACT, gamma=1.0).fit(uniform)
    first = test.offsets[:-1]
    v = q.values(test.observations())[first].mean(1)
    np.testing.assert_allclose(v, previous_level(test)[first] + 2 + (2 + 2), atol=0.03)


def test_values_outside_the_rewards_are_counted_not_clipped(two_steps):
    q = FQEDesign(two_steps, gamma=1.0).fit(np.full((len(two_steps.action), N_ACTIONS), 0.04))
    assert q.lowest == 0
    assert q.outside_share(np.array([q.lowest - 1, 0.0, 1.0, q.highest + 1])) == 0.5
    assert np.abs(replace(q, weights=q.weights * 1e3).values(two_steps.observations())).max() > 1e3


def test_permitted_returns_by_hand(trajectories):
    reward = np.where(trajectories.terminated, 10.0, -1.0)
    reward[~trajectories.is_decision] = np.nan
    low, high = permitted_returns(replace(trajectories, reward=reward), gamma=1.0)
    assert (low, high) == (10 - 17, 10)


def test_arguments_are_checked(trajectories):
    with pytest.raises(ConfigError, match="ridges must be positive"):
        FQEConfig(ridges=(0.1, 0.0))
    with pytest.raises(ValueError, match="probabilities must be"):
        FQEDesign(trajectories, gamma=1.0).fit(np.ones((3, N_ACTIONS)))


def test_every_fit_of_a_resample_equals_fitting_its_stays(trajectories):
    """Blocks, counts and subtraction of folds are arithmetic only."""
    rng = np.random.default_rng(5)
    n, config = len(trajectories), FQEConfig(ridges=(0.3,))
    index = rng.integers(0, n, (2, n))
    counts = np.stack([np.bincount(drawn, minlength=n) for drawn in index]).astype(float)
    folds = rng.integers(-1, 2, n)
    target = rng.dirichlet(np.ones(N_ACTIONS), len(trajectories.action))
    design = FQEDesign(trajectories, config, gamma=0.9, folds=folds, counts=counts)
    fits = design.fit_all(target)
    assert fits.shape[:2] == (2, 3)
    for fold in range(2):
        for drawn, weights in zip((np.arange(n), *index), fits[fold], strict=True):
            stays = drawn[folds[drawn] != fold]
            rows = np.concatenate(
                [np.arange(trajectories.offsets[i], trajectories.offsets[i + 1]) for i in stays]
            )
            alone = refit(trajectories.select(stays), target[rows], design)
            np.testing.assert_allclose(weights, alone, rtol=1e-5, atol=1e-6)


def refit(log: Trajectories, target: np.ndarray, design: FQEDesign) -> np.ndarray:
    """Iterated ridge regressions on all rows at once, with the features of a design."""
    rows = np.flatnonzero(log.is_decision)
    observations = log.observations()
    logged = design.features(observations[rows], action_basis()[log.action[rows]])
    following = design.features(observations[rows + 1], target[rows + 1] @ action_basis())
    following[log.terminated[rows]] = 0
    penalty = np.full(logged.shape[1], design.ridge * len(rows))
    penalty[0] = 1e-9 * len(rows)
    weights = np.zeros(logged.shape[1])
    for _ in range(400):
        value = log.reward[rows] + design.gamma * following @ weights
        weights = np.linalg.solve(logged.T @ logged + np.diag(penalty), logged.T @ value)
    return weights


def test_the_penalty_is_the_best_of_left_out_patients(trajectories):
    ridges = (1e-4, 0.1, 100.0)
    folds = np.arange(len(trajectories)) // 2 % 3
    design = FQEDesign(trajectories, FQEConfig(ridges=ridges), gamma=0.9, folds=folds)
    to_go = return_to_go(trajectories, gamma=0.9)
    observations, decision = trajectories.observations(), trajectories.is_decision
    features = design.features(
        observations[decision], action_basis()[trajectories.action[decision]]
    )
    fold, errors = folds[trajectories.stay_of_row[decision]], np.zeros(3)
    for index, ridge in enumerate(ridges):
        for out in range(3):
            x, y = features[fold != out], to_go[decision][fold != out]
            penalty = np.diag([1e-9 * len(x), *[ridge * len(x)] * (x.shape[1] - 1)])
            weights = np.linalg.solve(x.T @ x + penalty, x.T @ y)
            error = to_go[decision][fold == out] - features[fold == out] @ weights
            errors[index] += (error**2).sum()
    assert design.ridge == ridges[errors.argmin()]
    assert len(np.unique(errors)) == 3


def test_return_to_go_by_hand(trajectories):
    reward = np.where(trajectories.terminated, 8.0, 0.0)
    to_go = return_to_go(replace(trajectories, reward=reward), gamma=0.5)
    last = trajectories.offsets[1:] - 2
    np.testing.assert_array_equal(to_go[last], 8)
    np.testing.assert_array_equal(to_go[last - 1][trajectories.n_decisions > 1], 4)
    assert not to_go[~trajectories.is_decision].any()


def test_value_of_the_clinicians_is_their_mean_return(trajectories):
    """The intercept is not shrunk, so with the logged next actions residuals sum to 0."""
    log = trajectories
    logged = np.eye(N_ACTIONS)[np.maximum(log.action, 0)]
    q = FQEDesign(log, FQEConfig(ridges=(0.1,)), gamma=1.0).fit(logged)
    first = log.offsets[:-1]
    value = (q.values(log.observations()) * logged).sum(1)[first].mean()
    assert value == pytest.approx(log.padded(log.reward).sum(1).mean(), rel=1e-3)
