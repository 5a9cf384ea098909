"""Off-policy estimates from synthetic cohorts against agents that treat new patients.

    pip install -e ".[bench]"
    python benchmarks/ope_truth_cohort.py

The clinicians decide once per step, so their probabilities are known, and some of their decisions
are random, so every action is seen. All else is as in any cohort: clinicians know more than the
record shows, an action stands for a range of doses, and stays differ in length. The patients come
from the same population, reward and horizon as those of the true values (``evaluation.truth``).
"""

import sys
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.parquet as pq
import tyro
from numpy.typing import NDArray
from ope_scores import Case, Floats, found, note, report
from tqdm import tqdm

from agents import make_agent, train_agent
from agents.policy import BatchPolicy, one_hot
from evaluation.behavior import fit_behavior_policy
from evaluation.estimators import resample_counts, resample_index
from evaluation.fqe import FQEDesign
from evaluation.target import soften
from evaluation.truth import Truth, TruthConfig
from sepsis_gym.actions import encode_action
from sepsis_gym.agent import BatchAgent
from sepsis_gym.cohort.assemble import AssemblyConfig, assemble
from sepsis_gym.features import FEATURE_INDEX
from sepsis_gym.preprocessing import Preprocessing
from sepsis_gym.trajectories import Trajectories
from world_models.physiology import ClinicianConfig
from world_models.physiology.records.blocks import simulated
from world_models.physiology.records.propensities import write_propensities
from world_models.physiology.records.trajectories import raw_cohort

GAMMA, RETURN_RANGE = 0.99, 30.0
"""The published reward is 15 for survival and -15 for death; errors are shares of the range."""
TRAINING_SEED = 10**6


class Titrating(BatchPolicy):
    """Roughly a guideline: both drugs up while the pressure is low, down while it is not."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        """Takes the threshold of 65 mmHg in the units of an observation."""
        super().__init__()
        self._feature = FEATURE_INDEX["meanbp"]
        typical = np.array(preprocessing.fill, np.float32)
        typical[self._feature] = 65.0
        self._threshold = preprocessing.standardize(typical)[self._feature]

    def batch_probabilities(self, observations: NDArray[np.float32]) -> Floats:
        """[n, 25]."""
        low = observations[:, self._feature] < self._threshold
        return one_hot(np.where(low, encode_action(3, 2), encode_action(1, 0)))


class Mixed(BatchPolicy):
    """One agent most of the time, another the rest."""

    def __init__(self, mostly: BatchAgent, sometimes: BatchAgent, share: float) -> None:
        """Takes the share of the second."""
        super().__init__()
        self._parts = ((1 - share, mostly), (share, sometimes))

    def batch_probabilities(self, observations: NDArray[np.float32]) -> Floats:
        """[n, 25]."""
        mixed: Floats = sum(w * part.batch_probabilities(observations) for w, part in self._parts)
        return mixed


def cohort_of(
    patients: int, seed: int, clinician: ClinicianConfig, preprocessing: Preprocessing | None
) -> Trajectories:
    """A synthetic cohort without tables, at the dose levels given."""
    raw = raw_cohort(simulated(patients, seed, clinician), step_hours=4, seed=seed)
    return assemble(
        raw,
        AssemblyConfig(),
        source="bench",
        credentialed=False,
        preprocessing=preprocessing,
        build={"synthetic": {"clinician": asdict(clinician)}},
    )


def known_probability(
    cohort: Trajectories, patients: int, seed: int, clinician: ClinicianConfig
) -> Floats:
    """[R] probability with which the clinician chose what was given; 1 in final states."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "propensities.parquet"
        write_propensities(file, cohort, patients, seed, clinician)
        table = pq.read_table(file).drop_columns(["stay_id", "step"])
    chances = np.stack([column.to_numpy() for column in table.columns], axis=1)
    chance = np.ones(len(cohort.action))
    decision = cohort.is_decision
    chance[decision] = taken(chances, cohort.action[decision])
    return chance


