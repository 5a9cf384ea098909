import numpy as np
import pytest
from scipy import stats

from evaluation import estimators
from evaluation.intervals import bca_interval, interval, percentile_interval
from evaluation.ratio_of_sums import RatioOfSums


def wis_terms(seed: int = 0, n: int = 40) -> RatioOfSums:
    rng = np.random.default_rng(seed)
    ratio = rng.lognormal(0, 0.8, (n, 3))
    mask = np.ones((n, 3), bool)
    reward = rng.exponential(1, (n, 3))
    method = estimators.weighted_importance_sampling
    return estimators.terms(method, reward, ratio, mask, gamma=0.9)


def test_bca_equals_scipys():
    terms, rng = wis_terms(), np.random.default_rng(1)

    def wis(top, bottom, axis):
        return top.sum(axis) / bottom.sum(axis)

    data = (terms.numerator[:, 0], terms.denominator[:, 0])
    theirs = stats.bootstrap(
        data, wis, paired=True, vectorized=True, n_resamples=20_000, method="BCa", rng=rng
    )
    counts = estimators.resample_counts(rng.integers(0, 40, (20_000, 40)), 40)
    low, high, lost = bca_interval(terms, terms.values(counts), 0.95)
    assert lost == 0
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert low == pytest.approx(theirs.confidence_interval.low, abs=0.03 * width)
    assert high == pytest.approx(theirs.confidence_interval.high, abs=0.03 * width)
    plain = percentile_interval(terms.values(counts), 0.95)
    assert abs(low - plain[0]) + abs(high - plain[1]) > 0.03 * width  # it does correct


def test_without_each_equals_leaving_each_out():
    terms = wis_terms()
    terms = terms.minus(RatioOfSums(terms.numerator, np.ones_like(terms.denominator)))
    expected = [
        RatioOfSums(np.delete(terms.numerator, i, 0), np.delete(terms.denominator, i, 0)).value()
        for i in range(40)
    ]
    np.testing.assert_allclose(terms.without_each(), expected)


def test_delta_method_of_a_mean_and_of_the_worked_case():
    returns = np.array([1.0, 4.0, 7.0, 3.0])
    mean = RatioOfSums(returns[:, None], np.ones((4, 1)))
    assert mean.standard_error() == pytest.approx(returns.std(ddof=1) / 2)
    low, high, _ = interval(mean, returns, 0.95, "delta")
    assert (low + high) / 2 == pytest.approx(mean.value())
    assert high - low == pytest.approx(2 * 1.959964 * mean.standard_error())
    wis = RatioOfSums(np.array([[10.0], [2.0]]), np.array([[2.0], [0.5]]))
    assert wis.standard_error() == pytest.approx(0.2262741699796953, abs=1e-8)


def test_delta_method_agrees_with_the_bootstrap():
    terms, rng = wis_terms(2, 400), np.random.default_rng(3)
    counts = estimators.resample_counts(rng.integers(0, 400, (4000, 400)), 400)
    assert terms.standard_error() == pytest.approx(terms.values(counts).std(), rel=0.1)


@pytest.mark.parametrize("kind", ["percentile", "bca", "delta"])
def test_single_stays_and_lost_support_are_not_numbers_but_no_errors(kind):
    single = RatioOfSums(np.array([[3.0]]), np.array([[1.0]]))
    low, high, _ = interval(single, np.full(5, 3.0), 0.95, kind)
    assert (low, high) == (3, 3) or np.isnan([low, high]).all()
    lost = RatioOfSums(np.zeros((4, 1)), np.zeros((4, 1)))
    low, high, _ = interval(lost, np.full(5, np.nan), 0.95, kind)
    assert np.isnan([low, high]).all()
    one_left = RatioOfSums(np.array([[2.0], [0.0]]), np.array([[0.5], [0.0]]))
    low, high, count = interval(one_left, np.array([4.0, np.nan, 4.0]), 0.95, kind)
    assert (low, high) == (4, 4)
    assert count == (kind != "delta")


def test_percentile_leaves_lost_resamples_out():
    values = np.array([0.0, np.nan, 1.0, 2.0, 3.0, 4.0])
    assert percentile_interval(values, 0.5) == (1.0, 3.0, 1)
