import warnings

import gymnasium as gym
import numpy as np
import pytest

from sepsis_gym.envs import SepsisEnv, SepsisVectorEnv
from sepsis_gym.errors import ConfigError

MODES = ("NextStep", "SameStep", "Disabled")
ENUM = getattr(gym.vector, "AutoresetMode", None)


def same(ours, theirs, path="info"):
    """Whether two infos have the same entries, shapes and values all the way down."""
    assert set(ours) == set(theirs), path
    for key, value in theirs.items():
        where = f"{path}[{key!r}]"
        if isinstance(value, dict):
            same(ours[key], value, where)
        elif value.dtype == object:
            assert ours[key].dtype == object, where
            for one, two in zip(ours[key], value, strict=True):
                np.testing.assert_array_equal(one, two, err_msg=where)
        else:
            assert ours[key].shape == value.shape, where
            assert ours[key].dtype.kind == value.dtype.kind, where
            np.testing.assert_array_equal(ours[key].astype(value.dtype), value, err_msg=where)


@pytest.mark.parametrize("mode", MODES[:2])
def test_it_speaks_as_gymnasiums_own_vector_env_does(toy_model, mode):
    if ENUM is None and mode != "NextStep":
        pytest.skip("this Gymnasium knows next-step autoreset only")
    settings = {} if ENUM is None else {"autoreset_mode": mode}
    theirs = gym.vector.SyncVectorEnv([lambda: SepsisEnv(toy_model)], **settings)
    ours = SepsisVectorEnv(1, toy_model, autoreset_mode=mode)
    for one, two in zip(ours.reset(seed=7), theirs.reset(seed=7), strict=True):
        (same if isinstance(two, dict) else np.testing.assert_array_equal)(one, two)
    actions = np.random.default_rng(0).integers(0, 25, 120)
    ended = 0
    for action in actions:
        mine, expected = ours.step(np.array([action])), theirs.step(np.array([action]))
        for one, two in zip(mine[:4], expected[:4], strict=True):
            assert one.dtype == two.dtype
            np.testing.assert_array_equal(one, two)
        same(mine[4], expected[4])
        ended += int(mine[2][0])
    assert ended > 3


def test_same_step_shows_the_end_and_the_next_patient_at_once(toy_model):
    env = SepsisVectorEnv(6, toy_model, autoreset_mode="SameStep")
    env.reset(seed=0)
    ended = 0
    for _ in range(60):
        observations, reward, over, truncated, info = env.step(np.zeros(6, int))
        assert not truncated.any()
        assert ("final_obs" in info) == ("final_info" in info) == over.any()
        assert (info["step"][over] == 0).all()
        assert (info["end"] == 0).all()
        assert (info["step"][~over] > 0).all()
        if not over.any():
            continue
        np.testing.assert_array_equal(info["_final_obs"], over)
        np.testing.assert_array_equal(info["_final_info"], over)
        final = info["final_info"]
        assert (np.abs(reward[over]) == 15).all()
        np.testing.assert_array_equal(reward[over] < 0, final["died_90d"][over] == 1)
        assert (final["end"][over] > 0).all()
        assert (final["step"][~over] == 0).all()
        for index in range(6):
            assert (info["final_obs"][index] is not None) == over[index]
            if over[index]:
                last = info["final_obs"][index]
                assert env.single_observation_space.contains(last)
                assert last[-1] == np.float32(final["step"][index] / 18)
                assert observations[index, -1] == 0
        ended += over.sum()
    assert ended > 10


def test_disabled_waits_for_the_mask(toy_model):
    env = SepsisVectorEnv(3, toy_model, autoreset_mode="Disabled")
    env.reset(seed=0)
    over = np.zeros(3, bool)
    while not over.any():
        _, _, over, _, info = env.step(np.zeros(3, int))
    with pytest.raises(gym.error.ResetNeeded, match="reset_mask"):
        env.step(np.zeros(3, int))
    before = info["state"].copy()
    observations, info = env.reset(options={"reset_mask": over})
    np.testing.assert_array_equal(info["_step"], over)
    assert (info["step"][over] == 0).all()
    np.testing.assert_array_equal(info["state"][~over], before[~over])
    assert not np.array_equal(info["state"][over], before[over])
    assert env.observation_space.contains(observations)
    env.step(np.zeros(3, int))


@pytest.mark.parametrize("mode", MODES)
def test_a_mask_resets_these_and_leaves_the_others(toy_model, mode):
    env = SepsisVectorEnv(4, toy_model, autoreset_mode=mode)
    with pytest.raises(gym.error.ResetNeeded):
        env.reset(options={"reset_mask": np.array([True, False, False, False])})
    env.reset(seed=2)
    env.step(np.zeros(4, int))
    mask = np.array([True, False, False, True])
    options = {"reset_mask": mask}
    _, info = env.reset(options=options)
    assert options == {"reset_mask": mask}
    assert info["step"].tolist() == [0, 1, 1, 0]
    assert env.step(np.zeros(4, int))[4]["step"].tolist()[1:3] == [2, 2]


@pytest.mark.parametrize(
    "mask", [[True], np.zeros(3, bool), np.ones(3, int), "all", np.ones((3, 1), bool)]
)
def test_a_mask_of_another_kind_is_refused(toy_model, mask):
    env = SepsisVectorEnv(3, toy_model)
    env.reset(seed=0)
    with pytest.raises(ConfigError, match="reset_mask must be 3 booleans"):
        env.reset(options={"reset_mask": mask})


def test_what_it_cannot_do_is_refused(toy_model):
    with pytest.raises(ConfigError, match="NextStep, SameStep, Disabled, got 'never'"):
        SepsisVectorEnv(2, toy_model, autoreset_mode="never")
    with pytest.raises(ConfigError, match="num_envs"):
        SepsisVectorEnv(0, toy_model)
    env = SepsisVectorEnv(2, toy_model)
    with pytest.raises(ConfigError, match="one stream"):
        env.reset(seed=[1, 2])
    with pytest.raises(ConfigError, match=r"\['mask'\]; there are reset_mask, stay_id"):
        env.reset(options={"mask": None})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["SepsisWM-v0", "SepsisPhysio-v0"])
def test_make_vec_takes_and_declares_the_mode(name, mode):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Gymnasium warns where no mode is declared
        env = gym.make_vec(name, num_envs=2, autoreset_mode=mode)
    assert env.metadata["autoreset_mode"] == (ENUM(mode) if ENUM else mode)
    assert "autoreset_mode" not in SepsisVectorEnv.metadata
    if ENUM:
        by_enum = gym.make_vec(name, num_envs=2, autoreset_mode=ENUM(mode))
        assert by_enum.metadata["autoreset_mode"] is ENUM(mode)
    env.reset(seed=0)
    env.close()
    assert env.closed


def test_gymnasium_counts_episodes_as_it_does_for_its_own(toy_model):
    for mode in MODES[: 2 if ENUM else 1]:
        settings = {"autoreset_mode": mode} if ENUM else {}
        own = gym.vector.SyncVectorEnv([lambda: SepsisEnv(toy_model)], **settings)
        both = [
            gym.wrappers.vector.RecordEpisodeStatistics(env)
            for env in (SepsisVectorEnv(1, toy_model, autoreset_mode=mode), own)
        ]
        for env in both:
            env.reset(seed=0)
        finished = 0
        for _ in range(80):
            ours, theirs = (env.step(np.zeros(1, int))[4].get("episode") for env in both)
            assert (ours is None) == (theirs is None)
            if ours:
                finished += 1
                for key in ("r", "l"):
                    np.testing.assert_array_equal(ours[key], theirs[key])
        assert finished > 2
