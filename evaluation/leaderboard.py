"""The leaderboard: what each agent reached on which cohort, in a file that anybody may extend."""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from evaluation.results import DISCLAIMER, Results, Row, from_plain, plain_json
from evaluation.seeds import group_of
from evaluation.truth import Measured
from sepsis_gym.errors import ConfigError, SourceError
from sepsis_gym.files import whole_folder

FORMAT_VERSION = 1
_COLUMNS = {
    "truth": "True value",
    "true_survival": "True survival",
    "world_model": "In the world model",
    "dr": "DR",
    "wis": "WIS",
    "fqe": "FQE",
    "adherence": "Adherence",
}


@dataclass(frozen=True)
class Entry:
    """One agent on one cohort.

    Attributes:
        agent: Its name.
        cohort: Source, hash and size of the cohort, and the clinicians' true value or mean return.
        seeds: Trainings behind the figures.
        figures: By measure: true value, true survival, estimates, adherence. Where there are
            several seeds it is their interquartile mean with an interval over seeds, else that of
            the one row, with its interval over stays or patients (none for adherence).
        trust: Verdict on the off-policy estimates, the worst of the seeds'.
        config: The agent's settings, plain JSON.
        world_model: The world model that was planned and measured in.
        versions: Of the software, by name.
    """

    agent: str
    cohort: dict[str, Any]
    seeds: int
    figures: dict[str, Measured]
    trust: str
    config: dict[str, Any] = field(default_factory=dict)
    world_model: str | None = None
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str]:
        """What there may be one entry of: cohort and agent."""
        return self.cohort["content_hash"], self.agent


def entries(
    results: Results,
    *,
    configs: dict[str, dict[str, Any]],
    world_model: str | None,
    versions: dict[str, str],
) -> list[Entry]:
    """One entry per agent of an evaluation, best first; the clinicians are one of them.

    Args:
        results: The evaluation; the seeds of one agent are called ``agent/...``.
        configs: The agents' settings, by agent.
        world_model: Name of the world model.
        versions: Of further software.
    """
    groups: dict[str, list[Row]] = {}
    for row in results.rows:
        groups.setdefault(group_of(row.agent) or row.agent, []).append(row)
    summed: dict[str, dict[str, Measured]] = {}
    for over in results.seeds:
        found = Measured(over.value, over.low, over.high)
        summed.setdefault(over.group, {})[over.measure] = found
    worst = ("unusable", "caution", "ok")
    made = [
        Entry(
            agent=name,
            cohort=results.cohort,
            seeds=len(rows),
            figures=summed.get(name) or _figures(rows[0]),
            trust=min((row.trust for row in rows), key=worst.index),
            config=configs.get(name, {}),
            world_model=world_model,
            versions=results.versions | versions,
        )
        for name, rows in groups.items()
    ]
    return _ordered(made)


def _figures(row: Row) -> dict[str, Measured]:
    """Those of an agent with one seed."""
    found = {name: Measured(e.value, e.low, e.high) for name, e in row.estimates.items()}
    found["adherence"] = Measured(*[row.safety.adherence] * 3)
    if row.truth:
        found |= {"truth": row.truth.value, "true_survival": row.truth.survival}
    if row.world_model_return:
        inside = row.world_model_return
        found["world_model"] = Measured(inside.mean, inside.low, inside.high)
    return found


def _ordered(found: Iterable[Entry]) -> list[Entry]:
    """By cohort, and within it by the true value, best first; by name where there is none."""

    def rank(entry: Entry) -> tuple[str, float, str]:
        truth = entry.figures.get("truth")
        return entry.cohort["content_hash"], -truth.value if truth else 0.0, entry.agent

    return sorted(found, key=rank)


def load_leaderboard(file: str | os.PathLike[str]) -> list[Entry]:
    """Reads a leaderboard.

    Raises:
        SourceError: It is missing, broken, of another version, or names an agent twice.
    """
    path = Path(file)
    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        version, listed = plain["format_version"], plain["entries"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{path}: is no leaderboard: {error!r}") from error
    if version != FORMAT_VERSION:
        raise SourceError(f"{path}: format_version {version} is not {FORMAT_VERSION}")
    known = {item.name for item in fields(Entry)}
    found = []
    for index, each in enumerate(listed):
        if unknown := sorted(set(each) - known):
            raise SourceError(f"{path}: entry {index} holds {unknown[0]!r}, which no entry has")
        found.append(from_plain(each, Entry, source=path))
        if "content_hash" not in found[-1].cohort:
            raise SourceError(f"{path}: entry {index}: cohort lacks content_hash")
    if len({entry.key for entry in found}) < len(found):
        raise SourceError(f"{path}: an agent stands twice for one cohort; delete one entry")
    return found


def save_leaderboard(new: Iterable[Entry], file: str | os.PathLike[str]) -> None:
    """Writes entries into a leaderboard, in place of those of the same agents and cohort.

    One of more seeds stays: the agents that stand in every evaluation for comparison have one.

    Raises:
        SourceError: There is a file that is no leaderboard.
    """
    path = Path(file).resolve()
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; name a file")
    kept = {entry.key: entry for entry in load_leaderboard(path)} if path.exists() else {}
    for entry in new:
        if entry.key not in kept or entry.seeds >= kept[entry.key].seeds:
            kept[entry.key] = entry
    content = {
        "format_version": FORMAT_VERSION,
        "disclaimer": DISCLAIMER,
        "entries": [plain_json(entry) for entry in _ordered(kept.values())],
    }
    with whole_folder(path.parent) as folder:
        (folder / path.name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def as_table(found: Iterable[Entry]) -> Table:
    """What an entry says, a line each."""
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("Agent", no_wrap=True)
    for title in ("Seeds", *_COLUMNS.values()):
        table.add_column(title, justify="right")
    table.add_column("Trust")
    for entry in found:
        cells = [_cell(entry.figures.get(name)) for name in _COLUMNS]
        table.add_row(entry.agent, str(entry.seeds), *cells, entry.trust)
    return table


def _cell(measured: Measured | None) -> str:
    if measured is None:
        return ""
    if measured.low == measured.high:
        return f"{measured.value:#.3g}"
    return f"{measured.value:#.3g}\n[{measured.low:#.3g}, {measured.high:#.3g}]"
