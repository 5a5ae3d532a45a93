"""Waiting for real processes."""

from collections.abc import Callable
from time import monotonic, sleep
from typing import TypeVar

Value = TypeVar("Value")


def eventually(condition: Callable[[], Value], what: str, seconds: float = 120.0) -> Value:
    """What a condition gives once it is true; AssertionError with what it was after a number of seconds."""
    deadline = monotonic() + seconds
    while not (value := condition()):
        assert monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        sleep(0.05)
    return value
