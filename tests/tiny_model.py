"""Makes a tiny Qwen3 that has learned to write tool calls in the Hermes format, to serve in tests.

Usage: python tests/tiny_model.py OUT

It imitates, for a few minutes, the calls that the rule "teacher" makes about the stays of the
sample cohort: enough to write valid calls, far too little to treat anybody.
"""

import json
import random
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from agents.curriculum.tiny import make_model, make_tokenizer, plain_tokenizer
from agents.llm import TeacherAgent
from agents.llm import prompt as prompts
from agents.llm.dialogue import render as dialogue_text
from evaluation.target import agent_probabilities
from sepsis_gym.trajectories import Trajectories
from world_models import load_world_model

ROOT = Path(__file__).parents[1]
STAYS, LEARNING_RATE = 24, 3e-3
NEAR_TOKENS, NEAR, WHOLE = 48, (400, 16), (200, 4)  # steps and dialogues a step
_ANSWER = re.compile(r"<\|im_start\|>assistant\n(.*?<\|im_end\|>)", re.DOTALL)


def teachers_dialogues(simulate: bool) -> list[list[dict]]:
    """Decisions of the teacher about logged stays: its first call and its last, without words."""
    log = Trajectories.load(ROOT / "sepsis_gym/sample_cohort").split("train")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "dialogues.jsonl"
        agent = TeacherAgent(simulate=simulate, transcript_file=file)
        agent_probabilities(
            "teacher", agent, log.select(np.arange(STAYS)), load_world_model("default")
        )
        told = [json.loads(line)["messages"] for line in file.read_text().splitlines()]
    for dialogue in told:
        del dialogue[4:-1]
        for turn in dialogue:
            if turn["role"] == "assistant":
                turn["content"] = ""
    return told


def render(tokenizer: PreTrainedTokenizerFast, dialogue: list[dict], simulate: bool) -> str:
    """The text of a dialogue, with the tools that it was held with."""
    return dialogue_text(tokenizer, dialogue, prompts.tools(simulate=simulate), answering=False)


def train(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> None:
    """Learns to write what the assistant wrote, and nothing else."""
    coded = tokenizer(texts, return_offsets_mapping=True, add_special_tokens=False)
    examples = []
    for text, ids, offsets in zip(texts, coded["input_ids"], coded["offset_mapping"], strict=True):
        written = np.zeros(len(text) + 1, bool)
        for answer in _ANSWER.finditer(text):
            written[slice(*answer.span(1))] = True
        labels = [t if written[at] else -100 for t, (at, _) in zip(ids, offsets, strict=True)]
        examples.append((ids, labels))
    print(f"{len(texts)} dialogues, {np.mean([len(ids) for ids, _ in examples]):.0f} tokens each")
    # near context first: over a thousand tokens a fresh model takes long to find what matters
    near = [end for example in examples for end in endings(*example)]
    for stage, steps, batch in ((near, *NEAR), (examples, *WHOLE)):
        stage.sort(key=lambda example: len(example[0]))  # a batch is of like length
        optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, betas=(0.9, 0.98))
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, LEARNING_RATE, steps, pct_start=0.1
        )
        for step in range(steps):
            start = random.randrange(len(stage) - batch)
            loss = loss_of(model, stage[start : start + batch], tokenizer.pad_token_id)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if step % 50 == 0 or step == steps - 1:
                print(f"step {step}: loss {loss.item():.3f}", flush=True)


def endings(ids: list[int], labels: list[int]) -> list[tuple[list[int], list[int]]]:
    """Each answer with the little that stands before it."""
    written = np.array(labels) != -100
    starts = np.flatnonzero(written & ~np.roll(written, 1))
    ends = np.flatnonzero(written & ~np.roll(written, -1)) + 1
    spans = [(max(0, start - NEAR_TOKENS), end) for start, end in zip(starts, ends, strict=True)]
    return [(ids[slice(*span)], labels[slice(*span)]) for span in spans]


def loss_of(
    model: Qwen3ForCausalLM, batch: list[tuple[list[int], list[int]]], pad: int
) -> torch.Tensor:
    """Mean cross-entropy of what is labelled."""
    length = max(len(ids) for ids, _ in batch)
    ids = torch.tensor([row + [pad] * (length - len(row)) for row, _ in batch])
    labels = torch.tensor([row + [-100] * (length - len(row)) for _, row in batch])[:, 1:]
    hidden = model.model(input_ids=ids).last_hidden_state[:, :-1]
    wanted = labels != -100
    return torch.nn.functional.cross_entropy(model.lm_head(hidden[wanted]), labels[wanted])


def main(out: str) -> None:
    """Writes model and tokenizer."""
    random.seed(0)
    torch.manual_seed(0)
    held = [(d, simulate) for simulate in (True, False) for d in teachers_dialogues(simulate)]
    texts = [render(plain_tokenizer(), *each) for each in held]
    tokenizer = make_tokenizer(texts)
    model = make_model(tokenizer)
    train(model, tokenizer, texts)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


if __name__ == "__main__":
    main(sys.argv[1])
