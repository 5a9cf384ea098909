"""Trains PPO in the world model, and looks up what it is worth where the truth is known.

Usage: python examples/online_agent.py [STEPS] [PENALTY]

The penalty is taken from the reward per unit of the model's doubt; 0 for none. Needs the ``online``
extra.
"""

import sys

import gymnasium as gym
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy

import sepsis_gym  # noqa: F401  registers the environments
from sepsis_gym.envs import SupportConfig
from sepsis_gym.envs.sb3 import SB3VecEnv


def opened(name: str, num_envs: int, support: SupportConfig | None = None) -> SB3VecEnv:
    """Many patients at once, as Stable-Baselines3 takes them."""
    return SB3VecEnv(
        gym.make_vec(name, num_envs=num_envs, support=support, autoreset_mode="SameStep")
    )


def main(steps: int = 200_000, penalty: float = 5.0, episodes: int = 1000) -> dict[str, float]:
    """Returns the mean return in each environment, without the penalty."""
    env = opened("SepsisWM-v0", 64, SupportConfig(penalty=penalty))
    agent = PPO("MlpPolicy", env, n_steps=64, batch_size=1024, seed=0, device="cpu")
    agent.learn(steps)
    values = {}
    for name in ("SepsisWM-v0", "SepsisPhysio-v0"):
        trial = opened(name, 50)
        trial.seed(1)
        values[name], _ = evaluate_policy(agent, trial, episodes, deterministic=False)
        print(f"{name}: mean return {values[name]:+.2f} over {episodes} patients")
    return values


if __name__ == "__main__":
    main(*(convert(text) for convert, text in zip((int, float), sys.argv[1:], strict=False)))
