"""Fitted Q evaluation with a neural network, trained by d3rlpy: a second opinion on the linear one.

Q is fitted once, on the training split, so this value has no interval.
"""

from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import trange

from evaluation.target import soften
from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.agent import BatchAgent
from sepsis_gym.errors import ConfigError
from sepsis_gym.patients import OBSERVATION_SIZE
from sepsis_gym.trajectories import Trajectories

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class NeuralFQEConfig:
    """Settings of the network and its training.

    Attributes:
        n_steps: Gradient updates.
        batch_size: Transitions per update.
        learning_rate: Adam step size.
        hidden_units: Widths of the hidden layers.
        target_update_interval: Updates between copies to the target network. A reward needs one
            copy for each step that it travels back, and a stay has 18.
    """

    n_steps: int = 4_000
    batch_size: int = 256
    learning_rate: float = 1e-3
    hidden_units: tuple[int, ...] = (64, 64)
    target_update_interval: int = 100

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for name in ("n_steps", "batch_size", "learning_rate", "target_update_interval"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")


def neural_fqe(
    agent: BatchAgent,
    train: Trajectories,
    evaluated: Trajectories,
    config: NeuralFQEConfig | None = None,
    *,
    gamma: float,
    softening: float = 0.0,
    seed: int = 0,
) -> float:
    """Mean value of an agent over the first states of the evaluated stays.

    Args:
        agent: The agent.
        train: Stays Q is fitted on.
        evaluated: Other stays.
        config: Settings.
        gamma: Discount per step.
        softening: Share of the uniform policy mixed into the agent.
        seed: Of the network, the batches and the target's next actions.

    Raises:
        ImportError: d3rlpy is not installed.

    Source: Le, Voloshin & Yue 2019, "Batch policy learning under constraints".
    """
    try:
        import d3rlpy
        import torch
    except ImportError as error:
        raise ImportError('d3rlpy is missing: pip install "sepsis-gym[offline]"') from error
    settings, rng = config or NeuralFQEConfig(), np.random.default_rng(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        target = SimpleNamespace(impl=_Target(agent, softening, rng))
        fqe = d3rlpy.ope.DiscreteFQE(target, _d3rlpy_config(d3rlpy, settings, gamma))
        fqe.create_impl((OBSERVATION_SIZE,), N_ACTIONS)
        scale = _update(d3rlpy, fqe, train, settings, rng)
    first = evaluated.observations()[evaluated.offsets[:-1]]
    probabilities = soften(np.asarray(agent.batch_probabilities(first)), softening)
    values = np.stack(
        [fqe.predict_value(first, np.full(len(first), action)) for action in range(N_ACTIONS)], 1
    )
    return float((values * probabilities).sum(1).mean() * scale)


class _Target:
    """Stands where d3rlpy expects the evaluated algorithm.

    d3rlpy asks for one next action; one drawn from the policy makes its Bellman target unbiased
    for a policy that is not deterministic.
    """

    def __init__(self, agent: BatchAgent, softening: float, rng: np.random.Generator) -> None:
        self._agent, self._softening, self._rng = agent, softening, rng

    def predict_best_action(self, observations: "torch.Tensor") -> "torch.Tensor":
        import torch

        answers = np.asarray(self._agent.batch_probabilities(observations.numpy()))
        cumulative = soften(answers, self._softening).cumsum(1)
        drawn = self._rng.random((len(cumulative), 1)) * cumulative[:, -1:]
        return torch.from_numpy((cumulative > drawn).argmax(1))


def _d3rlpy_config(d3rlpy: ModuleType, config: NeuralFQEConfig, gamma: float) -> Any:
    return d3rlpy.ope.FQEConfig(
        learning_rate=config.learning_rate,
        batch_size=config.batch_size,
        gamma=gamma,
        target_update_interval=config.target_update_interval,
        encoder_factory=d3rlpy.models.VectorEncoderFactory(list(config.hidden_units)),
    )


def _update(
    d3rlpy: ModuleType,
    fqe: Any,
    log: Trajectories,
    config: NeuralFQEConfig,
    rng: np.random.Generator,
) -> float:
    """Trains; returns what its values must be multiplied with.

    d3rlpy's loss is Huber's, linear beyond 1, which would pull outcomes of +-15 towards a median:
    rewards are divided by their largest magnitude.
    """
    rows, observations = np.flatnonzero(log.is_decision), log.observations()
    scale = float(np.abs(log.reward[rows]).max()) or 1.0
    column = {
        name: array[rows, None].astype(np.float32)
        for name, array in (("action", log.action), ("reward", log.reward), ("end", log.terminated))
    }
    interval = np.ones((config.batch_size, 1), np.float32)
    for _ in trange(config.n_steps, desc="neural FQE", unit="update", disable=None):
        i = rng.integers(len(rows), size=config.batch_size)
        batch = d3rlpy.dataset.TransitionMiniBatch(
            observations=observations[rows[i]],
            actions=column["action"][i],
            rewards=column["reward"][i] / np.float32(scale),
            next_observations=observations[rows[i] + 1],
            next_actions=column["action"][i],  # required, not read
            terminals=column["end"][i],
            intervals=interval,
            transitions=(),
        )
        fqe.update(batch)
    return scale
