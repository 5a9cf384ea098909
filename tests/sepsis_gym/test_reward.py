import numpy as np
import pytest

from sepsis_gym.errors import ConfigError
from sepsis_gym.reward import RewardConfig, step_reward


def pay(sofa_t, sofa_tp1, lactate_t, lactate_tp1, terminated=False, died=False, scheme="shaped"):
    arrays = (np.array([x]) for x in (sofa_t, sofa_tp1, lactate_t, lactate_tp1, terminated, died))
    return step_reward(*arrays, RewardConfig(scheme))[0]


def test_the_published_terms():
    assert pay(5, 5, 2.0, 2.0) == pytest.approx(-0.025)
    assert pay(0, 0, 2.0, 2.0) == 0
    assert pay(5, 7, 2.0, 2.0) == pytest.approx(-0.25)
    assert pay(7, 5, 2.0, 3.0) == pytest.approx(0.25 - 2 * np.tanh(1.0))
    assert pay(7, 5, np.nan, 3.0) == pytest.approx(0.25)


def test_the_outcome_replaces_the_shaping():
    assert pay(5, 9, 2.0, 8.0, terminated=True) == 15
    assert pay(5, 1, 8.0, 2.0, terminated=True, died=True) == -15


@pytest.mark.parametrize(("scheme", "alive", "dead"), [("terminal", 15, -15), ("survival", 1, 0)])
def test_outcome_only_schemes(scheme, alive, dead):
    assert pay(5, 9, 2.0, 8.0, scheme=scheme) == 0
    assert pay(5, 9, 2.0, 8.0, terminated=True, scheme=scheme) == alive
    assert pay(5, 9, 2.0, 8.0, terminated=True, died=True, scheme=scheme) == dead


def test_unknown_scheme_is_named():
    with pytest.raises(ConfigError, match="'sparse'"):
        RewardConfig("sparse")
