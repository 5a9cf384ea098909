"""Writes the report: the page, its figures as PNG, its tables as CSV, JSON and LaTeX."""

import json
import os
import re
from pathlib import Path
from typing import Any

from evaluation.report.cells import Table, printed
from evaluation.report.figures import build_pictures
from evaluation.report.tables import build_tables, provenance
from evaluation.results import DISCLAIMER, Results
from sepsis_gym.files import whole_folder

try:
    from jinja2 import Environment, PackageLoader
except ImportError as error:
    raise ImportError('jinja2 is missing: pip install "sepsis-gym[report]"') from error

_TEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "\N{MINUS SIGN}": "$-$",
    "\N{EN DASH}": "--",
}


def write_report(results: Results, folder: str | os.PathLike[str]) -> Path:
    """Writes report.html, and figures and tables beside it, all of them or none.

    Args:
        results: What to report.
        folder: Where to; other files in it are left.

    Returns:
        The page.
    """
    tables, pictures = build_tables(results), build_pictures(results)
    page = (
        _environment()
        .get_template("report.html")
        .render(
            results=results,
            tables=tables,
            pictures=pictures,
            provenance=provenance(results),
            disclaimer=DISCLAIMER,
        )
    )
    with whole_folder(folder) as temporary:
        (temporary / "report.html").write_text(page, encoding="utf-8")
        for table in tables.values():
            for ending, content in _as_files(table).items():
                (temporary / f"table_{table.name}.{ending}").write_text(content, encoding="utf-8")
        for picture in (each for group in pictures.values() for each in group):
            name = re.sub(r"[^\w.-]+", "-", picture.name)
            (temporary / f"figure_{name}.png").write_bytes(picture.png)
    return Path(folder) / "report.html"


def _as_files(table: Table) -> dict[str, str]:
    latex = _environment().get_template("table.tex").render(table=table)
    plain = {"title": table.title, "note": table.note, "rows": table.to_plain()}
    return {
        "csv": table.to_csv(),
        "json": json.dumps(plain, indent=1, allow_nan=False) + "\n",
        "tex": latex,
    }


def _environment() -> Environment:
    """Templates of the package; what they print is escaped."""
    environment = Environment(
        loader=PackageLoader("evaluation.report"),
        autoescape=lambda name: name is not None and not name.endswith(".tex"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"printed": printed, "tex": _tex}
    environment.tests["interval"] = lambda cell: hasattr(cell, "low")
    return environment


def _tex(text: Any) -> str:
    return "".join(_TEX.get(sign, sign) for sign in str(text))
