"""What an agent is: the interface that users implement, and the loop that runs it."""

from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from sepsis_gym.dynamics import Simulator

Info = dict[str, Any]


@runtime_checkable
class Agent(Protocol):
    """A treatment policy.

    ``info`` carries the patient in clinical units (see :class:`sepsis_gym.envs.SepsisEnv`).
    """

    def reset(self) -> None:
        """Forgets the last stay; called before each episode."""
        ...

    def act(self, observation: NDArray[np.float32], info: Info) -> int:
        """Chooses the next action, 0-24, for one observation [107]."""
        ...

    def action_probabilities(
        self, observation: NDArray[np.float32], info: Info
    ) -> NDArray[np.float64]:
        """Probability of each of the 25 actions in this state, [25], summing to 1."""
        ...


@runtime_checkable
class BatchAgent(Agent, Protocol):
    """An agent that is a function of the observation alone, and so can be asked in batches."""

    def batch_probabilities(self, observations: NDArray[np.float32]) -> NDArray[np.float64]:
        """Action probabilities [n, 25] of observations [n, 107]."""
        ...


@runtime_checkable
class SimulatingAgent(Agent, Protocol):
    """An agent that asks "what if"; the loop hands it the environment before each episode."""

    def bind(self, simulator: Simulator) -> None:
        """Keeps what to simulate with."""
        ...


@runtime_checkable
class ConcurrentAgent(Agent, Protocol):
    """An agent that spends its time waiting, so that many stays are walked at once."""

    workers: int
    """Stays at a time."""

    def session(self) -> Agent:
        """The same policy for one stay, safe to use in a thread of its own.

        What it gives may depend on that stay alone, so that no result depends on the threads.
        """
        ...


@runtime_checkable
class SampledAgent(Agent, Protocol):
    """An agent that may know its action probabilities only as shares of sampled answers."""

    probability_samples: int | None
    """Independent answers behind each state's probabilities; None where they are exact."""


def prepare(agent: Agent, env: gym.Env[Any, Any]) -> None:
    """Makes the agent ready for a new episode in ``env``."""
    agent.reset()
    if isinstance(agent, SimulatingAgent):
        simulator: Any = env.unwrapped
        agent.bind(simulator)


def run_episode(
    env: gym.Env[Any, Any],
    agent: Agent,
    *,
    seed: int | None = None,
    options: dict[str, Any] | None = None,
) -> float:
    """Runs one episode and returns its undiscounted return."""
    observation, info = env.reset(seed=seed, options=options)
    prepare(agent, env)
    total, over = 0.0, False
    while not over:
        action = agent.act(observation, info)
        observation, reward, terminated, truncated, info = env.step(action)
        total += float(reward)
        over = terminated or truncated
    return total
