"""The fidelity of several forecasters side by side: as text, Markdown and JSON."""

import io
import math
from typing import Any

from rich.console import Console
from rich.table import Table

from world_models.fidelity import Numbers

ROWS = {
    "one_step_mae": "one-step error, mean absolute z",
    "vitals_mae": "one-step error of vitals",
    "open_loop_12_mae": "open loop, mean of 12 steps",
    "one_step_crps": "one-step CRPS, z",
    "interval_90_coverage": "90% interval coverage",
    "sofa_mae": "SOFA error, points",
    "ventilation_auroc": "ventilation AUROC",
    "death_in_step_auroc": "death in step AUROC",
    "discharge_auroc": "discharge AUROC",
    "mortality_auroc_at_24h": "90-day mortality at 24 h: AUROC",
    "mortality_auprc_at_24h": "90-day mortality at 24 h: AUPRC",
    "mortality_brier_at_24h": "90-day mortality at 24 h: Brier",
    "mortality_auroc_at_end": "90-day mortality at the end: AUROC",
    "mortality_auprc_at_end": "90-day mortality at the end: AUPRC",
    "mortality_brier_at_end": "90-day mortality at the end: Brier",
    "epistemic": "disagreement of the ensemble, z",
}
"""Names of :func:`world_models.fidelity.score`, and what the table calls them."""
_RATIOS = {"one_step_mae": "one-step error / floor", "open_loop_12_mae": "open loop / floor"}
_SHARES = {"one_step_mae": "one-step gap closed", "open_loop_12_mae": "open-loop gap closed"}
NOTE = (
    "Errors are z-scores of measured values. The floor is what the truth but for luck allows.\n"
    "Research software, never for patient care."
)


def fidelity_table(columns: dict[str, Numbers], title: str = "Fidelity on held-out stays") -> str:
    """The numbers as a text table, one column for each forecaster; n/a where nothing is said."""
    table = Table("measure", title=title)
    for name in columns:
        table.add_column(name, justify="right")
    for cells in _cells(columns):
        table.add_row(*cells)
    out = io.StringIO()
    Console(file=out, width=46 + 14 * len(columns)).print(table)
    return f"{out.getvalue()}{NOTE}\n"


def fidelity_markdown(columns: dict[str, Numbers]) -> str:
    """The same as a Markdown table and the note."""
    lines = [["measure", *columns], ["---", *["---:"] * len(columns)], *_cells(columns)]
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"{table}\n\n{NOTE}\n"


def fidelity_json(columns: dict[str, Numbers], about: dict[str, Any]) -> dict[str, Any]:
    """The same as plain JSON; null where nothing is said.

    Args:
        columns: Numbers of each forecaster.
        about: What was scored on what.
    """
    return about | {"columns": {name: to_plain(numbers) for name, numbers in columns.items()}}


def to_plain(numbers: Numbers) -> dict[str, float | None]:
    """NaN, which JSON does not know, becomes null."""
    return {name: None if math.isnan(value) else value for name, value in numbers.items()}


def from_plain(numbers: dict[str, float | None]) -> Numbers:
    """Inverse of :func:`to_plain`."""
    return {name: math.nan if value is None else float(value) for name, value in numbers.items()}


def _cells(columns: dict[str, Numbers]) -> list[list[str]]:
    rows = [
        [label, *(_shown(numbers[name]) for numbers in columns.values())]
        for name, label in ROWS.items()
    ]
    if "floor" in columns:
        rows += [
            [label, *(_shown(n[name] / columns["floor"][name]) for n in columns.values())]
            for name, label in _RATIOS.items()
        ]
    if "floor" in columns and "persistence" in columns:
        rows += [
            [label, *(_gap_closed(columns, n, name) for n in columns.values())]
            for name, label in _SHARES.items()
        ]
    return rows


def _gap_closed(columns: dict[str, Numbers], numbers: Numbers, name: str) -> str:
    gap = columns["persistence"][name] - columns["floor"][name]
    closed = columns["persistence"][name] - numbers[name]
    return f"{closed / gap:.0%}" if gap > 0 else "n/a"


def _shown(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.3f}"
