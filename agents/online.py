"""Online reinforcement learning through Stable-Baselines3, in a world model of the cohort.

What was trained is taken out as arrays and evaluated in numpy: a saved agent needs no torch. A
further algorithm is a config and a class of a few lines.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from agents.network import Lstm, Network
from agents.policy import (
    WORLD_MODEL,
    StoredPolicy,
    TrainedPolicy,
    differing,
    one_hot,
    softmax,
    training_provenance,
)
from agents.recurrent import RecurrentPolicy
from agents.sb3 import OUTCOME, global_streams, learn
from agents.training import (
    Run,
    TrainingConfig,
    fingerprint,
    import_gym_quietly,
    torch_settings,
)
from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.envs.support import SupportConfig
from sepsis_gym.errors import ConfigError
from sepsis_gym.patients import OBSERVATION_SIZE
from sepsis_gym.preprocessing import Preprocessing
from sepsis_gym.trajectories import Trajectories

_SHAPE = (OBSERVATION_SIZE, N_ACTIONS)
TRUTH = "truth"
"""In place of a world model: the mechanistic patient of ``SepsisPhysio-v0``."""


@dataclass(frozen=True)
class OnlineConfig(TrainingConfig):
    """What all algorithms need; a step is a decision about one patient.

    At every look all patients are replaced by new ones, from a random stream of its own, so that a
    training that goes on needs neither patients nor streams.

    Attributes:
        world_model: A shipped world model's name, a checkpoint folder, or ``truth``, which only
            simulated patients have: what could be reached with a perfect model.
        penalty: Taken from the reward per unit of the model's doubt.
        num_envs: Patients treated at once.
    """

    n_steps: int = 450_000
    batch_size: int = 2048
    learning_rate: float = 5e-4
    gamma: float = 1.0
    check_interval: int = 65_536
    world_model: str = "default"
    penalty: float = 0.0
    num_envs: int = 256

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        self._positive("num_envs")
        self._between("penalty", 0)


@dataclass(frozen=True)
class PpoConfig(OnlineConfig):
    """Settings of PPO.

    Attributes:
        rollout_steps: Steps of each patient between two rounds of updates.
        n_epochs: Passes over them.
        entropy: Weight of the entropy bonus.
        greedy: Whether the trained agent takes its likeliest action, or draws as it did to explore.

    Source: Schulman et al. 2017, "Proximal policy optimization algorithms".
    """

    n_steps: int = 2_400_000
    rollout_steps: int = 32
    n_epochs: int = 4
    entropy: float = 0.003
    greedy: bool = True

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        self._positive("rollout_steps", "n_epochs")
        self._between("entropy", 0)
        once = self.num_envs * self.rollout_steps
        if self.n_steps <= once:
            raise ConfigError(
                f"n_steps {self.n_steps} is one round of num_envs * rollout_steps ({once}), after "
                "which the step size is 0: nothing would be learned"
            )


@dataclass(frozen=True)
class RecurrentPpoConfig(PpoConfig):
    """Settings of PPO with a memory.

    Attributes:
        lstm_units: Width of the recurrent layer.
    """

    n_steps: int = 450_000
    lstm_units: int = 128

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        self._positive("lstm_units")


@dataclass(frozen=True)
class OnlineDqnConfig(OnlineConfig):
    """Settings of DQN and QR-DQN.

    Attributes:
        updates: Gradient updates after each step of all patients.
        buffer_size: Transitions remembered.
        learning_starts: Random decisions before the first update.
        target_update_interval: Decisions between copies to the target network.
        exploration_share: Share of the training over which random decisions are phased out.
        final_exploration: Share of random decisions that stays.

    Source: Mnih et al. 2015; Dabney et al. 2018 (QR-DQN).
    """

    batch_size: int = 512
    updates: int = 4
    buffer_size: int = 200_000
    learning_starts: int = 10_000
    target_update_interval: int = 10_000
    exploration_share: float = 0.3
    final_exploration: float = 0.02

    def __post_init__(self) -> None:
        """Checks the ranges."""
        super().__post_init__()
        self._positive("updates", "buffer_size", "target_update_interval", "exploration_share")
        self._between("learning_starts", 0)
        self._between("final_exploration", 0, 1)


class OnlineAgent(StoredPolicy):
    """Base of the agents that learn by treating simulated patients."""

    config: Any

    @classmethod
    def train(
        cls, trajectories: Trajectories, config: Any, *, seed: int = 0, run: Run | None = None
    ) -> Self:
        """Learns in the world model; of the cohort it needs clock, scales and dose levels only.

        Raises:
            ImportError: Stable-Baselines3 is not installed.
            ConfigError: The world model was made for other data, or training diverged.
        """
        env = opened(config, trajectories.preprocessing)
        provenance = training_provenance(trajectories, seed) | _versions()
        provenance[WORLD_MODEL] = getattr(env.env.unwrapped.model, "digest", None)
        with torch_settings(config.threads, seed), global_streams():
            algorithm = cls._algorithm(config, env)
            curve = learn(algorithm, config, seed, run or Run(), fingerprint(config, provenance))
            weights = cls._weights(algorithm.policy)
        return cls(config, weights, trajectories.preprocessing, provenance | curve)

    @classmethod
    @abstractmethod
    def _algorithm(cls, config: Any, env: Any) -> Any:
        """The algorithm of Stable-Baselines3."""

    @classmethod
    @abstractmethod
    def _weights(cls, policy: Any) -> dict[str, NDArray[np.float32]]:
        """What acting needs of its policy."""


class PpoAgent(OnlineAgent, TrainedPolicy):
    """The policy that proximal policy optimisation found."""

    config_type: ClassVar[type] = PpoConfig

    def _build(self) -> None:
        self._network = Network.from_weights(self.weights, "policy", _SHAPE)

    @classmethod
    def _algorithm(cls, config: PpoConfig, env: Any) -> Any:
        from stable_baselines3 import PPO

        return _annealed(PPO("MlpPolicy", env, **_ppo_settings(config)), config)

    @classmethod
    def _weights(cls, policy: Any) -> dict[str, NDArray[np.float32]]:
        return _actor(policy).to_weights("policy")

    def batch_probabilities(self, observations: NDArray[np.float32]) -> NDArray[np.float64]:
        """Action probabilities [n, 25] of observations [n, 107]."""
        return _probabilities(self._network(observations), self.config)


class RecurrentPpoAgent(OnlineAgent, RecurrentPolicy):
    """The same with a memory of the stay."""

    config: RecurrentPpoConfig
    config_type: ClassVar[type] = RecurrentPpoConfig

    def _build(self) -> None:
        units = self.config.lstm_units
        self._lstm = Lstm.from_weights(self.weights, "lstm", (OBSERVATION_SIZE, units))
        self._network = Network.from_weights(self.weights, "policy", (units, N_ACTIONS))
        self.reset()

    @classmethod
    def _algorithm(cls, config: RecurrentPpoConfig, env: Any) -> Any:
        from sb3_contrib import RecurrentPPO

        settings = _ppo_settings(config)
        settings["policy_kwargs"] |= {"lstm_hidden_size": config.lstm_units}
        return _annealed(RecurrentPPO("MlpLstmPolicy", env, **settings), config)

    @classmethod
    def _weights(cls, policy: Any) -> dict[str, NDArray[np.float32]]:
        return {**Lstm.from_torch(policy.lstm_actor).to_weights("lstm"),
                **_actor(policy).to_weights("policy")}  # fmt: skip

    def _probabilities(
        self, seen: NDArray[np.float32], hidden: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        return _probabilities(self._network(hidden), self.config)


class OnlineDqnAgent(OnlineAgent, TrainedPolicy):
    """Takes the action of highest value in the world model."""

    config_type: ClassVar[type] = OnlineDqnConfig

    def _build(self) -> None:
        self._network = Network.from_weights(self.weights, "q", _SHAPE)

    @classmethod
    def _algorithm(cls, config: OnlineDqnConfig, env: Any) -> Any:
        from stable_baselines3 import DQN

        return _exploring(DQN("MlpPolicy", env, **_dqn_settings(config)), config)

    @classmethod
    def _weights(cls, policy: Any) -> dict[str, NDArray[np.float32]]:
        return Network.from_torch(policy.q_net.q_net).to_weights("q")

    def batch_probabilities(self, observations: NDArray[np.float32]) -> NDArray[np.float64]:
        """One-hot action probabilities [n, 25] of observations [n, 107]."""
        return one_hot(self._network(observations).argmax(axis=1))


class QrDqnAgent(OnlineDqnAgent):
    """The same, with the quantiles of the return learnt in place of its mean."""

    @classmethod
    def _algorithm(cls, config: OnlineDqnConfig, env: Any) -> Any:
        from sb3_contrib import QRDQN

        settings = _dqn_settings(config)
        settings["policy_kwargs"] |= {"n_quantiles": 50}
        return _exploring(QRDQN("MlpPolicy", env, **settings), config)

    @classmethod
    def _weights(cls, policy: Any) -> dict[str, NDArray[np.float32]]:
        *layers, (weight, bias) = Network.from_torch(policy.quantile_net.quantile_net).layers
        # the mean over quantiles is linear: it goes into the last layer
        mean = (
            weight.reshape(len(weight), -1, N_ACTIONS).mean(1),
            bias.reshape(-1, N_ACTIONS).mean(0),
        )
        return Network((*layers, mean)).to_weights("q")


def opened(config: OnlineConfig, preprocessing: Preprocessing) -> Any:
    """The patients to learn on, rewards divided by what an outcome pays."""
    import_gym_quietly()
    from sepsis_gym.envs.sb3 import SB3VecEnv

    settings: dict[str, Any] = {"autoreset_mode": "SameStep"}
    if config.world_model == TRUTH:
        settings |= {"preprocessing": preprocessing}
        env = gym.make_vec("SepsisPhysio-v0", num_envs=config.num_envs, **settings)
    else:
        settings |= {"model": config.world_model, "support": SupportConfig(penalty=config.penalty)}
        env = gym.make_vec("SepsisWM-v0", num_envs=config.num_envs, **settings)
    names = differing(env.unwrapped.preprocessing, preprocessing)
    if names:
        raise ConfigError(
            f"world model {config.world_model!r} was made for other data than this cohort: "
            f"{', '.join(names)} differ; train one on the cohort (sepsis-gym world-model train) "
            "and name its folder as world_model"
        )
    return SB3VecEnv(gym.wrappers.vector.TransformReward(env, lambda reward: reward / OUTCOME))


def _ppo_settings(config: PpoConfig) -> dict[str, Any]:
    return _shared_settings(config) | {
        "n_steps": config.rollout_steps,
        "n_epochs": config.n_epochs,
        "ent_coef": config.entropy,
    }


def _dqn_settings(config: OnlineDqnConfig) -> dict[str, Any]:
    return _shared_settings(config) | {
        "train_freq": 1,
        "gradient_steps": config.updates,
        "buffer_size": config.buffer_size,
        "learning_starts": config.learning_starts,
        "target_update_interval": config.target_update_interval,
    }


def _annealed(algorithm: Any, config: PpoConfig) -> Any:
    """Lets the step size fall to 0 over the whole training; SB3 would over each stretch."""

    def rate(_: float) -> float:
        return config.learning_rate * max(0.0, 1 - algorithm.num_timesteps / config.n_steps)

    algorithm.lr_schedule = rate
    return algorithm


def _exploring(algorithm: Any, config: OnlineDqnConfig) -> Any:
    """Phases random decisions out over the whole training; SB3 would over each stretch."""
    over = config.exploration_share * config.n_steps

    def share(_: float) -> float:
        left = max(0.0, 1 - algorithm.num_timesteps / over)
        return config.final_exploration + left * (1 - config.final_exploration)

    algorithm.exploration_schedule = share
    return algorithm


def _shared_settings(config: OnlineConfig) -> dict[str, Any]:
    import torch

    return {
        "batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
        "gamma": config.gamma,
        "policy_kwargs": {
            "net_arch": list(config.hidden_units),
            "activation_fn": torch.nn.ReLU,
        },
        "stats_window_size": 1000,
        "device": "cpu",
    }


def _probabilities(logits: NDArray[np.floating], config: PpoConfig) -> NDArray[np.float64]:
    return one_hot(logits.argmax(axis=1)) if config.greedy else softmax(logits)


def _actor(policy: Any) -> Network:
    return Network.from_torch(policy.mlp_extractor.policy_net, policy.action_net)


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    try:
        return {name: version(name) for name in ("stable-baselines3", "sb3-contrib", "torch")}
    except ImportError as error:
        raise ImportError(f'{error.name} is missing: pip install "sepsis-gym[online]"') from error
