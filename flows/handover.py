"""Outcomes on their way to the flow while their batch goes on: a worker or a run that ends loses a second of cells.

They are events of a topic of the scheduler, which keeps the last thousand of them. The result of a batch holds all its
outcomes, so that an event that is lost costs nothing.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from distributed import get_client, get_worker
from distributed.worker import thread_state

from pipeline.experiment import Outcome

TOPIC = "epsweep-outcomes"
_SECONDS = 1.0
_MOST_CELLS = 500  # an event, which is then of 40 KB or so

Message: TypeAlias = Mapping[str, Any]
"""What can be sent as an event: key of the batch, number of its first cell, values as bytes, texts of failures."""


@dataclass(frozen=True)
class Handed:
    """Outcomes of cells of a batch that follow one another.

    Attributes
    ----------
    key : str
        Of the batch's task.
    first : int
        Number of the first cell within the batch.
    outcomes : list of Outcome
    """

    key: str
    first: int
    outcomes: list[Outcome]

    def message(self, quantities: Sequence[str]) -> Message:
        """The outcomes in few bytes."""
        rows = [
            [outcome.elapsed, *((outcome.values or {}).get(name, np.nan) for name in quantities)]
            for outcome in self.outcomes
        ]
        texts = [
            (number, outcome.message, outcome.traceback)
            for number, outcome in enumerate(self.outcomes)
            if outcome.values is None
        ]
        return {"key": self.key, "first": self.first, "rows": np.array(rows).tobytes(), "texts": texts}

    @classmethod
    def of(cls, message: Message, quantities: Sequence[str]) -> "Handed":
        """Read a message: no value of a cell that is done is NaN, so what is NaN was left out."""
        texts = {number: (text, traceback) for number, text, traceback in message["texts"]}
        outcomes = []
        for number, row in enumerate(np.frombuffer(message["rows"]).reshape(-1, 1 + len(quantities)).tolist()):
            if number in texts:
                text, traceback = texts[number]
                outcomes.append(Outcome(None, text, elapsed=row[0], traceback=traceback))
            else:
                values = {name: value for name, value in zip(quantities, row[1:], strict=True) if value == value}
                outcomes.append(Outcome(values, elapsed=row[0]))
        return cls(message["key"], message["first"], outcomes)


class HandOver:
    """Takes the outcomes of the batch of this worker thread, and hands them over within a second; a context manager.

    Outside of a worker it does nothing.

    Parameters
    ----------
    quantities : sequence of str
        Names of the values of an outcome.
    is_valid : callable
        Asked before outcomes are handed over: whether they may be stored.

    Attributes
    ----------
    first : int
        Number of the first cell that is still to be computed. Dask sends the batch of a worker that died to another
        one; what was handed over before is not computed again.
    """

    def __init__(self, quantities: Sequence[str], is_valid: Callable[[], bool] = lambda: True) -> None:
        self._quantities, self._is_valid = quantities, is_valid
        self._lock = threading.Lock()
        self._kept: list[Outcome] = []
        self._sent: list[Message] = []
        self._timer: threading.Timer | None = None
        try:
            self._worker, self._key = get_worker(), str(thread_state.key)
        except (ValueError, AttributeError):
            self._worker, self._key = None, ""
        self.first = self._first = self._handed_over()

    def _handed_over(self) -> int:
        """How many cells of the batch the scheduler has been told of; none where it does not say."""
        if self._worker is None:
            return 0
        with suppress(Exception):  # they are computed again then, and taken once
            return max((until for _, until in get_client().get_events(self._topic)), default=0)
        return 0

    @property
    def _topic(self) -> str:
        """Topic of the number of cells of this batch that have been handed over."""
        return f"{TOPIC}-{self._key}"

    def __enter__(self) -> "HandOver":
        """Begin with the first cell of the batch."""
        _OPEN.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        """Hand over no more: the result of the batch has all."""
        _OPEN.discard(self)
        with self._lock:
            self._worker = None
            if self._timer is not None:
                self._timer.cancel()

    def put(self, outcome: Outcome) -> None:
        """Take the outcome of the next cell."""
        with self._lock:
            if self._worker is None:
                return
            self._kept.append(outcome)
            if len(self._kept) >= _MOST_CELLS:
                self._send()
            elif self._timer is None:
                self._timer = threading.Timer(_SECONDS, self._hand_over)
                self._timer.daemon = True
                self._timer.start()

    def _hand_over(self) -> None:
        with self._lock:
            self._timer = None
            if self._worker is not None and self._kept:
                self._send()

    def _send(self) -> None:
        if not self._is_valid():
            self._worker, self._kept = None, []  # the end of the batch says why
            return
        self._sent = [*self._sent[-1:], Handed(self._key, self._first, self._kept).message(self._quantities)]
        self._first += len(self._kept)
        self._kept = []
        self._worker.log_event(TOPIC, self._sent[-1])
        self._worker.log_event(self._topic, self._first)

    def last(self) -> list[Message]:
        """What has not been handed over, or may still be on its way."""
        with self._lock:
            if not (self._kept and self._is_valid()):
                return list(self._sent)
            return [*self._sent, Handed(self._key, self._first, list(self._kept)).message(self._quantities)]


_OPEN: set[HandOver] = set()  # of the batches that this process computes


def last_messages() -> list[Message]:
    """What the batches of this worker have finished and may not have handed over."""
    return [message for each in list(_OPEN) for message in each.last()]
