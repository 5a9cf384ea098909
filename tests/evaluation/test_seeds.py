import numpy as np
import pytest

from evaluation.seeds import group_of, interquartile_mean


def test_the_interquartile_mean_ignores_the_outer_quarters():
    values = np.array([1.0, 2, 3, 4, 5, 6, 7, 1000])
    mean, low, high = interquartile_mean(values, confidence=0.95)
    assert mean == pytest.approx(4.5)
    assert 1 <= low <= mean <= high < 1000


def test_seeds_of_an_agent_are_named_by_its_folder():
    assert group_of("cql/seed-1") == "cql"
    assert group_of("cql") == ""
