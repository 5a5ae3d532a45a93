"""An orderly stop of a run by a signal."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

REMEDY = "finished cells are stored: run the same command to go on"
STOPPED = f"stopped; {REMEDY}"


@contextmanager
def stopping_on_signals(event: threading.Event) -> Iterator[None]:
    """Have the first SIGINT or SIGTERM set an event; leave threads other than the main one alone."""

    def stop(number: int, frame: FrameType | None) -> None:
        event.set()
        for each, handler in previous.items():  # a second signal is not held back
            signal.signal(each, handler)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
