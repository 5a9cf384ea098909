"""The online learners on a task whose best action is known, and in the shipped world model."""

import random
from dataclasses import replace
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest

from agents import agent_digest, load_agent, train_agent
from agents.online import OnlineDqnConfig, PpoConfig, RecurrentPpoConfig, _annealed
from agents.registry import _agent_class
from sepsis_gym.agent import BatchAgent, run_episode
from sepsis_gym.envs import SepsisEnv, SepsisVectorEnv
from sepsis_gym.errors import ConfigError
from sepsis_gym.registration import SAMPLE_COHORT
from sepsis_gym.trajectories import Trajectories

torch = pytest.importorskip("torch")
pytest.importorskip("stable_baselines3")
pytest.importorskip("sb3_contrib")

BEST = 20
SMALL = {"num_envs": 16, "hidden_units": (32,), "batch_size": 128, "gamma": 0.0}
LEARNING = {
    "ppo": PpoConfig(**SMALL, n_steps=4000, learning_rate=3e-3, rollout_steps=16),
    "recurrent_ppo": RecurrentPpoConfig(
        **SMALL, n_steps=4000, learning_rate=1e-2, rollout_steps=16, n_epochs=4, lstm_units=16
    ),
    "online_dqn": OnlineDqnConfig(**SMALL, n_steps=3000, learning_rate=3e-3, learning_starts=500),
    "qrdqn": OnlineDqnConfig(**SMALL, n_steps=2000, learning_rate=3e-3, learning_starts=500),
}
QUICK = {
    "ppo": PpoConfig(
        **SMALL, n_steps=768, check_interval=256, rollout_steps=8, n_epochs=2, greedy=False
    ),
    "recurrent_ppo": RecurrentPpoConfig(
        **SMALL,
        n_steps=256,
        check_interval=128,
        rollout_steps=8,
        n_epochs=1,
        lstm_units=8,
        greedy=False,
    ),
    "online_dqn": OnlineDqnConfig(
        **SMALL, n_steps=768, check_interval=256, learning_starts=64, target_update_interval=64
    ),
    "qrdqn": OnlineDqnConfig(**SMALL, n_steps=256, check_interval=128, learning_starts=64),
}
ALL = list(QUICK)


class Rigged(gym.vector.VectorWrapper):
    """Pays one action and nothing else."""

    def step(self, actions):
        observations, _, terminated, truncated, info = self.env.step(actions)
        return observations, (np.asarray(actions) == BEST) * 1.0, terminated, truncated, info


@pytest.fixture
def rigged(toy_model, monkeypatch):
    from sepsis_gym.envs.sb3 import SB3VecEnv

    def opened(config, _):
        vector = SepsisVectorEnv(config.num_envs, toy_model, autoreset_mode="SameStep")
        return SB3VecEnv(Rigged(vector))

    monkeypatch.setattr("agents.online.opened", opened)


def asked(agent, observations):
    """[n, 25] answers; an agent with a memory is walked through them as through one stay."""
    if isinstance(agent, BatchAgent):
        return agent.batch_probabilities(observations)
    agent.reset()
    return np.array(
        [agent.action_probabilities(row, {"step": i}) for i, row in enumerate(observations)]
    )


@pytest.mark.parametrize("name", ALL)
def test_learns_the_best_action(rigged, trajectories, name):
    agent = train_agent(name, trajectories, config=LEARNING[name])
    assert asked(agent, trajectories.observations()[:40])[:, BEST].mean() > 0.9


@pytest.mark.parametrize("name", ALL)
def test_numpy_policy_is_that_of_its_trainer(rigged, trajectories, name, tmp_path, monkeypatch):
    agent_class, kept = _agent_class(name), []
    own = agent_class._weights.__func__

    def keep(cls, policy):
        kept.append(policy)
        return own(cls, policy)

    monkeypatch.setattr(agent_class, "_weights", classmethod(keep))
    agent = train_agent(name, trajectories, tmp_path / name, config=QUICK[name], seed=4)
    shown = trajectories.observations()[:20]
    answers = asked(agent, shown)
    policy, seen = kept[0], torch.from_numpy(shown)
    with torch.no_grad():
        if name == "ppo":
            expected = policy.get_distribution(seen).distribution.probs.numpy()
        elif name == "recurrent_ppo":
            state = tuple(torch.zeros(1, 1, agent.config.lstm_units) for _ in "hc")
            starts = torch.zeros(len(seen))
            expected = policy.get_distribution(seen, state, starts)[0].distribution.probs.numpy()
        else:
            expected = np.eye(25)[policy._predict(seen, deterministic=True).numpy()]
    assert answers == pytest.approx(expected, abs=1e-5)
    loaded = load_agent(tmp_path / name)
    assert np.array_equal(asked(loaded, shown), answers)
    assert agent_digest(loaded) == agent_digest(agent)
    assert list((tmp_path / name / "tensorboard").iterdir())


