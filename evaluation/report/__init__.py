"""Results as one HTML page that needs nothing else, with its figures and tables as files."""

from evaluation.report.page import write_report

__all__ = ["write_report"]
