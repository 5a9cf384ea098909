"""``sepsis-gym benchmark``: how good agents are, how fast the environments are."""

import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import cycle
from time import perf_counter
from typing import Any

import gymnasium as gym
import numpy as np
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits
from tqdm import tqdm
from tyro.extras import SubcommandApp

from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.cli.benchmark_agents import benchmark_agents
from sepsis_gym.errors import ConfigError
from sepsis_gym.features import N_FEATURES
from sepsis_gym.patients import OBSERVATION_SIZE
from world_models import load_world_model

app = SubcommandApp()
app.command(name="agents")(benchmark_agents)

_WM, _PHYSIO, _PEER = "SepsisWM-v0", "SepsisPhysio-v0", "Sepsis/ICU-Sepsis-v2"
_PUBLISHED = "the published way"
_WINDOW, _HIDDEN = 6, 128
_TURN_SECONDS = 0.05
_WARM_UP = 60
"""Steps after which the episodes of a vector environment no longer end together."""
_FEW_ENVS = 256
_OPTIONAL = {"torch": _PUBLISHED, "numba": "the compiled single step", "icu_sepsis": "icu-sepsis"}
_Play = Callable[[], int]


@dataclass
class _Row:
    """One line of the table.

    Attributes:
        name: What is measured.
        play: Plays a step of some environments and returns how many they were.
        must: Steps/s, or how many times the published way if below 100.
        aim: Steps/s.
        best: Most steps/s of all turns.
    """

    name: str
    play: _Play
    must: float | None = None
    aim: float | None = None
    best: float = field(default=0.0, init=False)

    def take_turn(self) -> None:
        began, steps = perf_counter(), 0
        while True:
            steps += self.play()
            spent = perf_counter() - began
            if spent >= _TURN_SECONDS:
                break
        self.best = max(self.best, steps / spent)


@app.command(name="env")
def environments(seconds: float = 3.0, envs: int = 1024, extra_envs: int = 2048) -> None:
    """Measures steps per second, memory and import time; the targets are the project's own.

    All rows take turns and the best turn counts, so that what else runs on the machine disturbs
    them alike. Whole steps are timed: observation, reward, info, and the resets between episodes.

    Args:
        seconds: Time for each row.
        envs: Size of the largest vector environment.
        extra_envs: Over how many environments the memory of one is averaged.
    """
    if min(seconds, envs, extra_envs) <= 0:
        raise ConfigError("seconds, envs and extra_envs must be positive")
    console = Console()
    with threadpool_limits(1):
        rows = _rows(envs)
        for _ in tqdm(range(max(1, round(seconds / _TURN_SECONDS))), disable=None):
            for row in rows:
                row.take_turn()
    console.print(_table(rows))
    absent = [f"not installed: {m}, for {w}" for m, w in _OPTIONAL.items() if not find_spec(m)]
    for line in (_memory(extra_envs), _import_time(), *absent):
        console.print(line, soft_wrap=True)


def _rows(envs: int) -> list[_Row]:
    model, threaded = load_world_model("default"), load_world_model("default", threads=2)
    rows = [
        _Row(f"{_WM}, single", _single(_WM), must=6, aim=15e3),
        _Row(f"{_WM}, 64 envs", _vector(64, model), must=80e3, aim=120e3),
        _Row(f"{_WM}, 256 envs", _vector(256, model), must=100e3, aim=150e3),
        _Row(f"{_WM}, {envs} envs", _vector(envs, model), must=100e3, aim=150e3),
        _Row(f"{_WM}, {envs} envs, 2 threads", _vector(envs, threaded), must=170e3, aim=250e3),
        _Row("world model alone, 1 patient", _alone(1, model)),
        _Row(f"world model alone, {envs} patients", _alone(envs, model)),
        _Row(f"{_PHYSIO}, single", _single(_PHYSIO)),
    ]
    if find_spec("torch"):
        rows.append(_Row(_PUBLISHED, _published()))
    if find_spec("icu_sepsis"):
        import icu_sepsis  # noqa: F401  registers itself

        rows.append(_Row("icu-sepsis, single", _single(_PEER)))
    return rows


