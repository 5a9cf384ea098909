"""Makes a tiny Qwen3 that has learned to write tool calls in the Hermes format, to serve in tests.

Usage: python tests/tiny_model.py OUT

It imitates, for a few minutes, the calls that the rule "teacher" makes about the stays of the
sample cohort: enough to write valid calls, far too little to treat anybody.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from agents.curriculum import CurriculumConfig
from agents.curriculum.config import SupervisedConfig
from agents.curriculum.tiny import plain_tokenizer, write_tiny
from agents.curriculum.train import learn_texts
from agents.llm import TeacherAgent
from agents.llm import prompt as prompts
from agents.llm.dialogue import render
from evaluation.target import agent_probabilities
from sepsis_gym.trajectories import Trajectories
from world_models import load_world_model

ROOT = Path(__file__).parents[1]
STAGE = SupervisedConfig(600, widening_steps=450, batch_size=8, at_once=8, learning_rate=2e-3)


def teachers_dialogues(simulate: bool) -> list[tuple[list[dict], list[dict]]]:
    """Decisions of the teacher about logged stays: its first call and its last, without words."""
    log = Trajectories.load(ROOT / "sepsis_gym/sample_cohort").split("train")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "dialogues.jsonl"
        agent = TeacherAgent(simulate=simulate, transcript_file=file)
        agent_probabilities("teacher", agent, log, load_world_model("default"))
        told = [json.loads(line)["messages"] for line in file.read_text().splitlines()]
    for dialogue in told:
        del dialogue[4:-1]
        for turn in dialogue:
            if turn["role"] == "assistant":
                turn["content"] = ""
    return [(dialogue, prompts.tools(simulate=simulate)) for dialogue in told]


def main(out: str) -> None:
    """Writes model and tokenizer."""
    dialogues = [told for simulate in (True, False) for told in teachers_dialogues(simulate)]
    plain = plain_tokenizer()
    with tempfile.TemporaryDirectory() as folder:
        base, learned = Path(folder) / "base", Path(folder) / "learned"
        write_tiny(base, [render(plain, *told, answering=False) for told in dialogues])
        learn_texts(str(base), dialogues, learned, STAGE, CurriculumConfig(lora_rank=None))
        shutil.move(learned, out)


if __name__ == "__main__":
    main(sys.argv[1])
