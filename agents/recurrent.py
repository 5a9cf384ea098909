"""Policies with a memory of the stay, and the clinicians' imitation that has one."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from tqdm import trange

from agents.clinician import Imitation, action_frequencies
from agents.network import Lstm, Network
from agents.policy import StoredPolicy, softmax, training_provenance
from agents.training import torch_settings
from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.agent import Info
from sepsis_gym.errors import ConfigError
from sepsis_gym.patients import OBSERVATION_SIZE
from sepsis_gym.trajectories import Split, Trajectories

_NOT_A_DECISION = -100
_LARGEST_Z = 5.0


class RecurrentPolicy(StoredPolicy):
    """Base of the agents with one recurrent layer, which are asked step by step, not in batches.

    They read ``info["step"]``: asked twice in one step, they remember the step once.
    """

    _lstm: Lstm

    def reset(self) -> None:
        """Forgets the last stay."""
        self._step: int | None = None
        self._memory = self._before = self._lstm.empty(1)

    def action_probabilities(
        self, observation: NDArray[np.float32], info: Info
    ) -> NDArray[np.float64]:
        """Probability of each of the 25 actions, [25]."""
        if info["step"] != self._step:
            self._step, self._before = info["step"], self._memory
        seen = self._seen(observation[None])
        self._memory = self._lstm(seen, self._before)
        return self._probabilities(seen, self._memory[0])[0]

    def _seen(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """What the layer reads of observations [n, 107]."""
        return observations

    @abstractmethod
    def _probabilities(
        self, seen: NDArray[np.float32], hidden: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """Action probabilities [n, 25] of what was seen and what is remembered."""


@dataclass(frozen=True)
class RecurrentClinicianConfig:
    """How the clinicians are imitated by one who remembers the stay.

    Attributes:
        lstm_units: Width of the recurrent layer.
        learning_rate: Adam step size at its highest.
        weight_decay: Of AdamW.
        dropout: Share of the remembered that is left out while learning.
        batch_size: Stays per update.
        epochs: Passes over the training split; the one that predicts the validation split best is
            kept.
        marginal_share: Share of the overall action frequencies mixed into every prediction, so
            that no action is ever impossible.
    """

    lstm_units: int = 64
    learning_rate: float = 5e-3
    weight_decay: float = 0.01
    dropout: float = 0.2
    batch_size: int = 64
    epochs: int = 20
    marginal_share: float = 0.02

    def __post_init__(self) -> None:
        """Checks the ranges."""
        for name in ("lstm_units", "learning_rate", "batch_size", "epochs"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")
        if self.weight_decay < 0 or not 0 <= self.dropout < 1 or not 0 < self.marginal_share < 1:
            raise ConfigError(
                "weight_decay must be 0 or more, dropout 0 to below 1, marginal_share between them"
            )


class RecurrentClinicianAgent(Imitation, RecurrentPolicy):
    """The clinicians' own policy, as far as the stay so far tells: it can learn their habits."""

    config: RecurrentClinicianConfig
    config_type: ClassVar[type] = RecurrentClinicianConfig

    def _build(self) -> None:
        units = self.config.lstm_units
        self._lstm = Lstm.from_weights(self.weights, "lstm", (OBSERVATION_SIZE, units))
        shape = (units + OBSERVATION_SIZE, N_ACTIONS)
        self._network = Network.from_weights(self.weights, "policy", shape)
        super()._build()
        self.reset()

    def _seen(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        return observations.clip(-_LARGEST_Z, _LARGEST_Z)

    def _probabilities(
        self, seen: NDArray[np.float32], hidden: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        told = softmax(self._network(np.concatenate([hidden, seen], axis=1)))
        return self._never_impossible(told)

    @classmethod
    def train(
        cls, trajectories: Trajectories, config: RecurrentClinicianConfig, *, seed: int = 0
    ) -> Self:
        """Fits the training split, and keeps the pass that predicts the validation split best.

        Raises:
            ImportError: torch is not installed.
            UnknownNameError: The cohort lacks the train or the validation split.
        """
        try:
            import torch  # noqa: F401
        except ImportError as error:
            raise ImportError('torch is missing: pip install "sepsis-gym[torch]"') from error
        learned, held_out = (_stays(trajectories, split) for split in ("train", "validation"))
        marginal = action_frequencies(learned[1][learned[1] >= 0])
        with torch_settings(1, seed):
            weights, loss = _fit(learned, held_out, config)
        provenance = training_provenance(trajectories, seed) | {"validation_log_loss": loss}
        weights["marginal"] = marginal
        return cls(config, weights, trajectories.preprocessing, provenance)


_Stays = tuple[NDArray[np.float32], NDArray[np.int64]]
"""[stays, steps, 107] what is seen, [stays, steps] what was given."""


def _stays(trajectories: Trajectories, split: Split) -> _Stays:
    part = trajectories.split(split)
    rows = np.flatnonzero(part.is_decision)
    stay = part.stay_of_row[rows]
    step = rows - part.offsets[stay]
    shape = (len(part), int(part.n_decisions.max()))
    seen = np.zeros((*shape, OBSERVATION_SIZE), np.float32)
    seen[stay, step] = part.observations()[rows].clip(-_LARGEST_Z, _LARGEST_Z)
    given = np.full(shape, _NOT_A_DECISION)
    given[stay, step] = part.action[rows]
    return seen, given


def _fit(
    learned: _Stays, held_out: _Stays, config: RecurrentClinicianConfig
) -> tuple[dict[str, NDArray[np.float32]], float]:
    """The weights of the best pass, and its log loss on the held-out decisions."""
    import torch
    from torch.nn import functional

    (seen, given), (other, expected) = (
        tuple(torch.from_numpy(array) for array in stays) for stays in (learned, held_out)
    )
    lstm = torch.nn.LSTM(OBSERVATION_SIZE, config.lstm_units, batch_first=True)
    head = torch.nn.Linear(config.lstm_units + OBSERVATION_SIZE, N_ACTIONS)

    def loss(seen: Any, given: Any, dropout: float) -> Any:
        remembered = functional.dropout(lstm(seen)[0], dropout)
        logits = head(torch.cat([remembered, seen], dim=-1))
        return functional.cross_entropy(
            logits.flatten(0, 1), given.flatten(), ignore_index=_NOT_A_DECISION
        )

    parameters = [*lstm.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, weight_decay=config.weight_decay)
    updates = config.epochs * -(-len(seen) // config.batch_size)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, total_steps=updates)
    best, kept = np.inf, dict[str, NDArray[np.float32]]()
    for _ in trange(config.epochs, desc="clinician", unit="epoch", disable=None):
        for batch in torch.split(torch.randperm(len(seen)), config.batch_size):
            optimizer.zero_grad()
            torch.autograd.backward(loss(seen[batch], given[batch], config.dropout))
            optimizer.step()
            rate.step()
        with torch.no_grad():
            reached = loss(other, expected, 0.0).item()
        if not np.isfinite(reached):
            raise ConfigError("training diverged: lower learning_rate")
        if reached < best:
            best = reached
            kept = {
                **Lstm.from_torch(lstm).to_weights("lstm"),
                **Network.from_torch(head).to_weights("policy"),
            }
    return kept, best
