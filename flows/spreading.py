"""Cells that each need the whole cluster: computed in a thread of this process, their outcomes given as they come."""

import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from contextvars import copy_context
from queue import Empty, SimpleQueue

from flows.batch import compute_spread
from flows.spread import Halt
from flows.stopping import STOPPED
from pipeline.errors import Interrupted
from pipeline.experiment import Outcome, Spread

_POLL_SECONDS = 0.25
_END_SECONDS = 0.5


def spread_outcomes(
    label: str, payload: str, passes: Spread, stop: threading.Event, on_wait: Callable[[], None]
) -> Iterator[Outcome]:
    """Compute a batch with passes over the cluster.

    Parameters
    ----------
    label, payload : str
        As `compute_spread` takes them.
    passes : callable
        Who makes the passes; they end when `stop` is set.
    stop : threading.Event
        Set from anywhere, it ends the iteration at once, also between two passes, which may be far apart; set here
        when the iteration ends otherwise than by its own end.
    on_wait : callable
        Called a few times a second.

    Yields
    ------
    Outcome
        One a cell, in order.

    Raises
    ------
    Interrupted
        If it is stopped, after the outcomes that are there.
    EpsweepError
        If the cluster is lost.
    """
    found: SimpleQueue[Outcome | BaseException | None] = SimpleQueue()

    def compute() -> None:
        try:
            compute_spread(label, payload, passes, found.put)
            found.put(None)
        except BaseException as error:  # for the thread that waits
            found.put(error)

    thread = threading.Thread(target=copy_context().run, args=(compute,), daemon=True)
    thread.start()
    complete = False
    try:
        while not stop.is_set():
            on_wait()
            with suppress(Empty):
                outcome = found.get(timeout=_POLL_SECONDS)
                if outcome is None:
                    complete = True
                    return
                if isinstance(outcome, Outcome):
                    yield outcome
                elif not stop.is_set():
                    raise outcome.error if isinstance(outcome, Halt) else outcome
        thread.join(_END_SECONDS)  # in the middle of a pass, it ends by itself
        while not found.empty():
            outcome = found.get()
            if isinstance(outcome, Outcome):
                yield outcome
    finally:
        if not complete:
            stop.set()  # where the store fails, the passes end too
    raise Interrupted(STOPPED)
