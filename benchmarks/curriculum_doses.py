"""What rule a run of ``sepsis-gym llm train`` has learned: doses where they matter most.

Usage: python benchmarks/curriculum_doses.py COHORT OUT

Reads the actions that the table of the run kept. Hypoperfusion is what the guidance of the prompt
calls so; in refractory shock the pressure is below its target while the third or fourth vasopressor
level runs. The last line is what the planner that reinforcement is paid by expects there of the
highest level beyond the one below it, with the charge for distance from the guideline.
"""

import sys
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from agents.curriculum import TINY
from agents.guideline import GuidelineAgent
from agents.llm.prompt import FIO2_HIGH, LACTATE_HIGH_MMOL_L, MAP_TARGET_MMHG
from agents.planner import PlanningAgent
from sepsis_gym.actions import N_LEVELS, decode_action, encode_action
from sepsis_gym.cli.llm_train import check_cohort
from sepsis_gym.errors import SepsisGymError
from sepsis_gym.features import FEATURE_INDEX
from sepsis_gym.patients import OBSERVATION_SLICES, decode_observation
from sepsis_gym.trajectories import Trajectories

MAP, LACTATE, FIO2 = (FEATURE_INDEX[name] for name in ("meanbp", "lactate", "fio2"))
HIGHEST = N_LEVELS - 1


def main(cohort: str, out: str) -> None:
    """Prints the table."""
    log = Trajectories.load(cohort)
    check_cohort(Path(out), log)
    log = log.split("test")
    files = sorted(Path(out, "table").glob("*, decided *.npz"))
    asked = {file.name.partition(", decided")[0]: np.load(file)["action"] for file in files}
    n = max(map(len, asked.values()), default=0)
    if not n:
        raise SystemExit(f"no decisions are kept in {out}/table")
    rows = np.flatnonzero(log.is_decision)[:n]
    values = log.values[rows]
    known = log.preprocessing.known(log.age[rows])
    low = known[:, MAP] & (values[:, MAP] < MAP_TARGET_MMHG)
    wet = known[:, FIO2] & (values[:, FIO2] >= FIO2_HIGH)
    poor = low | (known[:, LACTATE] & (values[:, LACTATE] > LACTATE_HIGH_MMOL_L))
    seen = log.observations()[rows]
    running = decode_action(seen[:, OBSERVATION_SLICES["previous_action"]].argmax(1))[1]
    shock = low & (running >= HIGHEST - 1)
    usual = GuidelineAgent(log.preprocessing).choose(seen)
    table = Table(
        "agent",
        f"highest fluid in hypoperfusion ({poor.sum()})",
        f"most frequent at an FiO2 below {FIO2_HIGH:g}",
        f"no fluid elsewhere ({(~poor).sum()})",
        f"highest vasopressor in refractory shock ({shock.sum()})",
        f"neither drug at a low MAP ({low.sum()})",
        f"at a high lactate alone ({(poor & ~low).sum()})",
    )
    clinicians = log.action[rows]
    for name, action in {"clinicians": clinicians, "guideline": usual, **asked}.items():
        if len(action) == n:  # else the model cannot call
            fluid, dose = decode_action(action)
            neither, lactate_alone = action == encode_action(0, 0), poor & ~low
            shares = [fluid[poor] == HIGHEST, fluid[~poor] == 0, dose[shock] == HIGHEST]
            shares += [neither[low], neither[lactate_alone]]
            first, *others = (f"{share.mean():.0%}" for share in shares)
            table.add_row(name, first, f"{np.bincount(fluid[poor & ~wet]).argmax()}", *others)
    Console(width=160).print(table)
    planner = PlanningAgent("default", horizon=TINY.rl.horizon, penalty=TINY.rl.doubt)
    patients, of_guideline = decode_observation(seen[shock], log.preprocessing), usual[shock]
    fluid, dose = decode_action(of_guideline)
    highest, below = (
        planner.value(patients, encode_action(fluid, level))
        - TINY.rl.guideline * np.abs(dose - level)
        for level in (np.full_like(dose, HIGHEST), np.full_like(dose, HIGHEST - 1))
    )
    print(f"worth of the highest level beyond the next, there: {(highest - below).mean():.2f}")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    try:
        main(*sys.argv[1:])
    except SepsisGymError as error:
        raise SystemExit(f"error: {error}") from None
