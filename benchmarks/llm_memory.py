"""What a long run of the language-model agent takes of memory, as it goes on.

Usage: python benchmarks/llm_memory.py COHORT [--stays 1000] [--workers 16]

Walks stays of a cohort (``sepsis-gym cohort synthetic``) as ``sepsis-gym evaluate`` does, keeping
each stay's answers and every dialogue in files; the model is answered for at once, within this
process. Linux only.
"""

import argparse
import os
import tempfile
from pathlib import Path

import httpx2 as httpx
import numpy as np
from llm_throughput import answered_at_once, client
from rich.console import Console
from rich.table import Table

from agents import make_agent
from agents.llm import LLMAgent
from evaluation.answer_store import AnswerStore, StayAnswers
from evaluation.target import agent_probabilities
from sepsis_gym.trajectories import Trajectories


def resident_mib() -> float:
    """Memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


class WatchedStore(AnswerStore):
    """Notes the memory at each tenth of the stays."""

    def __init__(self, file: Path, tenth: int) -> None:
        """An empty store."""
        super().__init__(file, {})
        self.tenth, self.kept, self.noted = tenth, 0, list[tuple[int, float]]()

    def keep(self, stay_id: int, told: StayAnswers | Exception) -> None:
        """As the store's own."""
        super().keep(stay_id, told)
        self.kept += 1
        if self.kept % self.tenth == 0:
            self.noted.append((self.kept, resident_mib()))


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cohort", type=Path)
    parser.add_argument("--stays", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=16)
    given = parser.parse_args()
    log = Trajectories.load(given.cohort)
    log = log.select(np.arange(min(given.stays, len(log))))
    with tempfile.TemporaryDirectory() as folder:
        agent = LLMAgent(
            client(transport=httpx.MockTransport(answered_at_once)),
            log.preprocessing,
            fallback=make_agent("no_treatment"),
            simulate=False,
            workers=given.workers,
            transcript_file=Path(folder) / "dialogues.jsonl",
        )
        store = WatchedStore(Path(folder) / "answers.jsonl", max(1, len(log) // 10))
        agent_probabilities("llm", agent, log, kept=store)
        written = sum(file.stat().st_size for file in Path(folder).iterdir()) / 2**20
    table = Table("stays", "MiB", "more than at the first tenth")
    first = store.noted[0][1]
    for stays, mib in store.noted:
        table.add_row(str(stays), f"{mib:.1f}", f"{mib - first:+.1f}")
    Console().print(table)
    print(f"{agent.counts['decisions']} decisions; {written:.1f} MiB written to files")


if __name__ == "__main__":
    main()
