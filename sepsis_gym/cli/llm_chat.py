"""What ``sepsis-gym llm chat`` shows of one stay."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from evaluation.results import DISCLAIMER
from sepsis_gym.agent import prepare
from sepsis_gym.cli.evaluate import LLMConfig, llm_agent, open_backend
from sepsis_gym.envs import SepsisEnv, SepsisReplayEnv
from sepsis_gym.envs.base import PatientEnv
from sepsis_gym.errors import ConfigError
from sepsis_gym.registration import resolve_model
from sepsis_gym.trajectories import Trajectories

if TYPE_CHECKING:
    from agents.llm import LLMAgent


def show_stay(
    llm: LLMConfig, cohort: Path | None, stay: int | None, world_model: str, seed: int
) -> None:
    """Runs one stay and shows it step by step; arguments as ``sepsis-gym llm chat``.

    Raises:
        ConfigError: There is no dialogue to show, or no such model.
    """
    if llm.mode == "digits":
        raise ConfigError("answering with digits is no dialogue to show: choose another --mode")
    model = resolve_model(world_model)
    log = None if cohort is None else Trajectories.load(cohort)
    env = SepsisEnv(model) if log is None else SepsisReplayEnv(log, model=model)
    agent = _agent(llm, env, credentialed=log is not None and log.manifest.credentialed)
    console = Console()
    options = None if stay is None else {"stay_id": stay}
    observation, info = env.reset(seed=seed, options=options)
    prepare(agent, env)
    total, over = 0.0, False
    while not over:
        with console.status("deciding"):
            action = agent.act(observation, info)
        console.rule(f"step {info['step']}, hour {info['hours']}")
        for turn in agent.transcript[-1][1:]:
            _show(console, turn)
        if isinstance(env, SepsisReplayEnv):
            console.print(f"clinicians gave action {env.logged_action}, the agent {action}")
        observation, reward, terminated, truncated, info = env.step(action)
        total, over = total + float(reward), terminated or truncated
        if not over and sys.stdin.isatty():
            console.input("[dim]Enter for the next step[/dim]")
    counted = ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in agent.counts.items())
    console.print(f"return {total:+.2f}; {counted}\n{DISCLAIMER}")


def _agent(llm: LLMConfig, env: PatientEnv, *, credentialed: bool) -> "LLMAgent":
    from agents import make_agent
    from agents.llm import TeacherAgent

    if llm == LLMConfig():
        return TeacherAgent()
    backend = open_backend(credentialed, llm)
    return llm_agent(backend, env.preprocessing, make_agent("no_treatment"), llm)


def _show(console: Console, turn: dict[str, Any]) -> None:
    """One turn of a dialogue: text as a panel, a call in a line, predictions as a table."""
    content, calls = turn["content"], turn.get("tool_calls", ())
    if turn["role"] == "tool" and "candidates" in (told := json.loads(content)):
        console.print(_predictions(told["candidates"]))
    elif content:
        console.print(Panel(Text(content), title=turn["role"], title_align="left"))
    for call in calls:
        console.print(Text(f"-> {call['function']['name']} {call['function']['arguments']}"))


def _predictions(candidates: list[dict[str, Any]]) -> Table:
    """A column per candidate."""
    table = Table("", title="simulated")
    for candidate in candidates:
        table.add_column(f"fluid {candidate['iv_fluid']}, vasopressor {candidate['vasopressor']}")
    for name in candidates[0]["after"]:
        table.add_row(name, *(candidate["after"][name] for candidate in candidates))
    for name in candidates[0]:
        if name not in ("iv_fluid", "vasopressor", "after"):
            table.add_row(name, *(str(candidate[name]) for candidate in candidates))
    return table
