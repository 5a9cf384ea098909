"""Off-policy estimators against true values: bias, RMSE, interval coverage, and the verdict.

    pip install -e ".[bench]"
    python benchmarks/ope_truth.py mdp       # or gate, contrast, cohort; --help has the sizes

``mdp``: logs of the icu-sepsis MDP, whose values are exact. ``gate``: many seeds, and only rows
that a reader would believe. ``contrast``: the same MDP where an action never seen in a state kills,
so that policies truly differ. ``cohort``: synthetic cohorts, and agents that treat new patients of
the same population. Errors are shares of the distance from the worst outcome to the best.
"""

import json
import sys
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import tyro
from icu_sepsis_mdp import Log, Mdp, counted_policy, cross_fitted_q, read_q, tabular_q
from numpy.typing import NDArray
from ope_scores import ESTIMATORS, Case, Floats, Said, estimate, found, note, report
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr
from tqdm import tqdm

from agents import make_agent, train_agent
from agents.policy import BatchPolicy, one_hot
from evaluation.behavior import fit_behavior_policy
from evaluation.estimators import resample_counts, resample_index, terms
from evaluation.fqe import FQEDesign
from evaluation.intervals import percentile_interval
from evaluation.target import soften
from evaluation.truth import Truth, TruthConfig
from sepsis_gym.actions import N_ACTIONS, encode_action
from sepsis_gym.agent import BatchAgent
from sepsis_gym.cohort.assemble import AssemblyConfig, assemble
from sepsis_gym.features import FEATURE_INDEX
from sepsis_gym.preprocessing import Preprocessing
from sepsis_gym.trajectories import Trajectories
from world_models.physiology import ClinicianConfig
from world_models.physiology.records.blocks import simulated
from world_models.physiology.records.propensities import write_propensities
from world_models.physiology.records.trajectories import raw_cohort

app = tyro.extras.SubcommandApp()
RATIO_CAP = 2.0
FQE_REFITS = 50
GAMMA, RETURN_RANGE = 0.99, 30.0
"""Of the cohorts: the published reward is 15 for survival and -15 for death."""


def policies(mdp: Mdp) -> dict[str, Floats]:
    """Target policies of the MDP, [S, 25] each."""
    q = mdp.optimal_q()
    usual = np.where(mdp.expert > 0.01, q, -1.0)  # the best of what the expert does
    soft = np.exp((q - q.max(1, keepdims=True)) / 0.005)
    everywhere = np.ones((len(q), 1))
    return {
        "expert": mdp.expert,
        "25% optimal mix": 0.75 * mdp.expert + 0.25 * np.eye(N_ACTIONS)[usual.argmax(1)],
        "soft-optimal": soft / soft.sum(1, keepdims=True),
        "random": everywhere / np.full(N_ACTIONS, N_ACTIONS),
        "zero dose": everywhere * np.eye(N_ACTIONS)[0],
        "maximum dose": everywhere * np.eye(N_ACTIONS)[-1],
    }


def exploring(policy: Floats) -> Floats:
    """[S, 25] what logs: 0.9 of a policy and 0.1 random."""
    return 0.9 * policy + 0.1 / N_ACTIONS


def refitted(log: Log, policy: Floats, rng: np.random.Generator) -> tuple[float, float, float]:
    """FQE on the log itself, and an interval from refits on resampled stays."""

    def value(times: NDArray[np.integer]) -> float:
        v = read_q(tabular_q(log, policy, times), log, policy)[1]
        return float(np.average(v[:, 0], weights=times))

    n = len(log)
    drawn = [value(times) for times in rng.multinomial(n, np.full(n, 1 / n), FQE_REFITS)]
    low, high, _ = percentile_interval(np.array(drawn), 0.95)
    return value(np.ones(n, np.int64)), low, high


