"""Offline reinforcement learning through d3rlpy: DiscreteBCQ and DiscreteCQL.

d3rlpy trains; what it has trained is taken out as arrays and evaluated in numpy, so a saved agent
needs neither d3rlpy nor torch.
"""

import contextlib
import io
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from tqdm import trange

from agents.network import Network
from agents.policy import TrainedPolicy, one_hot, training_provenance
from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.errors import ConfigError
from sepsis_gym.patients import OBSERVATION_SIZE
from sepsis_gym.trajectories import Trajectories

_SHAPE = (OBSERVATION_SIZE, N_ACTIONS)


@dataclass(frozen=True)
class OfflineConfig:
    """What both algorithms need.

    Attributes:
        n_steps: Gradient updates.
        batch_size: Transitions per update.
        learning_rate: Adam step size.
        hidden_units: Widths of the hidden layers.
        gamma: Discount per step.
        target_update_interval: Updates between copies to the target network. A reward needs one
            copy for each step that it travels back, and a stay has 18.
        threads: torch threads while training. More gain little on networks this small, and lose
            much where cores are shared.
        device: ``cpu`` or ``cuda:0``.
    """

    n_steps: int = 6_000
    batch_size: int = 256
    learning_rate: float = 1e-4
    hidden_units: tuple[int, ...] = (128, 128)
    gamma: float = 0.99
    target_update_interval: int = 200
    threads: int = 1
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Checks the ranges."""
        positive = ("n_steps", "batch_size", "learning_rate", "target_update_interval", "threads")
        for name in positive:
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")
        if not self.hidden_units or min(self.hidden_units) <= 0:
            raise ConfigError(f"hidden_units must be positive widths, got {self.hidden_units}")
        if not 0 <= self.gamma <= 1:
            raise ConfigError(f"gamma must be from 0 to 1, got {self.gamma}")


@dataclass(frozen=True)
class BcqConfig(OfflineConfig):
    """Settings of DiscreteBCQ.

    Attributes:
        action_flexibility: An action is allowed where the imitator holds it at least this
            many times as likely as the likeliest; 0 is Q-learning, 1 imitation.
        imitation_penalty: Times the mean squared logit of the imitator.

    Source: Fujimoto et al. 2019, "Benchmarking batch deep reinforcement learning algorithms"; the
    penalty is that of the authors' implementation (d3rlpy's default, 0.5, flattens more).
    """

    action_flexibility: float = 0.3
    imitation_penalty: float = 0.01

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        if not 0 < self.action_flexibility < 1:
            raise ConfigError(
                f"action_flexibility must lie between 0 and 1, got {self.action_flexibility}"
            )
        if self.imitation_penalty < 0:
            raise ConfigError(f"imitation_penalty must not be negative: {self.imitation_penalty}")


@dataclass(frozen=True)
class CqlConfig(OfflineConfig):
    """Settings of DiscreteCQL.

    Attributes:
        alpha: Weight of the conservative penalty, against rewards scaled to at most 1.

    Source: Kumar et al. 2020.
    """

    alpha: float = 0.1

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        if self.alpha < 0:
            raise ConfigError(f"alpha must not be negative, got {self.alpha}")


class OfflineAgent(TrainedPolicy):
    """A greedy policy learnt from logged stays; its probabilities are one-hot.

    Off-policy evaluation by importance sampling must soften it, and name the row so.
    """

    _MODULES: ClassVar[dict[str, str]] = {"q": "q_funcs"}
    """Networks to keep, and what d3rlpy calls them."""

    def _build(self) -> None:
        self._networks = {
            name: Network.from_weights(self.weights, name, _SHAPE) for name in self._MODULES
        }

    @classmethod
    def train(cls, trajectories: Trajectories, config: Any, *, seed: int = 0) -> Self:
        """Learns from the training split and keeps the last weights.

        Rewards are divided by their largest magnitude in that split: the +-15 of the outcome
        would otherwise sit far out on the linear arm of d3rlpy's Huber loss, where the many
        small rewards within a stay count for little, and CQL's alpha would mean something else
        under each reward scheme.

        Raises:
            ImportError: d3rlpy is not installed.
            UnknownNameError: The cohort has no training split.
            ConfigError: Training diverged.
        """
        learning = trajectories.split("train")
        largest = float(np.nanmax(np.abs(learning.reward)))
        scale = largest if largest > 0 else 1.0
        d3rlpy = _import_d3rlpy()
        with _torch_settings(config.threads, seed):
            algorithm = cls._algorithm(d3rlpy, config).create(device=config.device)
            algorithm.create_impl((OBSERVATION_SIZE,), N_ACTIONS)
            losses = _update(d3rlpy, algorithm, learning, scale, config, seed)
        weights: dict[str, NDArray[np.float32]] = {}
        for name, module in cls._MODULES.items():
            weights |= _network(getattr(algorithm.impl.modules, module)).to_weights(name)
        provenance = training_provenance(trajectories, seed) | {
            "d3rlpy": d3rlpy.__version__,
            "reward_scale": scale,
            "last_losses": losses,
        }
        return cls(config, weights, trajectories.preprocessing, provenance)

    @classmethod
    @abstractmethod
    def _algorithm(cls, d3rlpy: ModuleType, config: Any) -> Any:
        """d3rlpy's configuration of the algorithm."""

    @abstractmethod
    def _greedy(self, observations: NDArray[np.float32]) -> NDArray[np.integer]:
        """The chosen actions [n]."""

    def batch_probabilities(self, observations: NDArray[np.float32]) -> NDArray[np.float64]:
        """One-hot action probabilities [n, 25] of observations [n, 107]."""
        return one_hot(self._greedy(observations))


