"""Laws that hold for every log, whatever the numbers in it."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation import estimators
from evaluation.estimators import (
    doubly_robust,
    effective_sample_size,
    importance_sampling,
    per_decision_importance_sampling,
    weight_diagnostics,
    weighted_doubly_robust,
    weighted_importance_sampling,
    weighted_per_decision_importance_sampling,
)

IS_FORMS = (
    importance_sampling,
    weighted_importance_sampling,
    per_decision_importance_sampling,
    weighted_per_decision_importance_sampling,
)
WEIGHTED = (weighted_importance_sampling, weighted_per_decision_importance_sampling)
DR_FORMS = (doubly_robust, weighted_doubly_robust)
ALL = (*IS_FORMS, *DR_FORMS, estimators.direct_method)


@dataclass
class Log:
    reward: np.ndarray
    ratio: np.ndarray
    mask: np.ndarray
    q_taken: np.ndarray
    v: np.ndarray

    def value(self, estimator, gamma) -> float:
        q = {"q_taken": self.q_taken, "v": self.v}
        arrays = (self.reward, self.ratio, self.mask)
        return estimators.terms(estimator, *arrays, gamma=gamma, **q).value()

    def map(self, change) -> "Log":
        return Log(*(change(array) for array in vars(self).values()))


def values(log: Log, gamma: float) -> np.ndarray:
    return np.array([log.value(estimator, gamma) for estimator in ALL])


@st.composite
def logs(draw, longest=6) -> Log:
    n, horizon = draw(st.integers(1, 12)), draw(st.integers(1, longest))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    mask = np.arange(horizon) < rng.integers(1, horizon + 1, n)[:, None]
    reward, q_taken, v = rng.normal(0, 5, (3, n, horizon))
    return Log(reward, rng.lognormal(0, 1, (n, horizon)), mask, q_taken, v)


gammas = st.floats(0, 1)


@given(logs(), gammas)
def test_target_equal_to_behavior_gives_the_mean_return(log, gamma):
    log.ratio[:] = 1
    log.v = log.q_taken  # whatever Q says, it cancels
    returns = np.where(log.mask, log.reward, 0) @ gamma ** np.arange(log.mask.shape[1])
    for estimator in (*IS_FORMS, *DR_FORMS):
        assert log.value(estimator, gamma) == pytest.approx(returns.mean(), abs=1e-9)


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 3), gammas)
def test_on_a_complete_log_every_estimator_is_the_exact_value(seed, first, second, gamma):
    """Every path as often as it is likely: all are exact, the DR forms with any Q.

    Two steps and two actions, behavior probabilities in quarters; after action 1 the stay ends.
    """
    rng = np.random.default_rng(seed)
    behavior = np.array([first / 4, second / 4])  # probability of action 0 at each step
    target = rng.random(2)
    reward, q = rng.normal(0, 3, (2, 2, 2))  # [step, action]
    policy = np.stack([target, 1 - target], axis=1)
    v = (policy * q).sum(1)
    times = {(0, 0): first * second, (0, 1): first * (4 - second), (1,): (4 - first) * 4}
    rows = [path for path, count in times.items() for _ in range(count)]
    log = Log(*np.zeros((2, 16, 2)), np.zeros((16, 2), bool), *np.zeros((2, 16, 2)))
    for stay, path in enumerate(rows):
        for step, action in enumerate(path):
            logged = np.array([behavior[step], 1 - behavior[step]])
            log.reward[stay, step] = reward[step, action]
            log.ratio[stay, step] = policy[step, action] / logged[action]
            log.mask[stay, step] = True
            log.q_taken[stay, step], log.v[stay, step] = q[step, action], v[step]
    later = policy[1] @ reward[1]
    exact = policy[0] @ reward[0] + gamma * policy[0, 0] * later
    for estimator in (*IS_FORMS, *DR_FORMS):
        assert log.value(estimator, gamma) == pytest.approx(exact, abs=1e-9), estimator.__name__
    # A constant shift of Q, as any other Q, leaves them where they are.
    log.q_taken[log.mask] += 7
    log.v[log.mask] += 7
    for estimator in DR_FORMS:
        assert log.value(estimator, gamma) == pytest.approx(exact, abs=1e-9)


@given(logs(), gammas, st.floats(-20, 20))
def test_a_constant_shift_of_q_moves_dr_by_the_change_of_the_mean_weights(log, gamma, shift):
    """So by nothing where the weights are what they should be: their mean 1 at every step."""
    before = log.value(doubly_robust, gamma)
    rho = np.cumprod(np.where(log.mask, log.ratio, 1), axis=1)
    earlier = np.concatenate([np.ones((len(rho), 1)), rho[:, :-1]], axis=1)
    moved = (np.where(log.mask, earlier - rho, 0) @ gamma ** np.arange(rho.shape[1])).mean()
    log.q_taken += shift
    log.v += shift
    scale = 1 + np.abs(shift) * rho.max()
    assert log.value(doubly_robust, gamma) - before == pytest.approx(
        shift * moved, abs=1e-9 * scale
    )


@given(logs(), gammas, st.randoms(use_true_random=False))
def test_order_of_stays_and_padding_change_nothing(log, gamma, random):
    order = list(range(len(log.mask)))
    random.shuffle(order)
    junk = np.full((len(order), 2), np.nan)
    padded = log.map(lambda a: np.concatenate([a, junk if a.dtype == float else junk > 0], 1))
    expected = values(log, gamma)
    np.testing.assert_allclose(values(log.map(lambda a: a[order]), gamma), expected, rtol=1e-9)
    np.testing.assert_allclose(values(padded, gamma), expected, rtol=1e-9, atol=1e-9)


@given(logs(), gammas, st.floats(-100, 100))
def test_scaling_rewards_and_q_scales_every_value(log, gamma, scale):
    expected = scale * values(log, gamma)
    for array in (log.reward, log.q_taken, log.v):
        array *= scale
    np.testing.assert_allclose(values(log, gamma), expected, rtol=1e-9, atol=1e-9)


@given(logs(), gammas)
def test_every_stay_twice_is_the_same_value_from_twice_the_sample(log, gamma):
    twice = log.map(lambda a: np.repeat(a, 2, axis=0))
    np.testing.assert_allclose(values(twice, gamma), values(log, gamma), rtol=1e-9)
    sizes = [effective_sample_size(x.reward, x.ratio, x.mask) for x in (log, twice)]
    assert sizes[1] == pytest.approx(2 * sizes[0])


@given(logs(longest=1), gammas)
def test_with_one_decision_the_per_decision_forms_are_the_whole_stay_forms(log, gamma):
    by_name = {estimator: log.value(estimator, gamma) for estimator in ALL}
    assert by_name[per_decision_importance_sampling] == pytest.approx(by_name[importance_sampling])
    whole = by_name[weighted_importance_sampling]
    assert by_name[weighted_per_decision_importance_sampling] == pytest.approx(whole)
    log.q_taken[:] = log.v[:] = 3.0  # a Q that knows nothing adds nothing to a weighted mean
    assert log.value(weighted_doubly_robust, gamma) == pytest.approx(whole)


@given(logs(), gammas)
def test_without_q_the_doubly_robust_forms_are_the_per_decision_forms(log, gamma):
    log.q_taken[:] = log.v[:] = 0
    for robust, plain in zip(
        DR_FORMS,
        (per_decision_importance_sampling, weighted_per_decision_importance_sampling),
        strict=True,
    ):
        assert log.value(robust, gamma) == pytest.approx(log.value(plain, gamma), abs=1e-9)


@given(logs(), gammas, st.floats(0.1, 10))
def test_normalised_forms_ignore_a_factor_common_to_all_stays(log, gamma, factor):
    before = [log.value(estimator, gamma) for estimator in WEIGHTED]
    log.ratio[:, 0] *= factor
    after = [log.value(estimator, gamma) for estimator in WEIGHTED]
    np.testing.assert_allclose(after, before, rtol=1e-9)


@given(logs())
def test_only_the_first_reward_counts_without_a_future(log):
    first = log.ratio[:, 0] * log.reward[:, 0]
    assert log.value(per_decision_importance_sampling, 0.0) == pytest.approx(first.mean())
    assert log.value(weighted_per_decision_importance_sampling, 0.0) == pytest.approx(
        first.sum() / log.ratio[:, 0].sum()
    )


@given(logs(), gammas)
def test_weights_stay_within_their_bounds(log, gamma):
    returns = np.where(log.mask, log.reward, 0) @ gamma ** np.arange(log.mask.shape[1])
    value = log.value(weighted_importance_sampling, gamma)
    assert returns.min() - 1e-9 <= value <= returns.max() + 1e-9
    weights = weight_diagnostics(log.ratio, log.mask)
    assert all(1 - 1e-9 <= size <= len(returns) + 1e-9 for size in weights.ess_per_step)
    assert 1 / len(returns) - 1e-9 <= weights.largest_weight_share <= 1


@given(logs(), gammas, st.integers(0, 5))
def test_stays_the_target_never_takes_are_no_numbers_only_when_none_is_left(log, gamma, seed):
    dropped = np.random.default_rng(seed).random(len(log.mask)) < 0.7
    log.ratio[dropped, 0] = 0
    found = values(log, gamma)
    lost = weight_diagnostics(log.ratio, log.mask).support_lost_at
    weighted = [ALL.index(e) for e in (*WEIGHTED, weighted_doubly_robust)]
    assert (lost == 0) == bool(dropped.all())
    assert np.isnan(found[weighted]).all() == bool(dropped.all())
    assert np.isfinite(np.delete(found, weighted)).all()


def test_a_single_stay_of_one_decision_has_defined_values():
    log = Log(*(np.array([[x]]) for x in (2.0, 3.0, True, 1.0, 5.0)))
    expected = {"is": 6.0, "wis": 2.0, "pdis": 6.0, "wpdis": 2.0, "dr": 8.0, "wdr": 6.0, "fqe": 5.0}
    np.testing.assert_allclose(values(log, 0.9), list(expected.values()))
