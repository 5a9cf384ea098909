import sys
import warnings

import gymnasium as gym
import numpy as np
import pytest

from sepsis_gym.envs import MultiDiscreteVectorAction, SepsisVectorEnv
from sepsis_gym.errors import ConfigError

pytest.importorskip("stable_baselines3", reason="the online extra is not installed")

from stable_baselines3 import DQN, PPO
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

from sepsis_gym.envs.sb3 import SB3VecEnv


def opened(model, n=4, **settings):
    return SB3VecEnv(SepsisVectorEnv(n, model, autoreset_mode="SameStep"), **settings)


@pytest.mark.parametrize("mode", [None, "rgb_array"])
@pytest.mark.parametrize("name", ["SepsisWM-v0", "SepsisPhysio-v0", "SepsisReplay-v0"])
def test_its_checker_passes_the_single_environments(name, mode):
    if mode:
        pytest.importorskip("matplotlib")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(name, render_mode=mode).unwrapped)


def test_episodes_are_those_of_the_vector_env(toy_model):
    ours = opened(toy_model, info_keys=("sofa", "epistemic"))
    native = SepsisVectorEnv(4, toy_model, autoreset_mode="SameStep")
    assert ours.seed(3)[0] == 3
    observations = ours.reset()
    shown, info = native.reset(seed=3)
    np.testing.assert_array_equal(observations, shown)
    assert [each["sofa"] for each in ours.reset_infos] == info["sofa"].tolist()
    total, length, ended = np.zeros(4), np.zeros(4, int), 0
    for action in np.random.default_rng(0).integers(0, 25, (80, 4)):
        observations, reward, done, infos = ours.step(action)
        shown, paid, over, _, info = native.step(action)
        np.testing.assert_array_equal(observations, shown)
        np.testing.assert_array_equal(reward, paid.astype(np.float32))
        assert reward.dtype == np.float32
        np.testing.assert_array_equal(done, over)
        total, length = total + paid, length + 1
        for index, each in enumerate(infos):
            assert each["TimeLimit.truncated"] is False
            assert ("terminal_observation" in each) == ("episode" in each) == over[index]
            if not over[index]:
                assert set(each) == {"TimeLimit.truncated", "sofa", "epistemic"}
                assert each["sofa"] == info["sofa"][index]
                continue
            np.testing.assert_array_equal(each["terminal_observation"], info["final_obs"][index])
            assert ours.reset_infos[index]["sofa"] == info["sofa"][index]
            assert each["died_90d"] == info["final_info"]["died_90d"][index]
            assert not any(key.startswith("_") for key in each)
            assert each["episode"]["r"] == pytest.approx(total[index])
            assert each["episode"]["l"] == length[index] == each["step"]
            total[index], length[index], ended = 0, 0, ended + 1
    assert ended > 10
    # the seed is used once, and a reset forgets what was going on
    again = ours.reset()
    assert not np.array_equal(again, native.reset(seed=3)[0])
    assert not ours._returns.any()


def test_a_truncated_episode_is_told_from_an_ended_one(toy_model):
    class Hasty(gym.vector.VectorWrapper):
        """Truncates all episodes at the first step, as a time limit would."""

        def step(self, actions):
            observations, reward, terminated, truncated, info = self.env.step(actions)
            final = {"final_obs": list(observations), "final_info": {}}
            return observations, reward, terminated, ~truncated, info | final

    env = SB3VecEnv(Hasty(SepsisVectorEnv(200, toy_model, autoreset_mode="SameStep")))
    env.seed(0)
    env.reset()
    _, _, done, infos = env.step(np.zeros(200, int))
    twin = SepsisVectorEnv(200, toy_model)
    twin.reset(seed=0)
    terminated = twin.step(np.zeros(200, int))[2]
    assert done.all()
    assert 0 < terminated.sum() < 200
    assert [each["TimeLimit.truncated"] for each in infos] == (~terminated).tolist()