def _single(name: str) -> _Play:
    env = gym.make(name)
    env.reset(seed=0)
    actions = cycle(np.random.default_rng(0).integers(0, N_ACTIONS, 500).tolist())

    def play() -> int:
        _, _, terminated, truncated, _ = env.step(next(actions))
        if terminated or truncated:
            env.reset()
        return 1

    return play


def _vector(n: int, model: Any) -> _Play:
    env = gym.make_vec(_WM, num_envs=n, model=model)
    env.reset(seed=0)
    actions = cycle(np.random.default_rng(0).integers(0, N_ACTIONS, (16, n)))
    for _ in range(_WARM_UP):
        env.step(next(actions))

    def play() -> int:
        env.step(next(actions))
        return n

    return play


def _alone(n: int, model: Any) -> _Play:
    rng = np.random.default_rng(0)
    patients = model.start(n, rng)
    doses = model.preprocessing.action_bins.doses(rng.integers(0, N_ACTIONS, n))

    def play() -> int:
        model.step(patients, *doses, rng)
        return n

    return play


def _published() -> _Play:
    """One patient, a window of 6 states recomputed by a 2-layer GRU(128) at every step."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    gru = nn.GRU(OBSERVATION_SIZE, _HIDDEN, num_layers=2, batch_first=True)
    heads = [nn.Linear(_HIDDEN, width) for width in (N_FEATURES, N_FEATURES, 1)]
    window = torch.zeros(1, _WINDOW, OBSERVATION_SIZE)

    @torch.no_grad()
    def play() -> int:
        nonlocal window
        encoded = gru(window)[0][:, -1]
        mean, log_variance, ventilation = (head(encoded) for head in heads)
        state = window[:, -1].clone()
        state[:, :N_FEATURES] = mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean)
        state[:, N_FEATURES] = (torch.rand(1) < torch.sigmoid(ventilation[:, 0])).float()
        window = torch.cat([window[:, 1:], state[:, None]], dim=1)
        return 1

    return play


def _table(rows: list[_Row]) -> Table:
    published = next((row.best for row in rows if row.name == _PUBLISHED), None)
    table = Table("", title="Steps per second in the best turn, on 1 thread if not said otherwise")
    for column in ("steps/s", "x published", "must", "aim", ""):
        table.add_column(column, justify="right")
    for row in rows:
        must, told = row.must, "" if row.must is None else f"{row.must:,.0f}"
        if must is not None and must < 100:
            told = f"{told} x published"
            must = must * published if published else None
        times = f"{row.best / published:.1f}" if published else "-"
        aim = "" if row.aim is None else f"{row.aim:,.0f}"
        verdict = "" if must is None else _verdict(row.best >= must)
        table.add_row(row.name, f"{row.best:,.0f}", times, told, aim, verdict)
    return table


def _verdict(met: bool) -> str:
    return "met" if met else "missed"


def _memory(extra: int) -> str:
    """Memory of one more environment: what two sizes of vector environment hold."""
    model, held = load_world_model("default"), []
    for n in (_FEW_ENVS, _FEW_ENVS + extra):
        tracemalloc.start()
        env = gym.make_vec(_WM, num_envs=n, model=model)
        env.reset(seed=0)
        for _ in range(3):
            env.step(np.zeros(n, np.int64))
        held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        del env
    kb = (held[1] - held[0]) / extra / 1024
    return f"memory per extra env: {kb:.1f} KB (must 10, aim 4), {_verdict(kb <= 10)}"


def _import_time() -> str:
    code = "import time; t = time.perf_counter(); import sepsis_gym; print(time.perf_counter() - t)"
    fresh = [sys.executable, "-c", code + "; import sys; sys.exit('torch' in sys.modules)"]
    runs = [subprocess.run(fresh, capture_output=True, text=True) for _ in range(3)]
    seconds = min(float(run.stdout) for run in runs)
    torch = "with" if runs[0].returncode else "without"
    return (
        f"import sepsis_gym: {seconds:.2f} s {torch} torch (must 0.5), {_verdict(seconds <= 0.5)}"
    )
