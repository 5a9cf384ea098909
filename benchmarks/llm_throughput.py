"""How many decisions a second a language model makes, against the number of stays asked at a time.

Usage: python benchmarks/llm_throughput.py [BASE_URL MODEL] [--stays 16] [--workers 1 4 16]

Walks stays of the sample cohort in mode "direct". The client's share is the processor time of this
process per second of the run, in cores: what is left is waiting. Without a server the requests are
answered at once within this process, which shows the most that the client can ask for.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from agents import make_agent
from agents.llm import LLMAgent, OpenAIBackend, Sampling
from evaluation.target import agent_probabilities
from sepsis_gym.trajectories import Trajectories

COHORT = Path(__file__).parents[1] / "sepsis_gym" / "sample_cohort"


def at_once(request: httpx.Request) -> httpx.Response:
    """Takes the place of a server."""
    function = {"name": "prescription", "arguments": '{"iv_fluid": 1, "vasopressor": 0}'}
    call = {"id": "1", "type": "function", "function": function}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "finish_reason": "tool_calls", "message": message}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    return httpx.Response(200, json={**body, "choices": [choice], "usage": usage})


def main() -> None:
    """Prints the table, and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("served", nargs="*", help="BASE_URL MODEL")
    parser.add_argument("--stays", type=int, default=16)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16])
    given = parser.parse_args()
    base_url, model = given.served or ("http://127.0.0.1:9/v1", "none")
    transport = None if given.served else httpx.MockTransport(at_once)
    log = Trajectories.load(COHORT).split("test").select(np.arange(given.stays))
    sampling = Sampling(max_tokens=128)
    rows: list[dict[str, Any]] = []
    for workers in given.workers:
        backend = OpenAIBackend(
            base_url, model, credentialed=False, sampling=sampling, transport=transport
        )
        fallback = make_agent("no_treatment")
        agent = LLMAgent(
            backend, log.preprocessing, fallback=fallback, simulate=False, workers=workers
        )
        began, busy = time.perf_counter(), time.process_time()
        agent_probabilities("llm", agent, log)
        wall, busy = time.perf_counter() - began, time.process_time() - busy
        counts = agent.counts
        tokens = counts["prompt_tokens"] + counts["completion_tokens"]
        rows.append(
            {
                "stays at a time": workers,
                "decisions/s": round(counts["decisions"] / wall, 1),
                "requests/s": round(counts["requests"] / wall, 1),
                "tokens/s": round(tokens / wall),
                "client ms/request": round(1000 * busy / counts["requests"], 2),
                "client share of a core": round(busy / wall, 3),
            }
        )
    table = Table(*rows[0], title=f"{base_url if given.served else 'answered at once'}")
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console().print(table)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
