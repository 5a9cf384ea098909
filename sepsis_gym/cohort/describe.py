"""What a cohort holds, as the first table of a paper tells it: plain tables of strings."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sepsis_gym.actions import N_ACTIONS, N_LEVELS
from sepsis_gym.cohort.cells import (
    FEW,
    NONE,
    SMALLEST_SHOWN,
    SUPPRESSION,
    WITHHELD,
    Bools,
    Counts,
    cell,
    median_cells,
    share,
    told_of,
    wilson_interval,
    withhold,
)
from sepsis_gym.dynamics import End
from sepsis_gym.features import FEATURES, Kind
from sepsis_gym.trajectories import SPLITS, Manifest, StayTable, Trajectories

DISCLAIMER = "Research software, never for patient care."
SOFA_STARTS = (0, 2, 4, 6, 8, 10, 12, 14)
"""Lowest score of each bin of SOFA at the first step; the last bin is open."""
_GROUPS = ("Overall", "Train", "Validation", "Test", "Alive at 90 days", "Dead by 90 days")
_SUMS = ((1, 2, 3), (4, 5), (0, 1, 2, 3), (0, 4, 5))
"""Groups of which one follows from the others: splits and outcomes, without and with the whole."""
_KINDS: dict[Kind, str] = {
    "vital": "Vital signs",
    "gcs": "Glasgow coma scale",
    "lab": "Laboratory",
    "gas": "Arterial blood gas",
    "urine": "Urine",
}
_ENDS = {
    "Ended by discharge": End.DISCHARGED,
    "Ended by death": End.DIED,
    "Reached the horizon": End.HORIZON,
}
_DIED_90D = "Died by 90 days"

Row = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """One table of a description.

    Attributes:
        title: What it shows.
        header: Column heads.
        rows: Cells as printed; a row of one cell heads the rows below it.
        footnote: How to read it.
        shade: By row and data column from 0 to 1, for a heat map; empty for none.
    """

    title: str
    header: Row
    rows: tuple[Row, ...]
    footnote: str = ""
    shade: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True)
class Description:
    """A cohort in tables, none of whose rows is about a single stay.

    Attributes:
        source: Name and version of the data.
        remarks: What must be read first.
        flow: Cohort flow: rule, stays left, stays excluded.
        tables: All others.
    """

    source: str
    remarks: tuple[str, ...]
    flow: Table
    tables: tuple[Table, ...]


def describe(trajectories: Trajectories) -> Description:
    """Describes a cohort; figures about few stays are hidden if its rows are credentialed."""
    manifest = trajectories.manifest
    limit = SMALLEST_SHOWN if manifest.credentialed else 0
    groups = _groups(trajectories.stays)
    tables = (
        _flow_table(manifest, len(trajectories), limit),
        _stay_table(trajectories, groups, limit),
        _mortality_table(trajectories, limit),
        _action_table(trajectories, limit),
        _value_table(trajectories, groups, limit),
        _measurement_table(trajectories, limit),
        _note_table(manifest.notes, limit),
        _setting_table(trajectories),
    )
    flow, *others = (_explained(table) for table in tables)
    remarks = [DISCLAIMER]
    if manifest.credentialed:
        remarks.append("A data use agreement binds the source: share this only as it allows.")
    return Description(manifest.source, tuple(remarks), flow, tuple(others))


def _explained(table: Table) -> Table:
    """Says below a table what the marks of its hidden cells mean."""
    if not any(text in (FEW, WITHHELD) for row in table.rows for text in row[1:]):
        return table
    return replace(table, footnote=f"{table.footnote} {SUPPRESSION}".strip())


def _groups(stays: StayTable) -> Bools:
    """[6, N] whether each stay belongs to each of ``_GROUPS``."""
    splits = [stays.split == split for split in SPLITS]
    return np.stack([np.ones(len(stays), bool), *splits, ~stays.died_90d, stays.died_90d])


def _flow_table(manifest: Manifest, n_stays: int, limit: int) -> Table:
    flow = manifest.flow
    if not flow or flow[-1][1] != n_stays:
        flow = (*flow, ("kept in this folder", n_stays))
    left = np.array([count for _, count in flow], np.int64)
    size = np.append(-np.diff(left), left[0])  # with the cohort's own size they make up a sum
    few = (size > 0) & (size < limit) | (n_stays < limit)
    hidden = withhold(size, few, [np.flatnonzero(size)], limit)
    # what stays between hidden exclusions would tell them apart
    hide_left = [any(hidden[:i]) and any(hidden[i:-1]) for i in range(len(left))]
    hide_left[0], hide_left[-1] = hidden[-1], n_stays < limit
    rows: list[Row] = []
    for index, (rule, count) in enumerate(flow):
        out = int(size[index - 1])
        excluded = cell(f"{out:,}", out, hidden[index - 1]) if index else ""
        rows.append((rule, cell(f"{count:,}", count, hide_left[index]), excluded))
    return Table("Cohort flow", ("Rule", "Stays left", "Excluded"), tuple(rows))


def _per_stay(trajectories: Trajectories) -> dict[str, dict[str, NDArray[Any]]]:
    """By section, what is told of the stays: [N] numbers, or [N] booleans to be counted."""
    stays, first = trajectories.stays, trajectories.offsets[:-1]
    fluid = np.where(trajectories.is_decision, trajectories.fluid_ml, 0.0)
    fluid[first] += trajectories.previous_fluid_ml[first]
    dosed = trajectories.previous_norepinephrine_equivalent > 0
    dosed |= trajectories.norepinephrine_equivalent > 0  # NaN, thus False, in final states
    return {
        "Patient": {"Age, years": stays.age, "Male": stays.male, "Charlson index": stays.charlson},
        "Illness and treatment": {
            "SOFA at the first step": trajectories.sofa[first],
            "Ventilated, ever": np.logical_or.reduceat(trajectories.ventilated, first),
            "Vasopressor, ever": np.logical_or.reduceat(dosed, first),
            "Fluid in total, mL": np.add.reduceat(fluid, first),
        },
        "Episode": {
            "Decisions per stay": trajectories.n_decisions,
            **{label: stays.end == end for label, end in _ENDS.items()},
        },
        "Outcome": {"Died in hospital": stays.died_in_hospital, _DIED_90D: stays.died_90d},
    }


def _stay_table(trajectories: Trajectories, groups: Bools, limit: int) -> Table:
    sections = _per_stay(trajectories)
    n_stays = groups.sum(1)
    subjects = [trajectories.stays.subject_id[group] for group in groups]
    counts = {"Stays": n_stays, "Patients": np.array([len(np.unique(ids)) for ids in subjects])}
    for part in sections.values():
        counts |= {k: groups @ v.astype(np.int64) for k, v in part.items() if v.dtype == bool}
    hidden = _hidden_counts(counts, limit)
    rows: list[Row] = [
        (label, *_cells(map(_plain, counts[label], n_stays), counts[label], hidden[label]))
        for label in ("Stays", "Patients")
    ]
    decisions = groups @ trajectories.n_decisions
    rows.append(("Decisions", *_cells(map(_plain, decisions, n_stays), n_stays, hidden["Stays"])))
    for section, part in sections.items():
        rows.append((section,))
        for label, column in part.items():
            if label in counts:
                shares = map(share, counts[label], n_stays)
                cells = _cells(shares, counts[label], hidden[label])
            else:
                cells = median_cells([column[group] for group in groups], n_stays, limit)
            if label == _DIED_90D:
                cells[4:] = "", ""  # it is what tells these two groups apart
            rows.append((label, *cells))
    return Table(
        "Characteristics of the stays",
        ("", *_GROUPS),
        tuple(rows),
        "Median [q1, q3], or count (share of the stays). Fluid and vasopressors: from the start of "
        "the first step to the end of the last.",
    )


def _plain(count: int, of: int) -> str:
    return f"{count:,}" if of else NONE


def _cells(texts: Iterable[str], counts: Counts, hidden: Bools) -> list[str]:
    return [cell(*each) for each in zip(texts, counts, hidden, strict=True)]


def _hidden_counts(counts: dict[str, Counts], limit: int) -> dict[str, Bools]:
    """[6] cells to hide of each row of counts, of which the first is the groups' sizes."""
    labels, n_groups = list(counts), len(_GROUPS)
    n_stays = counts["Stays"]
    size = np.stack([told_of(count, n_stays) for count in counts.values()])
    size[:2] = n_stays, counts["Patients"]
    few = (size < limit) & (n_stays > 0)
    sums = [row * n_groups + np.array(part) for row in range(len(labels)) for part in _SUMS]
    few |= withhold(n_stays, few[0], sums[:4], limit)  # a share would give its group's size away
    ends = np.array([labels.index(label) for label in _ENDS])
    sums += [ends * n_groups + group for group in range(n_groups)]
    return dict(zip(labels, withhold(size, few, sums, limit), strict=True))


