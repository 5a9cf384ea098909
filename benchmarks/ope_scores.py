"""Estimates of a case whose truth is known, and the table that says how wrong they are."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from evaluation import estimators
from evaluation.intervals import percentile_interval
from evaluation.trust import TrustGate, judge

Floats = NDArray[np.float64]
ESTIMATORS = {
    "IS": estimators.importance_sampling,
    "WIS": estimators.weighted_importance_sampling,
    "PDIS": estimators.per_decision_importance_sampling,
    "WPDIS": estimators.weighted_per_decision_importance_sampling,
    "DR": estimators.doubly_robust,
    "WDR": estimators.weighted_doubly_robust,
    "FQE": estimators.direct_method,
}
HEADLINE = ("WIS", "WPDIS", "DR", "WDR")
CONTROL = "survivors-only WPDIS, wrong on purpose"
FAR = 0.1
"""An estimate so far from the truth must not look trustworthy."""


@dataclass(frozen=True)
class Case:
    """One policy on one log.

    Attributes:
        reward: [N, T].
        ratio: [N, T] target / behavior.
        mask: [N, T].
        q_taken: [N, T] of a Q fitted on other stays.
        v: [N, T] of the same Q.
        truth: The policy's value.
        behavior_mean_rho: Of a second behavior model; 1 if the behavior is known.
        gamma: Discount per step.
        scale: Distance from the worst outcome to the best.
    """

    reward: Floats
    ratio: Floats
    mask: NDArray[np.bool_]
    q_taken: Floats
    v: Floats
    truth: float
    behavior_mean_rho: float = 1.0
    gamma: float = 1.0
    scale: float = 1.0

    def given(self, method: str) -> dict[str, Any]:
        """What the estimator takes."""
        wanted = {"DR": ("q_taken", "v"), "WDR": ("q_taken", "v"), "FQE": ("v",)}.get(method, ())
        data = {name: getattr(self, name) for name in ("reward", "ratio", "mask", *wanted)}
        return data | {"gamma": self.gamma}


@dataclass(frozen=True)
class Said:
    """What an estimator said of a case."""

    error: float
    covered: bool
    ess: float
    verdict: str


Found = defaultdict[tuple[str, str], dict[str, list[Said]]]
"""By log and policy, then by estimator."""
Scores = dict[str, dict[str, dict[str, Any]]]
"""By policy, then by estimator."""


def found() -> Found:
    """Nothing yet."""
    return defaultdict(lambda: defaultdict(list))


def estimate(case: Case, methods: Iterable[str], counts: Floats) -> dict[str, Said]:
    """Every estimator with its percentile interval, and the verdict on the row."""
    intervals, lost_most = {}, 0
    for method in methods:
        terms = estimators.terms(ESTIMATORS[method], **case.given(method))
        low, high, lost = percentile_interval(terms.values(counts), 0.95)
        intervals[method], lost_most = (terms.value(), low, high), max(lost_most, lost)
    weights = estimators.weight_diagnostics(case.ratio, case.mask)
    verdict, _ = judge(
        weights, n_stays=len(case.mask), lost_resamples=lost_most, q_outside_share=0.0,
        behavior_mean_rho=case.behavior_mean_rho, gate=TrustGate(),
    )  # fmt: skip
    return {
        method: Said(
            (value - case.truth) / case.scale, low <= case.truth <= high, weights.ess, verdict
        )
        for method, (value, low, high) in intervals.items()
    }


def survivors_only(case: Case) -> float:
    """WPDIS as it is often written: finished stays leave the denominator, which inflates it."""
    going = np.cumprod(np.where(case.mask, case.ratio, 1.0), axis=1) * case.mask
    total = going.sum(0)
    paid = (going * case.reward).sum(0)
    step = np.divide(paid, total, out=np.zeros(len(total)), where=total > 0)
    return float(step @ case.gamma ** np.arange(len(step)))


def note(found: Found, log: str, policy: str, case: Case, counts: Floats) -> None:
    """Adds what all estimators say, and the negative control."""
    row = found[log, policy]
    for method, said in estimate(case, ESTIMATORS, counts).items():
        row[method].append(said)
    wrong = (survivors_only(case) - case.truth) / case.scale
    row[CONTROL].append(Said(wrong, False, row["WIS"][-1].ess, row["WIS"][-1].verdict))


def summary(said: list[Said]) -> dict[str, Any]:
    """Bias, RMSE, coverage, median ESS, verdicts; a lost estimate (NaN) covers nothing."""
    error = np.array([each.error for each in said])
    known = error[~np.isnan(error)]
    verdicts = ("ok", "caution", "unusable")
    return {
        "n": len(said),
        "lost": len(error) - len(known),
        "bias": float(known.mean()) if len(known) else None,
        "bias_error": float(known.std() / len(known) ** 0.5) if len(known) else None,
        "rmse": float(np.sqrt((known**2).mean())) if len(known) else None,
        "coverage": float(np.mean([each.covered for each in said])),
        "median_ess": float(np.nanmedian([each.ess for each in said])) if len(known) else 0.0,
        **{v: float(np.mean([each.verdict == v for each in said])) for v in verdicts},
    }


def report(found: Found, truth: dict[str, float], title: str, out: Path | None) -> None:
    """Prints a table per kind of log and how many wrong rows were flagged; writes the JSON."""
    console, rows = Console(width=190), []
    for log in dict.fromkeys(log for log, _ in found):
        scores = {policy: {method: summary(said) for method, said in row.items()}
                  for (of, policy), row in found.items() if of == log}  # fmt: skip
        console.print(_table(scores, truth, f"{title}: {log}"))
        rows += [
            {"log": log, "policy": policy, "estimators": row} for policy, row in scores.items()
        ]
    console.print("Per estimator: bias, RMSE, coverage of 95% intervals in %.")
    headline = [s for row in found.values() for m in HEADLINE for s in row.get(m, ())]
    far = [said for said in headline if not abs(said.error) <= FAR]
    flagged = sum(said.verdict != "ok" for said in far)
    share = f", {flagged / len(far):.1%} of them flagged" if far else ""
    console.print(
        f"Off by more than {FAR} or lost: {len(far)} of {len(headline)} headline estimates "
        f"({', '.join(HEADLINE)}){share}."
    )
    console.print("Research software, never for patient care.")
    if out is not None:
        content = {"title": title, "truth": truth, "far": len(far), "flagged": flagged}
        out.write_text(json.dumps(content | {"rows": rows}, indent=1))


def _table(scores: Scores, truth: dict[str, float], title: str) -> Table:
    methods = list(dict.fromkeys(method for row in scores.values() for method in row))
    table = Table(title=title)
    for column in ("policy (truth)", "n", "ESS", "ok/caution/unusable", *methods):
        table.add_column(column, justify="right" if column in ("n", "ESS") else "left")
    for policy, row in scores.items():
        first = next(iter(row.values()))
        verdicts = "/".join(f"{100 * first[v]:.0f}" for v in ("ok", "caution", "unusable"))
        cells = [_cell(row.get(method), method) for method in methods]
        name, ess = f"{policy} ({truth[policy]:.3f})", f"{first['median_ess']:.0f}"
        table.add_row(name, f"{first['n']}", ess, verdicts, *cells)
    return table


def _cell(score: dict[str, Any] | None, method: str) -> str:
    if score is None or score["bias"] is None:
        return "" if score is None else "lost"
    covered = "" if method == CONTROL else f" {100 * score['coverage']:.0f}"
    lost = f" (lost {score['lost']})" if score["lost"] else ""
    return f"{_short(score['bias'], '+')} {_short(score['rmse'], '')}{covered}{lost}"


def _short(error: float, sign: str) -> str:
    return f"{error:{sign}.3f}".replace("0.", ".") if abs(error) < 1 else f"{error:{sign}.0g}"
