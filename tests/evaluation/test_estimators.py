import time

import numpy as np
import pytest

from evaluation import estimators
from evaluation.estimators import (
    bootstrap,
    direct_method,
    doubly_robust,
    effective_sample_size,
    importance_sampling,
    mean_cumulative_ratio,
    per_decision_importance_sampling,
    resample_index,
    support_lost_at,
    weight_diagnostics,
    weighted_doubly_robust,
    weighted_importance_sampling,
    weighted_per_decision_importance_sampling,
)
from evaluation.intervals import percentile_interval

# Two stays, worked by hand: pi_target / pi_behavior is .5/.25, .5/.5 and .25/.5.
REWARD = np.array([[0.0, 10.0], [4.0, 0.0]])
RATIO = np.array([[2.0, 1.0], [0.5, 1.0]])
MASK = np.array([[True, True], [True, False]])
ZEROS = np.zeros((2, 2))
INDEX = np.array([[1, 0], [0, 1], [1, 1], [0, 0]])
BY_HAND = {
    importance_sampling: (6.0, [6, 6, 2, 10]),
    weighted_importance_sampling: (4.8, [4.8, 4.8, 4, 5]),
    per_decision_importance_sampling: (6.0, [6, 6, 2, 10]),
    weighted_per_decision_importance_sampling: (4.8, [4.8, 4.8, 4, 5]),
    doubly_robust: (6.0, [6, 6, 2, 10]),
    weighted_doubly_robust: (4.8, [4.8, 4.8, 4, 5]),
    direct_method: (0.0, [0, 0, 0, 0]),
    mean_cumulative_ratio: (1.25, [1.25, 1.25, 0.5, 2]),
}
DOUBLY_ROBUST = (doubly_robust, weighted_doubly_robust)


def call(estimator, reward, ratio, mask, gamma, q_taken, v):
    extra = {"q_taken": q_taken, "v": v} if estimator in DOUBLY_ROBUST else {}
    if estimator is direct_method:
        extra = {"v": v}
    return estimator(reward, ratio, mask, gamma=gamma, **extra)


@pytest.mark.parametrize("estimator", BY_HAND, ids=lambda f: f.__name__)
def test_worked_case(estimator):
    value, resampled = BY_HAND[estimator]
    assert call(estimator, REWARD, RATIO, MASK, 0.5, ZEROS, ZEROS) == pytest.approx(value, abs=1e-8)
    boot = bootstrap(estimator, REWARD, RATIO, MASK, gamma=0.5, index=INDEX, q_taken=ZEROS, v=ZEROS)
    np.testing.assert_allclose(boot, resampled, atol=1e-8)


def test_worked_case_diagnostics():
    assert effective_sample_size(REWARD, RATIO, MASK, gamma=0.5) == pytest.approx(25 / 17, abs=1e-8)
    weights = weight_diagnostics(RATIO, MASK)
    np.testing.assert_allclose(weights.ess_per_step, [1.4705882352941178] * 2, atol=1e-8)
    assert weights.mean_rho == pytest.approx(1.25)
    assert weights.largest_weight_share == pytest.approx(0.8)
    assert weights.zero_weight_share == 0
    assert weights.support_lost_at is None


def survivors_only_wpdis(reward, ratio, mask, gamma):
    """Negative control: the published bug of dropping finished stays from the denominator."""
    rho = np.cumprod(np.where(mask, ratio, 1.0), axis=1) * mask
    return float(((rho * reward).sum(0) / rho.sum(0) * gamma ** np.arange(mask.shape[1])).sum())


def test_negative_control_survivors_only_denominator_inflates_the_value():
    assert survivors_only_wpdis(REWARD, RATIO, MASK, 0.5) == pytest.approx(5.8)
    ones = np.ones((2, 2))
    on_policy = weighted_per_decision_importance_sampling(REWARD, ones, MASK, gamma=0.5)
    assert on_policy == pytest.approx(4.5)  # the mean of 5 and 4
    assert survivors_only_wpdis(REWARD, ones, MASK, 0.5) == pytest.approx(2 + 5)


def test_variable_lengths_by_hand_with_q():
    reward = np.array([[1.0, 2.0, 3.0], [4.0, 9.0, 9.0]])
    ratio = np.array([[2.0, 0.5, 3.0], [0.5, 7.0, 7.0]])  # padding must not be read
    mask = np.array([[True, True, True], [True, False, False]])
    q = np.array([[1.0, 1.0, 2.0], [3.0, 8.0, 8.0]])
    v = np.array([[2.0, 1.0, 1.0], [1.0, 8.0, 8.0]])
    # stay 0 backwards: 1 + 3(3-2) = 4; 1 + .5(2 + .5*4 - 1) = 2.5; 2 + 2(1 + .5*2.5 - 1) = 4.5
    # stay 1: 1 + .5(4 - 3) = 1.5
    assert doubly_robust(reward, ratio, mask, gamma=0.5, q_taken=q, v=v) == pytest.approx(3.0)
    # rho: [2, 1, 3], [.5, .5, .5]; rho before: [1, 2, 1], [1, .5, .5]
    # t0: (2*0 + .5*1)/2.5 + (2+1)/2 = 1.7; t1: .5 (1*1/1.5 + 2*1/2.5); t2: .25 (3*1/3.5 + 1/1.5)
    expected = 1.7 + 0.5 * (1 / 1.5 + 2 / 2.5) + 0.25 * (3 / 3.5 + 1 / 1.5)
    value = weighted_doubly_robust(reward, ratio, mask, gamma=0.5, q_taken=q, v=v)
    assert value == pytest.approx(expected)
    # returns 1 + 1 + .75 = 2.75 and 4
    assert weighted_importance_sampling(reward, ratio, mask, gamma=0.5) == pytest.approx(
        (3 * 2.75 + 0.5 * 4) / 3.5
    )
    assert weighted_per_decision_importance_sampling(
        reward, ratio, mask, gamma=0.5
    ) == pytest.approx((2 + 2) / 2.5 + 0.5 * 2 / 1.5 + 0.25 * 9 / 3.5)


