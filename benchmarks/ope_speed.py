"""How long off-policy evaluation takes: resampling all estimators, refits of Q, a neural Q.

CPU seconds of this process, so that a busy machine counts less, with wall-clock seconds beside
them. Stays are drawn from the sample cohort and policies are random: only sizes matter here.

    python benchmarks/ope_speed.py --stays 725 --neural
"""

import time
from collections.abc import Callable
from dataclasses import replace
from importlib.resources import files

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from evaluation import estimators
from evaluation.fqe import FQEConfig
from evaluation.neural_fqe import neural_fqe
from evaluation.q_values import CrossFit, QValues
from evaluation.scoring import METHODS, Scoring
from sepsis_gym.actions import N_ACTIONS
from sepsis_gym.trajectories import Trajectories


def sample_stays(n: int, training: int, rng: np.random.Generator) -> Trajectories:
    """Stays of the sample cohort drawn with replacement, each as a patient of its own."""
    sample = Trajectories.load(str(files("sepsis_gym") / "sample_cohort"))
    drawn = sample.select(rng.integers(0, len(sample), training + n))
    split = np.where(np.arange(training + n) < training, "train", "test")
    return replace(drawn, stays=replace(drawn.stays, subject_id=np.arange(len(drawn)), split=split))


def timed(work: Callable[[], object]) -> list[str]:
    """CPU and wall-clock seconds of one call."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return [f"{time.process_time() - cpu:.2f}", f"{time.perf_counter() - wall:.2f}"]


class Uniform:
    """A policy for the neural Q."""

    def batch_probabilities(self, observations: np.ndarray) -> np.ndarray:
        """Every action alike."""
        return np.full((len(observations), N_ACTIONS), 1 / N_ACTIONS)


def main(
    stays: int = 725,
    training: int = 2900,
    resamples: int = 1000,
    policies: int = 10,
    refits: int = 100,
    neural: bool = False,
) -> None:
    """Prints a table of timings.

    Args:
        stays: Evaluated stays.
        training: Stays that Q is fitted on besides.
        resamples: Bootstrap resamples.
        policies: Policies that are scored with refits.
        refits: Refits of Q per policy.
        neural: Whether to train a neural Q as well.
    """
    rng = np.random.default_rng(0)
    everything = sample_stays(stays, training, rng)
    log = everything.split("test")
    table = Table("", "CPU s", "wall s", title=f"{stays} stays, {training} more for Q")
    counts = estimators.resample_counts(estimators.resample_index(stays, resamples, rng), stays)
    scoring = Scoring(log, counts, gamma=0.99, confidence=0.95, kind="percentile")
    rows, every_row = len(log.action), len(everything.action)
    ratio, (q_taken, v) = rng.lognormal(0, 0.3, rows), rng.normal(size=(2, rows))
    q = QValues(q_taken, v, np.zeros(refits), 0.0, "random")
    name = f"one policy: {len(METHODS)} estimators, {resamples} resamples, intervals, differences"
    table.add_row(name, *timed(lambda: scoring.estimates(ratio, q)))

    def refit() -> None:
        fit = CrossFit(
            everything, training, counts[:refits], FQEConfig(), gamma=0.99, folds=5, rng=rng
        )
        for _ in range(policies):
            fit(rng.dirichlet(np.ones(N_ACTIONS), every_row))

    table.add_row(f"{policies} policies: {refits} refits of a cross-fitted Q each", *timed(refit))
    if neural:
        train = everything.split("train")
        one = timed(lambda: neural_fqe(Uniform(), train, log, gamma=0.99))
        table.add_row("one policy: neural Q", *one)
    Console().print(table)


if __name__ == "__main__":
    tyro.cli(main)
