"""The yardstick itself: exact values, simulated logs and the negative control agree."""

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
ope_scores = pytest.importorskip("ope_scores", reason="needs benchmarks/")


def test_survivors_only_inflates_where_all_else_is_the_plain_mean():
    """On-policy, half the stays end alive after one step: the others' step counts twice."""
    mask = np.array([[True, False], [True, True]] * 50)
    reward = np.where(mask & ~np.roll(mask, -1, axis=1), 1.0, 0.0)
    reward[1::2] = [0.0, 1.0]
    case = ope_scores.Case(reward, np.ones(mask.shape), mask, 0 * reward, 0 * reward, truth=1.0)
    counts = np.ones((3, len(mask)))
    said = ope_scores.estimate(case, ("IS", "WIS", "PDIS", "WPDIS", "WDR"), counts)
    assert all(each.error == 0 and each.covered for each in said.values())
    assert ope_scores.survivors_only(case) == 1.5


def test_logs_of_the_mdp_are_worth_its_exact_value():
    pytest.importorskip("icu_sepsis", reason="pip install icu-sepsis")
    import icu_sepsis_mdp as bench

    mdp, rng = bench.Mdp(), np.random.default_rng(0)
    policy = 0.9 * mdp.expert + 0.1 / bench.N_ACTIONS
    log = mdp.simulate(policy, 20_000, rng)
    returns = log.reward.sum(1)
    assert abs(returns.mean() - mdp.value(policy)) < 3 * returns.std() / len(log) ** 0.5
    assert round(mdp.value(mdp.expert), 3) == 0.692
    fitted = bench.read_q(bench.tabular_q(log, policy), log, policy)[1][:, 0].mean()
    assert abs(fitted - returns.mean()) < 0.02
