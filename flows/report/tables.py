"""Tables of the report, and the records from which other modules fill some of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_MOST_OPEN = 20


@dataclass(frozen=True)
class Table:
    """A table of texts.

    Attributes
    ----------
    caption : str
    header : tuple of str
    rows : sequence of tuple of str
    names : int
        Number of leading columns that are texts; those after them are numbers.
    note : str
        What to say below it.
    """

    caption: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    names: int = 99
    note: str = ""


@dataclass(frozen=True)
class Finding:
    """One number that was found in the curves, and what it should be.

    Attributes
    ----------
    section : str
        Heading under which it stands, such as "Fits" or "Theory".
    name : str
        What was estimated.
    estimate : float
        NaN where there is none.
    interval : tuple of two floats, or None
    expected : str
        What is expected of it, and by whom.
    where : str
        The curve.
    """

    section: str
    name: str
    estimate: float
    interval: tuple[float, float] | None
    expected: str
    where: str


def finding_sections(findings: Sequence[Finding]) -> list[tuple[str, Table, Table | None]]:
    """A heading, the table of the first findings and that of the others, each section that has findings."""
    sections: dict[str, list[Finding]] = {}
    for finding in findings:
        sections.setdefault(finding.section, []).append(finding)
    return [(section, *_tables(section, found)) for section, found in sections.items()]


def _tables(section: str, findings: list[Finding]) -> tuple[Table, Table | None]:
    header = ("Name", "Where", "Expected", "Estimate", "Interval")
    rows = [
        (each.name, each.where, each.expected, number(each.estimate), _interval(each.interval)) for each in findings
    ]
    first, others = Table(section, header, rows[:_MOST_OPEN], 3), rows[_MOST_OPEN:]
    if not others:
        return first, None
    return first, Table(f"{section}, from row {_MOST_OPEN + 1} on", header, others, 3)


def number(value: float) -> str:
    """Four significant digits; a dash for NaN."""
    return f"{value:.4g}" if math.isfinite(value) else "–"


def _interval(ends: tuple[float, float] | None) -> str:
    return f"[{number(ends[0])}, {number(ends[1])}]" if ends else "–"