class BcqAgent(OfflineAgent):
    """Takes the action of highest value among those that clinicians would consider."""

    config: BcqConfig
    config_type: ClassVar[type] = BcqConfig

    _MODULES: ClassVar[dict[str, str]] = {"q": "q_funcs", "imitator": "imitator"}

    @classmethod
    def _algorithm(cls, d3rlpy: ModuleType, config: BcqConfig) -> Any:
        return d3rlpy.algos.DiscreteBCQConfig(
            **_shared_settings(d3rlpy, config),
            action_flexibility=config.action_flexibility,
            beta=config.imitation_penalty,
            share_encoder=False,  # sharing is meant for pixels
        )

    def _greedy(self, observations: NDArray[np.float32]) -> NDArray[np.integer]:
        logits = self._networks["imitator"](observations)
        likelier = np.log(self.config.action_flexibility) + logits.max(axis=1, keepdims=True)
        values = np.where(logits > likelier, self._networks["q"](observations), -np.inf)
        return values.argmax(axis=1)


class CqlAgent(OfflineAgent):
    """Takes the action of highest conservative value."""

    config_type: ClassVar[type] = CqlConfig

    @classmethod
    def _algorithm(cls, d3rlpy: ModuleType, config: CqlConfig) -> Any:
        settings = _shared_settings(d3rlpy, config)
        return d3rlpy.algos.DiscreteCQLConfig(**settings, alpha=config.alpha)

    def _greedy(self, observations: NDArray[np.float32]) -> NDArray[np.integer]:
        return self._networks["q"](observations).argmax(axis=1)


def _import_d3rlpy() -> ModuleType:
    """Imports d3rlpy without its side effects.

    It loads gym, which prints a notice about its own end, and where there is a GPU it lowers
    torch's matrix precision and compiles autograd for the whole process.
    """
    try:
        import torch

        gpu = torch.cuda.is_available()
        precision = torch.get_float32_matmul_precision()
        compiled = torch._dynamo.config.compiled_autograd if gpu else False
        with contextlib.redirect_stderr(io.StringIO()):
            import gym  # noqa: F401
        import d3rlpy
    except ImportError as error:
        raise ImportError(
            f'd3rlpy is missing ({error}): pip install "sepsis-gym[offline]"'
        ) from error
    if gpu:
        torch.set_float32_matmul_precision(precision)
        torch._dynamo.config.compiled_autograd = compiled
    return d3rlpy


@contextlib.contextmanager
def _torch_settings(threads: int, seed: int) -> Iterator[None]:
    """Own thread count and random stream, as they were before when it is over."""
    import torch

    before = torch.get_num_threads()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        torch.set_num_threads(threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def _shared_settings(d3rlpy: ModuleType, config: OfflineConfig) -> dict[str, Any]:
    return {
        "batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
        "gamma": config.gamma,
        "target_update_interval": config.target_update_interval,
        "encoder_factory": d3rlpy.models.VectorEncoderFactory(list(config.hidden_units)),
    }


def _update(
    d3rlpy: ModuleType,
    algorithm: Any,
    learning: Trajectories,
    reward_scale: float,
    config: OfflineConfig,
    seed: int,
) -> dict[str, float]:
    """Runs the updates; returns each loss, averaged over the last tenth of them.

    Batches are gathered from contiguous arrays here, because ``algorithm.fit`` builds every
    transition as an object (and writes a log folder).
    """
    rows = np.flatnonzero(learning.is_decision)
    observations = learning.observations()
    now, following = observations[rows], observations[rows + 1]
    action = learning.action[rows, None].astype(np.float32)
    reward = (learning.reward[rows, None] / reward_scale).astype(np.float32)
    terminal = learning.terminated[rows, None].astype(np.float32)
    interval = np.ones((config.batch_size, 1), np.float32)
    rng = np.random.default_rng(seed)
    history: list[dict[str, float]] = []
    for _ in trange(config.n_steps, desc=type(algorithm).__name__, unit="update", disable=None):
        i = rng.integers(len(rows), size=config.batch_size)
        batch = d3rlpy.dataset.TransitionMiniBatch(
            observations=now[i],
            actions=action[i],
            rewards=reward[i],
            next_observations=following[i],
            next_actions=action[i],  # required, read by neither algorithm
            terminals=terminal[i],
            intervals=interval,
            transitions=(),
        )
        history.append(algorithm.update(batch))
    recent = history[-max(1, config.n_steps // 10) :]
    return {name: float(np.mean([loss[name] for loss in recent])) for name in recent[0]}


def _network(module: Any) -> Network:
    """The linear layers of a torch module in their order; torch keeps weights as [out, in]."""
    arrays = [tensor.detach().cpu().numpy() for tensor in module.state_dict().values()]
    pairs = zip(arrays[::2], arrays[1::2], strict=True)
    return Network(tuple((np.ascontiguousarray(w.T), b.copy()) for w, b in pairs))
