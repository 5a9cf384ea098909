import numpy as np
import pytest

from sepsis_gym.errors import ConfigError
from sepsis_gym.features import FEATURE_INDEX, N_FEATURES, TYPICAL
from sepsis_gym.patients import Patients
from sepsis_gym.preprocessing import NEVER
from sepsis_gym.reward import RewardConfig, step_reward, transition_reward


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


def bedside(platelet, platelet_age, lactate_age=0):
    """One patient: that platelet count, lactate 2 mmol/L, a MAP of 80 mmHg; nothing else known."""
    age = np.full((1, N_FEATURES), NEVER, np.int16)
    values = TYPICAL[None].copy()
    for name, value, steps in (
        ("platelet", platelet, platelet_age),
        ("lactate", 2.0, lactate_age),
        ("meanbp", 80, 0),
    ):
        values[0, FEATURE_INDEX[name]], age[0, FEATURE_INDEX[name]] = value, steps
    zero = np.zeros(1, np.float32)
    static = np.zeros((1, 3), np.float32)
    return Patients(values, age, zero > 0, static, zero, zero, np.zeros(1, np.int64), zero[:, None])


def paid(before, after, trajectories):
    ongoing = np.zeros(1, bool)
    preprocessing = trajectories.preprocessing
    return transition_reward(before, after, preprocessing, ongoing, ongoing, RewardConfig())[0]


def test_what_is_first_measured_or_expires_pays_nothing(trajectories):
    hold = trajectories.preprocessing.hold_steps[FEATURE_INDEX["platelet"]]
    fresh, stale = bedside(40, 0), bedside(40, hold + 1)  # 3 points, or unknown
    assert fresh.sofa(trajectories.preprocessing) == [3]
    assert stale.sofa(trajectories.preprocessing) == [0]
    assert paid(stale, fresh, trajectories) == 0
    assert paid(fresh, stale, trajectories) == 0
    assert paid(fresh, fresh, trajectories) == pytest.approx(-0.025)
    assert paid(bedside(160, 0), fresh, trajectories) == pytest.approx(-0.375)


@pytest.mark.parametrize("scheme", ["shaped", "terminal", "survival"])
def test_one_patient_is_paid_as_in_company(trajectories, scheme):
    rng = np.random.default_rng(0)
    rows = np.flatnonzero(trajectories.is_decision)[:200]
    before, after = trajectories.patients(rows), trajectories.patients(rows + 1)
    over, died = rng.random(200) < 0.2, rng.random(200) < 0.5
    preprocessing, config = trajectories.preprocessing, RewardConfig(scheme)
    together = transition_reward(before, after, preprocessing, over, died, config)
    alone = [
        transition_reward(
            before.take(one), after.take(one), preprocessing, over[one], died[one], config
        )
        for one in (slice(at, at + 1) for at in range(200))
    ]
    np.testing.assert_allclose(np.concatenate(alone), together, rtol=1e-12)
    changed = before.known(preprocessing) != after.known(preprocessing)
    assert changed.any(1).sum() > 20
    assert len(np.unique(together)) > 1


def test_unknown_scheme_is_named():
    with pytest.raises(ConfigError, match="'sparse'"):
        RewardConfig("sparse")
