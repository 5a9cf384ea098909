import gymnasium as gym
import pytest

import sepsis_gym  # noqa: F401  registers the environments


def test_stable_baselines3_ppo_learns_without_an_adapter():
    stable_baselines3 = pytest.importorskip(
        "stable_baselines3", reason="the online extra is not installed"
    )
    env = gym.make("SepsisWM-v0")
    agent = stable_baselines3.PPO("MlpPolicy", env, n_steps=500, batch_size=100, seed=0)
    before = [p.detach().clone() for p in agent.policy.parameters()]
    agent.learn(2000)
    assert agent.num_timesteps == 2000
    after = list(agent.policy.parameters())
    assert all(p.isfinite().all() for p in after)
    assert any(not one.equal(two) for one, two in zip(before, after, strict=True))
    assert len(agent.ep_info_buffer) > 50
    observation = gym.make("SepsisWM-v0").reset(seed=0)[0]
    action, _ = agent.predict(observation, deterministic=True)
    assert 0 <= action < 25


@pytest.mark.skipif(gym.__version__.startswith("1.0."), reason="torchrl refuses gymnasium 1.0")
def test_torchrl_collects_from_the_registered_env():
    envs = pytest.importorskip("torchrl.envs", reason="torchrl is not installed")
    env = envs.GymEnv("SepsisWM-v0")
    assert env.observation_spec["observation"].shape == (107,)
    seen = env.rollout(40, break_when_any_done=False)
    assert seen["observation"].shape == (40, 107)
    assert seen["observation"].isfinite().all()
    assert seen["next", "done"].any()
    assert seen["action"].argmax(-1).max() < 25


def test_rllib_samples_from_the_registered_env():
    pytest.importorskip("ray.rllib", reason="RLlib is not installed")
    from ray.rllib.algorithms.ppo import PPOConfig
    from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner

    config = PPOConfig().environment("SepsisWM-v0").env_runners(num_env_runners=0)
    episodes = SingleAgentEnvRunner(config=config).sample(num_episodes=2, random_actions=True)
    for episode in episodes:
        assert episode.is_terminated
        assert episode.get_observations(-1).shape == (107,)


def test_gymnasium_wrappers_and_vectors_take_the_env():
    env = gym.wrappers.RecordEpisodeStatistics(gym.make("SepsisWM-v0"))
    env.reset(seed=0)
    over = False
    while not over:
        _, _, over, _, info = env.step(0)
    assert info["episode"]["l"] >= 1
    vector = gym.make_vec("SepsisWM-v0", num_envs=3, vectorization_mode="sync")
    observations, _ = vector.reset(seed=0)
    assert observations.shape == (3, 107)
