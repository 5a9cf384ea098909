"""The evaluation's table: rendered as text, saved as CSV and JSON."""

import csv
import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from evaluation.behavior import BehaviorReport
from evaluation.estimators import WeightDiagnostics
from evaluation.rollout import RolloutValue
from evaluation.safety import Rate, SafetyReport
from evaluation.seeds import OverSeeds
from evaluation.trust import Trust
from evaluation.truth import Measured, TrueValue
from sepsis_gym.errors import SourceError
from sepsis_gym.files import whole_folder

FORMAT_VERSION = 3
DISCLAIMER = "Research software, never for patient care."
_SIGNIFICANT_DIGITS = 9
_RATED = ("repairs", "fallbacks")
_POLICY_WIDTH = 14
_COLUMNS = {"mean_return": "Mean return", "wis": "WIS", "wpdis": "WPDIS", "dr": "DR"}
_COLUMNS |= {"wdr": "WDR", "fqe": "FQE"}


@dataclass(frozen=True)
class Estimate:
    """A value with its bootstrap interval, and its paired difference to the clinicians' return.

    Attributes:
        value: NaN where the log has no support.
        low: Lower end of the interval.
        high: Upper end.
        difference: Value minus the clinicians' mean return.
        difference_low: Lower end of its interval, from the same resamples.
        difference_high: Upper end.
        lost_resamples: Resamples without support, left out of the intervals.
    """

    value: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float
    lost_resamples: int


@dataclass(frozen=True)
class Sensitivity:
    """What a method would have said under another choice.

    Attributes:
        setting: The choice, such as "ratio cap 2".
        method: wis or wpdis.
        value: NaN where the log has no support.
        low: Lower end of the interval.
        high: Upper end.
        ess: Effective sample size under that choice.
    """

    setting: str
    method: str
    value: float
    low: float
    high: float
    ess: float


@dataclass(frozen=True)
class Row:
    """Everything said about one policy.

    Attributes:
        agent: Name it was given.
        policy: What was evaluated: the agent itself or its softened form.
        trust: Verdict on the off-policy estimates.
        reasons: Why the verdict is not ok, or what the reader must know.
        estimates: By method: mean_return, is, wis, pdis, wpdis, dr, wdr, fqe.
        weights: Weight diagnostics, None for the clinicians.
        mean_rho_interval: Bootstrap interval of the mean cumulative ratio.
        capped_share: Share of per-step ratios that were cut to the cap.
        q_source: Stays that Q was fitted on.
        q_outside_share: Share of fitted values beyond what rewards permit.
        safety: Adherence and dosing errors of the agent itself, not softened.
        action_frequency: [25] mean probability of each action over the logged states, not softened.
        counts: The agent's own counters, such as invalid replies.
        provenance: What made up an agent that is asked, such as model and prompt.
        world_model_return: Return in the environment given, if one was.
        truth: What the evaluated policy is truly worth, on a synthetic cohort.
        neural_fqe: Value by a neural Q of the training split, fitted once, so without an interval.
        sensitivity: The same policy under other softening, ratio caps and discounts.
        softening: Share of the uniform policy in the evaluated policy.
    """

    agent: str
    policy: str
    trust: Trust
    reasons: tuple[str, ...]
    estimates: dict[str, Estimate]
    safety: SafetyReport
    action_frequency: tuple[float, ...]
    weights: WeightDiagnostics | None = None
    mean_rho_interval: tuple[float, float] | None = None
    capped_share: float = 0.0
    q_source: str | None = None
    q_outside_share: float = 0.0
    counts: dict[str, int] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    world_model_return: RolloutValue | None = None
    truth: TrueValue | None = None
    neural_fqe: float | None = None
    sensitivity: tuple[Sensitivity, ...] = ()
    softening: float = 0.0

    @property
    def counted(self) -> str:
        """The counters in words; repairs and fallbacks also as rates per decision."""
        decisions = self.counts.get("decisions")
        told = []
        for name, count in self.counts.items():
            rate = f" ({count / decisions:.1%})" if decisions and name in _RATED else ""
            told.append(f"{name.replace('_', ' ')} {count}{rate}")
        return ", ".join(told)


