"""Tables of the report, and the records from which other modules fill some of them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

LEVEL = 0.95  # of intervals, that of pipeline.fits
ABOUT_INTERVALS = (
    "Each trial is fitted alone. With several trials an estimate is the mean of their powers and stands with its 95 % "
    "confidence interval, Student's for that mean, which tells of the spread between trials and not of a law that does "
    "not hold; with one trial it is the power of that trial, without an interval."
)


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


def finding_sections(findings: Sequence[Finding]) -> list[tuple[str, int, list[tuple[str, Table]]]]:
    """A heading, the number of findings, and for each kind of finding what is said of it in one line and its table."""
    sections: dict[str, dict[str, list[Finding]]] = {}
    for finding in findings:
        sections.setdefault(finding.section, {}).setdefault(finding.name, []).append(finding)
    return [
        (
            section,
            sum(map(len, kinds.values())),
            [(_summary(name, found), _table(name, found)) for name, found in kinds.items()],
        )
        for section, kinds in sections.items()
    ]


def _summary(name: str, found: Sequence[Finding]) -> str:
    estimates = [each.estimate for each in found if math.isfinite(each.estimate)]
    if not estimates:
        return f"{name}: {found[0].where}"
    least, most = number(min(estimates)), number(max(estimates))
    span = least if least == most else f"{least} to {most}"
    expected = {each.expected for each in found if each.expected}
    one = f"; expected: {next(iter(expected))}" if len(expected) == 1 else ""
    return f"{name}: {span} ({len(estimates)} curve{'s' if len(estimates) > 1 else ''}){one}"


def _table(name: str, found: Sequence[Finding]) -> Table:
    header = ("Name", "Where", "Expected", "Estimate", f"{LEVEL:.0%} confidence interval".replace("%", " %"))
    rows = [(each.name, each.where, each.expected, number(each.estimate), _interval(each.interval)) for each in found]
    return Table(name, header, rows, 3)


def number(value: float) -> str:
    """Four significant digits; a dash for NaN."""
    return f"{value:.4g}" if math.isfinite(value) else "–"


def _interval(ends: tuple[float, float] | None) -> str:
    return f"[{number(ends[0])}, {number(ends[1])}]" if ends else "–"