@app.command(name="mdp")
def mdp(
    sizes: tuple[int, ...] = (725, 5000),
    seeds: int = 20,
    resamples: int = 300,
    out: Path | None = None,
) -> None:
    """Logs of the icu-sepsis MDP: every estimator, known and estimated behavior.

    The estimated behavior is counted on a log of its own, 3.5 times as large.

    Args:
        sizes: Stays of a log.
        seeds: Logs of each size.
        resamples: Bootstrap resamples of each interval.
        out: JSON file to write.
    """
    world = Mdp()
    targets, logging, rows = policies(world), exploring(world.expert), found()
    truth = {name: world.value(policy) for name, policy in targets.items()}
    runs = [(size, seed) for size in sizes for seed in range(seeds)]
    for size, seed in tqdm(runs, "logs", file=sys.stderr):
        rng = np.random.default_rng([size, seed])
        log, other = (world.simulate(logging, n, rng) for n in (size, int(3.5 * size)))
        counts = resample_counts(resample_index(size, resamples, rng), size)
        counted = counted_policy(other)
        second = log.probability(counted_policy(other.take(slice(0, None, 2))))
        doubt = float((second / log.probability(counted)).prod(1).mean())
        for name, policy in targets.items():
            q = cross_fitted_q(log, policy)
            known, estimated = (
                log.probability(policy) / log.probability(behavior)
                for behavior in (logging, counted)
            )
            for label, ratio, rho in (
                ("behavior known", known, 1.0),
                ("estimated", estimated, doubt),
                (f"estimated, ratios up to {RATIO_CAP:g}", np.minimum(estimated, RATIO_CAP), doubt),
            ):
                case = Case(log.reward, ratio, log.mask, *q, truth[name], rho)
                note(rows, f"{size}, {label}", name, case, counts)
            if size == min(sizes):
                value, low, high = refitted(log, policy, rng)
                row = rows[f"{size}, behavior known", name]
                error, covered = value - truth[name], low <= truth[name] <= high
                said = Said(error, covered, row["FQE"][-1].ess, row["FQE"][-1].verdict)
                row["FQE, refitted"].append(said)
    report(rows, truth, f"icu-sepsis MDP, {seeds} logs of each size", out)


@app.command(name="gate")
def gate(stays: int = 725, seeds: int = 400, resamples: int = 500, out: Path | None = None) -> None:
    """Known behavior, and only rows whose verdict is ok: bias and coverage.

    Args:
        stays: Of a log.
        seeds: Logs.
        resamples: Bootstrap resamples of each interval.
        out: JSON file to write.
    """
    world, rows = Mdp(), found()
    logging = exploring(world.expert)
    targets = {name: policies(world)[name] for name in ("expert", "25% optimal mix")}
    truth = {name: world.value(policy) for name, policy in targets.items()}
    for seed in tqdm(range(seeds), "logs", file=sys.stderr):
        rng = np.random.default_rng([stays, seed, 1])
        log = world.simulate(logging, stays, rng)
        counts = resample_counts(resample_index(stays, resamples, rng), stays)
        for name, policy in targets.items():
            ratio = log.probability(policy) / log.probability(logging)
            case = Case(log.reward, ratio, log.mask, *cross_fitted_q(log, policy), truth[name])
            for method, said in estimate(case, ("WIS", "WPDIS", "WDR"), counts).items():
                label = "verdict ok" if said.verdict == "ok" else "not ok"
                rows[f"{stays}, {label}", name][method].append(said)
    report(rows, truth, f"Rows by verdict, behavior known, {seeds} logs", out)


