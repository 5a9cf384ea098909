import importlib.util

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.dynamics import End
from sepsis_gym.envs import SepsisEnv, SepsisReplayEnv, SepsisVectorEnv
from sepsis_gym.errors import ConfigError, InvalidActionError, UnknownNameError
from sepsis_gym.features import FEATURE_INDEX
from sepsis_gym.patients import encode_observation
from sepsis_gym.reward import RewardConfig

REGISTERED = ("SepsisWM-v0", "SepsisPhysio-v0", "SepsisReplay-v0")


def rollout(env, seed, steps=40):
    """Observations, rewards and ends of a fixed action sequence, resetting without a seed."""
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    seen = [observation]
    rewards, ends = [], []
    for _ in range(steps):
        observation, reward, terminated, truncated, info = env.step(int(rng.integers(N_ACTIONS)))
        assert not truncated
        seen.append(observation)
        rewards.append(reward)
        ends.append(info["end"])
        if terminated:
            observation, _ = env.reset()
            seen.append(observation)
    return np.array(seen), np.array(rewards), np.array(ends)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", REGISTERED)
def test_check_env_passes_whole(name):
    # the checker opens every declared render mode, one of which needs the figures extra
    unseen = importlib.util.find_spec("matplotlib") is None
    check_env(gym.make(name, render_mode="ansi").unwrapped, skip_render_check=unseen)
    check_env(gym.make(name, disable_env_checker=True).unwrapped, skip_render_check=unseen)


@pytest.mark.parametrize("name", REGISTERED)
def test_same_seed_gives_the_same_trajectory_through_unseeded_resets(name):
    first, second = (rollout(gym.make(name), seed=3) for _ in range(2))
    other = rollout(gym.make(name), seed=4)
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, two)
    assert first[0].shape != other[0].shape or not np.array_equal(first[0], other[0])


def test_observations_stay_in_the_space(toy_model):
    env = SepsisEnv(toy_model)
    observations, _, _ = rollout(env, seed=0, steps=200)
    assert all(env.observation_space.contains(observation) for observation in observations)


@pytest.mark.parametrize("source", ["toy", "SepsisWM-v0", "SepsisPhysio-v0"])
def test_vector_env_of_one_equals_the_single_env(toy_model, source):
    single: gym.Env = SepsisEnv(toy_model)
    vector: gym.vector.VectorEnv = SepsisVectorEnv(1, toy_model)
    if source != "toy":
        single, vector = gym.make(source), gym.make_vec(source, num_envs=1)
    actions = np.random.default_rng(0).integers(0, N_ACTIONS, 100)
    observation, info = single.reset(seed=7)
    observations, infos = vector.reset(seed=7)
    np.testing.assert_array_equal(observations[0], observation)
    over = False
    for action in actions:
        if over:
            observation, info = single.reset()
            reward, over = 0.0, False
        else:
            observation, reward, over, _, info = single.step(action)
        observations, rewards, terminated, truncated, infos = vector.step(np.array([action]))
        np.testing.assert_array_equal(observations[0], observation)
        assert rewards[0] == reward
        assert terminated[0] == over
        assert not truncated[0]
        for key, value in info.items():
            np.testing.assert_array_equal(infos[key][0], value, err_msg=key)
            assert infos[f"_{key}"].all()


def test_episodes_of_a_vector_env_do_not_touch_each_other(toy_model):
    env = SepsisVectorEnv(5, toy_model)
    env.reset(seed=0)
    steps, over = np.zeros(5, int), np.zeros(5, bool)
    ended = 0
    for _ in range(100):
        _, rewards, terminated, _, infos = env.step(np.zeros(5, int))
        steps = np.where(over, 0, steps + 1)
        np.testing.assert_array_equal(infos["step"], steps)
        assert (rewards[over] == 0).all()
        assert set(np.abs(rewards[terminated])) <= {15.0}
        ended += terminated.sum()
        over = terminated
    assert ended > 10


def test_the_horizon_ends_and_pays_the_outcome(toy_model):
    env = SepsisEnv(toy_model, reward=RewardConfig("survival"))
    ends = set()
    for seed in range(40):
        env.reset(seed=seed)
        over, info, total = False, {}, 0.0
        while not over:
            _, reward, over, _, info = env.step(0)
            total += reward
        ends.add(End(info["end"]))
        assert total == 1 - info["died_90d"]
        assert (info["end"] == End.HORIZON) == (info["step"] == 18 and info["end"] > End.DIED)
        assert info["died_90d"] == 1 or info["end"] != End.DIED
        assert (info["mortality_90d"] == 1) == (info["end"] == End.DIED)
    assert ends == {End.DISCHARGED, End.DIED, End.HORIZON}


@pytest.mark.parametrize("name", ["SepsisWM-v0", "SepsisPhysio-v0"])
def test_simulate_touches_neither_state_nor_random_stream(name):
    asked, plain = gym.make(name), gym.make(name)
    asked.reset(seed=1)
    plain.reset(seed=1)
    over = False
    while not over:
        before = asked.unwrapped.simulate(np.arange(25))
        after = asked.unwrapped.simulate(np.arange(25))
        np.testing.assert_array_equal(before.values, after.values)
        one, two = asked.step(6), plain.step(6)
        np.testing.assert_array_equal(one[0], two[0])
        over = one[2]


