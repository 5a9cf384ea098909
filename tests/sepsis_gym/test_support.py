from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest

from sepsis_gym.dynamics import End
from sepsis_gym.envs import SepsisEnv, SepsisVectorEnv, SupportConfig
from sepsis_gym.envs.support import epistemic_of_log
from sepsis_gym.errors import ConfigError
from sepsis_gym.registration import SAMPLE_COHORT, resolve_model
from sepsis_gym.trajectories import Trajectories


class Doubtful:
    """The toy dynamics, in doubt about any vasopressor: 0.5, else 0.1."""

    def __init__(self, model):
        self.model = model
        self.preprocessing = model.preprocessing

    def __getattr__(self, name):
        return getattr(self.model, name)

    def step(self, patients, fluid_ml, norepinephrine_equivalent, rng):
        moved = self.model.step(patients, fluid_ml, norepinephrine_equivalent, rng)
        doubt = np.where(norepinephrine_equivalent > 0, 0.5, 0.1).astype(np.float32)
        return replace(moved, epistemic=doubt)


@pytest.fixture
def doubtful(toy_model):
    return Doubtful(toy_model)


def walk(env, actions):
    """Rewards and infos of the actions until the stay ends."""
    env.reset(seed=3)
    steps = []
    for action in actions:
        _, reward, over, truncated, info = env.step(action)
        assert not truncated
        steps.append((reward, over, info))
        if over:
            break
    return steps


def test_the_penalty_is_taken_per_unit_of_doubt(doubtful):
    actions = [0, 4, 0, 3] * 5
    plain = walk(SepsisEnv(doubtful), actions)
    charged = walk(SepsisEnv(doubtful, support=SupportConfig(penalty=3.0)), actions)
    assert len(plain) == len(charged)
    for (free, _, info), (paid, _, same), action in zip(plain, charged, actions, strict=False):
        assert paid == pytest.approx(free - 3.0 * (0.5 if action else 0.1))
        np.testing.assert_array_equal(info["state"], same["state"])


def test_leaving_the_support_ends_the_episode_at_a_stated_price(doubtful):
    support = SupportConfig(penalty=3.0, limit=0.3, halt_reward=-40.0)
    steps = walk(SepsisEnv(doubtful, support=support), [0, 4, 0])
    assert [over for _, over, _ in steps] == [False, True]
    reward, _, info = steps[-1]
    assert reward == -40.0
    assert info["end"] == End.LEFT_SUPPORT
    assert info["died_90d"] == -1
    chart = SepsisEnv(doubtful, support=support, render_mode="ansi")
    walk(chart, [4])
    assert chart.render().endswith("end of stay: left support")


def test_it_counts_even_where_the_stay_would_have_ended(doubtful):
    support = SupportConfig(limit=0.3)
    env = SepsisVectorEnv(400, doubtful, support=support)
    env.reset(seed=0)
    plain = SepsisVectorEnv(400, doubtful)
    plain.reset(seed=0)
    actions = np.where(np.arange(400) % 2, 4, 0)
    _, reward, over, truncated, info = env.step(actions)
    _, free, free_over, _, _ = plain.step(actions)
    assert (free_over & (actions == 4)).any()
    np.testing.assert_array_equal(over, free_over | (actions == 4))
    np.testing.assert_array_equal(reward, np.where(actions == 4, -15.0, free))
    assert (info["end"][actions == 4] == End.LEFT_SUPPORT).all()
    assert (info["died_90d"][actions == 4] == -1).all()
    assert not truncated.any()
    _, reward, over, _, info = env.step(np.zeros(400, int))  # a new patient, as after any end
    assert (reward[actions == 4] == 0).all()
    assert (info["step"][actions == 4] == 0).all()


def test_the_default_changes_nothing_and_the_truth_is_never_in_doubt():
    for name, support in (
        ("SepsisWM-v0", SupportConfig()),
        ("SepsisPhysio-v0", SupportConfig(penalty=10.0, limit=1e-6)),
    ):
        plain, guarded = (
            walk(gym.make(name, **kwargs), [6] * 20) for kwargs in ({}, {"support": support})
        )
        assert [step[:2] for step in plain] == [step[:2] for step in guarded]


def test_the_world_model_doubts_the_log_less_than_the_highest_doses_all_the_time():
    log = Trajectories.load(SAMPLE_COHORT)
    doubt = epistemic_of_log(resolve_model("default"), log)
    assert doubt.shape == (log.is_decision.sum(),)
    assert (doubt > 0).all()
    env = gym.make_vec("SepsisWM-v0", num_envs=100, autoreset_mode="SameStep")
    env.reset(seed=0)
    most = [env.step(np.full(100, 24))[4]["epistemic"] for _ in range(6)]
    assert np.median(most) > np.median(doubt)


def test_the_doubt_of_a_stay_does_not_depend_on_the_others(toy_model, trajectories):
    class Counting(Doubtful):
        def step(self, patients, fluid_ml, norepinephrine_equivalent, rng):
            moved = self.model.step(patients, fluid_ml, norepinephrine_equivalent, rng)
            seen = patients.memory.sum(1) if patients.memory.size else np.zeros(len(patients))
            return replace(moved, epistemic=(seen + fluid_ml).astype(np.float32))

    doubt = epistemic_of_log(Counting(toy_model), trajectories)
    rows = trajectories.is_decision
    expected = trajectories.step[rows] + trajectories.fluid_ml[rows]
    np.testing.assert_allclose(doubt, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"penalty": -1.0}, "penalty must be zero or more"),
        ({"penalty": np.nan}, "penalty must be zero or more"),
        ({"limit": 0.0}, "limit must be None or above 0"),
        ({"halt_reward": np.inf}, "halt_reward must be a number"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings, message):
    with pytest.raises(ConfigError, match=message):
        SupportConfig(**settings)
