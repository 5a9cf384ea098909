"""How many decisions a second a language model makes, against the number of stays asked at a time.

Usage: python benchmarks/llm_throughput.py [MODEL] [--stays 16] [--workers 1 4 16] [--vllm vllm]

Walks stays of the sample cohort in mode "direct", answered by vLLM, which is started for it, and by
the same model in this process. The client's share is the processor time of this process, in cores
and of the time that a request is under way: what is left is waiting. The last rows are answered at
once, within this process: the most that the client can ask for.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from agents import make_agent
from agents.llm import ChatBackend, LLMAgent, OpenAIBackend, Sampling, TransformersBackend
from agents.llm.serve import serving
from evaluation.target import agent_probabilities
from sepsis_gym.trajectories import Trajectories

COHORT = Path(__file__).parents[1] / "sepsis_gym" / "sample_cohort"
SAMPLING = Sampling(max_tokens=128)
PORT = 8123


def answered_at_once(request: httpx.Request) -> httpx.Response:
    """Takes the place of a server."""
    function = {"name": "prescription", "arguments": '{"iv_fluid": 1, "vasopressor": 0}'}
    call = {"id": "1", "type": "function", "function": function}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    choice = {"index": 0, "finish_reason": "tool_calls", "message": message}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
    usage = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
    return httpx.Response(200, json={**body, "choices": [choice], "usage": usage})


def client(
    base_url: str = "http://127.0.0.1:9/v1", model: str = "none", transport: Any = None
) -> OpenAIBackend:
    """A client of the benchmark's server, or of ``transport``."""
    return OpenAIBackend(
        base_url, model, credentialed=False, sampling=SAMPLING, transport=transport
    )


def backends(model: str | None, vllm: str) -> Iterator[tuple[str, Callable[[], ChatBackend]]]:
    """Who answers, one after the other, so that none takes another's processors."""
    if model:
        options = ("--dtype", "float32", "--max-model-len", "4096", "--enforce-eager")
        with serving(model, port=PORT, options=options, command=vllm) as (url, _):
            yield "vLLM", lambda: client(url, model)
        local = TransformersBackend(model, sampling=SAMPLING)
        yield "in this process", lambda: local
    yield "at once", lambda: client(transport=httpx.MockTransport(answered_at_once))


def measured(backend: ChatBackend, log: Trajectories, workers: int) -> dict[str, float]:
    """One run over the stays."""
    fallback = make_agent("no_treatment")
    agent = LLMAgent(backend, log.preprocessing, fallback=fallback, simulate=False, workers=workers)
    began, busy = time.perf_counter(), time.process_time()
    agent_probabilities("llm", agent, log)
    wall, busy = time.perf_counter() - began, time.process_time() - busy
    counts = agent.counts
    tokens = counts["prompt_tokens"] + counts["completion_tokens"]
    return {
        "decisions/s": round(counts["decisions"] / wall, 1),
        "requests/s": round(counts["requests"] / wall, 1),
        "tokens/s": round(tokens / wall),
        "ms of this process/request": round(1000 * busy / counts["requests"], 2),
        "of a core": round(busy / wall, 3),
        "of a request's time": round(busy / wall / workers, 3),
    }


def main() -> None:
    """Prints the table, and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", help="folder or name; none for the last rows alone")
    parser.add_argument("--stays", type=int, default=16)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--vllm", default="vllm", help="the command, if in another environment")
    given = parser.parse_args()
    log = Trajectories.load(COHORT).split("test").select(np.arange(given.stays))
    rows: list[dict[str, Any]] = []
    for name, make in backends(given.model, given.vllm):
        measured(make(), log.select(np.arange(1)), 1)  # what is made at first use
        for workers in given.workers:
            told = measured(make(), log, workers)
            rows.append({"answered": name, "stays at a time": workers} | told)
            ratio = told["decisions/s"] / rows[0]["decisions/s"]
            rows[-1]["against the first row"] = round(ratio, 2)
    table = Table(*rows[0], title=given.model)
    for row in rows:
        table.add_row(*map(str, row.values()))
    Console(width=160).print(table)
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
