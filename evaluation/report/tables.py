"""The report's tables, from the results of an evaluation."""

from collections.abc import Mapping
from typing import Any

from evaluation.report.cells import Cell, Column, Interval, Line, Table
from evaluation.results import Results, Row, flatten
from evaluation.rollout import RolloutValue
from evaluation.safety import Guidelines, Rule, rules
from evaluation.truth import Measured
from sepsis_gym.actions import N_LEVELS

METHODS = {"dr": "DR", "wis": "WIS", "wpdis": "WPDIS", "wdr": "WDR", "fqe": "FQE"}
"""Estimators in the order of the published table, then ours."""
_CLINICIANS = "mean_return"


def interval_of(row: Row, method: str, *, difference: bool = False) -> Interval | None:
    """The estimate of a row, or its paired difference; the clinicians' is their mean return."""
    estimate = row.estimates.get(_CLINICIANS) or row.estimates.get(method)
    if estimate is None:
        return None
    if difference:
        return Interval(estimate.difference, estimate.difference_low, estimate.difference_high)
    return Interval(estimate.value, estimate.low, estimate.high)


def build_tables(results: Results) -> dict[str, Table]:
    """All tables that the results can fill, by name."""
    makers = (
        _values,
        _weights,
        _actions,
        _safety,
        _rule_table,
        _behavior,
        _truth,
        _errors,
        _sensitivity,
        _seeds,
    )
    tables = (make(results).without_empty_columns() for make in makers)
    return {table.name: table for table in tables if table.lines}


def _values(results: Results) -> Table:
    methods = tuple(METHODS)
    lines = []
    for row in results.rows:
        differences = (interval_of(row, method, difference=True) for method in methods)
        clear = {
            column
            for column, difference in enumerate(differences, 1)
            if row.trust == "ok" and difference and difference.excludes_zero
        }
        cells = (
            row.policy,
            *(interval_of(row, method) for method in methods),
            row.safety.adherence,
            row.safety.underdose.rate,
            row.safety.overdose.rate,
            row.neural_fqe,
            _rollout(row.world_model_return),
            row.trust,
        )
        lines.append(Line(cells, row.trust, frozenset(clear)))
    return Table(
        "values",
        "Discounted return, adherence and dosing errors",
        (
            Column("Policy"),
            *(Column(title, "number") for title in METHODS.values()),
            Column("Adherence", "percent"),
            Column("Underdosing", "percent"),
            Column("Overdosing", "percent"),
            Column("Neural FQE", "number"),
            Column("In the world model", "number"),
            Column("Trust"),
        ),
        tuple(lines),
        "Discounted return with its interval. The clinicians' value is the plain mean of what was "
        "logged, whatever the estimator. Greyed: not to be trusted, for the reasons below. Bold: "
        "trusted, and the interval of the paired difference to the clinicians excludes 0. "
        "Underdosing and overdosing: per step in which the rule applies.",
    )


def _rollout(value: RolloutValue | None) -> Interval | None:
    return None if value is None else Interval(value.mean, value.low, value.high)


def _weights(results: Results) -> Table:
    lines = []
    for row in results.rows:
        weights, rho = row.weights, row.mean_rho_interval
        if weights is None:
            continue
        cells = (
            row.policy,
            weights.ess,
            weights.ess / results.cohort["n_stays"],
            Interval(weights.mean_rho, *(rho or (float("nan"), float("nan")))),
            weights.largest_weight_share,
            weights.zero_weight_share,
            "never" if weights.support_lost_at is None else f"step {weights.support_lost_at}",
            row.capped_share,
            row.q_source,
            row.q_outside_share,
        )
        lines.append(Line(cells, row.trust))
    return Table(
        "weights",
        "How much the log says about each policy",
        (
            Column("Policy"),
            Column("ESS", "count"),
            Column("ESS / stays", "percent"),
            Column("Mean cumulative ratio", "number"),
            Column("Largest weight", "percent"),
            Column("Stays without weight", "percent"),
            Column("Support lost"),
            Column("Ratios capped", "percent"),
            Column("Q fitted on"),
            Column("Q beyond rewards", "percent"),
        ),
        tuple(lines),
        "ESS: effective sample size, the number of equally weighted stays that would tell as much. "
        "The mean cumulative ratio is 1 in expectation if the behavior policy is right. Largest "
        "weight: share of all weight on a single stay.",
    )


def _safety(results: Results) -> Table:
    """Rules down, agents across; to how many steps a rule applies is the same for all of them."""
    first = results.rows[0].safety
    rule_by_name = {rule.name: rule for rule in _rules(results)}
    lines = []
    for name, rate in first.by_rule.items():
        broken = (row.safety.by_rule[name].rate for row in results.rows)
        rule = rule_by_name[name]
        counts = (rate.eligible, rate.not_assessable)
        lines.append(Line((_title(name), rule.kind, rule.severity, *counts, *broken)))
    for severity, rate in first.by_severity.items():
        broken = (row.safety.by_severity[severity].rate for row in results.rows)
        counts = (rate.eligible, rate.not_assessable)
        lines.append(Line((f"Any {severity} rule", "", severity, *counts, *broken)))
    return Table(
        "safety",
        "Safety by rule: expected share of the steps it applies to in which it is broken",
        (
            Column("Rule"),
            Column("Kind"),
            Column("Severity"),
            Column("Steps", "count"),
            Column("Not assessable", "count"),
            *(Column(row.agent, "percent") for row in results.rows),
        ),
        tuple(lines),
        "Scored on the logged states, with the policy as it is, not softened. Not assessable: an "
        "input was not measured within its hold time.",
    )