def _mortality_table(trajectories: Trajectories, limit: int) -> Table:
    n_bins = len(SOFA_STARTS)
    bins = np.searchsorted(SOFA_STARTS, trajectories.sofa[trajectories.offsets[:-1]], "right") - 1
    stays = np.bincount(bins, minlength=n_bins)
    died = np.bincount(bins[trajectories.stays.died_90d], minlength=n_bins)
    size, every = told_of(died, stays), [np.arange(n_bins)]
    hide_stays = withhold(stays, (stays > 0) & (stays < limit), every, limit)
    few = (stays > 0) & (size < limit) | hide_stays
    hide_died = withhold(size, few, every, limit)
    rows: list[Row] = []
    for index, start in enumerate(SOFA_STARTS):
        label = f"{start}-{start + 1}" if index + 1 < n_bins else f"{start} or more"
        n, k = int(stays[index]), int(died[index])
        texts = [NONE] * 3
        if n:
            low, high = wilson_interval(k, n)
            texts = [f"{k:,}", f"{k / n:.1%}", f"[{low:.1%}, {high:.1%}]"]
        outcome = (cell(text, k, hide_died[index]) for text in texts)
        rows.append((label, cell(_plain(n, n), n, hide_stays[index]), *outcome))
    return Table(
        "90-day mortality by SOFA at the first step",
        ("SOFA", "Stays", "Died", "Mortality", "95% interval"),
        tuple(rows),
        "Wilson intervals.",
    )


