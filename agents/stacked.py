"""Offline agents that see the last states of a stay, not the present one alone."""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from agents.learner import OfflineAgent, OfflineConfig
from agents.offline import BcAgent, BcqAgent, CqlAgent, DoubleDqnAgent, DqnAgent
from agents.policy import StoredPolicy
from agents.training import Run
from agents.wd3qne import Wd3qneAgent
from sepsis_gym.agent import Info
from sepsis_gym.errors import ConfigError
from sepsis_gym.patients import OBSERVATION_SIZE
from sepsis_gym.trajectories import Trajectories

_KINDS: dict[str, type[OfflineAgent]] = {
    "bc": BcAgent,
    "bcq": BcqAgent,
    "cql": CqlAgent,
    "dqn": DqnAgent,
    "double_dqn": DoubleDqnAgent,
    "wd3qne": Wd3qneAgent,
}


@dataclass(frozen=True)
class StackedConfig(OfflineConfig):
    """What all offline algorithms need; the rest is the algorithm's default.

    Attributes:
        of: The algorithm, by its agent's name.
        frames: States that the networks see, the present one among them.
    """

    of: str = "cql"
    frames: int = 4

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        self._positive("frames")
        if self.of not in _KINDS:
            raise ConfigError(f"of must be {', '.join(_KINDS)}, got {self.of!r}")

    @property
    def own(self) -> OfflineConfig:
        """Settings of the algorithm."""
        kind: Any = _KINDS[self.of]
        shared = {item.name: getattr(self, item.name) for item in fields(OfflineConfig)}
        config: OfflineConfig = kind.config_type(**shared)
        return config


class StackedAgent(StoredPolicy):
    """An offline algorithm over the last states, so that it is asked step by step, not in batches.

    It reads ``info["step"]``: asked twice in one step, it remembers the step once.
    """

    config: StackedConfig
    config_type: ClassVar[type] = StackedConfig

    def _build(self) -> None:
        kind, kept = _kind(self.config), (self.weights, self.preprocessing, self.provenance)
        self._policy: OfflineAgent = kind(self.config.own, *kept)
        self.reset()

    @classmethod
    def train(
        cls, trajectories: Trajectories, config: Any, *, seed: int = 0, run: Run | None = None
    ) -> Self:
        """Learns from the training split; see :meth:`agents.learner.OfflineAgent.train`."""
        run = run or Run()
        judge: Any = run.score
        validation = None
        if judge is not None:
            offsets = trajectories.split("validation").offsets

            def validation(policy: Any) -> float:
                return judge(_Judged(policy, offsets, config.frames))

        learned = _kind(config).train(
            trajectories, config.own, seed=seed, run=Run(run.folder, validation)
        )
        return cls(config, learned.weights, learned.preprocessing, learned.provenance)

    def reset(self) -> None:
        """Forgets the last stay."""
        self._step: int | None = None
        self._seen = np.zeros((self.config.frames, OBSERVATION_SIZE), np.float32)

    def action_probabilities(
        self, observation: NDArray[np.float32], info: Info
    ) -> NDArray[np.float64]:
        """Probability of each of the 25 actions, [25]."""
        if info["step"] != self._step:
            self._step, self._seen = info["step"], np.roll(self._seen, 1, axis=0)
        self._seen[0] = observation
        return self._policy.batch_probabilities(self._seen.reshape(1, -1))[0]


def stacked(
    observations: NDArray[np.float32], offsets: NDArray[np.integer], frames: int
) -> NDArray[np.float32]:
    """[rows, frames * 107] each row's state and those before it in its stay, else zeros."""
    row = np.arange(len(observations))
    first = np.repeat(offsets[:-1], np.diff(offsets))
    seen = [
        np.where((row - back >= first)[:, None], observations[np.maximum(row - back, 0)], 0)
        for back in range(frames)
    ]
    return np.concatenate(seen, axis=1).astype(np.float32, copy=False)


def _kind(config: StackedConfig) -> Any:
    """The algorithm's agent over so many states."""
    base: Any = _KINDS[config.of]

    class Kind(base):  # type: ignore[misc]
        INPUTS = OBSERVATION_SIZE * config.frames

        @classmethod
        def shown(cls, log: Trajectories) -> NDArray[np.float32]:
            return stacked(log.observations(), log.offsets, config.frames)

        @classmethod
        def learner(cls, own: Any, reward_scale: float) -> Any:
            learner, versions = super().learner(own, reward_scale)
            return learner, {**versions, "stacked": f"{config.of} {config.frames}"}

    return Kind


@dataclass
class _Judged:
    """A policy over stacked states that is asked about all rows of one log."""

    policy: OfflineAgent
    offsets: NDArray[np.integer]
    frames: int

    def batch_probabilities(self, observations: NDArray[np.float32]) -> NDArray[np.float64]:
        return self.policy.batch_probabilities(stacked(observations, self.offsets, self.frames))
