from dataclasses import replace

import numpy as np
import pytest
from conftest import make_raw_cohort

from evaluation.behavior import BehaviorConfig, check_behavior, fit_behavior_policy
from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.cohort.assemble import AssemblyConfig, assemble
from sepsis_gym.errors import ConfigError, SupportError
from sepsis_gym.trajectories import Trajectories

SEEN = 20  # actions 20-24 never happen


@pytest.fixture(scope="module")
def known() -> tuple[Trajectories, np.ndarray]:
    """Stays whose actions follow a softmax of the observation, and its probabilities."""
    cohort = make_raw_cohort(800)
    stays = assemble(cohort, AssemblyConfig(), source="known policy", credentialed=False)
    rng = np.random.default_rng(0)
    logits = stays.observations()[:, :10] @ rng.normal(0, 1, (10, SEEN))
    truth = np.exp(logits)
    truth /= truth.sum(1, keepdims=True)
    drawn = (truth.cumsum(1) > rng.random((len(truth), 1))).argmax(1)
    truth = np.concatenate([truth, np.zeros((len(truth), N_ACTIONS - SEEN))], axis=1)
    return replace(stays, action=np.where(stays.is_decision, drawn, -1)), truth


def test_recovers_known_probabilities_and_is_never_zero(known):
    stays, truth = known
    test = stays.split("test")
    policy = fit_behavior_policy(stays.split("train"))
    fitted = policy.probabilities(test.observations())
    np.testing.assert_allclose(fitted.sum(1), 1)
    assert fitted.min() > 0
    rows = np.isin(stays.stay_of_row, np.flatnonzero(stays.stays.split == "test"))
    wrong = np.abs(fitted - truth[rows]).mean()
    from_marginal = np.abs(policy.marginal - truth[rows]).mean()
    assert wrong < 0.4 * from_marginal
    assert policy.converged


def test_report_on_held_out_stays(known):
    stays, truth = known
    train, test = stays.split("train"), stays.split("test")
    policy = fit_behavior_policy(train)
    half = fit_behavior_policy(train.select(np.arange(len(train)) < len(train) // 2))
    report = check_behavior(policy, half, test)
    rows = np.isin(stays.stay_of_row, np.flatnonzero(stays.stays.split == "test"))
    decided = test.is_decision
    possible = np.log(truth[rows][decided, test.action[decided]]).mean()
    assert report.marginal_log_likelihood + 0.5 < report.log_likelihood <= possible + 0.02
    assert 0 <= report.calibration_error < 0.06
    assert sum(report.action_frequency) == pytest.approx(1)
    assert sum(report.action_predicted) == pytest.approx(1)
    assert report.mean_rho_per_step[0] == pytest.approx(1, abs=0.2)
    own = check_behavior(policy, policy, test)
    np.testing.assert_allclose(own.mean_rho_per_step, 1)


def test_a_single_logged_action_leaves_the_smoothed_marginal(trajectories):
    constant = replace(trajectories, action=np.where(trajectories.is_decision, 7, -1))
    fitted = fit_behavior_policy(constant).probabilities(trajectories.observations())
    n = int(trajectories.is_decision.sum())
    np.testing.assert_allclose(fitted[0, 7], (n + 1) / (n + N_ACTIONS))
    assert fitted.min() == pytest.approx(1 / (n + N_ACTIONS))


def test_needs_two_patients(trajectories):
    with pytest.raises(SupportError, match="two patients"):
        fit_behavior_policy(trajectories.select(np.array([0])))


@pytest.mark.parametrize(
    "bad", [{"inverse_penalties": (1.0, 0.1)}, {"smoothing": 0.0}, {"folds": 1}]
)
def test_config_is_checked(bad):
    with pytest.raises(ConfigError):
        BehaviorConfig(**bad)
