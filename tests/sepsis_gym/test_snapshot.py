import pickle
from copy import deepcopy
from dataclasses import fields

import gymnasium as gym
import numpy as np
import pytest

from sepsis_gym.envs import SepsisEnv, SepsisVectorEnv
from sepsis_gym.errors import ConfigError

NAMES = ("SepsisWM-v0", "SepsisPhysio-v0")
ACTIONS = [6, 12, 0, 24, 7, 3]


def course(env, actions=ACTIONS):
    """Everything that these actions lead to, through a reset where the stay ends."""
    seen = []
    for action in actions:
        observation, reward, over, _, info = env.step(action)
        seen.append((observation.tobytes(), reward, over, info["sofa"], info["died_90d"]))
        if over:
            seen.append(env.reset()[0].tobytes())
    return seen


@pytest.mark.parametrize("name", NAMES)
def test_the_same_actions_from_a_state_give_the_same_trajectory(name):
    env, other = (gym.make(name).unwrapped for _ in range(2))
    env.reset(seed=5)
    env.step(6)
    state = env.get_state()
    first = course(env)
    env.set_state(state)
    assert course(env) == first
    # elsewhere too, whatever happened there, and after a journey between processes
    other.set_state(pickle.loads(pickle.dumps(state)))
    assert course(other) == first
    other.set_state(state)
    assert course(other, ACTIONS[::-1]) != first


def test_a_state_is_not_moved_by_what_comes_after(toy_model):
    env = SepsisEnv(toy_model)
    env.reset(seed=0)
    env.step(3)
    state = env.get_state()
    before = deepcopy(state)
    course(env)
    for part, kept in (
        (state.episodes, before.episodes),
        (state.episodes.patients, before.episodes.patients),
    ):
        for name in [field.name for field in fields(part) if field.name != "patients"]:
            np.testing.assert_array_equal(getattr(part, name), getattr(kept, name))
    assert state.stream == before.stream


def test_an_end_and_the_history_come_back(toy_model):
    pytest.importorskip("matplotlib", reason="the figures extra is not installed")
    env = SepsisEnv(toy_model, render_mode="rgb_array")
    env.reset(seed=0)
    while not env.step(0)[2]:
        pass
    over, length = env.get_state(), len(env._history)
    env.reset()
    env.set_state(over)
    assert len(env._history) == length
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)


@pytest.mark.parametrize("name", NAMES)
def test_vector_states_come_back_and_travel(name):
    env, other = (gym.make_vec(name, num_envs=3) for _ in range(2))
    env.reset(seed=1)
    rng = np.random.default_rng(0)
    actions = rng.integers(0, 25, (12, 3))
    env.step(actions[0])
    state = env.get_state()
    first = [env.step(each)[:3] for each in actions]
    for again in (env, other):
        again.set_state(state)
        for each, expected in zip(actions, first, strict=True):
            for one, two in zip(again.step(each)[:3], expected, strict=True):
                np.testing.assert_array_equal(one, two)


def test_one_patient_branches_into_many_futures(toy_model):
    single, vector = SepsisEnv(toy_model), SepsisVectorEnv(4, toy_model)
    single.reset(seed=0)
    single.step(1)
    vector.set_state(single.get_state())
    np.testing.assert_array_equal(
        vector._state.patients.values, np.tile(single._state.patients.values, (4, 1))
    )
    observations, *_ = vector.step(np.full(4, 2))
    assert len(np.unique(observations, axis=0)) == 4


def test_a_state_of_other_dynamics_or_numbers_is_refused(toy_model):
    env, vector = SepsisEnv(toy_model), SepsisVectorEnv(3, toy_model)
    for opened in (env, vector):
        with pytest.raises(gym.error.ResetNeeded):
            opened.get_state()
    env.reset(seed=0)
    before = env.get_state()
    expected = course(env)
    env.set_state(before)
    vector.reset(seed=0)
    with pytest.raises(ConfigError, match="of one patient, got that of 3"):
        env.set_state(vector.get_state())
    wm, physio = (gym.make(name).unwrapped for name in NAMES)
    wm.reset(seed=0)
    for opened in (env, physio):
        with pytest.raises(ConfigError, match="same model"):
            opened.set_state(wm.get_state())
    assert course(env) == expected  # still where it was
