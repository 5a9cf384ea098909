"""``EnsembleNetwork.forward`` without torch, packed so that one product serves all members."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.features import N_FEATURES
from world_models.inputs import N_INPUTS

if TYPE_CHECKING:
    from world_models.torch_forward import TorchForward

_Floats = NDArray[np.float32]
_N, _OUT = N_FEATURES, 3 * N_FEATURES
_RISK_COLUMNS = [_OUT + 5, _OUT + 6]
_SHARED_COLUMNS = [*range(_N), *_RISK_COLUMNS]
_OWN_COLUMNS = [*range(_N, 2 * _N), *range(_OUT + 2, _OUT + 5), *range(2 * _N, _OUT + 2)]
BLOCK = 256
"""Patients at a time: what fits the cache."""
N_SHARED, N_OWN = len(_SHARED_COLUMNS), len(_OWN_COLUMNS)
CHANGE, RISK = slice(0, _N), slice(_N, N_SHARED)
"""Where the change and the two mortality half-logits stand in the shared outputs."""
SCALE, END = slice(0, _N), slice(_N, _N + 3)
MEASURED, VENTILATED = slice(END.stop, END.stop + _N), slice(END.stop + _N, N_OWN)
"""The own outputs: scale and end-of-stay logits; half-logits of measurements, and of ventilation of
one who breathes alone now and of one who is ventilated."""


@dataclass(frozen=True)
class PackedWeights:
    """The network's weights side by side, M members.

    The columns behind a sigmoid are halved, which float arithmetic does exactly:
    sigmoid(x) = (1 + tanh(x / 2)) / 2, and numpy has a fast tanh.

    Attributes:
        from_inputs: [134, 4MH + 41M] what the inputs (and a 1 for the biases) bring to each
            member's three gates, then to each one's head, and straight to its shared outputs.
        recurrent: [M, H, 3H] what the memory brings to the gates: update, reset and candidate.
        candidate_bias: [M, H] of the memory's part of the candidate.
        head: [M, H, H] from the new memory to the head.
        shared: [M, H, 41] from the head to the outputs that are averaged over the members.
        own: [M, H + 134, 83] from head and inputs to those that only a patient's own member gives.
    """

    from_inputs: _Floats
    recurrent: _Floats
    candidate_bias: _Floats
    head: _Floats
    shared: _Floats
    own: _Floats

    @classmethod
    def pack(cls, weights: Mapping[str, _Floats]) -> "PackedWeights":
        """Packs the arrays of ``EnsembleNetwork``, given by name."""
        hidden = weights["output_weight"].shape[1]
        gate = np.ones(3 * hidden, np.float32)
        gate[: 2 * hidden] = 0.5
        recurrent_bias = weights["recurrent_bias"].copy()
        candidate_bias = recurrent_bias[:, 0, 2 * hidden :].copy()
        recurrent_bias[..., 2 * hidden :] = 0  # it stands behind the reset gate
        output = np.ones(_OUT + 7, np.float32)
        output[2 * _N : _OUT + 2] = 0.5
        output[_RISK_COLUMNS] = 0.5
        biased = {
            "gates": (weights["input_weight"], weights["input_bias"] + recurrent_bias, gate),
            "head": (weights["head_weight"][:, hidden:], weights["head_bias"], np.float32(1)),
            "outputs": (weights["direct_weight"], weights["output_bias"], output),
        }
        rows = {k: np.concatenate([w, b], axis=1) * scale for k, (w, b, scale) in biased.items()}
        outputs = weights["output_weight"] * output
        own = np.concatenate([outputs, rows["outputs"]], axis=1)[..., _OWN_COLUMNS]
        shared = rows["outputs"][..., _SHARED_COLUMNS]
        parts = rows["gates"], rows["head"], shared
        flat = [part.transpose(1, 0, 2).reshape(N_INPUTS + 1, -1) for part in parts]
        return cls(
            from_inputs=np.concatenate(flat, axis=1),
            recurrent=weights["recurrent_weight"] * gate,
            candidate_bias=candidate_bias,
            head=weights["head_weight"][:, :hidden].copy(),
            shared=outputs[..., _SHARED_COLUMNS].copy(),
            own=own.copy(),
        )


class _Scratch(NamedTuple):
    """Arrays for n patients that every block writes over; the next call finds them in the cache."""

    seen: _Floats
    inputs: _Floats
    from_inputs: _Floats
    gates: _Floats
    head: _Floats
    shared: _Floats
    own: _Floats
    whole: _Floats


class NumpyForward:
    """One step of all members for up to ``block`` patients; the outputs last until the next.

    Each thread has its own scratch arrays.
    """

    block = BLOCK

    def __init__(self, packed: PackedWeights) -> None:
        """Keeps the weights."""
        self._w = packed
        self.members, self.hidden = packed.head.shape[:2]
        self._scratch = threading.local()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles without the scratch arrays."""
        return type(self), (self._w,)

    def inputs(self, n: int) -> _Floats:
        """The [n, 133] inputs, to be filled before the call."""
        return self._arrays(n).inputs

    def __call__(self, memory: _Floats, own: NDArray[np.integer] | None) -> tuple[_Floats, _Floats]:
        """One step from the filled inputs.

        Args:
            memory: [n, M, H + ...] hidden state, which moves on, and what else a patient carries.
            own: [n] member whose own outputs are wanted; None for those of all.

        Returns:
            Shared outputs [n, M, 41] and own outputs [n, 83] or [n, M, 83].
        """
        n, size, w = len(memory), self.hidden, self._w
        arrays = self._arrays(n)
        np.matmul(arrays.seen[:, size:], w.from_inputs, out=arrays.from_inputs)
        kept, wide = memory[:, :, :size].swapaxes(0, 1), 3 * self.members * size
        np.matmul(kept, w.recurrent, out=arrays.gates.swapaxes(0, 1))
        self._renew(memory, arrays.gates, arrays.from_inputs)
        head, shared = arrays.head, arrays.shared
        np.matmul(kept, w.head, out=head.swapaxes(0, 1))
        head += arrays.from_inputs[:, wide : wide + self.members * size].reshape(head.shape)
        np.maximum(head, 0, out=head)
        np.matmul(head.swapaxes(0, 1), w.shared, out=shared.swapaxes(0, 1))
        shared += arrays.from_inputs[:, wide + self.members * size :].reshape(shared.shape)
        return shared, self._own(arrays, own)

    def _renew(self, memory: _Floats, gates: _Floats, from_inputs: _Floats) -> None:
        """Moves the [n, M, H + 1] memory on; the [n, M, 3H] gates are used up."""
        size = self.hidden
        driven = from_inputs[:, : 3 * self.members * size].reshape(gates.shape)
        switches, candidate = gates[..., : 2 * size], gates[..., 2 * size :]
        switches += driven[..., : 2 * size]
        np.tanh(switches, out=switches)
        switches *= _HALF
        switches += _HALF
        update, reset = switches[..., :size], switches[..., size:]
        candidate += self._w.candidate_bias
        candidate *= reset
        candidate += driven[..., 2 * size :]
        np.tanh(candidate, out=candidate)
        after = memory[:, :, :size]
        after -= candidate
        after *= update
        after += candidate

    def _own(self, arrays: _Scratch, own: NDArray[np.integer] | None) -> _Floats:
        w, seen, head, size = self._w.own, arrays.seen, arrays.head, self.hidden
        if own is None:
            for member in range(self.members):
                seen[:, :size] = head[:, member]
                arrays.whole[:, member] = np.matmul(seen, w[member], out=arrays.own)
            return arrays.whole
        if len(own) == 1:
            member = own.item()
            seen[:, :size] = head[:, member]
            return np.matmul(seen, w[member], out=arrays.own)
        seen[:, :size] = head[np.arange(len(own)), own]
        order = own.argsort(kind="stable")
        ends = np.bincount(own, minlength=self.members).cumsum().tolist()
        ordered, outputs = seen.take(order, 0), np.empty_like(arrays.own)
        for first, end, weight in zip([0, *ends], ends, w, strict=False):
            np.matmul(ordered[first:end], weight, out=outputs[first:end])
        arrays.own[order] = outputs
        return arrays.own

    def _arrays(self, n: int) -> _Scratch:
        mine: dict[int | str, Any] = self._scratch.__dict__  # type: ignore[assignment]
        found: _Scratch | None = mine.get(n)
        if found is None:
            found = mine[n] = self._views(n)
        return found

    def _views(self, n: int) -> _Scratch:
        """Views for n patients into this thread's arrays for ``BLOCK`` of them."""
        members, size = self.members, self.hidden
        shapes = {
            "seen": (n, size + N_INPUTS + 1),
            "from_inputs": (n, self._w.from_inputs.shape[1]),
            "gates": (n, members, 3 * size),
            "head": (n, members, size),
            "shared": (n, members, N_SHARED),
            "own": (n, N_OWN),
            "whole": (n, members, N_OWN),
        }
        views = {}
        for name, shape in shapes.items():
            flat = self._scratch.__dict__.get(name)
            if flat is None:
                most = prod(shape) // n * self.block
                flat = self._scratch.__dict__[name] = np.ones(most, np.float32)
            views[name] = flat[: prod(shape)].reshape(shape)
        views["seen"][:, -1] = 1.0  # the biases' input
        return _Scratch(inputs=views["seen"][:, size:-1], **views)


_HALF = np.float32(0.5)


def by_tube(logits: _Floats, ventilated: NDArray[np.bool_]) -> _Floats:
    """[n, ...] of the two half-logits of ventilation [n, ..., 2] that of each patient as it is."""
    return logits[np.arange(len(logits)), ..., ventilated.astype(np.intp)]


def open_forward(packed: PackedWeights, device: str | None) -> "NumpyForward | TorchForward":
    """The network in numpy, or by torch on a device.

    Raises:
        ImportError: There is no torch.
    """
    if device is None:
        return NumpyForward(packed)
    try:
        from world_models.torch_forward import TorchForward
    except ImportError as error:
        raise ImportError('device=... needs torch: pip install "sepsis-gym[torch]"') from error
    return TorchForward(packed, device)
