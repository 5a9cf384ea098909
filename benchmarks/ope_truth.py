"""Off-policy estimators against true values: bias, RMSE, interval coverage, and the verdict.

    pip install -e ".[bench]"
    python benchmarks/ope_truth.py all       # or gate, contrast; --help has the sizes

Logs of the icu-sepsis MDP, whose values are exact. ``all``: every estimator. ``gate``: many logs,
rows by verdict. ``contrast``: where an action never seen in a state kills, so that policies truly
differ. The same of synthetic cohorts is ope_truth_cohort.py.
"""

import json
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import tyro
from icu_sepsis_mdp import Log, Mdp, counted_policy, cross_fitted_q, read_q, tabular_q
from numpy.typing import NDArray
from ope_scores import ESTIMATORS, Case, Floats, Said, estimate, found, note, report
from rich.console import Console
from rich.table import Table
from scipy.stats import spearmanr
from tqdm import tqdm

from evaluation.estimators import resample_counts, resample_index, terms
from evaluation.intervals import percentile_interval
from evaluation.target import soften
from sepsis_gym.actions import N_ACTIONS

app = tyro.extras.SubcommandApp()
RATIO_CAP = 2.0
FQE_REFITS = 50


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


@app.command(name="all")
def every(
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
                ("known", known, 1.0),
                ("estimated", estimated, doubt),
                (
                    f"estimated, ratios cut at {RATIO_CAP:g}",
                    np.minimum(estimated, RATIO_CAP),
                    doubt,
                ),
            ):
                case = Case(log.reward, ratio, log.mask, *q, truth[name], rho)
                note(rows, f"{size} stays, behavior {label}", name, case, counts)
            if size == min(sizes):
                value, low, high = refitted(log, policy, rng)
                row = rows[f"{size} stays, behavior known", name]
                error, covered = value - truth[name], low <= truth[name] <= high
                said = Said(error, covered, row["FQE"][-1].ess, row["FQE"][-1].verdict)
                row["FQE, refitted"].append(said)
    report(rows, truth, f"icu-sepsis MDP, {seeds} logs", out)


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
                label = "verdict ok" if said.verdict == "ok" else "other verdicts"
                rows[f"{stays} stays, {label}", name][method].append(said)
    report(rows, truth, f"Behavior known, {seeds} logs", out)


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


if __name__ == "__main__":
    app.cli()
