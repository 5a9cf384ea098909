"""What the agents of this package share: policies on arrays, and what is stored of them."""

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from sepsis_gym import __version__
from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.agent import Agent, Info
from sepsis_gym.errors import ConfigError
from sepsis_gym.preprocessing import Preprocessing
from sepsis_gym.trajectories import Trajectories


@dataclass(frozen=True)
class AgentRecord:
    """All that an agent's folder holds, besides the agent's name.

    Attributes:
        config: Settings, plain JSON.
        preprocessing: Clock, scales and dose levels it was trained with; None if untrained.
        provenance: What it was trained on and with, plain JSON.
        weights: Named arrays.
    """

    config: dict[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, NDArray[Any]] = field(default_factory=dict)


class SavableAgent(Agent, Protocol):
    """An agent that can be written to a folder and read back."""

    def to_record(self) -> AgentRecord:
        """What :func:`agents.save_agent` writes."""
        ...

    @classmethod
    def from_record(cls, record: AgentRecord) -> Self:
        """The agent that was written.

        Raises:
            ConfigError: The record does not describe such an agent.
        """
        ...


class TrainableAgent(SavableAgent, Protocol):
    """An agent that learns from logged stays.

    Attributes:
        config_type: Frozen dataclass of its settings; all have defaults.
    """

    config_type: ClassVar[type]

    @classmethod
    def train(cls, trajectories: Trajectories, config: Any, *, seed: int) -> Self:
        """Learns from the train and validation splits of a cohort, never from its test split."""
        ...


class Policy(ABC):
    """Base of the agents whose choice is a draw from their ``action_probabilities``.

    A deterministic agent's are one-hot, so its draw is its choice. The draws come from a generator
    seeded once, at construction: ``reset`` lets the stream run on, for otherwise every episode
    would see the same draws. A new agent with the same seed, or the same one loaded again, repeats
    the whole sequence of episodes.

    Attributes:
        preprocessing: What the observations must have been made with; None if it does not matter.
    """

    preprocessing: Preprocessing | None = None

    def __init__(self, *, seed: int = 0) -> None:
        """Seeds the draws."""
        self.seed = seed
        self._rng = np.random.default_rng([seed, 2])  # an env of this seed has another stream

    def reset(self) -> None:  # noqa: B027 -- empty on purpose, not forgotten
        """Does nothing: nothing is remembered from state to state."""

    @abstractmethod
    def action_probabilities(
        self, observation: NDArray[np.float32], info: Info
    ) -> NDArray[np.float64]:
        """Probability of each of the 25 actions, [25]."""

    def act(self, observation: NDArray[np.float32], info: Info) -> int:
        """Draws an action, 0-24."""
        return int(self._rng.choice(N_ACTIONS, p=self.action_probabilities(observation, info)))


class BatchPolicy(Policy):
    """Base of the agents that are functions of the observation alone."""

    @abstractmethod
    def batch_probabilities(self, observations: NDArray[np.float32]) -> NDArray[np.float64]:
        """Action probabilities [n, 25] of observations [n, 107]."""

    def action_probabilities(
        self, observation: NDArray[np.float32], info: Info
    ) -> NDArray[np.float64]:
        """Probability of each of the 25 actions, [25]."""
        return self.batch_probabilities(observation[None])[0]


class StoredPolicy(Policy):
    """Base of the agents whose choices come from trained arrays.

    Attributes:
        config: Settings of the training, a ``config_type``.
        weights: Named arrays.
        preprocessing: Of the cohort it was trained on.
        provenance: What it was trained on and with; its seed also seeds the draws.
    """

    config_type: ClassVar[type]

    def __init__(
        self,
        config: Any,
        weights: dict[str, NDArray[np.float32]],
        preprocessing: Preprocessing,
        provenance: dict[str, Any],
    ) -> None:
        """Keeps the parts.

        Raises:
            ConfigError: The weights are not those of such an agent.
        """
        super().__init__(seed=provenance["seed"])
        self.config = config
        self.weights = weights
        self.preprocessing = preprocessing
        self.provenance = provenance
        self._build()

    @abstractmethod
    def _build(self) -> None:
        """Makes the networks from ``weights``."""

    def to_record(self) -> AgentRecord:
        """What is stored."""
        return AgentRecord(asdict(self.config), self.preprocessing, self.provenance, self.weights)

    @classmethod
    def from_record(cls, record: AgentRecord) -> Self:
        """The agent that was stored.

        Raises:
            ConfigError: The record does not describe such an agent.
        """
        if record.preprocessing is None:
            raise ConfigError("preprocessing is missing")
        # JSON knows no tuples
        settings = {k: tuple(v) if isinstance(v, list) else v for k, v in record.config.items()}
        config = cls.config_type(**settings)
        return cls(config, record.weights, record.preprocessing, record.provenance)


class TrainedPolicy(StoredPolicy, BatchPolicy):
    """Trained arrays that make a function of the observation."""


def one_hot(actions: NDArray[np.integer]) -> NDArray[np.float64]:
    """Probabilities [n, 25] of a policy that takes these actions [n] for certain."""
    return np.eye(N_ACTIONS)[actions]


def softmax(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Probabilities [n, 25] of logits [n, 25]."""
    powers = np.exp((logits - logits.max(axis=1, keepdims=True)).astype(np.float64))
    return powers / powers.sum(axis=1, keepdims=True)


def differing(one: Preprocessing, other: Preprocessing) -> list[str]:
    """What of the clock, the scales and the dose levels is not the same."""
    names = [item.name for item in fields(Preprocessing)]
    return [name for name in names if getattr(one, name) != getattr(other, name)]


def check_preprocessing(agent: Agent, preprocessing: Preprocessing) -> None:
    """Refuses to show an agent observations on another clock, scale or dose grid than its own.

    Raises:
        ConfigError: Names what differs.
    """
    own: Preprocessing | None = getattr(agent, "preprocessing", None)
    if own is None:
        return
    names = differing(own, preprocessing)
    if names:
        raise ConfigError(
            f"the agent was trained on other data: {', '.join(names)} differ; "
            "train it on this cohort, or use the cohort or world model it was trained with"
        )


WORLD_MODEL = "world_model_sha256"
"""Under which an agent's provenance tells the world model it learned or plans in."""


def training_provenance(trajectories: Trajectories, seed: int) -> dict[str, Any]:
    """Where a trained agent comes from, without a clock time: same run, same file."""
    return {
        "source": trajectories.manifest.source,
        "credentialed": trajectories.manifest.credentialed,
        "content_hash": trajectories.content_hash,
        "n_stays": len(trajectories),
        "seed": seed,
        "sepsis_gym": __version__,
    }
