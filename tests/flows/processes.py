"""Waiting for real processes."""

from collections.abc import Callable
from time import monotonic, sleep


def eventually(condition: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Ask until a condition holds; AssertionError with what it was after a number of seconds."""
    deadline = monotonic() + seconds
    while not condition():
        assert monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        sleep(0.05)
