import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from sepsis_gym.envs import (
    MultiDiscreteAction,
    MultiDiscreteVectorAction,
    SepsisEnv,
    SepsisVectorEnv,
)
from sepsis_gym.errors import InvalidActionError


def test_two_levels_are_the_action_they_stand_for(toy_model):
    wrapped, plain = MultiDiscreteAction(SepsisEnv(toy_model)), SepsisEnv(toy_model)
    assert wrapped.action_space == gym.spaces.MultiDiscrete([5, 5])
    for fluid in range(5):
        for vasopressor in range(5):
            for env in (wrapped, plain):
                env.reset(seed=1)
            one = wrapped.step(np.array([fluid, vasopressor]))
            two = plain.step(5 * fluid + vasopressor)
            np.testing.assert_array_equal(one[0], two[0])
            assert one[4]["previous_action"] == two[4]["previous_action"]


@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")
def test_the_wrapped_env_is_checked_and_can_be_made_again():
    check_env(MultiDiscreteAction(gym.make("SepsisWM-v0").unwrapped), skip_render_check=True)
    wrapped = MultiDiscreteAction(gym.make("SepsisWM-v0"))
    again = gym.make(wrapped.spec)
    assert again.action_space == wrapped.action_space


def test_vectors_of_levels(toy_model):
    wrapped = MultiDiscreteVectorAction(SepsisVectorEnv(3, toy_model))
    plain = SepsisVectorEnv(3, toy_model)
    for env in (wrapped, plain):
        env.reset(seed=0)
    levels = np.array([[0, 4], [2, 2], [4, 0]])
    assert wrapped.action_space.contains(levels)
    assert wrapped.single_action_space.contains(levels[0])
    one, two = wrapped.step(levels), plain.step(np.array([4, 12, 20]))
    np.testing.assert_array_equal(one[0], two[0])


@pytest.mark.parametrize(
    "levels", [[5, 0], [0, -1], [1.5, 0.0], [1], 7, [[1, 1]], None, ["low", "high"]]
)
def test_levels_outside_the_grid_are_named(toy_model, levels):
    env = MultiDiscreteAction(SepsisEnv(toy_model))
    env.reset(seed=0)
    with pytest.raises(InvalidActionError, match="level"):
        env.step(levels)


def test_gymnasium_stacks_the_last_observations(toy_model):
    stacked = gym.wrappers.FlattenObservation(
        gym.wrappers.FrameStackObservation(SepsisEnv(toy_model), 3, padding_type="zero")
    )
    first, _ = stacked.reset(seed=0)
    second, *_ = stacked.step(0)
    assert first.shape == (3 * 107,)
    assert (first[: 2 * 107] == 0).all()
    np.testing.assert_array_equal(second[107 : 2 * 107], first[2 * 107 :])
