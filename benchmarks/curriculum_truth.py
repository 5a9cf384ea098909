"""What reinforcement truly gained without the simulator, of more patients than the table's.

Usage: python benchmarks/curriculum_truth.py COHORT OUT [PATIENTS]

Treats new patients of a synthetic cohort's population by the models OUT/bc and OUT/rl of a run of
``sepsis-gym llm train``, and by the rule that was imitated. All meet the same patients and the same
luck; differences are paired, with 95% intervals. What is measured is kept in OUT/table, so that a
run that is stopped goes on, until a stage is trained again.
"""

import sys
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
from sepsis_gym.dynamics import Treated
from sepsis_gym.trajectories import Trajectories

PATIENTS = 1024
AT_ONCE = 64


def main(cohort: str, out: str, patients: int) -> None:
    """Prints the table."""
    log = Trajectories.load(cohort)
    guideline = GuidelineAgent(log.preprocessing)
    rule = TeacherAgent(simulate=False)
    rule.preprocessing = log.preprocessing

    def model(stage: str) -> Agent:
        sampling = Sampling(max_tokens=TINY.max_tokens)
        backend = TransformersBackend(f"{out}/{stage}", sampling=sampling, batch_size=AT_ONCE)
        settings = {"simulate": False, "max_repairs": 0, "workers": AT_ONCE}
        return LLMAgent(backend, log.preprocessing, fallback=guideline, **settings)

    config = TruthConfig(patients, patients, confidence=0.95)
    truth = Truth(log, gamma=EvaluationConfig().gamma, config=config)
    table = Table(
        *("agent", "true return beyond clinicians", "beyond bc", "survival beyond bc"),
        "minutes a day with MAP < 65 beyond bc",
    )
    imitated: Treated | None = None
    for name in ("bc", "rl", "teacher"):
        kept = Path(out, "table", f"{name}, alone, {patients} patients.npz")
        if not kept.exists():
            treated = truth.treated_by(rule if name == "teacher" else model(name))
            kept.parent.mkdir(exist_ok=True)
            np.savez(kept.with_suffix(".new.npz"), **vars(treated))
            kept.with_suffix(".new.npz").replace(kept)
        with np.load(kept) as arrays:
            treated = Treated(**arrays)
        imitated = imitated or treated
        over, beyond = (
            truth.compare(treated, other) for other in (truth.usual_one_by_one, imitated)
        )
        gains = (
            f"{beyond.difference:.2f}",
            f"{beyond.survival_difference:.1%}",
            f"{beyond.hypotension_difference:.0f}",
        )
        table.add_row(name, f"{over.difference:.2f}", *(() if name == "bc" else gains))
    Console(width=140).print(table)


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        raise SystemExit(__doc__)
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else PATIENTS)
