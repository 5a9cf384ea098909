"""The forward pass in torch on a device of choice; everything around it stays in numpy."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sepsis_gym.errors import ConfigError
from world_models.forward import N_SHARED, PackedWeights
from world_models.inputs import N_INPUTS

_Floats = NDArray[np.float32]


class TorchForward:
    """Does what :class:`~world_models.forward.NumpyForward` does, on ``device``."""

    block = 8192

    def __init__(self, packed: PackedWeights, device: str) -> None:
        """Copies the weights to the device.

        Raises:
            ConfigError: Torch has no such device here.
        """
        try:
            self._device = torch.empty(0, device=device).device
        except (RuntimeError, AssertionError) as error:  # a build without CUDA asserts
            raise ConfigError(f"device {device!r} cannot be used: {error}") from error
        self._w = {name: self._put(array) for name, array in vars(packed).items()}
        self.members, self.hidden = packed.head.shape[:2]
        self._inputs = np.ones((0, N_INPUTS + 1), np.float32)

    def inputs(self, n: int) -> _Floats:
        """The [n, 133] inputs, to be filled before the call."""
        if len(self._inputs) != n:
            self._inputs = np.ones((n, N_INPUTS + 1), np.float32)  # the last is the biases' input
        return self._inputs[:, :-1]

    @torch.inference_mode()
    def __call__(self, memory: _Floats, own: NDArray[np.integer] | None) -> tuple[_Floats, _Floats]:
        """One step from the filled inputs; as in ``NumpyForward``."""
        w, size, n = self._w, self.hidden, len(memory)
        inputs = self._put(self._inputs)
        before = self._put(memory[:, :, :size]).transpose(0, 1)
        widths = [3 * self.members * size, self.members * size, self.members * N_SHARED]
        driven, to_head, direct = torch.split(inputs @ w["from_inputs"], widths, dim=1)
        driven, gates = self._by_member(driven), before @ w["recurrent"]
        switches = gates[..., : 2 * size] + driven[..., : 2 * size]
        update, reset = ((1 + torch.tanh(switches)) / 2).chunk(2, dim=-1)
        candidate = gates[..., 2 * size :] + w["candidate_bias"][:, None]
        candidate = torch.tanh(reset * candidate + driven[..., 2 * size :])
        after = candidate + update * (before - candidate)
        head = torch.relu(after @ w["head"] + self._by_member(to_head))
        shared = head @ w["shared"] + self._by_member(direct)
        seen = torch.cat([head, inputs.expand(self.members, -1, -1)], dim=-1)
        outputs = (seen @ w["own"]).transpose(0, 1)
        if own is not None:
            outputs = outputs[torch.arange(n), torch.from_numpy(own)]
        memory[:, :, :size] = after.transpose(0, 1).cpu().numpy()
        return shared.transpose(0, 1).cpu().numpy(), outputs.cpu().numpy()

    def _by_member(self, columns: Tensor) -> Tensor:
        """[n, M * W] to [M, n, W]."""
        return columns.view(len(columns), self.members, -1).transpose(0, 1)

    def _put(self, array: NDArray[Any]) -> Tensor:
        return torch.tensor(array, device=self._device)
