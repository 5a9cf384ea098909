"""What reinforcement truly gained without the simulator, of more patients than the table's.

Usage: python benchmarks/curriculum_truth.py COHORT OUT [OUT ...] [--patients 1024]

Treats new patients of a synthetic cohort's population by the models OUT/bc and OUT/rl of each run
of ``sepsis-gym llm train``, and by the rule that was imitated. All meet the same patients and the
same luck; differences are paired, with 95% intervals. The last rows are the mean of several runs,
patient by patient. What is measured is kept in OUT/table, so that a run that is stopped goes on,
until a stage is trained again.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from agents.curriculum import TINY
from agents.guideline import GuidelineAgent
from agents.llm import LLMAgent, Sampling, TeacherAgent, TransformersBackend
from evaluation import EvaluationConfig
from evaluation.truth import Truth, TruthConfig
from sepsis_gym.agent import Agent
from sepsis_gym.cli.llm_train import check_cohort
from sepsis_gym.dynamics import Treated
from sepsis_gym.errors import SepsisGymError
from sepsis_gym.trajectories import Trajectories

AT_ONCE = 64


def kept(file: Path, treat: Callable[[], Treated]) -> Treated:
    """What the file holds, or is going to."""
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        np.savez(file.with_suffix(".new.npz"), **vars(treat()))
        file.with_suffix(".new.npz").replace(file)
    with np.load(file) as arrays:
        return Treated(**arrays)


def main(cohort: str, runs: Sequence[Path], patients: int) -> None:
    """Prints the table."""
    log = Trajectories.load(cohort)
    for out in runs:
        check_cohort(out, log)
    guideline = GuidelineAgent(log.preprocessing)
    rule = TeacherAgent(simulate=False)
    rule.preprocessing = log.preprocessing

    def model(folder: Path) -> Agent:
        sampling = Sampling(max_tokens=TINY.max_tokens)
        backend = TransformersBackend(str(folder), sampling=sampling)
        return LLMAgent(
            backend,
            log.preprocessing,
            fallback=guideline,
            simulate=False,
            max_repairs=0,
            workers=AT_ONCE,
        )

    config = TruthConfig(patients, patients, confidence=0.95)
    truth = Truth(log, gamma=EvaluationConfig().gamma, config=config)
    table = Table(
        *("run", "agent", "true return beyond clinicians", "beyond bc", "survival beyond bc"),
        "minutes a day with MAP < 65 beyond bc",
    )

    def tell(run: str, told: Mapping[str, Treated | Sequence[Treated]]) -> None:
        for name, treated in told.items():
            over = truth.compare(treated, truth.usual_one_by_one)
            beyond = truth.compare(treated, told["bc"])
            gains = (
                f"{beyond.difference:.2f}",
                f"{beyond.survival_difference:.1%}",
                f"{beyond.hypotension_difference:.0f}",
            )
            table.add_row(run, name, f"{over.difference:.2f}", *(() if name == "bc" else gains))

    told: dict[str, list[Treated]] = {name: [] for name in ("bc", "rl", "teacher")}
    for out in runs:
        for name, all_runs in told.items():

            def treat(agent: str = name, run: Path = out) -> Treated:
                return truth.treated_by(rule if agent == "teacher" else model(run / agent))

            file = out / "table" / f"{name}, alone, {patients} patients.npz"
            all_runs.append(kept(file, treat))
        tell(out.name, {name: all_runs[-1] for name, all_runs in told.items()})
    if len(runs) > 1:
        tell("mean", told)
    Console(width=140).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cohort")
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--patients", type=int, default=1024)
    given = parser.parse_args()
    try:
        main(given.cohort, given.runs, given.patients)
    except SepsisGymError as error:
        raise SystemExit(f"error: {error}") from None
