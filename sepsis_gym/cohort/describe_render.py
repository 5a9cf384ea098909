"""A cohort's description as text for a terminal and as one HTML page; both walk its tables."""

import io
import os
from collections.abc import Iterator
from html import escape
from importlib.resources import files

from rich import box
from rich.console import Console
from rich.table import Table as TextTable
from rich.text import Text

from sepsis_gym.cohort.describe import Description, Row, Table
from sepsis_gym.cohort.flow_svg import flow_svg
from sepsis_gym.files import whole_folder


def write_description(description: Description, folder: str | os.PathLike[str]) -> None:
    """Writes ``describe.html`` and ``flow.svg``, both or none."""
    contents = {
        "describe.html": to_html(description),
        "flow.svg": flow_svg(description.flow.rows) + "\n",
    }
    with whole_folder(folder) as temporary:
        for name, content in contents.items():
            (temporary / name).write_text(content, encoding="utf-8")


def to_text(description: Description, *, width: int = 120) -> str:
    """The tables as plain text.

    Args:
        description: What to print.
        width: Columns to fit into.
    """
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False)
    for remark in description.remarks:
        console.print(Text(remark))
    for table in (description.flow, *description.tables):
        console.print(Text(f"\n{table.title}"))
        for columns in _fitting(table, width):
            console.print(_text_table(table, columns))
        if table.footnote:
            console.print(Text(table.footnote))
    return out.getvalue()


def _fitting(table: Table, width: int) -> Iterator[list[int]]:
    """Cuts the columns into blocks that fit side by side, each behind the first column."""
    full = [row for row in table.rows if len(row) > 1]
    needs = [max(map(len, column)) + 2 for column in zip(table.header, *full, strict=True)]
    needs[0] = min(needs[0], width // 3)  # names may fold
    block = [0]
    for index in range(1, len(needs)):
        if len(block) > 1 and sum(needs[i] for i in [*block, index]) > width:
            yield block
            block = [0]
        block.append(index)
    yield block


def _text_table(table: Table, columns: list[int]) -> TextTable:
    text = TextTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index in columns:
        text.add_column(Text(table.header[index]), justify="right" if index else "left")
    for row in table.rows:
        if len(row) == 1:
            text.add_row(Text(row[0], style="bold"))
        else:
            text.add_row(*(Text(row[index]) for index in columns))
    return text


def to_html(description: Description) -> str:
    """One page that needs nothing else: no script, no network; light, dark or printed."""
    style = files("sepsis_gym.cohort").joinpath("describe.css").read_text(encoding="utf-8")
    tables = "\n".join(
        _section(f"Table {number}. {table.title}", _html_table(table))
        for number, table in enumerate(description.tables, 1)
    )
    figure = flow_svg(description.flow.rows) + _html_table(description.flow)
    remarks = "\n".join(f"<p>{escape(remark)}</p>" for remark in description.remarks)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Cohort: {escape(description.source)}</title>
<style>
{style}</style>
</head>
<body>
<main>
<header>
<h1>Cohort description</h1>
<p class="source">{escape(description.source)}</p>
{remarks}
</header>
{_section(f"Figure 1. {description.flow.title}", figure, kind="flow")}
{tables}
</main>
</body>
</html>
"""


def _section(heading: str, content: str, kind: str = "data") -> str:
    return f'<section class="{kind}">\n<h2>{escape(heading)}</h2>\n{content}\n</section>'


def _html_table(table: Table) -> str:
    heads = "".join(f'<th scope="col">{escape(head)}</th>' for head in table.header)
    note = f'\n<p class="note">{escape(table.footnote)}</p>' if table.footnote else ""
    # a wide table scrolls by itself, also by keyboard
    return (
        f'<div class="scroll" role="group" tabindex="0" aria-label="{escape(table.title)}">\n'
        f"<table>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n"
        + "\n".join(_html_rows(table))
        + f"\n</tbody>\n</table>\n</div>{note}"
    )


def _html_rows(table: Table) -> Iterator[str]:
    shades: Iterator[Row | tuple[float, ...]] = iter(table.shade)
    for row in table.rows:
        name, cells = escape(row[0]), row[1:]
        if not cells:
            span = len(table.header)
            yield "</tbody>\n<tbody>"
            yield f'<tr class="head"><th scope="rowgroup" colspan="{span}">{name}</th></tr>'
            continue
        styles = [f' class="heat" style="--heat:{heat}"' for heat in next(shades, ())]
        styles = styles or [""] * len(cells)
        whole = (escape(cell).replace(", ", ",&nbsp;") for cell in cells)  # breaks before [ at most
        data = (f"<td{s}>{cell}</td>" for s, cell in zip(styles, whole, strict=True))
        yield f'<tr><th scope="row">{name}</th>{"".join(data)}</tr>'
