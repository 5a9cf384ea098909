"""Trains a BCQ agent on logged stays and scores it off-policy on held-out ones.

Usage: python examples/offline_agent.py [COHORT_FOLDER] [GRADIENT_STEPS]

Without a folder the small synthetic sample that ships with the package is used: enough to see the
loop, far too small for a conclusion. Build one with ``sepsis-gym cohort``.
"""

import sys
from pathlib import Path

from agents import train_agent
from agents.offline import BcqConfig
from evaluation import EvaluationConfig, evaluate_agents
from sepsis_gym import Trajectories
from sepsis_gym.registration import SAMPLE_COHORT


def main(cohort: Path = SAMPLE_COHORT, n_steps: int = 2000) -> str:
    """Returns the results table as text."""
    trajectories = Trajectories.load(cohort)
    agent = train_agent("bcq", trajectories, config=BcqConfig(n_steps=n_steps), seed=0)
    results = evaluate_agents({"bcq": agent}, trajectories, EvaluationConfig(resamples=200))
    table = results.to_text()
    print(table)
    return table


if __name__ == "__main__":
    main(*(convert(text) for convert, text in zip((Path, int), sys.argv[1:], strict=False)))