@dataclass(frozen=True)
class Results:
    """One evaluation.

    Attributes:
        rows: The clinicians, then the agents in the order given.
        behavior: How good the behavior policy is.
        cohort: Source, hash and size of what was evaluated.
        config: Settings, plain JSON.
        notes: What must be read with the table.
        versions: Of the software that scored, by name.
        seeds: Agents that were trained several times, summed up.
    """

    rows: tuple[Row, ...]
    behavior: BehaviorReport
    cohort: dict[str, Any]
    config: dict[str, Any]
    notes: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    seeds: tuple[OverSeeds, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; a number that does not exist is None, with a reason beside it."""
        return {"format_version": FORMAT_VERSION, "disclaimer": DISCLAIMER, **plain_json(self)}

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "Results":
        """Reads what :meth:`save` wrote.

        Args:
            folder: Holds results.json.

        Raises:
            SourceError: The file is missing, broken, or of another version.
        """
        file = Path(folder) / "results.json"
        if not file.is_file():
            raise SourceError(f"{file}: no such file; name a folder written by evaluate")
        try:
            plain = json.loads(file.read_text(encoding="utf-8"))
            version = plain["format_version"]
        except (ValueError, KeyError, TypeError) as error:
            raise SourceError(f"{file}: is no results file: {error!r}") from error
        if version != FORMAT_VERSION:
            raise SourceError(
                f"{file}: format_version {version} is not {FORMAT_VERSION}; evaluate again"
            )
        return from_plain(plain, cls, source=file)

    def to_text(self, *, color: bool = False, width: int = 200) -> str:
        """The table, its warnings and notes; rows that are not ok are marked, and dim in color.

        Args:
            color: Whether to emit terminal colours.
            width: Columns to fit into.
        """
        out = io.StringIO()
        console = Console(
            file=out, width=width, force_terminal=color, no_color=not color, highlight=False
        )
        console.print(self._table())
        for row in self.rows:
            if row.reasons:
                console.print(Text(f"{row.policy}: {row.trust}: {'; '.join(row.reasons)}"))
            if row.counts:
                console.print(Text(f"{row.policy}: counted: {row.counted}"))
        for summed in self.seeds:
            told = f"{summed.value:#.3g} [{summed.low:#.3g}, {summed.high:#.3g}]"
            measured = f"{summed.measure}, interquartile mean of {summed.seeds} seeds"
            console.print(Text(f"{summed.group}: {measured}: {told}"))
        console.print(self._candidates())
        report = self.behavior
        impossible = f"; {report.impossible} impossible actions have ratio 1" * (
            report.impossible > 0
        )
        console.print(
            Text(
                f"Behavior policy: {report.name} ({report.reason}){impossible}. On held-out stays: "
                f"log-likelihood {report.log_likelihood:.3f} (action frequencies alone "
                f"{report.marginal_log_likelihood:.3f}), accuracy {report.accuracy:.1%}, "
                f"calibration error {report.calibration_error:.3f}, of rare choices "
                f"{report.rare_error:.2f}, mean rho of the model {report.other} "
                f"{report.mean_rho_per_step[-1]:.2f}"
            )
        )
        for note in (*self.notes, DISCLAIMER):
            console.print(Text(note))
        return out.getvalue()

    def _candidates(self) -> Table:
        report = self.behavior
        targets = report.targets
        rho = [f"Mean rho of {name}" for name in targets]
        table = Table(title="Behavior policies, on training stays not fitted on", box=box.SIMPLE)
        for title in ("Model", "Log-likelihood", "Calibration error", "Rare error", *rho):
            table.add_column(title, justify="left" if title == "Model" else "right")
        for each in report.candidates:
            numbers = each.log_likelihood, each.calibration_error, each.rare_error
            ratios = (f"{each.mean_rho[t]:.3g}" if t in each.mean_rho else "" for t in targets)
            used = " *" if each.name == report.name else ""
            table.add_row(each.name + used, *(f"{number:.3f}" for number in numbers), *ratios)
        return table

    def _table(self) -> Table:
        simulated = any(row.world_model_return for row in self.rows)
        known = any(row.truth for row in self.rows)
        heading = Text(f"{self.cohort['n_stays']} held-out stays")
        table = Table(
            title=heading, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), collapse_padding=True
        )
        table.add_column("Policy", min_width=_POLICY_WIDTH)
        titles = [*_COLUMNS.values(), "ESS", "Mean rho", "Top weight", "Adherence"]
        for title in titles + ["World model"] * simulated + ["Truth"] * known:
            table.add_column(title, justify="right", no_wrap=True)
        table.add_column("Trust")
        for row in self.rows:
            cells = [_interval(row.estimates.get(method)) for method in _COLUMNS]
            weights = row.weights
            cells += [
                f"{weights.ess:.1f}" if weights else "",
                f"{weights.mean_rho:.2f}" if weights else "",
                f"{weights.largest_weight_share:.1%}" if weights else "",
                f"{row.safety.adherence:.1%}",
            ]
            if simulated:
                cells.append(_interval(row.world_model_return))
            if known:
                cells.append(_interval(row.truth.value if row.truth else None))
            style = None if row.trust == "ok" else "dim"
            texts = (Text(cell) for cell in (row.policy, *cells, row.trust))
            table.add_row(*texts, style=style)
        return table

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes results.txt, results.csv and results.json, all of them or none."""
        contents = {
            "results.json": json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n",
            "results.csv": self._csv(),
            "results.txt": self.to_text(),
        }
        with whole_folder(folder) as temporary:
            for name, content in contents.items():
                (temporary / name).write_text(content, encoding="utf-8", newline="")

    def _csv(self) -> str:
        # One line per policy has no room for a grid; results.json has it.
        flat = [
            flatten(plain_json(replace(row, sensitivity=(), provenance={}))) for row in self.rows
        ]
        out = io.StringIO()
        columns = list(dict.fromkeys(name for entry in flat for name in entry))
        writer = csv.DictWriter(out, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(flat)
        return out.getvalue()


def _interval(estimate: Estimate | RolloutValue | Measured | None) -> str:
    if estimate is None:
        return ""
    value = estimate.mean if isinstance(estimate, RolloutValue) else estimate.value
    return f"{value:#.3g}\n[{estimate.low:#.3g}, {estimate.high:#.3g}]"


def plain_json(value: Any) -> Any:
    """JSON types; floats are rounded so that the last bits of a sum cannot change a file."""
    if is_dataclass(value) and not isinstance(value, type):
        plain = {item.name: plain_json(getattr(value, item.name)) for item in fields(value)}
        if isinstance(value, Rate):
            plain["rate"] = plain_json(value.rate)
            if plain["rate"] is None:
                plain["reason"] = "no eligible step"
        if isinstance(value, Estimate | Sensitivity) and plain["value"] is None:
            plain["reason"] = "no logged stay supports the policy"
        return plain
    if isinstance(value, Mapping):
        return {str(key): plain_json(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [plain_json(item) for item in value]
    if isinstance(value, float | np.floating):
        return float(f"{value:.{_SIGNIFICANT_DIGITS}g}") if np.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value


_T = TypeVar("_T")


def from_plain(plain: Mapping[str, Any], kind: type[_T], *, source: Path) -> _T:
    """The dataclass that was written as plain JSON; null becomes NaN where a float is wanted.

    Args:
        plain: What the file held.
        kind: Dataclass to make.
        source: For the message.

    Raises:
        SourceError: A value is missing or of another type.
    """
    from cattrs import Converter, transform_error
    from cattrs.errors import BaseValidationError

    converter = Converter()
    converter.register_structure_hook(
        float, lambda value, _: float("nan") if value is None else float(value)
    )
    try:
        return converter.structure(plain, kind)
    except BaseValidationError as error:
        raise SourceError(f"{source}: {transform_error(error)[0]}; evaluate again") from error


def flatten(entry: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested plain JSON as one level of names; lists become text."""
    flat: dict[str, Any] = {}
    for name, value in entry.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}_")
        elif isinstance(value, list):
            flat[prefix + name] = "; ".join(map(str, value))
        else:
            flat[prefix + name] = value
    return flat
