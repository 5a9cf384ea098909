"""What the curriculum's reward can teach at best, and what that is truly worth.

Usage: python benchmarks/curriculum_reward.py COHORT [PATIENTS]

For each look ahead of the planner that pays reinforcement, the best policy among those that know
no more than the teacher says before its doses: which side of its targets MAP is on, whether lactate
and FiO2 are high, and what is running. It gives the dose that was worth most on average in the
training states of which the same is said. True returns are of patients that no other table treats,
and are compared, patient by patient, with what the teacher gives without a simulator.
"""

import sys

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from agents.curriculum import TINY
from agents.guideline import GuidelineAgent, GuidelineConfig
from agents.llm.prompt import FIO2_HIGH, LACTATE_HIGH_MMOL_L, MAP_TARGET_MMHG
from agents.planner import PlanningAgent
from agents.policy import BatchPolicy, one_hot
from evaluation.evaluate import EvaluationConfig
from evaluation.truth import Truth, TruthConfig
from sepsis_gym.actions import N_ACTIONS, N_LEVELS, decode_action, encode_action
from sepsis_gym.features import FEATURE_INDEX
from sepsis_gym.patients import OBSERVATION_SLICES, decode_observation
from sepsis_gym.preprocessing import Preprocessing
from sepsis_gym.trajectories import Trajectories

STAYS, PATIENTS, SEED = 400, 2048, 77
HORIZONS, CHARGES = (1, 2, 3), (0.0, 0.3, TINY.rl.guideline, 1.0)
FEWEST = 4
"""States of a kind from which a dose is learned; else the guideline's is given."""
_N_SAID = 3 * 2 * 2
Values = NDArray[np.float64]
Actions = NDArray[np.int64]
Observations = NDArray[np.float32]


class Rule(BatchPolicy):
    """A dose for each thing that can be said; -1 where the guideline's is given."""

    def __init__(self, doses: Actions, preprocessing: Preprocessing) -> None:
        """Keeps the doses."""
        super().__init__()
        self._doses, self._guideline = doses, GuidelineAgent(preprocessing)

    def batch_probabilities(self, observations: Observations) -> Values:
        """One-hot [n, 25]."""
        own = self._doses[said(observations, self._guideline.preprocessing)]
        return one_hot(np.where(own < 0, self._guideline.choose(observations), own))


def said(observations: Observations, preprocessing: Preprocessing) -> Actions:
    """[n] a number for all that the teacher says of a state; unknown values call for nothing."""
    at = OBSERVATION_SLICES
    values = preprocessing.restore(observations[:, at["features"]])
    pressure, lactate, fio2 = (values[:, FEATURE_INDEX[n]] for n in ("meanbp", "lactate", "fio2"))
    side = (pressure >= MAP_TARGET_MMHG) + (pressure > GuidelineConfig().map_wean_mmhg).astype(int)
    told = (side * 2 + (lactate > LACTATE_HIGH_MMOL_L)) * 2 + (fio2 >= FIO2_HIGH)
    return np.asarray(told * N_ACTIONS + observations[:, at["previous_action"]].argmax(1))


def of_teacher() -> Actions:
    """What the teacher proposes first, of all that can be said."""
    told, running = np.divmod(np.arange(_N_SAID * N_ACTIONS), N_ACTIONS)
    side, high, wet = told // 4, told // 2 % 2 > 0, told % 2 > 0
    fluid, vasopressor = decode_action(running)
    given = np.where((side == 0) | high, np.maximum(fluid, 1), np.maximum(fluid - 1, 0))
    dose = np.clip(vasopressor + np.where(side == 0, 1, -1), 0, N_LEVELS - 1)
    return np.asarray(encode_action(np.where(wet, 0, given), dose))


def beyond_guideline(observations: Observations, usual: Actions, horizon: int) -> Values:
    """[n, 25] what the planner expects of all doses beyond the guideline's."""
    planner = PlanningAgent("default", horizon=horizon, penalty=TINY.rl.doubt)
    told = []
    for few in np.array_split(observations, max(1, len(observations) // 500)):
        patients = decode_observation(np.repeat(few, N_ACTIONS, axis=0), planner.preprocessing)
        value = planner.value(patients, np.tile(np.arange(N_ACTIONS), len(few)))
        told.append(value.reshape(-1, N_ACTIONS))
    value = np.concatenate(told)
    return np.clip(value - value[np.arange(len(value)), usual, None], -TINY.rl.bound, TINY.rl.bound)


def best(worth: Values, where: Actions) -> Actions:
    """The dose of the highest mean worth for each thing said; -1 where that was seldom."""
    total = np.zeros((_N_SAID * N_ACTIONS, N_ACTIONS))
    np.add.at(total, where, worth)
    often = np.bincount(where, minlength=len(total)) >= FEWEST
    return np.where(often, total.argmax(1), -1)


def main(cohort: str, patients: int) -> None:
    """Prints the table."""
    log = Trajectories.load(cohort)
    train = log.split("train")
    train = train.select(np.arange(min(STAYS, len(train))))
    observations = train.observations()[train.is_decision]
    guideline = GuidelineAgent(log.preprocessing)
    usual, where = guideline.choose(observations), said(observations, log.preprocessing)
    levels, own = decode_action(np.arange(N_ACTIONS)), decode_action(usual)
    away = sum(abs(each - mine[:, None]) for each, mine in zip(levels, own, strict=True))
    config = TruthConfig(patients, patients, confidence=0.95, seed=SEED)
    truth = Truth(log, gamma=EvaluationConfig().gamma, config=config)
    taught = truth.treated_by(Rule(of_teacher(), log.preprocessing))
    table = Table(
        "pays for", "charge per level", "as guideline", "promised", "true gain", "over guideline"
    )
    treated = truth.treated_by(guideline)
    gain = truth.compare(treated, taught).difference
    table.add_row("guideline", "", "100%", "0", f"{gain:.2f}", "")
    for horizon in HORIZONS:
        value = beyond_guideline(observations, usual, horizon)
        for charge in CHARGES:
            rule = Rule(best(value - charge * away, where), log.preprocessing)
            action, mine = rule.batch_probabilities(observations).argmax(1), truth.treated_by(rule)
            table.add_row(
                f"{horizon} step{'s' if horizon > 1 else ''}",
                f"{charge:g}",
                f"{(action == usual).mean():.0%}",
                f"{value[np.arange(len(value)), action].mean():.2f}",
                f"{truth.compare(mine, taught).difference:.2f}",
                f"{truth.compare(mine, treated).difference:.2f}",
            )
    Console(width=120).print(table)


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        raise SystemExit(__doc__)
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else PATIENTS)
