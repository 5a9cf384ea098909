"""The loss of a network that walks logged stays: levels, ends, and effects of treatment."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy

from sepsis_gym.dynamics import End
from sepsis_gym.features import N_FEATURES
from world_models.inputs import VENTILATED_INPUT, Z_INPUTS
from world_models.network import VENTILATION, EnsembleNetwork, split_outputs
from world_models.sequences import Sequences

_VALUE_WEIGHT = 2.5
"""Of a CRPS: about the slope of a likelihood where errors are as large as expected."""
_RISK_WEIGHT = 200.0
"""Of a squared error of the difference in risk: 7 points count as one."""


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
) -> Tensor:
    """Loss of each member, averaged over the batch.

    Up to a stay's switch step the network sees the logged states; from it on nothing is read any
    more: it is shown the last values, ever older, the pressures in step with the vasopressor, and
    its memory has to tell what became of them under the doses since. Or it is shown its own
    predictions wherever a value was measured, as in a simulated course, and has to live with them,
    gradients and all: what it gets wrong adds up there. Values count where measured,
    by their CRPS: a likelihood leaves what is hard to predict unlearned (Seitzer et al. 2022) and
    is soon overfitted by the scales. At some steps the network is also asked what two treatments
    would do, and answers for their difference.

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

    Returns:
        [M] losses.
    """
    stay, step, state, memory, outputs = _walk(network, batch, switch, kept, simulated)
    every = batch.single(stay, step)
    counts = every.mask[:, 0] * weight[:, stay]
    # what was said is judged all at once, which is much faster than step by step
    total = level_weight * (counts * _step_loss(outputs, state[..., Z_INPUTS], every)).sum(1)
    if asked:
        chosen = torch.isin(step, torch.tensor(asked, device=step.device)).nonzero().flatten()
        dropped = None if kept is None else kept[:, :, stay[chosen]]
        loss = _effect_loss(
            network, state[:, chosen], memory[:, chosen], dropped, every.take(chosen)
        )
        total = total + effect_weight * (counts[:, chosen] * loss).sum(1)
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
        ventilated = _ventilated(outputs, state).detach()
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
    states, memories, said = (torch.cat(each, 1) for each in zip(*walked, strict=True))
    return stay, step, states, memories, said


def _ongoing(mask: Tensor) -> list[int]:
    """For every step of the [B, T] mask, how many of the first stays hold all that go on in it."""
    position = torch.arange(1, len(mask) + 1, device=mask.device)
    return [last for last in (mask * position[:, None]).amax(0).tolist() if last]


def _ventilated(outputs: Tensor, state: Tensor) -> Tensor:
    """[M, B] probability of ventilation after a step, as it is, or how likely it is, before it."""
    alone, ventilated = torch.sigmoid(outputs[..., VENTILATION]).unbind(-1)
    before = state[..., VENTILATED_INPUT]
    return (1 - before) * alone + before * ventilated


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


def _risk(outputs: Tensor) -> Tensor:
    """[M, B] probability of death within 90 days: in the step, or after it."""
    *_, end_logit, mortality_logit = split_outputs(outputs)
    end = end_logit.softmax(-1)
    later = end[..., : End.DIED] * torch.sigmoid(mortality_logit)
    return end[..., End.DIED] + later.sum(-1)


def _gaussian_crps(error: Tensor, scale: Tensor) -> Tensor:
    """[...] ``fidelity.gaussian_crps`` in torch."""
    z = error / scale
    spread = z * torch.erf(z / math.sqrt(2)) - 1 / math.sqrt(math.pi)
    return scale * (spread + math.sqrt(2 / math.pi) * torch.exp(-0.5 * z**2))


def _step_loss(outputs: Tensor, z_now: Tensor, batch: Sequences) -> Tensor:
    """[M, D] CRPS of the values and negative log-likelihood of the rest of what the step did."""
    following = batch.states[:, 1]
    change, scale, measured_logit, tube_logit, end_logit, mortality_logit = split_outputs(outputs)
    measured = following[:, N_FEATURES : 2 * N_FEATURES].expand_as(change)
    error = following[:, Z_INPUTS] - z_now - change
    values = _VALUE_WEIGHT * _gaussian_crps(error, scale) * measured
    sampling = binary_cross_entropy_with_logits(measured_logit, measured, reduction="none")
    # who is put on a ventilator and who is taken off it are told by different things
    has_tube = batch.states[:, 0, VENTILATED_INPUT].long().expand(tube_logit.shape[:-1])
    tube_logit = tube_logit.gather(-1, has_tube[..., None]).squeeze(-1)
    ventilated = following[:, VENTILATED_INPUT].expand_as(tube_logit)
    ventilation = binary_cross_entropy_with_logits(tube_logit, ventilated, reduction="none")
    end = batch.end[:, 0].expand(tube_logit.shape)
    ending = cross_entropy(end_logit.flatten(0, 1), end.flatten(), reduction="none").view_as(end)
    # those who leave are not those who stay: the risk of each is its own
    leaves = (end == End.DISCHARGED).long()[..., None]
    risk_logit = mortality_logit.gather(-1, leaves).squeeze(-1)
    died = batch.died_90d.expand_as(risk_logit)
    mortality = binary_cross_entropy_with_logits(risk_logit, died, reduction="none")
    mortality = mortality * (end != End.DIED)
    return values.sum(-1) + 0.3 * sampling.sum(-1) + 4 * ventilation + 3 * ending + mortality
