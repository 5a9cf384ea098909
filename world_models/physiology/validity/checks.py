"""One line of the validity table."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """A test that a reviewer would run on synthetic patients.

    Attributes:
        number: Of the list in docs/synthetic.md; 0 for what the build recovers of its tables.
        name: What is tested.
        target: What it must reach.
        value: What it reached.
        passed: Whether it did; None where it was not run or where another line judges.
        reason: Why it failed or does not judge.
    """

    number: int
    name: str
    target: str
    value: str
    passed: bool | None
    reason: str = ""


def within(number: int, name: str, value: float, low: float, high: float, digits: int = 2) -> Check:
    """A number that must lie between two."""
    return Check(
        number,
        name,
        f"{low:.{digits}f} to {high:.{digits}f}",
        f"{value:.{digits}f}",
        bool(low <= value <= high),
    )


def at_most(number: int, name: str, value: float, most: float, digits: int = 2) -> Check:
    """A number that must not exceed another."""
    return Check(
        number, name, f"at most {most:.{digits}f}", f"{value:.{digits}f}", bool(value <= most)
    )


def at_least(number: int, name: str, value: float, least: float, digits: int = 2) -> Check:
    """A number that must reach another."""
    return Check(
        number, name, f"at least {least:.{digits}f}", f"{value:.{digits}f}", bool(value >= least)
    )
