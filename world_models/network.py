"""The recurrent ensemble in torch: one GRU cell and one head per member, trained side by side."""

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from sepsis_gym.features import N_FEATURES
from world_models.inputs import N_INPUTS

VENTILATION = slice(3 * N_FEATURES, 3 * N_FEATURES + 2)
END = slice(VENTILATION.stop, VENTILATION.stop + 3)
MORTALITY = slice(END.stop, END.stop + 2)
N_OUTPUTS = MORTALITY.stop
LEAST_SCALE = 0.02
"""Smallest predicted standard deviation, z units: keeps a likelihood from being bought with it."""


class EnsembleNetwork(nn.Module):
    """M members with their weights stacked along a leading axis.

    At each step the hidden state takes in the state and the doses about to be given; a head that
    sees all three says what the step will do.
    """

    def __init__(self, members: int, hidden: int, generator: torch.Generator) -> None:
        """Draws the weights.

        Args:
            members: Size of the ensemble, M.
            hidden: Width of the hidden state and of the head, H.
            generator: Source of the initial weights.
        """
        super().__init__()
        self.members, self.hidden = members, hidden

        def weight(rows: int, columns: int, gain: float = 1.0) -> nn.Parameter:
            drawn = torch.rand(members, rows, columns, generator=generator)
            return nn.Parameter((2 * drawn - 1) * gain / rows**0.5)

        def bias(columns: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(members, 1, columns))

        self.input_weight = weight(N_INPUTS, 3 * hidden)
        self.input_bias = bias(3 * hidden)
        self.recurrent_weight = weight(hidden, 3 * hidden)
        self.recurrent_bias = bias(3 * hidden)
        self.head_weight = weight(hidden + N_INPUTS, hidden)
        self.head_bias = bias(hidden)
        self.output_weight = weight(hidden, N_OUTPUTS, gain=0.1)
        self.output_bias = bias(N_OUTPUTS)
        # a straight path: drift to the mean and dose effects are learned from few stays
        self.direct_weight = nn.Parameter(torch.zeros(members, N_INPUTS, N_OUTPUTS))

    def forward(
        self,
        inputs: Tensor,
        memory: Tensor,
        kept: Tensor | None = None,
        *,
        aside: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """One step.

        Args:
            inputs: [M, B, 133] state, dose and pressure inputs.
            memory: [M, B, H] hidden state.
            kept: [2, M, B, H] dropout factors of the memory and of the head, the same at every
                step of a stay (Gal & Ghahramani 2016).
            aside: Whether 90-day mortality is learned from the hidden units as they are. One
                outcome a stay, told again at every step, would soon have them know the stays.

        Returns:
            [M, B, 124] outputs and [M, B, H] the next hidden state.
        """
        if kept is not None:
            memory = memory * kept[0]
        from_inputs = inputs @ self.input_weight + self.input_bias
        from_memory = memory @ self.recurrent_weight + self.recurrent_bias
        update_i, reset_i, new_i = from_inputs.chunk(3, -1)
        update_h, reset_h, new_h = from_memory.chunk(3, -1)
        update = torch.sigmoid(update_i + update_h)
        reset = torch.sigmoid(reset_i + reset_h)
        candidate = torch.tanh(new_i + reset * new_h)
        following = update * memory + (1 - update) * candidate
        seen = torch.cat([following, inputs], -1)
        hidden = torch.relu(seen @ self.head_weight + self.head_bias)
        if kept is not None:
            hidden = hidden * kept[1]
        direct = inputs @ self.direct_weight + self.output_bias
        if not aside:
            return hidden @ self.output_weight + direct, following
        weight, first = self.output_weight, slice(0, MORTALITY.start)
        parts = hidden @ weight[..., first], hidden.detach() @ weight[..., MORTALITY]
        return torch.cat(parts, -1) + direct, following


def split_outputs(outputs: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Names the blocks of [..., 124].

    Returns:
        change [..., 39] and its scale [..., 39] in z units; measurement logits [..., 39];
        ventilation logits [..., 2] of a patient who breathes alone now and of one who is
        ventilated; end-of-stay logits [..., 3]; 90-day mortality logits [..., 2] of a patient who
        stays on and of one who is discharged in the step.
    """
    n = N_FEATURES
    return (
        outputs[..., :n],
        softplus(outputs[..., n : 2 * n]) + LEAST_SCALE,
        outputs[..., 2 * n : 3 * n],
        outputs[..., VENTILATION],
        outputs[..., END],
        outputs[..., MORTALITY],
    )