@app.command(name="contrast")
def contrast(
    stays: int = 725, seeds: int = 20, resamples: int = 300, out: Path | None = None
) -> None:
    """Where unusual actions kill: are policies put in order, and differences covered?

    Args:
        stays: Of a log.
        seeds: Logs.
        resamples: Bootstrap resamples of each interval.
        out: JSON file to write.
    """
    world = Mdp(fatal=True)
    targets = contrasting(world)
    logging = exploring(targets["0% random"])
    truth = {name: world.value(policy) for name, policy in targets.items()}
    base = world.value(logging)
    order: dict[str, list[float]] = defaultdict(list)
    covered: dict[str, list[bool]] = defaultdict(list)
    for seed in tqdm(range(seeds), "logs", file=sys.stderr):
        rng = np.random.default_rng([stays, seed, 2])
        log = world.simulate(logging, stays, rng)
        counts = resample_counts(resample_index(stays, resamples, rng), stays)
        logged = counts @ log.reward.sum(1) / stays
        said: dict[str, list[float]] = defaultdict(list)
        for name, policy in targets.items():
            ratio = log.probability(policy) / log.probability(logging)
            case = Case(log.reward, ratio, log.mask, *cross_fitted_q(log, policy), truth[name])
            for method in ("WIS", "WPDIS", "WDR"):
                sums = terms(ESTIMATORS[method], **case.given(method))
                said[method].append(sums.value())
                low, high, _ = percentile_interval(sums.values(counts) - logged, 0.95)
                covered[method].append(bool(low <= truth[name] - base <= high))
        for method, values in said.items():
            order[method].append(float(spearmanr(values, list(truth.values())).statistic))
    table = Table(title=f"Unusual actions fatal: {len(targets)} policies, {seeds} logs of {stays}")
    for column in ("", "Spearman, mean", "lowest", "paired differences covered"):
        table.add_column(column)
    for method, ranks in order.items():
        share = float(np.mean(covered[method]))
        table.add_row(method, f"{np.mean(ranks):.3f}", f"{min(ranks):.3f}", f"{share:.1%}")
    console = Console(width=120)
    console.print(table)
    console.print("True values: " + ", ".join(f"{name} {v:.3f}" for name, v in truth.items()))
    if out is not None:
        out.write_text(json.dumps({"truth": truth, "spearman": order, "covered": covered}))


def contrasting(world: Mdp) -> dict[str, Floats]:
    """Policies from deadly to the best; "0% random" is the expert without unusual actions."""
    usual = np.where(world.admissible, world.expert + 1e-9, 0.0)
    safe = usual / usual.sum(1, keepdims=True)
    best = np.eye(N_ACTIONS)[np.where(world.admissible, world.optimal_q(), -1.0).argmax(1)]
    shares = (0.0, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3)
    mixed = {f"{share:.3g}% random": soften(safe, share / 100) for share in 100 * np.array(shares)}
    return mixed | {"25% optimal": 0.75 * safe + 0.25 * best}


class Titrating(BatchPolicy):
    """Roughly a guideline: both drugs up while the pressure is low, down while it is not."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        """Takes the threshold of 65 mmHg in the units of an observation."""
        super().__init__()
        self._feature = FEATURE_INDEX["meanbp"]
        fifty = np.tile(np.array(preprocessing.fill, np.float32), (1, 1))
        fifty[0, self._feature] = 65.0
        self._threshold = preprocessing.standardize(fifty)[0, self._feature]

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
    build: dict[str, Any] = {"synthetic": {"clinician": asdict(clinician)}}
    config = AssemblyConfig()
    return assemble(
        raw, config, source="bench", credentialed=False, preprocessing=preprocessing, build=build
    )


def true_probability(
    cohort: Trajectories, patients: int, seed: int, clinician: ClinicianConfig
) -> Floats:
    """[decisions] probability with which the clinician chose what was given."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "propensities.parquet"
        write_propensities(file, cohort, patients, seed, clinician)
        table = pq.read_table(file).drop_columns(["stay_id", "step"])
    chances = np.stack([column.to_numpy() for column in table.columns], axis=1)
    return np.take_along_axis(chances, cohort.action[cohort.is_decision][:, None], 1)[:, 0]


