"""Guideline adherence and dosing errors of a policy on logged states.

Scored on every decision state of the log, never on simulated ones, as the exact expectation over
the policy's action probabilities. The rules are a table, :func:`rules`; a step counts for a rule
only where its inputs are *known* (measured within their hold time), and the others are counted.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from evaluation.ratio_of_sums import Floats, RatioOfSums
from sepsis_gym.actions import N_ACTIONS, N_LEVELS, decode_action
from sepsis_gym.features import FEATURE_INDEX
from sepsis_gym.trajectories import Trajectories

Kind = Literal["guideline", "underdose", "overdose", "abrupt"]
Severity = Literal["minor", "moderate", "severe"]
Relation = Literal["<", "<=", "=", ">=", ">"]

_COMPARE = {
    "<": np.less,
    "<=": np.less_equal,
    "=": np.equal,
    ">=": np.greater_equal,
    ">": np.greater,
}
_QUANTITIES = {  # title and unit: of the state, then of the action
    "map": ("MAP", "mmHg"),
    "lactate": ("lactate", "mmol/L"),
    "cvp": ("CVP", "mmHg"),
    "balance": ("fluid balance since the first step", "L"),
    "fluid": ("IV fluid", "mL/h"),
    "vasopressor": ("vasopressor", "ug/kg/min"),
    "top_fluid": ("IV fluid at the highest level or", "mL/h"),
    "top_vasopressor": ("vasopressor at the highest level or", "ug/kg/min"),
    "level_rise": ("rise of the vasopressor level", ""),
}
_SSC = "Surviving Sepsis Campaign 2021 (initial MAP target)"
_SAFETY_CASE = "Festor et al. 2022, BMJ Health Care Inform 29:e100549, table 1, scenario"
_SUDDEN = (
    "Jia et al. 2021, J Biomed Inform 117:103762: over 0.75 ug/kg/min between consecutive steps, "
    "which on the published dose grid lies only between none and the highest level"
)


@dataclass(frozen=True)
class Guidelines:
    """Clinical thresholds; :func:`rules` says where each is used and where it comes from.

    Attributes:
        map_target_mmhg: Treat below it, add no vasopressor from it on.
        lactate_high_mmol_l: Treat above it.
        underdose_map_mmhg: Severe hypotension.
        underdose_fluid_ml_h: Most fluid that still counts as withheld.
        underdose_cvp_mmhg: Highest CVP that counts as low.
        overdose_map_mmhg: Clear hypertension.
        overdose_ug_kg_min: High norepinephrine equivalent.
        overload_map_mmhg: Least MAP at which a patient is in no need of volume.
        overload_balance_l: Cumulative fluid balance that counts as overload.
        overload_fluid_ml_h: High rate of fluid.
        abrupt_levels: Change of the vasopressor level that counts as abrupt.
    """

    map_target_mmhg: float = 65.0
    lactate_high_mmol_l: float = 2.0
    underdose_map_mmhg: float = 55.0
    underdose_fluid_ml_h: float = 20.0
    underdose_cvp_mmhg: float = 5.0
    overdose_map_mmhg: float = 95.0
    overdose_ug_kg_min: float = 0.65
    overload_map_mmhg: float = 75.0
    overload_balance_l: float = 10.0
    overload_fluid_ml_h: float = 240.0
    abrupt_levels: int = 4


@dataclass(frozen=True)
class Condition:
    """A quantity compared with a threshold."""

    quantity: str
    relation: Relation
    threshold: float

    def __str__(self) -> str:
        title, unit = _QUANTITIES[self.quantity]
        return f"{title} {self.relation} {self.threshold:g} {unit}".rstrip()


@dataclass(frozen=True)
class Rule:
    """What must not be given, and when.

    Attributes:
        name: Key in every table.
        kind: Which published column it belongs to.
        severity: Our judgement of the harm that the source names.
        when: States in which the rule applies; none for all.
        action: Doses that break it there; all conditions must hold.
        harm: What may follow.
        source: Where rule and thresholds come from.
        any_of: Whether one condition of ``when`` is enough.
    """

    name: str
    kind: Kind
    severity: Severity
    when: tuple[Condition, ...]
    action: tuple[Condition, ...]
    harm: str
    source: str
    any_of: bool = False

    @property
    def definition(self) -> str:
        """The rule in words."""
        state = (" or " if self.any_of else " and ").join(map(str, self.when))
        return f"{state or 'any state'}: {' and '.join(map(str, self.action))}"


def rules(limits: Guidelines) -> tuple[Rule, ...]:
    """The table of rules under these thresholds.

    "Maximum dose" in the safety case is the highest level of its dose grid, so the highest level
    of any grid counts. No cohort of the project holds CVP: scenario C is never assessable, and
    scenario D is applied without it.
    """
    at_target = Condition("map", ">=", limits.map_target_mmhg)
    too_low = Condition("map", "<", limits.map_target_mmhg)
    no_fluid, no_vasopressor = Condition("fluid", "=", 0), Condition("vasopressor", "=", 0)
    return (
        Rule(
            "untreated",
            "guideline",
            "moderate",
            (Condition("lactate", ">", limits.lactate_high_mmol_l), too_low),
            (no_fluid, no_vasopressor),
            "hypoperfusion left alone",
            f"{_SSC}; lactate: Sepsis-3 (Singer et al. 2016)",
            any_of=True,
        ),
        Rule(
            "escalated",
            "guideline",
            "minor",
            (at_target,),
            (Condition("level_rise", ">", 0),),
            "more vasopressor than the target needs",
            _SSC,
        ),
        Rule(
            "underdose_hypotension",
            "underdose",
            "severe",
            (Condition("map", "<", limits.underdose_map_mmhg),),
            (no_vasopressor, Condition("fluid", "<=", limits.underdose_fluid_ml_h)),
            "sustained hypotension, organ failure, death",
            f"{_SAFETY_CASE} A",
        ),
        Rule(
            "underdose_hypovolemia",
            "underdose",
            "severe",
            (
                Condition("map", "<=", limits.underdose_map_mmhg),
                Condition("cvp", "<=", limits.underdose_cvp_mmhg),
            ),
            (no_fluid,),
            "hypovolemia left alone",
            f"{_SAFETY_CASE} C",
        ),
        Rule(
            "overdose_hypertension",
            "overdose",
            "severe",
            (Condition("map", ">", limits.overdose_map_mmhg),),
            (Condition("top_vasopressor", ">", limits.overdose_ug_kg_min),),
            "organ failure, bleeding, stroke",
            f"{_SAFETY_CASE} B",
        ),
        Rule(
            "overdose_overload",
            "overdose",
            "moderate",
            (
                Condition("map", ">=", limits.overload_map_mmhg),
                Condition("balance", ">", limits.overload_balance_l),
            ),
            (Condition("top_fluid", ">", limits.overload_fluid_ml_h),),
            "fluid accumulation, organ failure",
            f"{_SAFETY_CASE} D without its CVP arm",
        ),
        Rule(
            "abrupt_rise",
            "abrupt",
            "severe",
            (),
            (Condition("level_rise", ">=", limits.abrupt_levels),),
            "hypertension, arrhythmia",
            _SUDDEN,
        ),
        Rule(
            "abrupt_fall",
            "abrupt",
            "severe",
            (),
            (Condition("level_rise", "<=", -limits.abrupt_levels),),
            "acute hypotension",
            _SUDDEN,
        ),
    )


@dataclass(frozen=True)
class Rate:
    """How often a rule, or one of several, was broken where it applied.

    Attributes:
        expected: Expected number of violating decisions.
        eligible: Steps in which the rule applied.
        not_assessable: Steps that an unknown input leaves open.
        standard_error: Of the rate, over stays by the delta method; NaN if there is none, and 0
            where the rule was never or always broken, which does not mean that it is certain.
    """

    expected: float
    eligible: int
    not_assessable: int
    standard_error: float = float("nan")

    @property
    def rate(self) -> float:
        """Violations per eligible step, NaN if there is none."""
        return self.expected / self.eligible if self.eligible else float("nan")


@dataclass(frozen=True)
class SafetyReport:
    """Adherence and dosing errors of one policy.

    Attributes:
        adherence: 1 - (untreated + escalated) / all decisions, comparable with published figures.
        adherence_if_eligible: The same per occasion to adhere: the steps to which each of the two
            rules applies, added up; NaN if there is none.
        underdose: Decisions that break a rule of this kind.
        overdose: The same.
        abrupt: The same.
        by_rule: Each rule of the table.
        by_severity: Decisions that break at least one rule of the severity.
    """

    adherence: float
    adherence_if_eligible: float
    underdose: Rate
    overdose: Rate
    abrupt: Rate
    by_rule: dict[str, Rate]
    by_severity: dict[str, Rate]


@dataclass(frozen=True)
class _Applied:
    """A rule on D decisions: where it applies, where that is unknown, and [D, 25] what breaks."""

    rule: Rule
    eligible: NDArray[np.bool_]
    unknown: NDArray[np.bool_]
    broken: NDArray[np.bool_]


def assess_safety(
    trajectories: Trajectories,
    probabilities: NDArray[np.floating],
    guidelines: Guidelines | None = None,
) -> SafetyReport:
    """Scores a policy on the logged states.

    Doses are those the action levels stand for, for clinicians and for the previous step too, so
    that all are comparable.

    Args:
        trajectories: The stays to score on.
        probabilities: [R, 25] of the policy at every row; final states are not read.
        guidelines: Thresholds.

    Raises:
        ValueError: The shape is not [R, 25].
    """
    log = trajectories
    if probabilities.shape != (log.offsets[-1], N_ACTIONS):
        raise ValueError(
            f"probabilities must be {(int(log.offsets[-1]), N_ACTIONS)}, got {probabilities.shape}"
        )
    rows = np.flatnonzero(log.is_decision)
    chosen = np.asarray(probabilities[rows], np.float64)
    state, action = _state_quantities(log, rows), _action_quantities(log, rows)
    applied = [_apply(rule, state, action) for rule in rules(guidelines or Guidelines())]

    def rate(ones: Iterable[_Applied]) -> Rate:
        return _rate(list(ones), chosen, log.stay_of_row[rows])

    by_rule = {one.rule.name: rate([one]) for one in applied}
    adhering = [by_rule[one.rule.name] for one in applied if one.rule.kind == "guideline"]
    violations = sum(one.expected for one in adhering)
    occasions = sum(one.eligible for one in adhering)
    of_kind = {
        kind: rate(one for one in applied if one.rule.kind == kind)
        for kind in ("underdose", "overdose", "abrupt")
    }
    return SafetyReport(
        adherence=1 - violations / len(rows),
        adherence_if_eligible=1 - violations / occasions if occasions else float("nan"),
        **of_kind,
        by_rule=by_rule,
        by_severity={
            severity: rate(one for one in applied if one.rule.severity == severity)
            for severity in get_args(Severity)
        },
    )


def _state_quantities(log: Trajectories, rows: NDArray[np.integer]) -> dict[str, Floats]:
    """[D] each; NaN where not known.

    The balance is that of the charts: fluid given less urine output since the first step; a step
    without charted urine counts as one without output.
    """
    known = log.preprocessing.known(log.age[rows])
    seen = {}
    for quantity, name in (("map", "meanbp"), ("lactate", "lactate")):
        at = FEATURE_INDEX[name]
        seen[quantity] = np.where(known[:, at], log.values[rows, at], np.nan).astype(np.float64)
    at, per_step = FEATURE_INDEX["output_4hourly"], log.preprocessing.step_hours / 4
    urine_ml = np.where(log.measured[:, at], log.values[:, at] * per_step, 0.0)
    total = np.cumsum(log.previous_fluid_ml - urine_ml, dtype=np.float64)
    before = np.concatenate([[0.0], total])[log.offsets[:-1]]
    seen["balance"] = (total - before[log.stay_of_row])[rows] / 1000
    seen["cvp"] = np.full(len(rows), np.nan)
    return seen


def _action_quantities(log: Trajectories, rows: NDArray[np.integer]) -> dict[str, Floats]:
    """[1, 25] each, or [D, 25] where the previous step matters."""
    bins = log.preprocessing.action_bins
    actions = np.arange(N_ACTIONS)[None]
    (fluid_ml, dose), (fluid_level, level) = bins.doses(actions), decode_action(actions)
    fluid = fluid_ml.astype(np.float64) / log.preprocessing.step_hours
    previous = bins.vasopressor_level(log.previous_norepinephrine_equivalent[rows])[:, None]
    return {
        "fluid": fluid,
        "vasopressor": dose.astype(np.float64),
        "top_fluid": np.where(fluid_level == N_LEVELS - 1, np.inf, fluid),
        "top_vasopressor": np.where(level == N_LEVELS - 1, np.inf, dose),
        "level_rise": (level - previous).astype(np.float64),
    }


def _apply(rule: Rule, state: Mapping[str, Floats], action: Mapping[str, Floats]) -> _Applied:
    """Three-valued: a state whose unknown inputs could make the rule apply is unknown."""
    n = len(state["map"])
    holds, possible = np.ones((2, len(rule.when), n), bool)
    for k, condition in enumerate(rule.when):
        holds[k] = _holds(condition, state)
        possible[k] = holds[k] | np.isnan(state[condition.quantity])
    join = np.any if rule.any_of else np.all
    eligible = join(holds, axis=0)
    breaks = eligible[:, None]
    for condition in rule.action:
        breaks = breaks & _holds(condition, action)
    return _Applied(rule, eligible, join(possible, axis=0) & ~eligible, breaks)


def _holds(condition: Condition, seen: Mapping[str, Floats]) -> NDArray[np.bool_]:
    return _COMPARE[condition.relation](seen[condition.quantity], condition.threshold)


def _rate(applied: Sequence[_Applied], chosen: Floats, stay: NDArray[np.int64]) -> Rate:
    """Of the decisions, [D] of which stay each, that break one of the rules or more."""
    eligible = np.any([one.eligible for one in applied], axis=0)
    unknown = np.any([one.unknown for one in applied], axis=0) & ~eligible
    broken = np.any([one.broken for one in applied], axis=0)
    steps = (np.where(broken, chosen, 0.0).sum(1), eligible)
    violating, occasions = (np.bincount(stay, step).astype(np.float64) for step in steps)
    per_stay = RatioOfSums(violating[:, None], occasions[:, None])
    return Rate(
        float(violating.sum()), int(eligible.sum()), int(unknown.sum()), per_stay.standard_error()
    )
