"""Mean return of an agent that acts in an environment."""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from evaluation.estimators import Floats, resample_index
from evaluation.intervals import percentile_interval
from sepsis_gym.agent import Agent, BatchAgent, prepare
from sepsis_gym.errors import ConfigError

AnyEnv = gym.Env[Any, Any] | gym.vector.VectorEnv[Any, Any, Any]


@dataclass(frozen=True)
class RolloutValue:
    """What an agent earned in an environment.

    Attributes:
        mean: Mean discounted return.
        low: Lower end of the bootstrap interval over episodes.
        high: Upper end.
        episodes: Episodes run.
    """

    mean: float
    low: float
    high: float
    episodes: int


def rollout_value(
    env: AnyEnv,
    agent: Agent,
    *,
    episodes: int,
    seed: int,
    gamma: float = 1.0,
    confidence: float = 0.95,
) -> RolloutValue:
    """Runs an agent and averages its returns.

    Args:
        env: A single environment, or a vector environment with next-step autoreset, of which each
            copy runs the same number of episodes (the first to end are not the typical ones).
        agent: The agent; a vector environment needs a :class:`~sepsis_gym.agent.BatchAgent`.
        episodes: How many episodes, rounded up to a multiple of the copies.
        seed: Seeds the environment, the sampling of actions and the interval.
        gamma: Discount per step.
        confidence: Coverage of the interval.

    Raises:
        ConfigError: ``episodes`` is below 1, the agent cannot be asked in batches, or the vector
            environment resets otherwise.
    """
    if episodes < 1:
        raise ConfigError(f"episodes must be 1 or more, got {episodes}")
    rng = np.random.default_rng([seed, 1])  # not the stream that the environment draws from
    if isinstance(env, gym.vector.VectorEnv):
        if not isinstance(agent, BatchAgent):
            raise ConfigError("a vector environment needs a BatchAgent; pass a single environment")
        mode = env.metadata.get("autoreset_mode", "NextStep")
        if getattr(mode, "value", mode) != "NextStep":
            raise ConfigError(f"rollouts need a vector environment of next-step autoreset: {mode}")
        returns = _vector_returns(env, agent, -(-episodes // env.num_envs), seed, gamma, rng)
    else:
        returns = _single_returns(env, agent, episodes, seed, gamma)
    resampled = returns[resample_index(len(returns), 1000, rng)].mean(1)
    low, high, _ = percentile_interval(resampled, confidence)
    return RolloutValue(float(returns.mean()), low, high, len(returns))


def _single_returns(
    env: gym.Env[Any, Any], agent: Agent, episodes: int, seed: int, gamma: float
) -> Floats:
    returns = np.zeros(episodes)
    for episode in range(episodes):
        observation, info = env.reset(seed=seed if episode == 0 else None)
        prepare(agent, env)
        discount, over = 1.0, False
        while not over:
            action = agent.act(observation, info)
            observation, reward, terminated, truncated, info = env.step(action)
            returns[episode] += discount * float(reward)
            discount *= gamma
            over = terminated or truncated
    return returns


def _vector_returns(
    env: gym.vector.VectorEnv[Any, Any, Any],
    agent: BatchAgent,
    quota: int,
    seed: int,
    gamma: float,
    rng: np.random.Generator,
) -> Floats:
    """[num_envs * quota] returns; actions are drawn from the agent's probabilities."""
    agent.reset()
    observations, _ = env.reset(seed=seed)
    finished: list[list[float]] = [[] for _ in range(env.num_envs)]
    running, discount = np.zeros(env.num_envs), np.ones(env.num_envs)
    over = np.zeros(env.num_envs, bool)
    while min(map(len, finished)) < quota:
        cumulative = agent.batch_probabilities(observations).cumsum(1)
        drawn = rng.random((env.num_envs, 1)) * cumulative[:, -1:]
        actions = (cumulative > drawn).argmax(1)
        resetting = over  # this step only admits the next patient
        observations, reward, terminated, truncated, _ = env.step(actions)
        running += np.where(resetting, 0.0, discount * reward)
        discount = np.where(resetting, 1.0, discount * gamma)
        over = terminated | truncated
        for index in np.flatnonzero(over):
            finished[index].append(float(running[index]))
        running[over], discount[over] = 0.0, 1.0
    return np.array([value for returns in finished for value in returns[:quota]])
