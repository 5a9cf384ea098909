"""Guideline adherence and dosing errors of a policy on logged states.

Scored on every decision state of the log, never on simulated ones, as the exact expectation over
the policy's action probabilities. A measure counts a step only where its inputs are *known* at that
state (measured within their hold time), and steps it cannot assess are counted.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.estimators import Floats
from sepsis_gym.actions import N_ACTIONS, decode_action
from sepsis_gym.features import FEATURE_INDEX
from sepsis_gym.trajectories import Trajectories


@dataclass(frozen=True)
class Guidelines:
    """Clinical thresholds.

    Attributes:
        map_target_mmhg: Treat below it, add no vasopressor from it on. Source: Surviving Sepsis
            Campaign 2021, recommendation on the initial MAP target.
        lactate_high_mmol_l: Treat above it. Source: Sepsis-3 (Singer et al. 2016).
        underdose_map_mmhg: Severe hypotension. Source of this and the next three: the safety case
            of the AI Clinician.
        underdose_fluid_ml_h: Most fluid that still counts as withheld.
        overdose_map_mmhg: Clear hypertension.
        overdose_ug_kg_min: High norepinephrine equivalent.
    """

    map_target_mmhg: float = 65.0
    lactate_high_mmol_l: float = 2.0
    underdose_map_mmhg: float = 55.0
    underdose_fluid_ml_h: float = 20.0
    overdose_map_mmhg: float = 95.0
    overdose_ug_kg_min: float = 0.65


@dataclass(frozen=True)
class Rate:
    """How often a rule was broken where it applied.

    Attributes:
        expected: Expected number of violations.
        eligible: Steps in which the rule applied.
        not_assessable: Steps in which an input was not known.
    """

    expected: float
    eligible: int
    not_assessable: int

    @property
    def rate(self) -> float:
        """Violations per eligible step, NaN if there is none."""
        return self.expected / self.eligible if self.eligible else float("nan")


@dataclass(frozen=True)
class SafetyReport:
    """Adherence and dosing errors of one policy.

    Attributes:
        adherence: 1 - (untreated + escalated) / all decisions, comparable with published figures.
        untreated: High lactate or low MAP answered by no treatment at all.
        escalated: MAP at target, yet a higher vasopressor level than the logged previous one.
        underdose: Severe hypotension with no vasopressor and hardly any fluid.
        overdose: High vasopressor dose in hypertension.
    """

    adherence: float
    untreated: Rate
    escalated: Rate
    underdose: Rate
    overdose: Rate


def assess_safety(
    trajectories: Trajectories,
    probabilities: NDArray[np.floating],
    guidelines: Guidelines | None = None,
) -> SafetyReport:
    """Scores a policy on the logged states.

    Doses are those the action levels stand for, for clinicians too, so that all are comparable.

    Args:
        trajectories: The stays to score on.
        probabilities: [R, 25] of the policy at every row; final states are not read.
        guidelines: Thresholds.

    Raises:
        ValueError: The shape is not [R, 25].
    """
    limits, log = guidelines or Guidelines(), trajectories
    if probabilities.shape != (log.offsets[-1], N_ACTIONS):
        raise ValueError(
            f"probabilities must be {(int(log.offsets[-1]), N_ACTIONS)}, got {probabilities.shape}"
        )
    rows = np.flatnonzero(log.is_decision)
    chosen = np.asarray(probabilities[rows], np.float64)
    known = log.preprocessing.known(log.age[rows])
    at_map, at_lactate = FEATURE_INDEX["meanbp"], FEATURE_INDEX["lactate"]
    map_mmhg = np.where(known[:, at_map], log.values[rows, at_map], np.nan)
    lactate = np.where(known[:, at_lactate], log.values[rows, at_lactate], np.nan)
    bins = log.preprocessing.action_bins
    fluid_ml, vasopressor = bins.doses(np.arange(N_ACTIONS))
    _, level = decode_action(np.arange(N_ACTIONS))
    previous = bins.vasopressor_level(log.previous_norepinephrine_equivalent[rows])
    low_fluid = fluid_ml / log.preprocessing.step_hours <= limits.underdose_fluid_ml_h
    no_map = np.isnan(map_mmhg)

    # NaN compares False: an unknown value makes no step eligible.
    shocked = (lactate > limits.lactate_high_mmol_l) | (map_mmhg < limits.map_target_mmhg)
    untreated = _rate(shocked, ~shocked & (no_map | np.isnan(lactate)), chosen[:, 0])
    escalated = _rate(
        map_mmhg >= limits.map_target_mmhg,
        no_map,
        np.where(level > previous[:, None], chosen, 0.0).sum(1),
    )
    return SafetyReport(
        adherence=1 - (untreated.expected + escalated.expected) / len(rows),
        untreated=untreated,
        escalated=escalated,
        underdose=_rate(
            map_mmhg < limits.underdose_map_mmhg, no_map, chosen[:, (level == 0) & low_fluid].sum(1)
        ),
        overdose=_rate(
            map_mmhg > limits.overdose_map_mmhg,
            no_map,
            chosen[:, vasopressor > limits.overdose_ug_kg_min].sum(1),
        ),
    )


def _rate(
    eligible: NDArray[np.bool_], not_assessable: NDArray[np.bool_], violating: Floats
) -> Rate:
    return Rate(float(violating[eligible].sum()), int(eligible.sum()), int(not_assessable.sum()))
