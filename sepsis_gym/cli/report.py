"""``sepsis-gym report``: results as one page."""

from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from evaluation import Results


def report(results: Annotated[Path, Positional], out: Path | None = None) -> None:
    """Writes an evaluation as one HTML page that needs no network, with its figures and tables.

    Args:
        results: Folder written by ``sepsis-gym evaluate`` or ``demo``.
        out: Folder for report.html, the figures as PNG and the tables as CSV, JSON and LaTeX;
            ``report`` inside the results' folder if not given.
    """
    from evaluation.report import write_report

    page = write_report(Results.load(results), out or results / "report")
    print(f"written to {page}")