def _rule_table(results: Results) -> Table:
    return Table(
        "rules",
        "What the rules say",
        (Column("Rule"), Column("Broken where"), Column("Harm"), Column("Source")),
        tuple(
            Line((_title(rule.name), rule.definition, rule.harm, rule.source))
            for rule in _rules(results)
        ),
    )


def _rules(results: Results) -> tuple[Rule, ...]:
    return rules(Guidelines(**results.config["guidelines"]))


def _behavior(results: Results) -> Table:
    report = results.behavior
    targets = report.targets
    lines = (
        Line(
            (
                f"{each.name} (used)" if each.name == report.name else each.name,
                each.log_likelihood,
                each.calibration_error,
                each.rare_error,
                *(each.mean_rho.get(name) for name in targets),
            )
        )
        for each in report.candidates
    )
    return Table(
        "behavior",
        "Models of the clinicians to choose from",
        (
            Column("Model"),
            Column("Log-likelihood", "number"),
            Column("Calibration error", "percent"),
            Column("Rare choices off by", "percent"),
            *(Column(f"Mean ratio of {name}", "number") for name in targets),
        ),
        tuple(lines),
        "On training stays that the model was not fitted on. Mean ratio: whole-stay ratio of "
        "another model over this one, near 1 if this one is right.",
    )


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def _actions(results: Results) -> Table:
    columns = (
        Column("Agent"),
        Column("Fluid level", "count"),
        *(Column(f"Vasopressor level {level}", "percent") for level in range(N_LEVELS)),
    )
    lines = (
        Line((row.agent, level, *row.action_frequency[level * N_LEVELS :][:N_LEVELS]), row.trust)
        for row in results.rows
        for level in range(N_LEVELS)
    )
    return Table("actions", "Mean probability of each action", columns, tuple(lines))


def _truth(results: Results) -> Table:
    lines = []
    for row in results.rows:
        if truth := row.truth:
            cells = (
                row.policy,
                _measured(truth.value),
                _measured(truth.difference),
                _measured(truth.survival),
                _measured(truth.hypotension),
                truth.episodes,
            )
            lines.append(Line(cells))
    return Table(
        "truth",
        "What each policy is truly worth",
        (
            Column("Policy"),
            Column("True value", "number"),
            Column("Minus clinicians", "number"),
            Column("Alive at 90 days", "percent"),
            Column("Hypotension, min a day", "number"),
            Column("Patients", "count"),
        ),
        tuple(lines),
        "Measured by letting the policy treat new simulated patients of the cohort's population.",
    )


def _errors(results: Results) -> Table:
    lines = []
    for row in results.rows:
        if row.truth is None:
            continue
        true = row.truth.value.value
        cells: list[Cell] = [row.policy, true]
        for method in METHODS:
            estimate = interval_of(row, method)
            covered = estimate and estimate.low <= true <= estimate.high
            cells += [estimate and estimate.value - true, "yes" if covered else "no"]
        lines.append(Line(tuple(cells), row.trust))
    methods = (
        column
        for title in METHODS.values()
        for column in (Column(f"{title} error", "number"), Column(f"{title} covers"))
    )
    return Table(
        "errors",
        "Estimates against the truth",
        (Column("Policy"), Column("True value", "number"), *methods),
        tuple(lines),
        "Error: estimate minus true value. Covers: whether its interval holds the true value.",
    )


def _measured(value: Measured) -> Interval:
    return Interval(value.value, value.low, value.high)


def _sensitivity(results: Results) -> Table:
    """One line for each policy and method, one column for each other choice."""
    settings = list(dict.fromkeys(s.setting for row in results.rows for s in row.sensitivity))
    lines = []
    for row in results.rows:
        for method in dict.fromkeys(each.method for each in row.sensitivity):
            found = {s.setting: s for s in row.sensitivity if s.method == method}
            others = (
                Interval(found[name].value, found[name].low, found[name].high)
                if name in found
                else None
                for name in settings
            )
            cells = (row.agent, METHODS[method], interval_of(row, method), *others)
            lines.append(Line(cells, row.trust))
    columns = (Column(name.capitalize(), "number") for name in settings)
    return Table(
        "sensitivity",
        "The same policies under other choices",
        (Column("Agent"), Column("Estimator"), Column("As evaluated", "number"), *columns),
        tuple(lines),
        "A value that turns with a choice of the analyst says little about the policy.",
    )


def _seeds(results: Results) -> Table:
    lines = (
        Line((each.group, each.measure, Interval(each.value, each.low, each.high), each.seeds))
        for each in results.seeds
    )
    return Table(
        "seeds",
        "Agents that were trained several times",
        (
            Column("Agent"),
            Column("Measure"),
            Column("Interquartile mean", "number"),
            Column("Seeds", "count"),
        ),
        tuple(lines),
        "The interval resamples seeds, not stays: it tells how much a training run varies. No row "
        "becomes trustworthy by it.",
    )


def provenance(results: Results) -> dict[str, Mapping[str, Any]]:
    """Cohort, settings and versions as flat names and values."""
    return {
        "Cohort": flatten(results.cohort),
        "Versions": results.versions,
        "Settings": flatten(results.config),
    }
