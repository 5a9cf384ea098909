"""The published architecture of a sepsis world model, trained on our trajectories to compare with.

A 2-layer GRU of 128 units looks at a zero-padded window of the last 6 steps, anew at each step, and
says mean and variance of the next values and the chance of ventilation; a second one with a window
of 12 says the chance of death. Its inputs are those of our world model, so that the architecture
is what differs. It is a yardstick: it opens no environment and is not saved.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from sepsis_gym.features import N_FEATURES
from sepsis_gym.patients import Patients
from sepsis_gym.preprocessing import Preprocessing
from sepsis_gym.trajectories import Trajectories
from world_models.forecast import Floats
from world_models.inputs import (
    N_PLAIN_INPUTS,
    VENTILATED_INPUT,
    Z_INPUTS,
    dose_inputs,
    state_inputs,
)

try:
    import torch
    from torch import Tensor, nn
    from torch.nn.functional import binary_cross_entropy_with_logits, gaussian_nll_loss, softplus

    from world_models.network import LEAST_SCALE
    from world_models.sequences import Sequences
except ImportError as error:
    raise ImportError('torch is missing: pip install "sepsis-gym[torch]"') from error

STATE_WINDOW, OUTCOME_WINDOW = 6, 12
_HIDDEN, _LAYERS = 128, 2
_PATIENCE, _BATCH, _LEARNING_RATE = 4, 256, 1e-3
_BLOCK = 4096  # windows at a time


class WindowNetwork(nn.Module):
    """A GRU over a window and a linear head on its last output."""

    def __init__(self, outputs: int) -> None:
        """Draws the weights.

        Args:
            outputs: Width of the head.
        """
        super().__init__()
        self.gru = nn.GRU(N_PLAIN_INPUTS, _HIDDEN, _LAYERS, batch_first=True)
        self.head = nn.Linear(_HIDDEN, outputs)

    def forward(self, windows: Tensor) -> Tensor:
        """[B, W, 130] to [B, outputs]."""
        hidden, _ = self.gru(windows)
        return self.head(hidden[:, -1])


class PublishedModel:
    """A ``Forecaster``; its memory is [n, 11, 130], the inputs of the steps before."""

    runs_on_memory = False

    def __init__(
        self, preprocessing: Preprocessing, states: WindowNetwork, outcome: WindowNetwork
    ) -> None:
        """Wraps trained networks.

        Args:
            preprocessing: Scales of the training cohort.
            states: Says means, scales and ventilation.
            outcome: Says 90-day mortality.
        """
        self.preprocessing = preprocessing
        self.states, self.outcome = states, outcome

    def predict(
        self, patients: Patients, fluid_ml: Floats, norepinephrine_equivalent: Floats
    ) -> dict[str, Any]:
        """Values, their spread, ventilation and 90-day mortality."""
        windows = self._windows(patients, fluid_ml, norepinephrine_equivalent)
        outputs = _run(self.states, windows[:, -STATE_WINDOW:])
        mean, scale, ventilated = _split(outputs)
        return {
            "mean": mean.numpy(),
            "scale": scale.numpy(),
            "ventilated": torch.sigmoid(ventilated).numpy(),
            "mortality_90d": torch.sigmoid(_run(self.outcome, windows)[:, 0]).numpy(),
        }

    def follow(self, patients: Patients, following: Patients) -> Patients:
        """Moves the window on."""
        doses = following.previous_fluid_ml, following.previous_norepinephrine_equivalent
        return replace(following, memory=self._windows(patients, *doses)[:, 1:])

    def _windows(self, patients: Patients, fluid_ml: Floats, dose: Floats) -> NDArray[np.float32]:
        """[n, 12, 130] the last inputs, zeros before the first."""
        state = state_inputs(patients, self.preprocessing)
        now = np.concatenate([state, dose_inputs(fluid_ml, dose, self.preprocessing)], axis=1)
        before = patients.memory
        if before.size == 0:
            before = np.zeros((len(patients), OUTCOME_WINDOW - 1, N_PLAIN_INPUTS), np.float32)
        return np.concatenate([before, now[:, None]], axis=1)


def train_published(
    trajectories: Trajectories, *, seed: int = 0, epochs: int = 40
) -> PublishedModel:
    """Trains both networks on the training split; each stops by its own validation loss.

    Args:
        trajectories: A whole cohort.
        seed: Of the weights and the order of the windows.
        epochs: Most passes over the training split.
    """
    train = _Windows.of(trajectories.split("train"))
    validation = _Windows.of(trajectories.split("validation"))
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        states, outcome = WindowNetwork(2 * N_FEATURES + 1), WindowNetwork(1)
    for network, window, loss, name in (
        (states, STATE_WINDOW, _state_loss, "published, states"),
        (outcome, OUTCOME_WINDOW, _outcome_loss, "published, outcome"),
    ):
        with tqdm(total=epochs, desc=name, disable=None) as bar:
            _fit(network, window, loss, train, validation, seed, bar)
    return PublishedModel(trajectories.preprocessing, states, outcome)


class _Windows:
    """The decisions of some stays, each with what led to it and what came."""

    def __init__(self, inputs: Tensor, index: Tensor, following: Tensor, died: Tensor) -> None:
        """Holds [N, 11 + T, 130] padded inputs, [D, 2] stay and step, what came of each."""
        self.inputs, self.index, self.following, self.died = inputs, index, following, died

    @classmethod
    def of(cls, log: Trajectories) -> "_Windows":
        """Lays out all stays."""
        stays = Sequences.of(log, "cpu")
        inputs = torch.cat([stays.states[:, :-1], stays.doses], -1)
        padded = nn.functional.pad(inputs, (0, 0, OUTCOME_WINDOW - 1, 0))
        index = stays.mask.nonzero()
        following = stays.states[:, 1:][stays.mask]
        return cls(padded, index, following, stays.died_90d[index[:, 0]])

    def __len__(self) -> int:
        """Number of decisions."""
        return len(self.index)

    def take(self, rows: Tensor, window: int) -> tuple[Tensor, Tensor, Tensor]:
        """[B, window, 130] inputs, [B, 126] next states, [B] deaths."""
        stay, step = self.index[rows].unbind(1)
        steps = step[:, None] + torch.arange(OUTCOME_WINDOW - window, OUTCOME_WINDOW)
        return self.inputs[stay[:, None], steps], self.following[rows], self.died[rows]


_Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def _fit(
    network: WindowNetwork,
    window: int,
    loss: _Loss,
    train: _Windows,
    validation: _Windows,
    seed: int,
    bar: Any,
) -> None:
    """Trains in place and ends with the weights of the best validation loss."""
    optimizer = torch.optim.Adam(network.parameters(), lr=_LEARNING_RATE)
    generator = torch.Generator().manual_seed(seed)
    best, best_loss, waited = network.state_dict(), float("inf"), 0
    for _ in range(bar.total):
        for rows in torch.randperm(len(train), generator=generator).split(_BATCH):  # type: ignore[no-untyped-call]
            windows, *came = train.take(rows, window)
            optimizer.zero_grad()
            loss(network(windows), *came).backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
        now = _validation_loss(network, window, loss, validation)
        bar.update()
        waited += 1
        if now < best_loss:
            best_loss, waited = now, 0
            best = {key: tensor.clone() for key, tensor in network.state_dict().items()}
        if waited > _PATIENCE:
            break
    network.load_state_dict(best)


@torch.no_grad()
def _validation_loss(
    network: WindowNetwork, window: int, loss: _Loss, validation: _Windows
) -> float:
    total = 0.0
    for rows in torch.arange(len(validation)).split(_BLOCK):  # type: ignore[no-untyped-call]
        windows, *came = validation.take(rows, window)
        total += float(loss(network(windows), *came)) * len(rows)
    return total / len(validation)


@torch.no_grad()
def _run(network: WindowNetwork, windows: NDArray[np.float32]) -> Tensor:
    parts = torch.from_numpy(windows).split(_BLOCK)  # type: ignore[no-untyped-call]
    return torch.cat([network(part) for part in parts])


def _split(outputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Means [B, 39] and scales [B, 39] of the next values, log odds [B] of ventilation."""
    n = N_FEATURES
    return outputs[:, :n], softplus(outputs[:, n : 2 * n]) + LEAST_SCALE, outputs[:, 2 * n]


def _state_loss(outputs: Tensor, following: Tensor, died: Tensor) -> Tensor:
    """Likelihood of the measured values and of ventilation."""
    mean, scale, ventilated = _split(outputs)
    measured = following[:, N_FEATURES : 2 * N_FEATURES]
    values = gaussian_nll_loss(mean, following[:, Z_INPUTS], scale**2, reduction="none")
    tube = binary_cross_entropy_with_logits(ventilated, following[:, VENTILATED_INPUT])
    return (values * measured).sum(1).mean() + tube


def _outcome_loss(outputs: Tensor, following: Tensor, died: Tensor) -> Tensor:
    return binary_cross_entropy_with_logits(outputs[:, 0], died)