def _action_table(trajectories: Trajectories, limit: int) -> Table:
    action = trajectories.action[trajectories.is_decision]
    stay = trajectories.stay_of_row[trajectories.is_decision]
    taken = np.bincount(action, minlength=N_ACTIONS)
    pairs = np.unique(stay * N_ACTIONS + action)
    stays = np.bincount(pairs % N_ACTIONS, minlength=N_ACTIONS)
    hidden = withhold(stays, stays < limit, [np.arange(N_ACTIONS)], limit)
    total = int(taken.sum())
    texts = _cells((share(count, total) for count in taken), stays, hidden)
    visible = np.where(hidden, 0, taken)
    shade = np.sqrt(visible / max(visible.max(), 1)).round(3).tolist()
    clock = trajectories.preprocessing
    bins = clock.action_bins
    grid = [slice(i, i + N_LEVELS) for i in range(0, N_ACTIONS, N_LEVELS)]
    fluid = _levels(bins.fluid_edges, bins.fluid_doses)
    return Table(
        "Actions",
        ("Fluid / vasopressor", *_levels(bins.vasopressor_edges, bins.vasopressor_doses)),
        tuple((level, *texts[row]) for level, row in zip(fluid, grid, strict=True)),
        f"Decisions (share of all {total:,}). Rows: fluid, mL per {clock.step_hours} h. Columns: "
        "vasopressor, ug/kg/min of norepinephrine equivalent. In brackets: the dose that the level "
        f"stands for. Levels: {bins.source}.",
        tuple(tuple(shade[row]) for row in grid),
    )