@pytest.mark.parametrize("name", ["ppo", "recurrent_ppo", "online_dqn"])
def test_acts_by_its_probabilities(rigged, trajectories, name):
    agent = train_agent(name, trajectories, config=QUICK[name])
    observation, info = trajectories.observations()[0], {"step": 0}
    probabilities = agent.action_probabilities(observation, info)
    drawn = np.bincount([agent.act(observation, info) for _ in range(4000)], minlength=25)
    assert drawn / 4000 == pytest.approx(probabilities, abs=0.03)


@pytest.mark.parametrize("name", ["ppo", "recurrent_ppo"])
def test_greedy_ppo_takes_what_it_would_draw_most_often(rigged, trajectories, name):
    drawing, greedy = (
        train_agent(name, trajectories, config=replace(QUICK[name], greedy=greedy))
        for greedy in (False, True)
    )
    shown = trajectories.observations()[:20]
    expected = np.eye(25)[asked(drawing, shown).argmax(1)]
    assert np.array_equal(asked(greedy, shown), expected)


def test_memory_is_of_the_stay(rigged, trajectories, toy_model):
    agent = train_agent("recurrent_ppo", trajectories, config=QUICK["recurrent_ppo"])
    shown = trajectories.observations()[:5]
    first = asked(agent, shown)
    assert np.array_equal(asked(agent, shown), first)  # reset forgets
    agent.reset()
    assert not np.array_equal(agent.action_probabilities(shown[4], {"step": 0}), first[4])
    agent.reset()
    for step, row in enumerate(shown):  # asked twice in one step, remembered once
        for _ in range(2):
            assert np.array_equal(agent.action_probabilities(row, {"step": step}), first[step])
    env = SepsisEnv(toy_model)
    env.reset(seed=0)
    assert np.isfinite(run_episode(env, agent, seed=0))


class _StoppedError(Exception):
    pass


@pytest.mark.parametrize("name", ALL)
def test_interrupted_and_resumed_is_uninterrupted(
    rigged, trajectories, name, tmp_path, monkeypatch
):
    def train(folder, seed=3):
        return train_agent(name, trajectories, folder, config=QUICK[name], seed=seed)

    torch.manual_seed(9)
    streams = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    whole = train(tmp_path / "whole")
    assert torch.equal(torch.get_rng_state(), streams[0])
    assert np.array_equal(np.random.get_state()[1], streams[1])  # noqa: NPY002
    assert random.getstate() == streams[2]

    from stable_baselines3.common.base_class import BaseAlgorithm

    seed, begun = BaseAlgorithm.set_random_seed, []

    def stop_in_the_second_stretch(self, stream=None):
        if stream is not None:
            begun.append(self.num_timesteps)
            if len(begun) == 2:
                raise _StoppedError
        seed(self, stream)

    monkeypatch.setattr(BaseAlgorithm, "set_random_seed", stop_in_the_second_stretch)
    with pytest.raises(_StoppedError):
        train(tmp_path / "broken")
    resumed = train(tmp_path / "broken")
    assert begun[2] == begun[1] == QUICK[name].check_interval
    assert agent_digest(resumed) == agent_digest(whole)
    assert agent_digest(train(None, seed=4)) != agent_digest(whole)


def test_learns_in_the_shipped_world_model():
    cohort = Trajectories.load(SAMPLE_COHORT)
    config = PpoConfig(n_steps=256, num_envs=16, batch_size=64, rollout_steps=8, n_epochs=1)
    for settings in ({}, {"world_model": "truth"}):
        agent = train_agent("ppo", cohort, config=PpoConfig(**{**vars(config), **settings}))
        assert agent.preprocessing == cohort.preprocessing
        assert agent.provenance["decisions"] == 256
        assert -20 < agent.provenance["mean_return"] < 20


def test_a_world_model_of_other_data_is_refused(trajectories):
    with pytest.raises(
        ConfigError, match=r"'default' was made for other data .* world-model train"
    ):
        train_agent("ppo", trajectories, config=QUICK["ppo"])


def test_the_step_size_of_ppo_falls_over_the_whole_training_not_over_each_stretch():
    config = PpoConfig(n_steps=1000, learning_rate=0.5, num_envs=4)
    algorithm = SimpleNamespace()
    _annealed(algorithm, config)
    rates = []
    for done in (0, 500, 1000, 1024):  # the last rollout may end beyond the steps
        algorithm.num_timesteps = done
        rates.append(algorithm.lr_schedule(0.9))  # what SB3 thinks of its progress is not asked
    assert rates == [0.5, 0.25, 0, 0]


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (PpoConfig, {"num_envs": 0}, "num_envs"),
        (PpoConfig, {"n_steps": 256 * 32}, "nothing would be learned"),
        (PpoConfig, {"penalty": -1.0}, "penalty"),
        (PpoConfig, {"gamma": 1.1}, "gamma"),
        (PpoConfig, {"entropy": -1}, "entropy"),
        (PpoConfig, {"hidden_units": (0,)}, "hidden_units"),
        (RecurrentPpoConfig, {"lstm_units": 0}, "lstm_units"),
        (OnlineDqnConfig, {"updates": 0}, "updates"),
        (OnlineDqnConfig, {"final_exploration": 2.0}, "final_exploration"),
    ],
)
def test_config_is_checked(config, settings, message):
    with pytest.raises(ConfigError, match=message):
        config(**settings)
