"""How fast the mechanistic patient is: its dynamics alone, and the environments over it.

One thread, every number the median of five timings in CPU seconds of this process; the dynamics
take turns with those of another module, if one is given, so that a busy machine slows both alike.

    python benchmarks/physiology_speed.py --prototype PATH
"""

import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import ModuleType

import gymnasium as gym
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from sepsis_gym.actions import N_ACTIONS
from world_models.mechanistic import MechanisticModel
from world_models.physiology.body import DT, advance
from world_models.physiology.courses import STEPS_PER_HOUR, Streams, admit
from world_models.physiology.unit import Luck, drift, happen

REPEATS, HOURS = 5, 8
FLUID_L_H, DOSE = 0.1, 0.1


def seconds(work: Callable[[], object]) -> float:
    """CPU time of one call."""
    start = time.process_time()
    work()
    return time.process_time() - start


def dynamics(n: int) -> Callable[[], None]:
    """Some hours of n patients without anybody looking, random draws included."""
    ward = admit(n, Streams.of(0))
    fluid, dose = np.full(n, FLUID_L_H, np.float32), np.full(n, DOSE, np.float32)
    rng = np.random.default_rng(0)

    def work() -> None:
        body = ward.body.copy()
        for hour in range(HOURS):
            luck = Luck.draw(STEPS_PER_HOUR, n, rng, rng)
            for step in range(STEPS_PER_HOUR):
                now = hour + step * DT
                drift(body, luck.drift[step])
                advance(body, ward.people, now, fluid, dose)
                happen(body, ward.people, now, luck.events[step])

    return work


def prototype_dynamics(module: ModuleType, n: int) -> Callable[[], None]:
    """The same hours in a module with ``cohort``, ``init``, ``step`` and ``events``."""
    rng = np.random.default_rng(0)
    people = module.cohort(n, rng)
    start = module.init(people, rng)
    fluid, dose = np.full(n, FLUID_L_H), np.full(n, DOSE)

    def work() -> None:
        state = start.copy()
        for _ in range(HOURS * STEPS_PER_HOUR):
            module.step(state, people, fluid, dose)
            module.events(state, people, rng)

    return work


def environment(n: int) -> Callable[[], None]:
    """Ten steps of n environments under random actions, new patients included."""
    env = gym.make_vec("SepsisPhysio-v0", num_envs=n)
    env.reset(seed=0)
    actions = np.random.default_rng(0).integers(0, N_ACTIONS, (10, n))

    def work() -> None:
        for action in actions:
            env.step(action)

    return work


def load(path: Path) -> ModuleType:
    """A module that is no part of a package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is no Python module")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(prototype: Path | None = None) -> None:
    """Prints the speeds.

    Args:
        prototype: Module to compare the dynamics with.
    """
    other = None if prototype is None else load(prototype)
    table = Table("", "per CPU second", "prototype", "ratio", title=f"numpy {np.__version__}")
    for n in (1, 64, 512, 1024, 4096):
        ours, theirs = dynamics(n), None if other is None else prototype_dynamics(other, n)
        times: list[tuple[float, float]] = []
        for _ in range(REPEATS):
            times.append((seconds(ours), seconds(theirs) if theirs else float("nan")))
        mine, its = (n * HOURS / median(side) for side in zip(*times, strict=True))
        row = ("", "") if other is None else (f"{its:,.0f}", f"{mine / its:.2f}")
        table.add_row(f"patient-hours, {n} patients", f"{mine:,.0f}", *row)
    for n in (1, 64, 1024):
        work = environment(n)
        work()
        speed = 10 * n / median(seconds(work) for _ in range(REPEATS))
        table.add_row(f"environment steps, {n} in one batch", f"{speed:,.0f}", "", "")
    patients = MechanisticModel().start(64, np.random.default_rng(0))
    held = sum(getattr(patients, name).nbytes for name in vars(patients)) // len(patients)
    Console().print(table, f"{held} bytes held per environment")


if __name__ == "__main__":
    tyro.cli(main)
