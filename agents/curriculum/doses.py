"""GRPO that learns what all doses of a prescription are worth, not the drawn one alone.

The planner values all 25, so that at the two digits of a prescription the expectation over them is
followed in place of a draw (Ciosek & Whiteson 2018). A state then teaches more than a group of
draws in it would, and a step can be of nearly as many states as decisions.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from trl import GRPOTrainer

from agents.curriculum.rollout import level_tokens
from sepsis_gym.actions import N_ACTIONS, N_LEVELS


class _Node(NamedTuple):
    """A token of a branch: where it stands after the first digit's place, what it is asked for."""

    token: int
    after: int
    asked: int
    sees: list[int]


_COLUMNS = ("digits", "worth")
_NOTHING = -100
_SOFTER = 2.0
"""Temperature of the expectation, which is taken times it: so its gradient keeps its size."""
_ALIKE = 16
"""Dialogues computed together, so that they pad little."""


class DoseTrainer(GRPOTrainer):  # type: ignore[misc]  # TRL has no types for a checker
    """Expected policy gradient of the doses; the divergence ``kl`` holds the words where they were.

    The rollouts tell of each decision ``digits``, where its levels stand, and ``worth`` [25], what
    each action would have been worth beyond a failure, in the rewards' scale. To credit words with
    the doses that followed them, as in a group of draws, adds more noise than it teaches.
    """

    _branching: dict[str, torch.Tensor] | None = None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        told: dict[str, Any] = super()._generate_and_score_completions(inputs)
        columns = {name: np.array([one[name] for one in inputs]) for name in _COLUMNS}
        told |= {name: torch.tensor(each).to(told["advantages"]) for name, each in columns.items()}
        digits = told["digits"] = told["digits"].long()
        found = digits[:, 0] >= 0
        told["tool_mask"][found] = told["tool_mask"][found].scatter(1, digits[found], 0)
        told["advantages"] = torch.zeros_like(told["advantages"])
        return told

    def _compute_loss(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        self._branching = inputs
        try:
            words: torch.Tensor = super()._compute_loss(model, inputs)
        finally:
            self._branching = None
        doses = self._probabilities
        self._metrics["train"]["doses/entropy"].append(
            torch.special.entr(doses.detach()).sum(1).mean().item()
        )
        expected = _SOFTER * (softened(doses) * inputs["worth"]).sum(1)
        of_tokens = self.max_completion_length * self.current_gradient_accumulation_steps
        return words - expected.mean() / of_tokens

    def _get_per_token_logps_and_entropies(
        self, model: Any, input_ids: Any, attention_mask: Any, logits_to_keep: int, **settings: Any
    ) -> Any:
        """As TRL has it, by like lengths together; in the loss all doses' probabilities too."""
        n, width = input_ids.shape
        words = [input_ids.new_zeros((n, logits_to_keep), dtype=torch.float) for _ in range(2)]
        self._probabilities = words[0].new_zeros((n, N_ACTIONS))
        for rows in attention_mask.sum(1).argsort().split(_ALIKE):
            filled = attention_mask[rows].any(0).nonzero()[:, 0]
            start, end = int(filled[0]), int(filled[-1]) + 1
            kept = logits_to_keep - (width - end)
            told = self._scored(
                model, rows, input_ids[rows, start:end], attention_mask[rows, start:end], kept
            )
            for whole, part in zip(words, told, strict=True):
                whole[rows, :kept] = part
        return *words, None

    def _scored(
        self, model: Any, rows: torch.Tensor, input_ids: Any, attention_mask: Any, kept: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and entropies [n, kept] of these rows; notes all doses' of each."""
        if self._branching is None:
            logps = super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, kept
            )[0]
            return logps, torch.zeros_like(logps)  # of the loss alone entropies are told
        levels = level_tokens(self.processing_class)
        t = input_ids.shape[1]
        digits = self._branching["digits"][rows].tolist()
        tree = branched(input_ids, attention_mask, t - kept, digits, levels)
        with self.accelerator.autocast():
            out = model(**tree, fused_lm_head=True)
        doses = of_doses(out.log_probs[:, t:], tree["shift_labels"][:, t:])
        self._probabilities[rows] = doses
        words = slice(t - kept - 1, t - 1)
        return out.log_probs[:, words], out.entropy[:, words]


def softened(doses: torch.Tensor) -> torch.Tensor:
    """[n, 25] probabilities at a higher temperature; 0 throughout where they were.

    What is best is the same. But of what a model is sure of, and after imitation it is sure of most
    of its doses, the expectation has next to no gradient.
    """
    least = torch.finfo(doses.dtype).tiny
    told = torch.softmax(doses.clamp_min(least).log() / _SOFTER, 1)
    return told * (doses.detach().sum(1, keepdim=True) > 0)


def branched(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    first: int,
    digits: Sequence[Sequence[int]],
    levels: Sequence[int],
) -> dict[str, torch.Tensor]:
    """The dialogues, each followed by what it would have been with other doses, as a tree.

    A branch sees what stands before the prescription's first digit and itself. Where a digit is
    asked for, the token before it stands five times, asked for one level each.

    Args:
        input_ids: [n, t] prompts, padded on their left, and completions, padded on their right.
        attention_mask: [n, t] 0 on padding.
        first: Where completions begin.
        digits: [n, 2] places in the completion of the two digits; -1 where there are none.
        levels: [5] the digits' tokens.

    Returns:
        What a causal language model is called with; ``shift_labels`` are what each place is asked
        for, those of the branches behind the dialogue's.
    """
    (n, t), device = input_ids.shape, input_ids.device
    input_ids, attended = input_ids.cpu(), attention_mask.bool().cpu()
    trees = [
        _tree(ids, first + fluid, first + vasopressor, levels) if fluid >= 0 else []
        for ids, (fluid, vasopressor) in zip(input_ids.tolist(), digits, strict=True)
    ]
    width = t + max(map(len, trees))
    ids = torch.zeros((n, width), dtype=torch.long)
    asked, at = torch.full((n, width), _NOTHING), torch.zeros((n, width), dtype=torch.long)
    sees = torch.eye(width, dtype=torch.bool).repeat(n, 1, 1)  # nothing, or NaN, comes of no place
    ids[:, :t], at[:, :t] = input_ids, torch.arange(t)
    asked[:, first - 1 : t - 1] = torch.where(attended[:, first:], ids[:, first:t], _NOTHING)
    sees[:, :t, :t] |= attended[:, None] & torch.ones((t, t), dtype=torch.bool).tril()
    for row, (tree, (fluid, _)) in enumerate(zip(trees, digits, strict=True)):
        for here, node in enumerate(tree, start=t):
            ids[row, here], asked[row, here] = node.token, node.asked
            at[row, here] = first + fluid + node.after
            context = first + fluid + min(node.after, 0)
            sees[row, here, :context] = attended[row, :context]
            sees[row, here, [t + other for other in node.sees]] = True
    told = {"input_ids": ids, "position_ids": at, "shift_labels": asked}
    return {
        name: value.to(device) for name, value in (told | {"attention_mask": sees[:, None]}).items()
    }


def _tree(ids: Sequence[int], fluid: int, vasopressor: int, levels: Sequence[int]) -> list[_Node]:
    *middle, last = ids[fluid + 1 : vasopressor]
    tree = [_Node(ids[fluid - 1], -1, level, []) for level in levels]
    for level in levels:
        branch: list[int] = []
        for after, token in enumerate((level, *middle)):
            tree.append(_Node(token, after, _NOTHING, list(branch)))
            branch.append(len(tree) - 1)
        tree += [_Node(last, len(middle) + 1, other, branch) for other in levels]
    return tree


def of_doses(log_probs: torch.Tensor, asked: torch.Tensor) -> torch.Tensor:
    """What all actions' probabilities are.

    Args:
        log_probs: [n, k] of what the k tokens of the branches were asked for.
        asked: [n, k] what that was.

    Returns:
        [n, 25]; 0 where a dialogue has no branches.
    """
    answered = asked != _NOTHING
    known = answered.any(1)
    told = log_probs[known][answered[known]].view(-1, 1 + N_LEVELS, N_LEVELS)
    each = (told[:, 0, :, None] + told[:, 1:]).exp()  # fluid level, then vasopressor level
    return log_probs.new_zeros(len(asked), N_ACTIONS).index_put(
        (known.nonzero()[:, 0],), each.flatten(1)
    )
