"""What people read of a run that is under way."""

import io

import pytest
from rich.console import Console

from flows import progress
from flows.progress import Reporter, Tally


@pytest.fixture
def clock(monkeypatch):
    """Seconds that have passed, which the test sets."""
    now = [0.0]
    monkeypatch.setattr(progress, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("done", "seconds", "left", "line"),
    [
        (0, 20, None, "0 of 90 cells, none finished yet"),
        (0, 20, 30.2, "0 of 90 cells, none finished yet, 0:00:30 left"),
        (50, 20, 16, "50 of 90 cells, 2.5 a second, 0:00:16 left"),
        (3, 100, None, "3 of 90 cells, 1.8 a minute"),
        (1, 1800, 7200, "1 of 90 cells, 2 an hour, 2:00:00 left"),
        (1, 360_000, 7200, "1 of 90 cells, 0.01 an hour, 2:00:00 left"),
    ],
)
def test_line_says_what_is_known_and_no_rate_of_nought(clock, done, seconds, left, line):
    tally = Tally(90, started=0.0)
    clock[0] = seconds
    tally.done, tally.left = done, left
    assert str(tally) == line


def test_failed_cells_are_counted_in_the_line(clock):
    tally = Tally(90, done=3, failed=2, started=0.0)
    clock[0] = 1.0
    assert str(tally) == "5 of 90 cells, 2 failed, 5.0 a second"


def lines_of(clock, seconds, finish):
    """Moments at which a plain reporter prints, over a time in steps of a quarter of a second."""
    out = io.StringIO()
    tally = Tally(10**6, started=0.0)
    moments = []
    with Reporter(tally, Console(file=out, width=200)) as reporter:
        while clock[0] < seconds:
            clock[0] += 0.25
            finish(tally, clock[0])
            before = out.tell()
            reporter.update()
            moments += [clock[0]] * (out.tell() > before)
    assert len(out.getvalue().splitlines()) == len(moments)
    return moments


def test_plain_lines_come_each_minute_where_nothing_changes(clock):
    assert lines_of(clock, 300, lambda tally, now: None) == [60, 120, 180, 240, 300]


def test_plain_lines_come_every_five_seconds_at_first_and_less_often_in_a_long_run(clock):
    moments = lines_of(clock, 7200, lambda tally, now: setattr(tally, "done", int(4 * now)))
    assert moments[:3] == [5, 10, 15]
    assert moments[-1] - moments[-2] > 60
    assert len(moments) < 400
