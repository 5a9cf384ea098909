"""Logged stays as padded tensors, and the loss of a network that walks them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from sepsis_gym.dynamics import End
from sepsis_gym.features import N_FEATURES
from sepsis_gym.trajectories import Trajectories
from world_models.effects import HELD_HOURS, Effects, no_effects
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
from world_models.network import EnsembleNetwork, split_outputs

_VALUE_WEIGHT = 2.5
"""Of a CRPS: about the slope of a likelihood where errors are as large as expected."""
_RISK_WEIGHT = 200.0
"""Of a squared error of the difference in risk: 7 points count as one."""
_HELD_WEIGHT = 4.0
"""Of what a day of treatment brings, asked about once a stay: beside what single steps bring."""
_LEAST_CHANCE = 1e-5


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
        held_at: [N] decision at which the pair is asked about as held.
        held: [N, 2] probability of death within ``HELD_HOURS`` of each held; NaN where unknown.
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
    held_at: Tensor
    held: Tensor

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
        firsts = np.cumsum(log.n_decisions) - log.n_decisions
        told = np.zeros(log.mask.shape, bool)
        told[log.mask] = ~np.isnan(effects.held[:, 0])
        held_at = told.argmax(1)  # the first where nothing is known
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
            held_at=tensor(held_at),
            held=tensor(effects.held[firsts + held_at]),
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
            held_at=torch.zeros_like(stay),
            held=self.held[stay],
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


def sequence_loss(
    network: EnsembleNetwork,
    batch: Sequences,
    weight: Tensor,
    switch: Tensor,
    kept: Tensor | None = None,
    *,
    simulated: Tensor | None = None,
    level_weight: float = 1.0,
    effect_weight: float = 0.0,
    asked: Sequence[int] = (),
    held: bool = False,
) -> Tensor:
    """Loss of each member, averaged over the batch.

    Up to a stay's switch step the network sees the logged states; from it on nothing is read any
    more: it is shown the last values, ever older, the pressures in step with the vasopressor, and
    its memory has to tell what became of them under the doses since. Or it is shown its own
    predictions wherever a value was measured, as in a simulated course, and has to live with them,
    gradients and all: what it gets wrong adds up there. Values count where measured,
    by their CRPS: a likelihood leaves what is hard to predict unlearned (Seitzer et al. 2022) and
    is soon overfitted by the scales. At some steps the network is also asked what two treatments
    would do, and answers for their difference; at one of a stay, what a day of each would do.

    Args:
        network: The ensemble, M members.
        batch: B stays; the longest first cost least, since none is walked beyond its end.
        weight: [M, B] weight of each stay for each member.
        switch: [B] step from which the network is on its own, 1 or more; T or more for never.
        kept: [2, M, B, H] dropout factors, None for no dropout.
        simulated: [B] which stays it is shown its own predictions of; None for none.
        level_weight: Weight of what the step did.
        effect_weight: Weight of the effects.
        asked: Steps at which they are asked for.
        held: Whether to ask for what a day of treatment held brings.

    Returns:
        [M] losses.
    """
    stay, step, state, memory, outputs = _walk(network, batch, switch, kept, simulated)
    every = batch.single(stay, step)
    counts = every.mask[:, 0] * weight[:, stay]
    # what was said is judged all at once, which is much faster than step by step
    total = level_weight * (counts * _step_loss(outputs, state[..., Z_INPUTS], every)).sum(1)

    def at(chosen: Tensor) -> tuple[Tensor, Tensor, Tensor | None, Sequences]:
        here = None if kept is None else kept[:, :, stay[chosen]]
        return state[:, chosen], memory[:, chosen], here, every.take(chosen)

    if asked:
        chosen = torch.isin(step, torch.tensor(asked, device=step.device)).nonzero().flatten()
        effects = counts[:, chosen] * _effect_loss(network, *at(chosen))
        total = total + effect_weight * effects.sum(1)
    if held:
        chosen = (every.mask[:, 0] & (step == batch.held_at[stay])).nonzero().flatten()
        own = None if simulated is None else simulated[stay[chosen]]
        effects = counts[:, chosen] * _held_loss(network, *at(chosen), own)
        total = total + _HELD_WEIGHT * effect_weight * effects.sum(1)
    return total / (batch.mask.sum(1) * weight).sum(1)


def _walk(
    network: EnsembleNetwork,
    batch: Sequences,
    switch: Tensor,
    kept: Tensor | None,
    simulated: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """[D] stay and step of every decision, [M, D, ...] state, memory and outputs of the network."""
    members, going = network.members, _ongoing(batch.mask)
    memory = batch.states.new_zeros(members, len(batch), network.hidden)
    state = batch.states[:, 0].expand(members, -1, -1)
    walked: list[tuple[Tensor, Tensor, Tensor]] = []
    for t, ongoing in enumerate(going):
        here = batch.take(slice(ongoing))
        state, memory = state[:, :ongoing], memory[:, :ongoing]
        dropped = None if kept is None else kept[:, :, :ongoing]
        doses = here.doses[:, t].expand(members, -1, -1)
        outputs, after = network(here.inputs(state, doses), memory, dropped, aside=True)
        walked.append((state, memory, outputs))
        ventilated = torch.sigmoid(outputs[..., 3 * N_FEATURES]).detach()
        logged = here.states[:, t + 1].expand(members, -1, -1)
        following = here.run_on(state, doses, ventilated, logged)
        if simulated is not None:
            read = _as_read(state, outputs, ventilated, logged, here.known[:, t + 1])
            following = torch.where(simulated[:ongoing, None], read, following)
        alone = (t + 1 >= switch[:ongoing])[:, None]
        state, memory = torch.where(alone, following, logged), after
    position = torch.arange(len(batch), device=switch.device)
    stay = torch.cat([position[:ongoing] for ongoing in going])
    step = torch.cat([torch.full_like(position[:n], t) for t, n in enumerate(going)])
    return stay, step, *(torch.cat(each, 1) for each in zip(*walked, strict=True))


def _ongoing(mask: Tensor) -> list[int]:
    """For every step of the [B, T] mask, how many of the first stays hold all that go on in it."""
    position = torch.arange(1, len(mask) + 1, device=mask.device)
    return [last for last in (mask * position[:, None]).amax(0).tolist() if last]


def _as_read(
    state: Tensor, outputs: Tensor, ventilated: Tensor, logged: Tensor, known: Tensor
) -> Tensor:
    """[M, B, 126] the state after a step that went as predicted, measured where it was in fact."""
    n = N_FEATURES
    now, measured = state[..., Z_INPUTS], logged[..., n : 2 * n] > 0
    held = torch.where(known, now, logged[..., Z_INPUTS])
    z = torch.where(measured, now + outputs[..., :n], held)
    rest = logged[..., n:VENTILATED_INPUT], ventilated[..., None], logged[..., -1:]
    return torch.cat([z, *rest], -1)


def _effect_loss(
    network: EnsembleNetwork,
    state: Tensor,
    memory: Tensor,
    kept: Tensor | None,
    batch: Sequences,
) -> Tensor:
    """[M, D] squared error of what two treatments differ in, and likelihood of deaths in each.

    ``batch`` is of one step, here and below.
    """
    twice = [
        batch.inputs(state, batch.pair[:, 0, one].expand(network.members, -1, -1)) for one in (0, 1)
    ]
    doubled = None if kept is None else torch.cat([kept, kept], 2)
    outputs, _ = network(torch.cat(twice, 1), torch.cat([memory, memory], 1), doubled)
    first, second = outputs.chunk(2, 1)
    difference = second[..., :N_FEATURES] - first[..., :N_FEATURES]
    truth, death = batch.effect[:, 0], batch.death[:, 0]
    claimed = ~truth.isnan()
    # between absolute errors, which forget the small effects of fluid, and relative ones, which
    # forget who responds to a vasopressor
    size = batch.effect_scale[:, 0].clamp(min=1e-6) ** 1.5
    error = (difference - truth.nan_to_num()) ** 2 / size
    loss = torch.where(claimed, error, 0).sum(-1)
    known = ~death.isnan()
    apart = _risk(second) - _risk(first) - batch.risk[:, 0].nan_to_num()
    loss = loss + _RISK_WEIGHT * ~batch.risk[:, 0].isnan() * apart**2
    death = death.nan_to_num()  # before the product: a NaN would come back with the gradient
    for one, answer in enumerate((first, second)):
        log_end = split_outputs(answer)[4].log_softmax(-1)
        died, alive = log_end[..., End.DIED], torch.logsumexp(log_end[..., : End.DIED], -1)
        likelihood = death[:, one] * died + (1 - death[:, one]) * alive
        loss = loss - known[:, one] * likelihood
    return loss


def _held_loss(
    network: EnsembleNetwork,
    state: Tensor,
    memory: Tensor,
    kept: Tensor | None,
    batch: Sequences,
    simulated: Tensor | None,
) -> Tensor:
    """[M, D] likelihood of deaths within a day of two treatments held, and error of the difference.

    The network runs on as in the walk: from its own predictions where ``simulated`` and measured at
    first, else from what was read last.
    """
    n, twice = N_FEATURES, batch.take(torch.arange(len(batch), device=state.device).repeat(2))
    doses = torch.cat([batch.pair[:, 0, 0], batch.pair[:, 0, 1]]).expand(network.members, -1, -1)
    state, memory = torch.cat([state, state], 1), torch.cat([memory, memory], 1)
    kept = None if kept is None else torch.cat([kept, kept], 2)
    tick, read_at_first = twice.states[:, 1, -1:] - twice.states[:, 0, -1:], state[..., n : 2 * n]
    going = state.new_ones(state.shape[:2])
    died = torch.zeros_like(going)
    for _ in range(max(1, round(HELD_HOURS / AGE_SCALE_HOURS / float(batch.step_age[0])))):
        outputs, memory = network(twice.inputs(state, doses), memory, kept)
        end = split_outputs(outputs)[4].softmax(-1)
        died, going = died + going * end[..., End.DIED], going * end[..., End.ONGOING]
        ventilated = torch.sigmoid(outputs[..., 3 * n]).detach()
        rest = state[..., VASOPRESSOR_INPUT + 1 : -1], state[..., -1:] + tick
        given = torch.cat([state[..., : 3 * n], doses, *rest], -1)
        following = twice.run_on(state, doses, ventilated, given)
        if simulated is not None:
            age = torch.where(read_at_first > 0, 0, following[..., 2 * n : 3 * n])
            own = torch.cat([state[..., :n], read_at_first, age, following[..., 3 * n :]], -1)
            own = _as_read(state, outputs, ventilated, own, torch.ones_like(read_at_first) > 0)
            following = torch.where(simulated.repeat(2)[:, None], own, following)
        state = following
    said = torch.stack(died.clamp(_LEAST_CHANCE, 1 - _LEAST_CHANCE).chunk(2, 1), 1)
    truth = batch.held.nan_to_num().T
    apart = (said[:, 1] - said[:, 0]) - (truth[1] - truth[0])
    likelihood = truth * said.log() + (1 - truth) * (-said).log1p()
    return ~batch.held[:, 0].isnan() * (_RISK_WEIGHT * apart**2 - likelihood.sum(1))


def _risk(outputs: Tensor) -> Tensor:
    """[M, B] probability of death within 90 days: in the step, or after it."""
    *_, end_logit, mortality_logit = split_outputs(outputs)
    end = end_logit.softmax(-1)
    later = end[..., : End.DIED] * torch.sigmoid(mortality_logit)
    return end[..., End.DIED] + later.sum(-1)


def _rise(state: Tensor, doses: Tensor) -> Tensor:
    """[..., 1] ``usual_rise`` by the doses of a step."""
    logs = state[..., VASOPRESSOR_INPUT], doses[..., -1]
    return usual_rise(*(VASOPRESSOR_SCALE * torch.expm1(log) for log in logs))[..., None]


def _gaussian_crps(error: Tensor, scale: Tensor) -> Tensor:
    """[...] ``fidelity.gaussian_crps`` in torch."""
    z = error / scale
    spread = z * torch.erf(z / math.sqrt(2)) - 1 / math.sqrt(math.pi)
    return scale * (spread + math.sqrt(2 / math.pi) * torch.exp(-0.5 * z**2))


def _step_loss(outputs: Tensor, z_now: Tensor, batch: Sequences) -> Tensor:
    """[M, D] CRPS of the values and negative log-likelihood of the rest of what the step did."""
    following = batch.states[:, 1]
    change, scale, measured_logit, ventilated_logit, end_logit, mortality_logit = split_outputs(
        outputs
    )
    measured = following[:, N_FEATURES : 2 * N_FEATURES].expand_as(change)
    error = following[:, Z_INPUTS] - z_now - change
    values = _VALUE_WEIGHT * _gaussian_crps(error, scale) * measured
    sampling = binary_cross_entropy_with_logits(measured_logit, measured, reduction="none")
    ventilated = following[:, VENTILATED_INPUT].expand_as(ventilated_logit)
    ventilation = binary_cross_entropy_with_logits(ventilated_logit, ventilated, reduction="none")
    end = batch.end[:, 0].expand(ventilated_logit.shape)
    ending = cross_entropy(end_logit.flatten(0, 1), end.flatten(), reduction="none").view_as(end)
    # those who leave are not those who stay: the risk of each is its own
    leaves = (end == End.DISCHARGED).long()[..., None]
    risk_logit = mortality_logit.gather(-1, leaves).squeeze(-1)
    died = batch.died_90d.expand_as(risk_logit)
    mortality = binary_cross_entropy_with_logits(risk_logit, died, reduction="none")
    mortality = mortality * (end != End.DIED)
    return values.sum(-1) + 0.3 * sampling.sum(-1) + 4 * ventilation + 3 * ending + mortality
