"""Tables of the report, and the records from which other modules fill some of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

MOST_ROWS = 200


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


def finding_sections(findings: Sequence[Finding]) -> list[tuple[str, Table]]:
    """A heading and a table each section that has findings."""
    sections: dict[str, list[Finding]] = {}
    for finding in findings:
        sections.setdefault(finding.section, []).append(finding)
    return [(section, _table(section, found)) for section, found in sections.items()]


def _table(section: str, findings: list[Finding]) -> Table:
    rows = [
        (each.name, each.where, each.expected, number(each.estimate), _interval(each.interval))
        for each in findings[:MOST_ROWS]
    ]
    note = f"The first {MOST_ROWS} of {len(findings)}." if len(findings) > MOST_ROWS else ""
    return Table(section, ("Name", "Where", "Expected", "Estimate", "Interval"), rows, 3, note)


def number(value: float) -> str:
    """Four significant digits; a dash for NaN."""
    return f"{value:.4g}" if math.isfinite(value) else "–"


def _interval(ends: tuple[float, float] | None) -> str:
    return f"[{number(ends[0])}, {number(ends[1])}]" if ends else "–"