def test_simulate_answers_in_the_order_asked(toy_model):
    env = SepsisEnv(toy_model)
    env.reset(seed=0)
    simulation = env.simulate(np.array([4, 0]))
    meanbp = simulation.values[:, FEATURE_INDEX["meanbp"]]
    assert meanbp[0] - meanbp[1] == pytest.approx(
        100 * toy_model.preprocessing.action_bins.vasopressor_doses[4], rel=1e-4
    )


@pytest.mark.parametrize("action", [25, -1, 2.5, "high", None])
def test_an_action_outside_the_grid_is_named(toy_model, action):
    env = SepsisEnv(toy_model)
    env.reset(seed=0)
    with pytest.raises(InvalidActionError, match="whole number from 0 to 24"):
        env.step(action)


def test_stepping_a_finished_episode_is_refused(toy_model):
    env = SepsisEnv(toy_model)
    with pytest.raises(gym.error.ResetNeeded):
        env.step(0)
    vector = SepsisVectorEnv(2, toy_model)
    with pytest.raises(gym.error.ResetNeeded):
        vector.step(np.zeros(2, int))
    vector.reset(seed=0)
    with pytest.raises(InvalidActionError, match="shape"):
        vector.step(np.zeros(3, int))


def test_environments_share_a_shipped_model_but_no_episode():
    one, two = (gym.make("SepsisWM-v0").unwrapped for _ in range(2))
    assert one.model is two.model
    alone = rollout(gym.make("SepsisWM-v0"), seed=2)
    one.reset(seed=1)
    two.reset(seed=2)
    for _ in range(3):
        one.step(7)
    np.testing.assert_array_equal(rollout(two, seed=2)[0], alone[0])


def test_unknown_world_model_and_options_are_named():
    with pytest.raises(UnknownNameError, match=r"no-such-model.*default"):
        gym.make("SepsisWM-v0", model="no-such-model")
    with pytest.raises(ConfigError, match="reset option"):
        gym.make("SepsisReplay-v0").reset(options={"seed": 3})


def test_an_unknown_render_mode_is_named(toy_model):
    with pytest.raises(ConfigError, match="ansi, rgb_array, human, got 'svg'"):
        SepsisEnv(toy_model, render_mode="svg")


def test_replay_walks_the_logged_stay_whatever_the_agent_does(trajectories, toy_model):
    env = SepsisReplayEnv(trajectories, model=toy_model)
    observations = trajectories.observations()
    for at in (0, 5):
        stay_id = int(trajectories.stays.stay_id[at])
        first = trajectories.offsets[at]
        observation, info = env.reset(options={"stay_id": stay_id})
        over, step = False, 0
        while not over:
            row = first + step
            np.testing.assert_array_equal(observation, observations[row])
            assert info["sofa"] == trajectories.sofa[row]
            assert env.logged_action == trajectories.action[row]
            observation, reward, over, _, info = env.step(step % 25)
            assert reward == trajectories.reward[row]
            assert env._state.patients.memory[0, 0] == step + 1
            step += 1
        assert step == trajectories.n_decisions[at]
        assert env.chosen == [t % 25 for t in range(step)]
        assert info["died_90d"] == trajectories.stays.died_90d[at]
        np.testing.assert_array_equal(observation, observations[trajectories.offsets[at + 1] - 1])
    with pytest.raises(UnknownNameError, match="no stay 987"):
        env.reset(options={"stay_id": 987})


def test_the_clinicians_action_is_hidden_from_the_agent(trajectories):
    _, info = SepsisReplayEnv(trajectories).reset(seed=0)
    assert not any("logged" in key for key in info)


def test_the_chart_shows_known_values_only(trajectories):
    env = SepsisReplayEnv(trajectories, render_mode="ansi")
    _, info = env.reset(seed=0)
    text = env.render()
    for name, index in FEATURE_INDEX.items():
        assert (f"{name} " in text) == bool(info["known"][index])
    assert f"SOFA {info['sofa']}" in text


def test_logged_and_simulated_states_are_encoded_alike(trajectories):
    rows = np.arange(50)
    patients = trajectories.patients(rows)
    encoded = encode_observation(patients, trajectories.preprocessing)
    np.testing.assert_array_equal(encoded, trajectories.observations()[rows])
    sofa = patients.sofa(trajectories.preprocessing)
    np.testing.assert_array_equal(sofa, trajectories.sofa[rows])


def test_what_users_do_to_an_info_does_not_reach_the_episode(toy_model):
    env, vector = SepsisEnv(toy_model), SepsisVectorEnv(2, toy_model)
    for opened in (env, vector):
        _, info = opened.reset(seed=0)
        expected = {key: np.copy(value) for key, value in info.items()}
        for key in ("state", "static"):
            info[key] += 1
        state = opened._state.patients
        np.testing.assert_array_equal(
            state.values.reshape(expected["state"].shape), expected["state"]
        )
        np.testing.assert_array_equal(
            state.static.reshape(expected["static"].shape), expected["static"]
        )
