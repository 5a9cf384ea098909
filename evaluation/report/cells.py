"""A table of the report: typed cells, printed alike as HTML, CSV, JSON and LaTeX."""

import csv
import io
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

from evaluation.trust import Trust

_MINUS = "\N{MINUS SIGN}"

Form = Literal["text", "count", "number", "percent"]


class Interval(NamedTuple):
    """A value with its interval."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of 0."""
        return self.low > 0 or self.high < 0


Cell = str | float | Interval | None


@dataclass(frozen=True)
class Column:
    """One column; the form says how its cells are printed."""

    title: str
    form: Form = "text"


@dataclass(frozen=True)
class Line:
    """One row of a table.

    Attributes:
        cells: One for each column; None where there is nothing to say.
        trust: Verdict on the row; a row that is not ok is greyed.
        bold: Columns whose cell is set in bold.
    """

    cells: tuple[Cell, ...]
    trust: Trust = "ok"
    bold: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: Of its files.
        title: Caption.
        columns: Heads.
        lines: Rows.
        note: How to read it.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    note: str = ""

    def to_csv(self) -> str:
        """Raw values; an interval takes three columns."""
        out = io.StringIO()
        plain = self.to_plain()
        names = list(dict.fromkeys(name for line in plain for name in line))
        writer = csv.DictWriter(out, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(plain)
        return out.getvalue()

    def to_plain(self) -> list[dict[str, Any]]:
        """Raw values by column, JSON types; a number that does not exist is None."""
        return [
            {
                title: part if part == part else None
                for column, cell in zip(self.columns, line.cells, strict=True)
                for title, part in _parts(column.title, cell)
            }
            for line in self.lines
        ]

    def without_empty_columns(self) -> "Table":
        """The table without the columns in which no row says anything."""
        kept = [
            column
            for column in range(len(self.columns))
            if any(line.cells[column] is not None for line in self.lines)
        ]
        lines = (
            replace(
                line,
                cells=tuple(line.cells[column] for column in kept),
                bold=frozenset(new for new, old in enumerate(kept) if old in line.bold),
            )
            for line in self.lines
        )
        return replace(
            self, columns=tuple(self.columns[column] for column in kept), lines=tuple(lines)
        )


def _parts(title: str, cell: Cell) -> list[tuple[str, Cell]]:
    if not isinstance(cell, Interval):
        return [(title, cell)]
    return [(title, cell.value), (f"{title} low", cell.low), (f"{title} high", cell.high)]


def printed(number: float | str | None, form: Form) -> str:
    """A number as the page and LaTeX show it; a dash where it does not exist."""
    if number is None or number != number:
        return "\N{EN DASH}"
    if isinstance(number, str):
        return number
    shown = {
        "text": lambda: str(number),
        "count": lambda: f"{number:,}" if isinstance(number, int) else f"{number:,.1f}",
        "number": lambda: f"{number:.2f}",
        "percent": lambda: f"{100 * number:.1f}%",
    }[form]()
    return shown.replace("-", _MINUS) if form != "text" else shown
