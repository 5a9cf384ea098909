"""Agents that were trained several times with different seeds, summed up."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from evaluation.estimators import Floats

if TYPE_CHECKING:
    from evaluation.results import Row

_RESAMPLES = 2000
_TRIM = 0.25


@dataclass(frozen=True)
class OverSeeds:
    """Interquartile mean over the seeds of one agent.

    Attributes:
        group: The agent.
        measure: What is summed up: an estimator, ``adherence``, ``world_model`` (the return there),
            ``truth`` (the true value) or ``true_survival``.
        value: Interquartile mean.
        low: Lower end of the bootstrap interval over seeds; it knows nothing of the stays.
        high: Upper end.
        seeds: How many there are.
    """

    group: str
    measure: str
    value: float
    low: float
    high: float
    seeds: int


def group_of(agent: str) -> str:
    """What comes before the last slash of an agent's name; empty if there is none."""
    return agent.rpartition("/")[0]


def interquartile_mean(values: Floats, *, confidence: float) -> tuple[float, float, float]:
    """Mean of the middle half, with its percentile bootstrap interval.

    Args:
        values: [n] one for each seed.
        confidence: Coverage of the interval.

    Source: Agarwal et al. 2021, Deep reinforcement learning at the edge of the statistical
        precipice.
    """
    from scipy.stats import trim_mean

    index = np.random.default_rng(0).integers(len(values), size=(_RESAMPLES, len(values)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(trim_mean(values[index], _TRIM, axis=1), (tail, 1 - tail))
    return float(trim_mean(values, _TRIM)), float(low), float(high)


def over_seeds(rows: Sequence["Row"], *, confidence: float) -> tuple[OverSeeds, ...]:
    """Sums up each estimator, adherence and what simulations say of agents with two seeds or more.

    Args:
        rows: Of an evaluation; the seeds of one agent are called ``agent/...``.
        confidence: Coverage of the intervals.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if group := group_of(row.agent):
            groups.setdefault(group, []).append(row)
    summed = []
    for group, members in groups.items():
        if len(members) < 2:
            continue
        measures = {
            method: [row.estimates[method].value for row in members]
            for method in members[0].estimates
        }
        measures["adherence"] = [row.safety.adherence for row in members]
        if all(row.truth for row in members):
            measures["truth"] = [row.truth.value.value for row in members if row.truth]
            measures["true_survival"] = [r.truth.survival.value for r in members if r.truth]
        if all(row.world_model_return for row in members):
            measures["world_model"] = [
                row.world_model_return.mean for row in members if row.world_model_return
            ]
        for measure, values in measures.items():
            mean, low, high = interquartile_mean(np.array(values), confidence=confidence)
            summed.append(OverSeeds(group, measure, mean, low, high, len(members)))
    return tuple(summed)
