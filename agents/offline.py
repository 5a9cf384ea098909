"""Offline reinforcement learning through d3rlpy: BC, DQN, double DQN, BCQ and CQL.

d3rlpy trains; what it has trained is taken out as arrays and evaluated in numpy, so a saved agent
needs neither d3rlpy nor torch. A further algorithm of d3rlpy is a config and a subclass of
:class:`D3rlpyAgent`; one of another kind, a subclass of :class:`~agents.learner.OfflineAgent`.
"""

import io
from dataclasses import dataclass
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from agents.learner import (
    Arrays,
    Learner,
    OfflineAgent,
    OfflineConfig,
    QLearningConfig,
    Transitions,
)
from agents.network import Network
from agents.training import import_gym_quietly
from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.errors import ConfigError


@dataclass(frozen=True)
class BcConfig(OfflineConfig):
    """Settings of DiscreteBC.

    Attributes:
        imitation_penalty: Times the mean squared logit.
    """

    imitation_penalty: float = 0.01

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        self._between("imitation_penalty", 0)


@dataclass(frozen=True)
class BcqConfig(QLearningConfig):
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
        self._between("imitation_penalty", 0)


@dataclass(frozen=True)
class CqlConfig(QLearningConfig):
    """Settings of DiscreteCQL.

    Attributes:
        alpha: Weight of the conservative penalty, against rewards scaled to at most 1.

    Source: Kumar et al. 2020.
    """

    alpha: float = 0.02

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        self._between("alpha", 0)


class D3rlpyAgent(OfflineAgent):
    """Base of the agents that d3rlpy trains."""

    _ALGORITHM: ClassVar[str]
    """d3rlpy's name of the algorithm's config."""
    _MODULES: ClassVar[dict[str, str]] = {"q": "q_funcs"}
    """Networks to keep, and what d3rlpy calls them."""

    @classmethod
    def _settings(cls, config: Any) -> dict[str, Any]:
        """What the algorithm takes besides what all take."""
        return {}

    @classmethod
    def learner(cls, config: Any, reward_scale: float) -> tuple[Learner, dict[str, str]]:
        """The algorithm, and d3rlpy's version."""
        d3rlpy = _import_d3rlpy()
        settings = cls._settings(config)
        for name in ("batch_size", "learning_rate"):
            settings[name] = getattr(config, name)
        if isinstance(config, QLearningConfig):
            for name in ("gamma", "target_update_interval"):
                settings[name] = getattr(config, name)
        encoder = d3rlpy.models.VectorEncoderFactory(list(config.hidden_units))
        made = getattr(d3rlpy.algos, cls._ALGORITHM)(encoder_factory=encoder, **settings)
        algorithm = made.create(device=config.device)
        algorithm.create_impl((cls.INPUTS,), N_ACTIONS)
        return _D3rlpyLearner(d3rlpy, algorithm, cls._MODULES), {"d3rlpy": d3rlpy.__version__}


class BcAgent(D3rlpyAgent):
    """Takes the action that clinicians would most likely take; ``clinician`` draws from them all.

    It is trained to the end: a score would choose the imitation that errs to advantage.
    """

    config_type: ClassVar[type] = BcConfig
    _ALGORITHM = "DiscreteBCConfig"
    _NETWORKS = ("imitator",)
    _MODULES: ClassVar[dict[str, str]] = {"imitator": "imitator"}
    _SCORED = False

    @classmethod
    def _settings(cls, config: BcConfig) -> dict[str, Any]:
        return {"beta": config.imitation_penalty}


class DqnAgent(D3rlpyAgent):
    """Takes the action of highest value, however rarely it was logged: the negative control."""

    config_type: ClassVar[type] = QLearningConfig
    _ALGORITHM = "DQNConfig"


class DoubleDqnAgent(DqnAgent):
    """The same with double Q-learning."""

    _ALGORITHM = "DoubleDQNConfig"


class BcqAgent(D3rlpyAgent):
    """Takes the action of highest value among those that clinicians would consider."""

    config_type: ClassVar[type] = BcqConfig
    _ALGORITHM = "DiscreteBCQConfig"
    _NETWORKS = ("q", "imitator")
    _MODULES: ClassVar[dict[str, str]] = {"q": "q_funcs", "imitator": "imitator"}

    @classmethod
    def _settings(cls, config: BcqConfig) -> dict[str, Any]:
        return {
            "action_flexibility": config.action_flexibility,
            "beta": config.imitation_penalty,
            "share_encoder": False,  # sharing is meant for pixels
        }

    def _rated(self, observations: NDArray[np.float32]) -> NDArray[np.floating]:
        logits = self._networks["imitator"](observations)
        likelier = np.log(self.config.action_flexibility) + logits.max(axis=1, keepdims=True)
        return np.where(logits > likelier, self._networks["q"](observations), -np.inf)


class CqlAgent(D3rlpyAgent):
    """Takes the action of highest conservative value."""

    config_type: ClassVar[type] = CqlConfig
    _ALGORITHM = "DiscreteCQLConfig"

    @classmethod
    def _settings(cls, config: CqlConfig) -> dict[str, Any]:
        return {"alpha": config.alpha}


@dataclass
class _D3rlpyLearner:
    """d3rlpy's algorithm as a :class:`Learner`."""

    d3rlpy: ModuleType
    algorithm: Any
    modules: dict[str, str]

    def update(self, batch: Transitions) -> dict[str, float]:
        made = self.d3rlpy.dataset.TransitionMiniBatch(
            observations=batch.observation,
            actions=batch.action,
            rewards=batch.reward,
            next_observations=batch.following,
            next_actions=batch.next_action,
            terminals=batch.terminal,
            intervals=np.ones_like(batch.reward),
            transitions=(),
        )
        losses: dict[str, float] = self.algorithm.update(made)
        return losses

    def weights(self) -> Arrays:
        modules = self.algorithm.impl.modules
        arrays: Arrays = {}
        for name, module in self.modules.items():
            arrays |= Network.from_torch(getattr(modules, module)).to_weights(name)
        return arrays

    def state(self) -> dict[str, Any]:
        file = io.BytesIO()
        self.algorithm.impl.save_model(file)
        return {"model": file.getvalue(), "grad_step": self.algorithm.grad_step}

    def go_on_from(self, state: dict[str, Any]) -> None:
        self.algorithm.impl.load_model(io.BytesIO(state["model"]))
        self.algorithm.set_grad_step(state["grad_step"])


def _import_d3rlpy() -> ModuleType:
    """Imports d3rlpy without its side effects.

    Where there is a GPU it lowers torch's matrix precision and compiles autograd for the whole
    process.
    """
    try:
        import torch

        gpu = torch.cuda.is_available()
        precision = torch.get_float32_matmul_precision()
        compiled = torch._dynamo.config.compiled_autograd if gpu else False
        import_gym_quietly()
        import d3rlpy
    except ImportError as error:
        raise ImportError(
            f'd3rlpy is missing ({error}): pip install "sepsis-gym[offline]"'
        ) from error
    if gpu:
        torch.set_float32_matmul_precision(precision)
        torch._dynamo.config.compiled_autograd = compiled
    return d3rlpy
