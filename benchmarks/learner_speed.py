"""Updates of CQL and decisions of PPO per second, each beside what it must be compared with.

    pip install -e ".[offline,online]"
    python benchmarks/learner_speed.py

Where a machine has other work to do the wall clock tells little: the contestants take turns, the
ratios are of their sums, and processor time stands beside the wall clock.
"""

import contextlib
import io
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from agents.learner import Transitions
from agents.offline import CqlAgent, CqlConfig
from agents.online import PpoAgent, PpoConfig, opened
from agents.training import torch_settings
from sepsis_gym import Trajectories
from sepsis_gym.registration import SAMPLE_COHORT


@dataclass
class Clock:
    """Wall and processor time of one contestant, and the pieces of work it did in them."""

    work: Callable[[], int]
    done: int = 0
    wall: float = 0.0
    processor: float = 0.0

    def turn(self) -> None:
        """Works for one turn."""
        wall, processor = time.perf_counter(), time.process_time()
        self.done += self.work()
        self.wall += time.perf_counter() - wall
        self.processor += time.process_time() - processor

    @property
    def rates(self) -> tuple[float, float]:
        """Pieces a second by the wall clock, and by processor time."""
        return self.done / self.wall, self.done / self.processor


def race(contestants: dict[str, Callable[[], int]], turns: int) -> dict[str, Clock]:
    """Takes turns, after one turn each to warm up."""
    for work in contestants.values():
        work()
    clocks = {name: Clock(work) for name, work in contestants.items()}
    for _ in range(turns):
        for clock in clocks.values():
            clock.turn()
    return clocks


def cql(updates: int) -> dict[str, Callable[[], int]]:
    """Our feeding of ``algo.update``, and ``algo.fit`` of the same algorithm on the same stays."""
    log = Trajectories.load(SAMPLE_COHORT).split("train")
    config = CqlConfig()
    data = Transitions.of(log, 15.0, log.observations())
    rng = np.random.default_rng(0)
    learner, _ = CqlAgent.learner(config, 15.0)
    other, _ = CqlAgent.learner(config, 15.0)
    from d3rlpy.logging import NoopAdapterFactory  # quietly, after the learners

    with contextlib.redirect_stdout(io.StringIO()):  # it logs
        buffer = log.to_d3rlpy()

    def gathered() -> int:
        for _ in range(updates):
            learner.update(data.take(rng.integers(len(data.action), size=config.batch_size)))
        return updates

    def fitted() -> int:
        with contextlib.redirect_stdout(io.StringIO()):
            other.algorithm.fit(
                buffer, n_steps=updates, n_steps_per_epoch=updates, show_progress=False,
                logger_adapter=NoopAdapterFactory(),
            )  # fmt: skip
        return updates

    return {"CQL, gathered": gathered, "CQL, algo.fit of d3rlpy": fitted}


def ppo(n_epochs: int) -> dict[str, Callable[[], int]]:
    """Whole PPO trainings of one rollout, and the same number of random decisions."""
    from stable_baselines3.common.logger import Logger

    preprocessing = Trajectories.load(SAMPLE_COHORT).preprocessing
    default, heavy = PpoConfig(), PpoConfig(n_epochs=n_epochs)
    decisions = default.num_envs * default.rollout_steps

    def training(config: PpoConfig, threads: int) -> Callable[[], int]:
        algorithm = PpoAgent._algorithm(config, opened(config, preprocessing))
        algorithm.set_logger(Logger(None, []))

        def learn() -> int:
            with torch_settings(threads, 0):
                algorithm.learn(decisions, log_interval=None, reset_num_timesteps=False)
            return decisions

        return learn

    env = opened(default, preprocessing).env.unwrapped
    env.reset(seed=0)
    rng = np.random.default_rng(0)

    def random() -> int:
        for _ in range(default.rollout_steps):
            env.step(rng.integers(25, size=default.num_envs))
        return decisions

    return {
        f"PPO, {default.n_epochs} epochs (the default)": training(default, 1),
        "the same, 2 threads": training(default, 2),
        f"PPO, {n_epochs} epochs": training(heavy, 1),
        "the environment alone": random,
    }


def main(turns: int = 10, updates: int = 100, n_epochs: int = 10) -> None:
    """Prints rates on one thread, if not said otherwise.

    Args:
        turns: Of each contestant.
        updates: Of CQL in a turn.
        n_epochs: Of the heavier PPO.
    """
    table = Table(title="On one thread, if not said otherwise")
    for name in (
        "",
        "per s, wall",
        "per s, processor",
        "x last row, wall",
        "x last row, processor",
    ):
        table.add_column(name, justify="right" if name else "left")
    with torch_settings(1, 0):
        for contestants in (cql(updates), ppo(n_epochs)):
            clocks = race(contestants, turns)
            last = list(clocks.values())[-1].rates
            for name, clock in clocks.items():
                ratios = [f"{a / b:.2f}" for a, b in zip(clock.rates, last, strict=True)]
                table.add_row(name, *(f"{rate:,.0f}" for rate in clock.rates), *ratios)
            table.add_section()
    Console(width=120).print(table)


if __name__ == "__main__":
    tyro.cli(main)