def test_no_support_is_nan_and_tells_the_step():
    ratio = np.array([[1.0, 0.0], [0.0, 1.0]])
    mask = np.ones((2, 2), bool)
    assert support_lost_at(ratio, mask) == 1
    for estimator in (
        weighted_importance_sampling,
        weighted_per_decision_importance_sampling,
        weighted_doubly_robust,
    ):
        assert np.isnan(call(estimator, REWARD, ratio, mask, 0.5, ZEROS, ZEROS))
    assert np.isnan(effective_sample_size(REWARD, ratio, mask))
    assert importance_sampling(REWARD, ratio, mask, gamma=0.5) == 0
    assert per_decision_importance_sampling(REWARD, ratio, mask, gamma=0.5) == 0
    assert np.isfinite(doubly_robust(REWARD, ratio, mask, gamma=0.5, q_taken=ZEROS, v=ZEROS))
    weights = weight_diagnostics(ratio, mask)
    assert (weights.zero_weight_share, weights.mean_rho) == (1.0, 0.0)


def test_resamples_without_support_are_counted():
    ratio = np.array([[1.0, 1.0], [0.0, 1.0]])
    index = np.array([[0, 0], [1, 1], [0, 1]])
    boot = bootstrap(weighted_importance_sampling, REWARD, ratio, MASK, gamma=0.5, index=index)
    np.testing.assert_allclose(boot, [5, np.nan, 5])
    assert percentile_interval(boot, 0.95) == (5.0, 5.0, 1)
    low, high, lost = percentile_interval(np.array([np.nan]), 0.95)
    assert np.isnan([low, high]).all()
    assert lost == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reward": np.zeros((2, 3))}, r"reward is \(2, 3\) but mask is \(2, 2\)"),
        ({"ratio": np.array([[-1.0, 1], [1, 1]])}, "ratio must be finite and not negative"),
        ({"reward": np.array([[np.nan, 1], [1, 1]])}, "reward must be finite"),
        ({"mask": np.array([[False, True], [True, True]])}, "mask of stay 0 has a gap"),
        ({"mask": np.zeros((0, 2))}, "not empty"),
        ({"gamma": 1.5}, "gamma must be from 0 to 1"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"reward": REWARD, "ratio": RATIO, "mask": MASK, "gamma": 0.5, **change}
    with pytest.raises(ValueError, match=message):
        importance_sampling(**arguments)


def test_bad_bootstrap_arguments():
    log = (REWARD, RATIO, MASK)
    with pytest.raises(ValueError, match="q_taken and v"):
        bootstrap(doubly_robust, *log, gamma=1, index=INDEX)
    with pytest.raises(ValueError, match="positions from 0 to 1"):
        bootstrap(importance_sampling, *log, gamma=1, index=np.array([[0, 2]]))
    with pytest.raises(ValueError, match="cannot resample"):
        bootstrap(effective_sample_size, *log, gamma=1, index=INDEX)


@pytest.mark.parametrize("estimator", BY_HAND, ids=lambda f: f.__name__)
def test_bootstrap_equals_the_estimator_on_resampled_stays(estimator):
    rng = np.random.default_rng(3)
    mask = np.arange(5) < rng.integers(1, 6, 8)[:, None]
    reward, q, v = rng.normal(size=(3, 8, 5))
    ratio = rng.lognormal(0, 0.5, (8, 5))
    index = resample_index(8, 10, rng)
    boot = bootstrap(estimator, reward, ratio, mask, gamma=0.9, index=index, q_taken=q, v=v)
    one_by_one = [call(estimator, reward[i], ratio[i], mask[i], 0.9, q[i], v[i]) for i in index]
    np.testing.assert_allclose(boot, one_by_one, atol=1e-10)


def test_a_thousand_resamples_of_725_stays_take_less_than_a_second():
    rng = np.random.default_rng(0)
    mask = np.arange(18) < rng.integers(3, 19, 725)[:, None]
    reward, q, v = rng.normal(size=(3, 725, 18))
    ratio = rng.lognormal(0, 0.3, (725, 18))
    start = time.process_time()
    index = resample_index(725, 1000, rng)
    for estimator in BY_HAND:
        bootstrap(estimator, reward, ratio, mask, gamma=0.99, index=index, q_taken=q, v=v)
    assert time.process_time() - start < 2  # 0.1 s on one idle core
    assert len(estimators._TERMS) == len(BY_HAND)
