"""What the agents share that learn from logged stays: settings, data, and the training itself."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from agents.network import Network
from agents.policy import TrainedPolicy, one_hot, training_provenance
from agents.training import Run, TrainingConfig, fingerprint, to_tensors, torch_settings
from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.patients import OBSERVATION_SIZE
from sepsis_gym.trajectories import Trajectories

Arrays = dict[str, NDArray[np.float32]]
_Score = Callable[[Arrays], float]


@dataclass(frozen=True)
class OfflineConfig(TrainingConfig):
    """What all algorithms need; a step is a gradient update.

    Attributes:
        patience: Looks without a better score before training stops, where there is a score.
        device: ``cpu`` or ``cuda:0``.
    """

    n_steps: int = 6_000
    batch_size: int = 256
    learning_rate: float = 1e-4
    patience: int = 6
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        self._positive("patience")


@dataclass(frozen=True)
class QLearningConfig(OfflineConfig):
    """What the algorithms need that learn values.

    Attributes:
        target_update_interval: Updates between copies to the target network. A reward needs one
            copy for each step that it travels back, and a stay has 18.
    """

    target_update_interval: int = 200

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        self._positive("target_update_interval")


@dataclass(frozen=True)
class Transitions:
    """n transitions, or a batch of them; columns are [n, 1].

    Attributes:
        observation: [n, inputs] state, as the networks see it.
        action: Logged action, 0-24.
        reward: Reward, divided by the largest magnitude of the training split.
        following: [n, inputs] next state.
        next_action: Logged action there; 0 where the stay is over.
        terminal: 1 where the stay is over, else 0.
        sofa: SOFA of the state.
    """

    observation: NDArray[np.float32]
    action: NDArray[np.float32]
    reward: NDArray[np.float32]
    following: NDArray[np.float32]
    next_action: NDArray[np.float32]
    terminal: NDArray[np.float32]
    sofa: NDArray[np.float32]

    @classmethod
    def of(cls, log: Trajectories, reward_scale: float, shown: NDArray[np.float32]) -> Self:
        """All decisions of a log, each array contiguous, so that a batch is one gather.

        Args:
            log: The stays.
            reward_scale: What rewards are divided by.
            shown: What the networks see of each row, such as ``log.observations()``.
        """
        rows = np.flatnonzero(log.is_decision)

        def column(array: NDArray[Any]) -> NDArray[np.float32]:
            return array[:, None].astype(np.float32)

        return cls(
            shown[rows],
            column(log.action[rows]),
            column(log.reward[rows] / reward_scale),
            shown[rows + 1],
            column(np.maximum(log.action[rows + 1], 0)),
            column(log.terminated[rows]),
            column(log.sofa[rows]),
        )

    def take(self, index: NDArray[np.integer]) -> Self:
        """A batch."""
        return type(self)(*(getattr(self, name)[index] for name in self.__dataclass_fields__))


class Learner(Protocol):
    """An algorithm under training."""

    def update(self, batch: Transitions) -> dict[str, float]:
        """One gradient update; returns its losses."""
        ...

    def weights(self) -> Arrays:
        """What the policy needs, as named arrays."""
        ...

    def state(self) -> dict[str, Any]:
        """All that decides how training goes on, tensors and plain values."""
        ...

    def go_on_from(self, state: dict[str, Any]) -> None:
        """Inverse of :meth:`state`."""
        ...


class OfflineAgent(TrainedPolicy):
    """A greedy policy learnt from logged stays; its probabilities are one-hot.

    Off-policy evaluation by importance sampling must soften it, and name the row so.
    """

    config: Any

    INPUTS: ClassVar[int] = OBSERVATION_SIZE
    """Size of an observation."""
    _NETWORKS: ClassVar[tuple[str, ...]] = ("q",)
    """Names of the networks among the weights; the first rates the actions."""
    _SCORED: ClassVar[bool] = True
    """Whether a validation score may choose the weights."""

    def _build(self) -> None:
        self._networks = {
            name: Network.from_weights(self.weights, name, (self.INPUTS, N_ACTIONS))
            for name in self._NETWORKS
        }

    @classmethod
    def train(
        cls, trajectories: Trajectories, config: Any, *, seed: int = 0, run: Run | None = None
    ) -> Self:
        """Learns from the training split; keeps the weights that score best, or the last ones.

        Rewards are divided by their largest magnitude in that split: the +-15 of the outcome
        would otherwise sit far out on the linear arm of the Huber loss, where the many small
        rewards within a stay count for little, and CQL's alpha would mean something else under
        each reward scheme.

        Raises:
            ImportError: A library is not installed.
            UnknownNameError: The cohort has no training split.
            ConfigError: Training diverged.
        """
        run = run or Run()
        learning = trajectories.split("train")
        largest = float(np.nanmax(np.abs(learning.reward)))
        scale = largest if largest > 0 else 1.0
        provenance = training_provenance(trajectories, seed) | {"reward_scale": scale}

        preprocessing = trajectories.preprocessing
        judge = run.score if cls._SCORED else None
        with torch_settings(config.threads, seed):
            learner, versions = cls.learner(config, scale)
            provenance |= versions
            of = fingerprint(config, provenance | {"scored": judge is not None})

            judged: _Score | None = None
            if judge is not None:
                judged = lambda weights: judge(cls(config, weights, preprocessing, provenance))  # noqa: E731
            data = Transitions.of(learning, scale, cls.shown(learning))
            weights, notes = _fit(learner, data, config, seed, run, of, judged)
        return cls(config, weights, preprocessing, provenance | notes)

    @classmethod
    def shown(cls, log: Trajectories) -> NDArray[np.float32]:
        """What the networks see of each row, [rows, INPUTS]."""
        return log.observations()

    @classmethod
    @abstractmethod
    def learner(cls, config: Any, reward_scale: float) -> tuple[Learner, dict[str, str]]:
        """The algorithm, and versions of libraries for the provenance."""

    def _rated(self, observations: NDArray[np.float32]) -> NDArray[np.floating]:
        """[n, 25] what to choose the largest of."""
        return self._networks[self._NETWORKS[0]](observations)

    def batch_probabilities(self, observations: NDArray[np.float32]) -> NDArray[np.float64]:
        """One-hot action probabilities [n, 25] of observations [n, 107]."""
        return one_hot(self._rated(observations).argmax(axis=1))


def _fit(
    learner: Learner,
    data: Transitions,
    config: OfflineConfig,
    seed: int,
    run: Run,
    of: str,
    score: _Score | None,
) -> tuple[Arrays, dict[str, Any]]:
    """Runs the updates; returns the weights to keep, and notes for the provenance."""
    progress: dict[str, Any] = {"step": 0, "best_step": 0, "best_score": -np.inf, "best": {}}
    kept = run.resume(of)
    if kept is not None:
        learner.go_on_from(kept["learner"])
        progress = {name: kept[name] for name in (*progress, "losses")}
    step = progress["step"]
    with (
        run.curves(step) as curves,
        tqdm(total=config.n_steps, initial=step, unit="update", disable=None) as bar,
    ):
        while step < config.n_steps and not _stale(progress, config, score):
            n = min(config.check_interval, config.n_steps - step)
            progress["losses"] = _updates(learner, data, config, n, [seed, step], bar)
            progress["step"] = step = step + n
            curves({f"loss/{name}": loss for name, loss in progress["losses"].items()}, step)
            if score is not None:
                weights = learner.weights()
                value = score(weights)
                curves({"validation/score": value}, step)
                bar.set_postfix(score=f"{value:.3f}")
                if value > progress["best_score"]:
                    best = {"best_score": value, "best_step": step, "best": to_tensors(weights)}
                    progress |= best
            run.keep(of, progress | {"learner": learner.state()})
    notes: dict[str, Any] = {"updates": step, "last_losses": progress["losses"]}
    if score is None:
        return learner.weights(), notes
    notes |= {"validation_score": progress["best_score"], "best_update": progress["best_step"]}
    return {name: tensor.numpy() for name, tensor in progress["best"].items()}, notes


def _stale(progress: dict[str, Any], config: OfflineConfig, score: _Score | None) -> bool:
    """Whether no look has been better for too long."""
    since = progress["step"] - progress["best_step"]
    return score is not None and since >= config.patience * config.check_interval


def _updates(
    learner: Learner, data: Transitions, config: OfflineConfig, n: int, seed: list[int], bar: Any
) -> dict[str, float]:
    """Runs n updates; returns their mean losses.

    Batches are gathered from contiguous arrays, because ``fit`` of d3rlpy builds every transition
    as an object. The stretch draws from a stream of its own, so that a training that goes on needs
    no position in one.
    """
    rng, losses = np.random.default_rng(seed), []
    for _ in range(n):
        index = rng.integers(len(data.action), size=config.batch_size)
        losses.append(learner.update(data.take(index)))
        bar.update()
    return {name: float(np.mean([loss[name] for loss in losses])) for name in losses[0]}