def taken(each: Floats, action: NDArray[np.integer]) -> Floats:
    """[R] entries of the logged actions in [R, 25]; those of final states mean nothing."""
    return np.take_along_axis(each, action[:, None], 1)[:, 0]


def targets(train: Trajectories) -> dict[str, tuple[BatchAgent, float]]:
    """Agents, and the share of their decisions taken at random."""
    cloned = train_agent("clinician", train)
    titrating = Titrating(train.preprocessing)
    return {
        "clinician model": (cloned, 0.0),
        "25% guideline mix": (Mixed(cloned, titrating, 0.25), 0.0),
        "guideline": (titrating, 0.01),
        "random": (make_agent("random"), 0.0),
        "zero dose": (make_agent("no_treatment"), 0.01),
        "maximum dose": (make_agent("fixed_dose", action=24), 0.01),
    }


def main(
    sizes: tuple[int, ...] = (725,),
    seeds: int = 20,
    resamples: int = 300,
    episodes: int = 8192,
    exploration: float = 0.1,
    out: Path | None = None,
) -> None:
    """Compares and prints.

    The behavior is known, or estimated on a training cohort of 3.5 times the smallest log; Q is
    fitted there as well, once, so the interval of FQE leaves out how Q would vary.

    Args:
        sizes: Stays of a log; 725 and 5000 take ten minutes.
        seeds: Logs of each size.
        resamples: Bootstrap resamples of each interval.
        episodes: New patients of each true value.
        exploration: Share of the clinicians' decisions taken at random.
        out: JSON file to write.
    """
    clinician = ClinicianConfig(decision_interval_hours=4, exploration=exploration)
    train = cohort_of(int(3.5 * min(sizes)), TRAINING_SEED, clinician, None)
    agents, rows = targets(train), found()
    population = Truth(train, gamma=GAMMA, config=TruthConfig(episodes=episodes))
    judged = tqdm(agents.items(), "true values", file=sys.stderr)
    truth = {name: population.value(agent, softening=share).value.value
             for name, (agent, share) in judged}  # fmt: skip
    fit = fit_behavior_policy(train)
    print(f"estimated behavior: {fit.policy.name}, {fit.reason}")
    design = FQEDesign(train, gamma=GAMMA, folds=np.arange(len(train)) % 5)
    q = {name: design.fit(soften(agent.batch_probabilities(train.observations()), share))
         for name, (agent, share) in agents.items()}  # fmt: skip
    runs = [(size, seed) for size in sizes for seed in range(seeds)]
    for size, seed in tqdm(runs, "logs", file=sys.stderr):
        patients = int(1.1 * size) + 20
        whole = cohort_of(patients, seed, clinician, train.preprocessing)
        known = known_probability(whole, patients, seed, clinician)
        log = whole.select(np.arange(size))
        observations, action = log.observations(), log.action
        estimated, other = (taken(model.probabilities(log), action)
                            for model in (fit.policy, fit.other))  # fmt: skip
        doubt = float(log.padded(other / estimated, 1.0).prod(1).mean())
        rng = np.random.default_rng([size, seed])
        counts = resample_counts(resample_index(size, resamples, rng), size)
        for name, (agent, share) in agents.items():
            target = soften(agent.batch_probabilities(observations), share)
            wanted, values = taken(target, action), q[name].values(observations)
            # a dose that comfort care cut short was nobody's choice: it says nothing
            certain = np.where(known[: len(wanted)] > 0, known[: len(wanted)], wanted)
            for label, behavior, rho in (("known", certain, 1.0), ("estimated", estimated, doubt)):
                case = Case(
                    reward=log.padded(log.reward),
                    ratio=log.padded(wanted / behavior, 1.0),
                    mask=log.mask,
                    q_taken=log.padded(taken(values, action)),
                    v=log.padded((values * target).sum(1)),
                    truth=truth[name],
                    behavior_mean_rho=rho,
                    gamma=GAMMA,
                    scale=RETURN_RANGE,
                )
                note(rows, f"{size} stays, behavior {label}", name, case, counts)
    report(rows, truth, f"Synthetic cohorts, {seeds} logs", out)


if __name__ == "__main__":
    tyro.cli(main)
