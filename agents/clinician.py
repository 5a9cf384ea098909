"""Behaviour cloning: what the clinicians of the training split would have given."""

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from tqdm import trange

from agents.network import Network
from agents.policy import StoredPolicy, TrainedPolicy, softmax, training_provenance
from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.errors import ConfigError
from sepsis_gym.patients import OBSERVATION_SIZE
from sepsis_gym.trajectories import Split, Trajectories


@dataclass(frozen=True)
class ClinicianConfig:
    """How the clinicians are imitated.

    Attributes:
        hidden_units: Width of the one hidden layer.
        learning_rate: Adam step size.
        l2: Weight penalty.
        batch_size: Decisions per update.
        max_epochs: Most passes over the training split.
        patience: Passes without a better validation likelihood before training stops.
        marginal_share: Share of the overall action frequencies mixed into every prediction, so
            that no action is ever impossible.
    """

    hidden_units: int = 64
    learning_rate: float = 1e-3
    l2: float = 1e-3
    batch_size: int = 64
    max_epochs: int = 100
    patience: int = 10
    marginal_share: float = 0.02

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for name in ("hidden_units", "learning_rate", "batch_size", "max_epochs", "patience"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")
        if self.l2 < 0 or not 0 < self.marginal_share < 1:
            raise ConfigError("l2 must be zero or more, marginal_share between 0 and 1")


class Imitation(StoredPolicy):
    """Base of the clinicians' imitations: some of the overall frequencies is in all they tell."""

    config: Any

    def _build(self) -> None:
        marginal = self.weights.get("marginal")
        if marginal is None or marginal.shape != (N_ACTIONS,):
            raise ConfigError(f"marginal must hold {N_ACTIONS} numbers")
        self._marginal = marginal

    def _never_impossible(self, told: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities [n, 25] with the share of the overall frequencies mixed in."""
        share = self.config.marginal_share
        mixed = (1 - share) * told + share * self._marginal
        return mixed / mixed.sum(axis=1, keepdims=True)


class ClinicianAgent(Imitation, TrainedPolicy):
    """The clinicians' own policy, as far as one state tells: a stochastic imitation of them."""

    config_type: ClassVar[type] = ClinicianConfig

    config: ClinicianConfig

    def _build(self) -> None:
        self._network = Network.from_weights(self.weights, "policy", (OBSERVATION_SIZE, N_ACTIONS))
        super()._build()

    @classmethod
    def train(cls, trajectories: Trajectories, config: ClinicianConfig, *, seed: int = 0) -> Self:
        """Fits the training split, and stops where the validation split is predicted best.

        Raises:
            UnknownNameError: The cohort lacks the train or the validation split.
        """
        observations, actions = decisions(trajectories, "train")
        marginal = action_frequencies(actions)
        network, loss = _fit(
            observations, actions, *decisions(trajectories, "validation"), config, seed
        )
        provenance = training_provenance(trajectories, seed) | {"validation_log_loss": loss}
        weights = {**network.to_weights("policy"), "marginal": marginal}
        return cls(config, weights, trajectories.preprocessing, provenance)

    def batch_probabilities(self, observations: NDArray[np.float32]) -> NDArray[np.float64]:
        """Action probabilities [n, 25] of observations [n, 107]."""
        return self._never_impossible(softmax(self._network(observations)))


def decisions(
    trajectories: Trajectories, split: Split
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Observations [n, 107] and actions [n] of a split's decisions."""
    part = trajectories.split(split)
    return part.observations()[part.is_decision], part.action[part.is_decision]


def action_frequencies(actions: NDArray[np.int64]) -> NDArray[np.float32]:
    """[25] how often each was given, none never."""
    counts = np.bincount(actions, minlength=N_ACTIONS)
    return ((counts + 1) / (len(actions) + N_ACTIONS)).astype(np.float32)


def _fit(
    observations: NDArray[np.float32],
    actions: NDArray[np.int64],
    held_out_observations: NDArray[np.float32],
    held_out_actions: NDArray[np.int64],
    config: ClinicianConfig,
    seed: int,
) -> tuple[Network, float]:
    """The network of the best epoch, and its log loss on the held-out decisions."""
    from sklearn.neural_network import MLPClassifier  # a second of import time

    model = MLPClassifier(
        (config.hidden_units,),
        alpha=config.l2,
        learning_rate_init=config.learning_rate,
        batch_size=min(config.batch_size, len(actions)),
        random_state=seed,
    )
    # scikit-learn's own early stopping would hold out decisions at random, of the same stays
    rng = np.random.default_rng(seed)
    history: list[tuple[float, Network]] = []
    for epoch in trange(config.max_epochs, desc="clinician", unit="epoch", disable=None):
        order = rng.permutation(len(actions))
        model.partial_fit(observations[order], actions[order], classes=np.arange(N_ACTIONS))
        pairs = zip(model.coefs_, model.intercepts_, strict=True)
        network = Network(
            tuple((weight.astype(np.float32), bias.astype(np.float32)) for weight, bias in pairs)
        )
        probability = softmax(network(held_out_observations))
        taken = probability[np.arange(len(held_out_actions)), held_out_actions]
        history.append((float(-np.log(taken + np.finfo(np.float64).tiny).mean()), network))
        losses = [loss for loss, _ in history]
        if epoch - int(np.argmin(losses)) >= config.patience:
            break
    loss, best = history[int(np.argmin(losses))]
    return best, loss
