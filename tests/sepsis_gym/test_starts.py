from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest

from sepsis_gym.envs import SepsisEnv, SepsisVectorEnv
from sepsis_gym.errors import ConfigError, UnknownNameError
from sepsis_gym.patients import encode_observation
from sepsis_gym.registration import SAMPLE_COHORT, resolve_model
from sepsis_gym.trajectories import Trajectories


@pytest.fixture(scope="module")
def sample():
    return Trajectories.load(SAMPLE_COHORT)


def test_an_episode_starts_from_the_stay_asked_for(trajectories, toy_model):
    env = SepsisEnv(toy_model, start_from=trajectories)
    logged = trajectories.observations()[trajectories.offsets[:-1]]
    for at in (0, 7):
        stay_id = int(trajectories.stays.stay_id[at])
        observation, info = env.reset(seed=0, options={"stay_id": stay_id})
        np.testing.assert_array_equal(observation, logged[at])
        assert info["stay_id"] == stay_id
        assert env.step(0)[4]["stay_id"] == stay_id
    with pytest.raises(UnknownNameError, match="no stay 987"):
        env.reset(options={"stay_id": 987})


def test_without_a_stay_one_is_drawn_from_the_seed(trajectories, toy_model):
    env = SepsisEnv(toy_model, start_from=trajectories)
    drawn = [env.reset(seed=seed)[1]["stay_id"] for seed in range(40)]
    assert drawn == [env.reset(seed=seed)[1]["stay_id"] for seed in range(40)]
    assert len(set(drawn)) > 15
    assert set(drawn) <= set(trajectories.stays.stay_id.tolist())


def test_only_held_out_stays_start_an_episode_unless_asked(sample, tmp_path):
    sample.save(tmp_path / "cohort")
    env = gym.make("SepsisWM-v0", start_from=str(tmp_path / "cohort"))
    held_out = set(sample.split("test").stays.stay_id.tolist())
    assert {env.reset(seed=seed)[1]["stay_id"] for seed in range(60)} <= held_out
    in_training = int(sample.split("train").stays.stay_id[0])
    with pytest.raises(UnknownNameError, match=f"no stay {in_training}"):
        env.reset(options={"stay_id": in_training})
    vector = gym.make_vec("SepsisWM-v0", num_envs=8, start_from=sample)
    assert set(vector.reset(seed=0)[1]["stay_id"].tolist()) <= held_out
    whole = gym.make("SepsisWM-v0", start_from=sample, start_split=None)
    assert whole.reset(options={"stay_id": in_training})[1]["stay_id"] == in_training


def test_the_world_model_goes_on_from_a_logged_stay_as_from_its_own(sample):
    env = gym.make("SepsisWM-v0", start_from=sample).unwrapped
    model = resolve_model("default")
    _, info = env.reset(seed=0)
    patients = env._state.patients
    # the memory it was given knows no more than none at all
    unseen = replace(patients, memory=np.zeros((1, 0), np.float32))
    given, none = (model.predict(p, np.ones(1), np.zeros(1)) for p in (patients, unseen))
    for key, expected in none.items():
        np.testing.assert_array_equal(given[key], expected, err_msg=key)
    over = False
    while not over:
        observation, _, over, _, info = env.step(6)
        assert env.observation_space.contains(observation)
    assert info["died_90d"] in (0, 1)


def test_values_the_stay_does_not_know_are_those_of_the_model(trajectories, toy_model):
    filled = tuple(np.array(trajectories.preprocessing.fill) * 1.01)
    toy_model.preprocessing = replace(trajectories.preprocessing, fill=filled)
    env = SepsisEnv(toy_model, start_from=trajectories)
    _, info = env.reset(options={"stay_id": 1})
    unknown = ~info["known"]
    assert unknown.any()
    np.testing.assert_allclose(info["state"][unknown], np.array(filled)[unknown], rtol=1e-6)
    first = trajectories.values[0]
    np.testing.assert_array_equal(info["state"][~unknown], first[~unknown])


def test_every_place_of_a_vector_env_has_its_stay(trajectories, toy_model):
    env = SepsisVectorEnv(5, toy_model, start_from=trajectories, autoreset_mode="SameStep")
    logged = dict(zip(trajectories.stays.stay_id.tolist(), trajectories.offsets[:-1], strict=True))
    asked = np.array([3, 1, 4, 1, 5])
    observations, info = env.reset(seed=0, options={"stay_id": asked})
    np.testing.assert_array_equal(info["stay_id"], asked)
    rows = np.array([logged[stay] for stay in asked.tolist()])
    encoded = encode_observation(trajectories.patients(rows), trajectories.preprocessing)
    np.testing.assert_array_equal(observations, encoded)
    ended = 0
    for _ in range(60):
        before = info["stay_id"]
        _, _, over, _, info = env.step(np.zeros(5, int))
        np.testing.assert_array_equal(info["stay_id"][~over], before[~over])
        if over.any():
            np.testing.assert_array_equal(info["final_info"]["stay_id"][over], before[over])
            ended += (info["stay_id"][over] != before[over]).sum()
    assert ended > 5
    with pytest.raises(ConfigError, match=r"shape \(5,\)"):
        env.reset(options={"stay_id": [1]})


def test_states_carry_their_stay(trajectories, toy_model):
    env = SepsisEnv(toy_model, start_from=trajectories)
    env.reset(options={"stay_id": 2})
    state = env.get_state()
    env.reset(options={"stay_id": 9})
    env.set_state(state)
    assert env.step(0)[4]["stay_id"] == 2
    vector = SepsisVectorEnv(3, toy_model)
    vector.set_state(state)
    assert vector.step(np.zeros(3, int))[4]["stay_id"].tolist() == [2, 2, 2]


def test_what_cannot_start_an_episode_says_so(trajectories, toy_model, sample):
    with pytest.raises(ConfigError, match="mechanistic patient"):
        gym.make("SepsisPhysio-v0", start_from=sample)
    for name in ("SepsisWM-v0", "SepsisPhysio-v0"):
        with pytest.raises(ConfigError, match="start_from=FOLDER"):
            gym.make(name).reset(options={"stay_id": 1})
    with pytest.raises(ConfigError, match=r"\['stay'\]; there are stay_id"):
        SepsisEnv(toy_model, start_from=trajectories).reset(options={"stay": 1})
    other_clock = replace(
        trajectories,
        manifest=replace(
            trajectories.manifest,
            preprocessing=replace(trajectories.preprocessing, alignment="same_window"),
        ),
    )
    with pytest.raises(ConfigError, match="alignment of the stays is same_window"):
        SepsisEnv(toy_model, start_from=other_clock)
