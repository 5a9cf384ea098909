"""Small ReLU networks evaluated in numpy, so that a trained agent runs without its trainer."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

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