def test_ppo_learns_something_worth_learning(toy_model):
    """More fluid is worth nothing here, so the reward is of how often it is given."""

    class Rewarding(gym.vector.VectorWrapper):
        def step(self, actions):
            observations, _, terminated, truncated, info = self.env.step(actions)
            return observations, (np.asarray(actions) < 5) * 1.0, terminated, truncated, info

    env = SB3VecEnv(Rewarding(SepsisVectorEnv(16, toy_model, autoreset_mode="SameStep")))
    agent = PPO("MlpPolicy", env, n_steps=64, batch_size=256, seed=0, learning_rate=2e-3)
    agent.learn(1024)
    early = np.mean([each["r"] / each["l"] for each in agent.ep_info_buffer])
    agent.learn(7 * 1024, reset_num_timesteps=False)
    late = np.mean([each["r"] / each["l"] for each in agent.ep_info_buffer])
    assert late > early + 0.3


def test_values_based_agents_wrappers_and_evaluation(toy_model):
    env = VecNormalize(VecFrameStack(opened(toy_model), n_stack=2), norm_reward=False)
    assert env.observation_space.shape == (2 * 107,)
    agent = DQN("MlpPolicy", env, seed=0, learning_starts=50, buffer_size=1000)
    agent.learn(200)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it warns where episodes carry no statistics
        returns, lengths = evaluate_policy(agent, env, 10, return_episode_rewards=True)
    assert len(returns) == 10
    assert max(lengths) <= 18
    assert set(np.sign(returns)) <= {-1.0, 1.0}


def test_two_levels_reach_ppo(toy_model):
    vector = SepsisVectorEnv(4, toy_model, autoreset_mode="SameStep")
    env = SB3VecEnv(MultiDiscreteVectorAction(vector))
    assert env.action_space == gym.spaces.MultiDiscrete([5, 5])
    agent = PPO("MlpPolicy", env, n_steps=16, batch_size=64, n_epochs=1, seed=0)
    agent.learn(64)
    assert agent.num_timesteps == 64
    assert env.get_attr("preprocessing") == [toy_model.preprocessing] * 4


def test_attributes_and_methods_are_those_of_all(toy_model):
    env = opened(toy_model)
    assert env.num_envs == 4
    assert env.get_attr("num_envs", indices=[0, 2]) == [4, 4]
    assert env.env_is_wrapped(Monitor) == [True] * 4
    assert env.env_is_wrapped(gym.wrappers.TimeLimit, indices=1) == [False]
    env.reset()
    state = env.env_method("get_state", indices=0)[0]
    first = env.step(np.zeros(4, int))[0]
    env.env_method("set_state", state)
    np.testing.assert_array_equal(env.step(np.zeros(4, int))[0], first)
    reward = env.get_attr("reward")[0]
    env.set_attr("reward", None)
    assert env.get_attr("reward") == [None] * 4
    env.set_attr("reward", reward)
    with pytest.raises(ConfigError, match="for all environments"):
        env.set_attr("reward", None, indices=[0])
    with pytest.raises(AttributeError):
        env.get_attr("no_such_thing")
    assert not env.has_attr("no_such_thing")
    env.close()
    assert env.env.closed


def test_options_choose_the_stays(toy_model, trajectories):
    vector = SepsisVectorEnv(3, toy_model, start_from=trajectories, autoreset_mode="SameStep")
    env = SB3VecEnv(vector, info_keys=("stay_id",))
    env.set_options([{"stay_id": stay} for stay in (4, 2, 7)])
    env.reset()
    assert [each["stay_id"] for each in env.reset_infos] == [4, 2, 7]
    env.set_options([{"stay_id": 1}, {}, {}])
    with pytest.raises(ConfigError, match="the same options"):
        env.reset()


def test_what_it_cannot_wrap_is_refused(toy_model, monkeypatch):
    with pytest.raises(ConfigError, match="SameStep"):
        SB3VecEnv(SepsisVectorEnv(2, toy_model))
    monkeypatch.setitem(sys.modules, "stable_baselines3.common.monitor", None)
    monkeypatch.delitem(sys.modules, "sepsis_gym.envs.sb3")
    with pytest.raises(ImportError, match=r"sepsis-gym\[online\]"):
        import sepsis_gym.envs.sb3  # noqa: F401
