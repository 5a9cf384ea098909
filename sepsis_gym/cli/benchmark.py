"""``sepsis-gym benchmark``: how fast the environments are, beside what they should be."""

import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from time import perf_counter
from typing import Any

import gymnasium as gym
import numpy as np
from rich.console import Console
from rich.table import Table
from tqdm import tqdm
from tyro.extras import SubcommandApp

from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.errors import ConfigError
from sepsis_gym.features import N_FEATURES
from sepsis_gym.patients import OBSERVATION_SIZE

app = SubcommandApp()

_PUBLISHED = "the published way"
_WINDOW, _HIDDEN = 6, 128
_ROUND_SECONDS = 0.01
_FEW_ENVS = 256
_KB = 1024


@dataclass
class _Row:
    """One line of the table.

    Attributes:
        name: What is measured.
        play: Plays some steps and returns how many they were.
        must: Steps/s, or how many times the published way.
        aim: Steps/s.
        relative: Whether ``must`` is in times the published way.
        rates: Steps/s of each round.
    """

    name: str
    play: Callable[[], int]
    must: float | None = None
    aim: float | None = None
    relative: bool = False
    rates: list[float] = field(default_factory=list)


@app.command(name="env")
def environments(seconds: float = 3.0, envs: int = 1024, extra_envs: int = 2048) -> None:
    """Measures steps per second, memory and import time; the targets are the project's own.

    All rows take turns, and the best turn counts: what else runs on the machine disturbs them
    alike. Whole steps are timed, with observation, reward, info and the resets between episodes.

    Args:
        seconds: Time for each row.
        envs: Size of the largest vector environment.
        extra_envs: Over how many environments the memory of one is averaged.
    """
    if seconds <= 0 or envs < 1 or extra_envs < 1:
        raise ConfigError("seconds, envs and extra_envs must be positive")
    console = Console()
    with _one_blas_thread() as note:
        rows = _rows(envs)
        for _ in tqdm(range(max(1, round(seconds / _ROUND_SECONDS))), disable=None):
            for row in rows:
                began, steps = perf_counter(), 0
                while (spent := perf_counter() - began) < _ROUND_SECONDS or not steps:
                    steps += row.play()
                row.rates.append(steps / (perf_counter() - began if not spent else spent))
    console.print(_speed_table(rows, note))
    for line in (_memory_line(extra_envs), _import_line(), *_missing(rows)):
        console.print(line, soft_wrap=True)


def _rows(envs: int) -> list[_Row]:
    from world_models import load_world_model

    vector = partial(gym.make_vec, "SepsisWM-v0")
    threaded = load_world_model("default", threads=2)
    rows = [
        _Row("SepsisWM-v0, single", _single("SepsisWM-v0"), must=6, aim=15e3, relative=True),
        _Row("SepsisWM-v0, 64 envs", _vector(vector(num_envs=64)), must=80e3, aim=120e3),
        _Row("SepsisWM-v0, 256 envs", _vector(vector(num_envs=256)), must=100e3, aim=150e3),
        _Row(f"SepsisWM-v0, {envs} envs", _vector(vector(num_envs=envs)), must=100e3, aim=150e3),
        _Row(
            f"SepsisWM-v0, {envs} envs, 2 threads",
            _vector(vector(num_envs=envs, model=threaded)),
            must=170e3,
            aim=250e3,
        ),
        _Row("world model alone, 1 patient", _model_alone(1)),
        _Row(f"world model alone, {envs} patients", _model_alone(envs)),
        _Row("SepsisPhysio-v0, single", _single("SepsisPhysio-v0")),
    ]
    if find_spec("torch"):
        rows.append(_Row(_PUBLISHED, _published()))
    if find_spec("icu_sepsis"):
        import icu_sepsis  # noqa: F401  registers itself

        rows.append(_Row("icu-sepsis, single", _single("Sepsis/ICU-Sepsis-v2")))
    return rows


def _single(name: str) -> Callable[[], int]:
    env = gym.make(name)
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(0, N_ACTIONS, 8).tolist()

    def play() -> int:
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
        return len(actions)

    return play


def _vector(env: gym.vector.VectorEnv[Any, Any, Any]) -> Callable[[], int]:
    env.reset(seed=0)
    turns = iter(_forever(np.random.default_rng(0).integers(0, N_ACTIONS, (16, env.num_envs))))

    def play() -> int:
        env.step(next(turns))
        return env.num_envs

    return play


def _forever(rows: Any) -> Iterator[Any]:
    while True:
        yield from rows


def _model_alone(n: int) -> Callable[[], int]:
    from world_models import load_world_model

    model, rng = load_world_model("default"), np.random.default_rng(0)
    patients = model.start(n, rng)
    doses = model.preprocessing.action_bins.doses(rng.integers(0, N_ACTIONS, n))

    def play() -> int:
        model.step(patients, *doses, rng)
        return n

    return play


def _published() -> Callable[[], int]:
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


@contextmanager
def _one_blas_thread() -> Iterator[str]:
    """One thread for matrix products, and a line that says whether that could be set."""
    try:
        from threadpoolctl import threadpool_limits
    except ImportError:
        yield "matrix products use as many threads as the environment variables say"
        return
    with threadpool_limits(1):
        yield "1 thread unless a row says otherwise"


def _speed_table(rows: list[_Row], note: str) -> Table:
    best = {row.name: max(row.rates) for row in rows}
    published = best.get(_PUBLISHED)
    table = Table("", title=f"Steps per second, best turn ({note})")
    for column in ("steps/s", "x published", "must", "aim", ""):
        table.add_column(column, justify="right")
    for row in rows:
        rate, must = best[row.name], row.must
        told = "" if must is None else f"{must:,.0f}"
        if row.relative and must is not None:
            told = f"{must:.0f} x published"
            must = must * published if published else None
        times = f"{rate / published:.1f}" if published else "-"
        aim = "" if row.aim is None else f"{row.aim:,.0f}"
        table.add_row(row.name, f"{rate:,.0f}", times, told, aim, _verdict(rate, must))
    return table


def _verdict(rate: float, must: float | None) -> str:
    return "" if must is None else "met" if rate >= must else "missed"


def _memory_line(extra: int) -> str:
    """Memory of one more environment, from two sizes of vector environment."""
    held = []
    for n in (_FEW_ENVS, _FEW_ENVS + extra):
        tracemalloc.start()
        env = gym.make_vec("SepsisWM-v0", num_envs=n)
        env.reset(seed=0)
        for _ in range(3):
            env.step(np.zeros(n, np.int64))
        held.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        del env
    kb = (held[1] - held[0]) / extra / _KB
    return f"memory per extra env {kb:.1f} KB (must 10, aim 4): {_verdict(-kb, -10)}"


def _import_line() -> str:
    code = (
        "import sys, time; began = time.perf_counter(); import sepsis_gym; "
        "print(time.perf_counter() - began, 'torch' in sys.modules)"
    )
    told = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    seconds = min(float(one.stdout.split()[0]) for one in told)
    torch = "with" if told[0].stdout.split()[1] == "True" else "without"
    return (
        f"import sepsis_gym {seconds:.2f} s, {torch} torch (must 0.5): {_verdict(-seconds, -0.5)}"
    )


def _missing(rows: list[_Row]) -> Iterator[str]:
    names = {row.name for row in rows}
    if _PUBLISHED not in names:
        yield 'the published way was not measured: pip install "sepsis-gym[torch]"'
    if "icu-sepsis, single" not in names:
        yield "icu-sepsis was not measured: pip install icu-sepsis"