@app.command(name="cohort")
def cohort(
    sizes: tuple[int, ...] = (725,),
    seeds: int = 20,
    resamples: int = 300,
    episodes: int = 8192,
    exploration: float = 0.1,
    out: Path | None = None,
) -> None:
    """Synthetic cohorts: estimates from each against agents that treat new patients.

    The behavior is known from the simulated clinicians, who decide once per step, or estimated on a
    training cohort of 3.5 times the smallest size; Q is fitted there as well.

    Args:
        sizes: Stays of a log.
        seeds: Logs of each size.
        resamples: Bootstrap resamples of each interval.
        episodes: New patients of each true value.
        exploration: Share of the clinicians' decisions taken at random.
        out: JSON file to write.
    """
    clinician = ClinicianConfig(decision_interval_hours=4, exploration=exploration)
    train = cohort_of(int(3.5 * min(sizes)), 10**6, clinician, None)
    preprocessing, rows = train.preprocessing, found()
    cloned, titrating = train_agent("clinician", train), Titrating(preprocessing)
    agents: dict[str, tuple[Any, float]] = {
        "clinician model": (cloned, 0.0),
        "25% guideline mix": (Mixed(cloned, titrating, 0.25), 0.0),
        "guideline": (titrating, 0.01),
        "random": (make_agent("random"), 0.0),
        "zero dose": (make_agent("no_treatment"), 0.01),
        "maximum dose": (make_agent("fixed_dose", action=24), 0.01),
    }
    population = Truth(train, gamma=GAMMA, config=TruthConfig(episodes=episodes))
    judged = tqdm(agents.items(), "true values", file=sys.stderr)
    truth = {name: population.value(agent, softening=share).value.value
             for name, (agent, share) in judged}  # fmt: skip
    half = train.select(np.arange(len(train)) % 2 == 0)
    fitted, second = fit_behavior_policy(train), fit_behavior_policy(half)
    design, seen = FQEDesign(train), train.observations()
    q = {name: design.fit(soften(agent.batch_probabilities(seen), share), gamma=GAMMA)
         for name, (agent, share) in agents.items()}  # fmt: skip
    runs = [(size, seed) for size in sizes for seed in range(seeds)]
    for size, seed in tqdm(runs, "logs", file=sys.stderr):
        patients = int(1.1 * size) + 20
        whole = cohort_of(patients, seed, clinician, preprocessing)
        chance = np.ones(len(whole.is_decision))
        chance[whole.is_decision] = true_probability(whole, patients, seed, clinician)
        log = whole.select(np.arange(size))
        decision, observations = log.is_decision, log.observations()

        def taken(probabilities: Floats, log: Trajectories = log) -> Floats:
            """[N, T] of the logged actions."""
            return log.padded(np.take_along_axis(probabilities, log.action[:, None], 1)[:, 0], 1.0)

        known = log.padded(chance[: len(decision)], 1.0)
        estimated, other = (taken(m.probabilities(observations)) for m in (fitted, second))
        doubt = float((other / estimated).prod(1).mean())
        rng = np.random.default_rng([size, seed])
        counts = resample_counts(resample_index(size, resamples, rng), size)
        for name, (agent, share) in agents.items():
            target = soften(agent.batch_probabilities(observations), share)
            values = q[name].values(observations)
            read = taken(values) * log.mask, log.padded((values * target).sum(1))
            wanted = taken(target)
            # a dose that comfort care cut short was nobody's choice: it says nothing
            certain = np.where(known > 0, known, wanted)
            for label, behavior, rho in (("known", certain, 1.0), ("estimated", estimated, doubt)):
                case = Case(
                    log.padded(log.reward), wanted / behavior, log.mask, *read, truth[name],
                    rho, GAMMA, RETURN_RANGE,
                )  # fmt: skip
                note(rows, f"{size}, behavior {label}", name, case, counts)
    report(rows, truth, f"Synthetic cohorts, {seeds} logs of each size", out)


if __name__ == "__main__":
    app.cli()
