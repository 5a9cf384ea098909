"""Logged stays as padded tensors, and what a network sees of them."""

from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sepsis_gym.dynamics import End
from sepsis_gym.features import N_FEATURES
from sepsis_gym.trajectories import Trajectories
from world_models.effects import Effects, no_effects
from world_models.inputs import (
    AGE_SCALE_HOURS,
    LARGEST_AGE,
    PRESSURES,
    VASOPRESSOR_INPUT,
    VASOPRESSOR_SCALE,
    VENTILATED_INPUT,
    Z_INPUTS,
    dose_inputs,
    state_inputs,
    usual_rise,
)


@dataclass(frozen=True)
class Sequences:
    """N stays of up to T decisions.

    Attributes:
        states: [N, T + 1, 126] state inputs, final states included.
        doses: [N, T, 4] dose inputs.
        mask: [N, T] True where a decision was logged.
        end: [N, T] end of stay after the decision: 0 goes on, 1 discharged, 2 died.
        died_90d: [N] death within 90 days.
        pair: [N, T, 2, 4] two treatments whose effects are known, as dose inputs.
        effect: [N, T, 39] difference of the second from the first, z units; NaN where unknown.
        effect_scale: [N, T, 39] how large an error of it counts as one.
        death: [N, T, 2] probability of death in the step under each; NaN where unknown.
        risk: [N, T] of death within 90 days, second less first; NaN where unknown.
        known: [N, T + 1, 39] whether a value counts (else the fill value is shown).
        zero_z: [N, 3] how far 0 mmHg lies below the mean of each pressure, z units.
        step_age: [N, 1] length of a step in the unit of age inputs.
    """

    states: Tensor
    doses: Tensor
    mask: Tensor
    end: Tensor
    died_90d: Tensor
    pair: Tensor
    effect: Tensor
    effect_scale: Tensor
    death: Tensor
    risk: Tensor
    known: Tensor
    zero_z: Tensor
    step_age: Tensor

    @classmethod
    def of(cls, log: Trajectories, device: str, effects: Effects | None = None) -> Self:
        """Lays out all stays and what is known of effects at their decisions."""
        effects, preprocessing = effects or no_effects(log), log.preprocessing
        patients = log.patients(np.arange(log.offsets[-1]))
        doses = dose_inputs(
            np.nan_to_num(log.fluid_ml), np.nan_to_num(log.norepinephrine_equivalent), preprocessing
        )
        end = np.where(log.terminated, log.stays.end[log.stay_of_row], End.ONGOING)
        end = np.where(end == End.HORIZON, End.ONGOING, end).astype(np.int64)

        zero_z = -preprocessing.standardize(np.zeros(N_FEATURES, np.float32))[PRESSURES]
        step_age = np.float32(preprocessing.step_hours / AGE_SCALE_HOURS)
        pair = [dose_inputs(*doses, preprocessing) for doses in (effects.first, effects.second)]

        def tensor(array: NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        def decided(array: NDArray[np.generic]) -> Tensor:
            """[D, ...] to [N, T, ...]."""
            laid = np.zeros((*log.mask.shape, *array.shape[1:]), np.float32)
            laid[log.mask] = array
            return tensor(laid)

        return cls(
            states=tensor(log.padded(state_inputs(patients, preprocessing), final=True)),
            doses=tensor(log.padded(doses)),
            mask=tensor(log.mask),
            end=tensor(log.padded(end)),
            died_90d=tensor(log.stays.died_90d.astype(np.float32)),
            pair=decided(np.stack(pair, axis=1)),
            effect=decided(effects.change),
            effect_scale=decided(effects.scale),
            death=decided(effects.died),
            risk=decided(effects.risk),
            known=tensor(log.padded(preprocessing.known(log.age), final=True)),
            zero_z=tensor(np.tile(zero_z, (len(log), 1))),
            step_age=tensor(np.full((len(log), 1), step_age)),
        )

    def __len__(self) -> int:
        """Number of stays."""
        return len(self.died_90d)

    def take(self, index: Tensor | slice) -> Self:
        """The stays at these positions; those of a slice are views."""
        return type(self)(*(getattr(self, field.name)[index] for field in fields(self)))

    def single(self, stay: Tensor, step: Tensor) -> Self:
        """Decisions, each as a stay of one step.

        Args:
            stay: [D] position of the stay.
            step: [D] step of the decision.
        """
        row, now = stay[:, None], step[:, None]
        both = torch.cat([now, now + 1], 1)
        return type(self)(
            states=self.states[row, both],
            doses=self.doses[row, now],
            mask=self.mask[row, now],
            end=self.end[row, now],
            died_90d=self.died_90d[stay],
            pair=self.pair[row, now],
            effect=self.effect[row, now],
            effect_scale=self.effect_scale[row, now],
            death=self.death[row, now],
            risk=self.risk[row, now],
            known=self.known[row, both],
            zero_z=self.zero_z[stay],
            step_age=self.step_age[stay],
        )

    def decided(self) -> Tensor:
        """[D, 133] what the network sees at every decision, stay by stay."""
        by_step = self.states[:, :-1].transpose(0, 1), self.doses.transpose(0, 1)
        return self.inputs(*by_step).transpose(0, 1)[self.mask]

    def inputs(self, state: Tensor, doses: Tensor) -> Tensor:
        """[..., N, 133] what the network sees; ``inputs.step_inputs`` of the same in torch.

        Args:
            state: [..., N, 126] state inputs.
            doses: [..., N, 4] dose inputs.
        """
        usual = self.pressure(state) * _rise(state, doses)
        return torch.cat([state, doses, usual], -1)

    def pressure(self, state: Tensor) -> Tensor:
        """[..., N, 3] the three pressures from 0 mmHg on, in the unit of their z-scores."""
        return state[..., PRESSURES] + self.zero_z

    def run_on(self, state: Tensor, doses: Tensor, ventilated: Tensor, logged: Tensor) -> Tensor:
        """The state after a step of which nothing was read; ``logged.expected_step`` in torch.

        Args:
            state: [M, N, 126] the state before.
            doses: [M, N, 4] the doses of the step.
            ventilated: [M, N] whether ventilated, or how likely.
            logged: [M, N, 126] the logged state, for doses, statics and clock.
        """
        n = N_FEATURES
        z = state[..., Z_INPUTS].clone()
        z[..., PRESSURES] += self.pressure(state) * _rise(state, doses)
        age = (state[..., 2 * n : 3 * n] + self.step_age).clamp(max=LARGEST_AGE)
        rest = logged[..., 3 * n : VENTILATED_INPUT], ventilated[..., None], logged[..., -1:]
        return torch.cat([z, torch.zeros_like(z), age, *rest], -1)


def _rise(state: Tensor, doses: Tensor) -> Tensor:
    """[..., 1] ``usual_rise`` by the doses of a step."""
    logs = state[..., VASOPRESSOR_INPUT], doses[..., -1]
    return usual_rise(*(VASOPRESSOR_SCALE * torch.expm1(log) for log in logs))[..., None]
