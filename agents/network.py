"""Small ReLU networks evaluated in numpy, so that a trained agent runs without its trainer."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from sepsis_gym.errors import ConfigError

Weights = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Network:
    """Linear layers with ReLU between them.

    Attributes:
        layers: (weight [in, out], bias [out]) of each layer, first to last.
    """

    layers: tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]

    def __post_init__(self) -> None:
        """Rejects layers that do not fit together, and weights that training blew up."""
        if not self.layers:
            raise ConfigError("a network needs one layer or more")
        for index, (weight, bias) in enumerate(self.layers):
            if weight.ndim != 2 or bias.shape != weight.shape[1:]:
                raise ConfigError(f"layer {index}: weight {weight.shape}, bias {bias.shape}")
            if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
                raise ConfigError(
                    f"layer {index} holds a number that is not finite: training diverged "
                    "(lower learning_rate) or the weights are damaged"
                )
        for index, (before, after) in enumerate(pairwise(self.layers)):
            if before[0].shape[1] != after[0].shape[0]:
                raise ConfigError(f"layers {index} and {index + 1} do not fit together")

    def __call__(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Outputs [n, out] of the last layer for inputs [n, in]."""
        hidden = inputs
        for weight, bias in self.layers[:-1]:
            hidden = np.maximum(hidden @ weight + bias, 0)
        weight, bias = self.layers[-1]
        return hidden @ weight + bias

    @property
    def shape(self) -> tuple[int, int]:
        """Numbers of inputs and outputs."""
        return self.layers[0][0].shape[0], self.layers[-1][0].shape[1]

    def to_weights(self, name: str) -> dict[str, NDArray[np.float32]]:
        """The layers as named arrays, ``<name>.<layer>.weight`` and ``.bias``."""
        arrays = {}
        for index, (weight, bias) in enumerate(self.layers):
            arrays[f"{name}.{index}.weight"] = weight
            arrays[f"{name}.{index}.bias"] = bias
        return arrays

    @classmethod
    def from_torch(cls, *modules: Any) -> Self:
        """The linear layers of torch modules in their order; torch keeps weights as [out, in]."""
        state = [tensor for module in modules for tensor in module.state_dict().values()]
        arrays = [tensor.detach().cpu().numpy() for tensor in state]
        pairs = zip(arrays[::2], arrays[1::2], strict=True)
        return cls(tuple((np.ascontiguousarray(w.T), b.copy()) for w, b in pairs))

    @classmethod
    def from_weights(cls, weights: Weights, name: str, shape: tuple[int, int]) -> Self:
        """Inverse of :meth:`to_weights`.

        Args:
            weights: Named arrays, which may hold other networks too.
            name: Which network to take.
            shape: Numbers of inputs and outputs it must have.

        Raises:
            ConfigError: There is no such network, or its shape is another.
        """
        layers: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []
        while (key := f"{name}.{len(layers)}") + ".weight" in weights:
            if f"{key}.bias" not in weights:
                raise ConfigError(f"{key}.bias is missing")
            layers.append((weights[f"{key}.weight"], weights[f"{key}.bias"]))
        if not layers:
            raise ConfigError(f"{name}.0.weight is missing")
        network = cls(tuple(layers))
        if network.shape != shape:
            raise ConfigError(f"{name} maps {network.shape}, expected {shape}")
        return network


Memory = tuple[NDArray[np.float32], NDArray[np.float32]]


@dataclass(frozen=True)
class Lstm:
    """One recurrent layer, as torch's.

    Attributes:
        inward: [in, 4 h] weights of the input, for the gates i, f, g, o.
        across: [h, 4 h] weights of the hidden state.
        bias: [4 h].
    """

    inward: NDArray[np.float32]
    across: NDArray[np.float32]
    bias: NDArray[np.float32]

    def empty(self, n: int) -> Memory:
        """Hidden and cell state [n, h] of n episodes that begin."""
        zeros = np.zeros((n, len(self.across)), np.float32)
        return zeros, zeros

    def __call__(self, inputs: NDArray[np.float32], memory: Memory) -> Memory:
        """Hidden and cell state after inputs [n, in]; the hidden state is the output."""
        hidden, cell = memory
        gates = inputs @ self.inward + hidden @ self.across + self.bias
        i, f, g, o = np.split(gates, 4, axis=1)
        cell = expit(f) * cell + expit(i) * np.tanh(g)
        return expit(o) * np.tanh(cell), cell

    def to_weights(self, name: str) -> dict[str, NDArray[np.float32]]:
        """The layer as named arrays."""
        return {f"{name}.{part}": array for part, array in vars(self).items()}

    @classmethod
    def from_torch(cls, module: Any) -> Self:
        """The layer of a torch ``LSTM`` of one layer."""
        parts = (
            module.weight_ih_l0.T,
            module.weight_hh_l0.T,
            module.bias_ih_l0 + module.bias_hh_l0,
        )
        arrays = (part.detach().cpu().numpy() for part in parts)
        return cls(*(np.ascontiguousarray(array) for array in arrays))

    @classmethod
    def from_weights(cls, weights: Weights, name: str, shape: tuple[int, int]) -> Self:
        """Inverse of :meth:`to_weights`, for so many inputs and units.

        Raises:
            ConfigError: There is no such layer, or its shape is another.
        """
        n, h = shape
        arrays = []
        expected = {"inward": (n, 4 * h), "across": (h, 4 * h), "bias": (4 * h,)}
        for part, size in expected.items():
            array = weights.get(f"{name}.{part}")
            if array is None or array.shape != size or not np.isfinite(array).all():
                raise ConfigError(f"{name}.{part} must hold {size} finite numbers")
            arrays.append(array)
        return cls(*arrays)