def _levels(edges: tuple[float, ...], doses: tuple[float, ...]) -> list[str]:
    low, middle, high, *typical = (
        f"{dose:,.0f}" if dose >= 100 else f"{dose:.3g}" for dose in (*edges, *doses[1:])
    )
    spans = (f"up to {low}", f"{low} to {middle}", f"{middle} to {high}", f"over {high}")
    return ["none", *(f"{span} ({dose})" for span, dose in zip(spans, typical, strict=True))]


def _by_kind(cells: Sequence[Sequence[str]]) -> tuple[Row, ...]:
    """Rows of the features, each kind of them below its head."""
    rows: list[Row] = []
    for kind, head in _KINDS.items():
        rows.append((head,))
        for feature, texts in zip(FEATURES, cells, strict=True):
            if feature.kind == kind:
                rows.append((f"{feature.name}, {feature.unit}", *texts))
    return tuple(rows)


def _value_table(trajectories: Trajectories, groups: Bools, limit: int) -> Table:
    of_row = groups[:, trajectories.stay_of_row]
    n_stays = groups.astype(np.int64) @ _ever_measured(trajectories)
    cells = []
    for index, measured in enumerate(trajectories.measured.T):
        values = trajectories.values[:, index]
        samples = [values[measured & rows] for rows in of_row]
        cells.append(median_cells(samples, n_stays[:, index], limit))
    return Table(
        "Measured values",
        ("Feature, unit", *_GROUPS),
        _by_kind(cells),
        "Median [q1, q3] of the values measured, over all steps and final states: none that was "
        "carried forward or filled in.",
    )


def _ever_measured(trajectories: Trajectories) -> Bools:
    """[N, 39] whether a stay has a measurement of a feature."""
    return np.logical_or.reduceat(trajectories.measured, trajectories.offsets[:-1])


def _measurement_table(trajectories: Trajectories, limit: int) -> Table:
    n_stays = np.array(len(trajectories))
    ever = _ever_measured(trajectories).sum(0)
    hidden = (told_of(ever, n_stays) < limit) & (ever > 0)
    measured = trajectories.measured.mean(0)
    filled = 1 - trajectories.preprocessing.known(trajectories.age).mean(0)
    cells = []
    for k, hide, seen, unknown in zip(ever.tolist(), hidden, measured, filled, strict=True):
        texts = (f"{seen:.1%}", share(k, len(trajectories)), f"{unknown:.1%}")
        cells.append([cell(text, k, hide) for text in texts] if k else [NONE, NONE, texts[2]])
    return Table(
        "How often the features are measured",
        ("Feature, unit", "Steps measured", "Stays ever measured", "Steps shown as fill value"),
        _by_kind(cells),
        "Steps include final states. A fill value stands where nothing was measured within the "
        "time that a value of the feature is held.",
    )


def _note_table(notes: Mapping[str, int], limit: int) -> Table:
    rows = [
        (note.replace("_", " "), cell(f"{count:,}", count, count < limit))
        for note, count in notes.items()
    ]
    return Table(
        "Repairs and drops", ("What", "Count"), tuple(rows), "Counted while the cohort was built."
    )


def _setting_table(trajectories: Trajectories) -> Table:
    manifest = trajectories.manifest
    rows = [
        ("source", manifest.source),
        ("credentialed", json.dumps(manifest.credentialed)),
        ("content hash (sha256)", trajectories.content_hash),
        *_flat(manifest.config),
    ]
    return Table("Source and settings", ("Setting", "Value"), tuple(rows))


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[Row]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)
