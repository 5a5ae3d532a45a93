"""Sends batches to the workers, keeps them supplied, and takes what comes back."""

import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic

import numpy as np
import numpy.typing as npt
from distributed import Client, Future
from distributed.client import ClosedClientError
from distributed.scheduler import KilledWorker
from prefect import State
from prefect.exceptions import CancelledRun

from flows.batch import Computed, batch_context, submit_batches
from flows.handover import TOPIC, Handed, Message, last_messages
from flows.pace import Pace
from flows.planning import BATCH_SECONDS, Batch
from flows.progress import Tally
from flows.ready import SCHEDULER_GONE, check_workers
from flows.record import Record
from flows.spread import ClusterPasses, forget_kept
from flows.spreading import spread_outcomes
from flows.stopping import STOPPED, stopping_on_signals
from flows.supply import Supply
from pipeline.errors import CodeError, EpsweepError, Interrupted
from pipeline.experiment import Outcome, describe
from pipeline.grid import Sweep
from storage import Writer

_POLL_SECONDS = 0.25
_SUBMIT_SECONDS = 1.0
_GATHER_SECONDS = 20.0
_LAST_SECONDS = 1.0
_LOST_LIMIT = 3  # times in a row
_WINDOW_A_THREAD = 2
_SENT_AT_ONCE = 100
_PATIENCE_SECONDS = 120.0
_MOST_NAME = 80
_LOGGER = logging.getLogger("epsweep")
_DEADLY = "its worker process died each time this cell was computed alone (killed, or out of memory)"


@dataclass
class _Sent:
    """A batch that is out, and which of its cells have come back already."""

    batch: Batch
    back: npt.NDArray[np.bool_]

    @property
    def left(self) -> Batch | None:
        """What has not."""
        return self.batch.without(self.back)


@dataclass
class Dispatcher:
    """One run over a list of batches.

    A batch whose worker died is set aside; when nothing else runs, what was set aside is computed one piece at a time
    and halved until its poisonous cell stands alone. A cell that kills its worker twice so is recorded as failed.

    Attributes
    ----------
    sweep : Sweep
    writer : Writer
    client : distributed.Client
        Of the cluster.
    tally : Tally
    on_progress : callable
        Called after every change and a few times a second.
    stop : threading.Event
        Set from anywhere, it stops the run as a signal does.
    patience : float
        Seconds to wait where there is no worker.
    """

    sweep: Sweep
    writer: Writer
    client: Client
    tally: Tally
    on_progress: Callable[[], None]
    stop: threading.Event = field(default_factory=threading.Event)
    patience: float = 0.0

    def __post_init__(self) -> None:
        self._arrived: SimpleQueue[Future[State[Computed]]] = SimpleQueue()
        self._handed: SimpleQueue[Message] = SimpleQueue()
        self._running: dict[Future[State[Computed]], _Sent] = {}
        self._record = Record(self.sweep, self.writer, self.tally)
        self._pace = self._spread_pace = Pace(self.sweep, [])
        self._quantities = [quantity.name for quantity in self.sweep.experiment.quantities]
        self._lost = 0
        self._kept = False
        self.patience = max(self.patience, _PATIENCE_SECONDS)
        self._supply = Supply(self.client, self.patience)
        self._context: bytes | None = None
        self._settings = self.sweep.settings.model_dump()
        self._alone: Batch | None = None

    def run(self, batches: Sequence[Batch], spread: Sequence[Batch] = ()) -> None:
        """Compute batches in order and write their outcomes, then those that each need the whole cluster.

        Raises
        ------
        InputError
            If a worker cannot read a file of the sweep, or has other code of a user's own.
        Interrupted
            After SIGINT, SIGTERM or `stop`, once what had arrived is written.
        EpsweepError
            If the cluster is lost.
        """
        check_workers(self.client, self.sweep)
        self._pace, self._spread_pace = Pace(self.sweep, batches), Pace(self.sweep, spread)
        client = self.client
        client.subscribe_topic(TOPIC, lambda event: self._handed.put(event[1]))
        with stopping_on_signals(self.stop):
            try:
                self._compute(deque(batches))
                for batch in spread:
                    self._spread(batch)
                if spread:
                    with suppress(Exception):  # all is written
                        client.run(forget_kept, on_error="ignore")
            except Interrupted:
                self._take([*self._handed_over(), *self._last_messages()])
                self._record.write()
                raise
            except EpsweepError:
                with suppress(Exception):  # what is wrong is told by the first error
                    self._take(self._handed_over())
                    self._record.write()
                raise
            finally:
                with suppress(Exception):  # a cluster that is gone has nothing to cancel
                    client.unsubscribe_topic(TOPIC)
                    client.cancel(list(self._running), force=True)

    def _compute(self, waiting: deque[Batch]) -> None:
        """Compute batches that fit into workers."""
        suspects = deque[Batch]()
        while waiting or suspects or self._running:
            self._pace.supply(self._supply.threads)
            self._supply.look()
            self._submit(waiting, suspects)
            self._collect(waiting, suspects)
            self._tell_progress()
            if self.stop.is_set():
                raise Interrupted(STOPPED)
        self._record.write()

    def _tell_progress(self) -> None:
        self._record.write_if_due()
        known = [pace.wall_seconds(self._supply.threads) for pace in (self._pace, self._spread_pace)]
        if any(each is not None for each in known):
            self.tally.left = sum(
                pace.left / max(self._supply.threads, 1) if each is None else each
                for pace, each in zip((self._pace, self._spread_pace), known, strict=True)
            )
        self.on_progress()

    def _spread(self, batch: Batch) -> None:
        """Compute a batch in this process, with passes over the cluster; each outcome is written when it is there."""
        code = tuple(self.sweep.code.items())
        passes = partial(ClusterPasses, self.client, stop=self.stop, patience=self.patience, code=code)
        label, payload = self._label(batch), self._payload(batch, 0.0)
        self._spread_pace.supply(0)
        for number, outcome in enumerate(spread_outcomes(label, payload, passes, self.stop, self._wait_for_pass)):
            cell = batch.cells[number : number + 1]
            elapsed = outcome.elapsed * max(self._supply.threads, 1)
            self._record.log_batch(1, outcome.elapsed, "")
            self._record.add(cell, [outcome])
            self._record.write()
            self._spread_pace.record(cell, batch.costs[number : number + 1], np.array([elapsed]))

    def _wait_for_pass(self) -> None:
        self._spread_pace.supply(self._supply.threads)
        self._supply.look()
        self._tell_progress()

    def _submit(self, waiting: deque[Batch], suspects: deque[Batch]) -> None:
        until = monotonic() + _SUBMIT_SECONDS  # what has arrived is not kept waiting
        while waiting and monotonic() < until:
            room = _WINDOW_A_THREAD * max(self._supply.threads, 1) - len(self._running)
            if room <= 0:
                break
            count = min(len(waiting), room, _SENT_AT_ONCE)
            self._start([self._pace.take(waiting, self._supply.threads) for _ in range(count) if waiting])
        if suspects and not waiting and not self._running and self._supply.is_settled():
            self._alone = suspects.popleft()
            self._start([(self._alone, BATCH_SECONDS)])

    def _start(self, batches: Sequence[tuple[Batch, float]]) -> None:
        """Send batches, each with its time."""
        if self._context is None:
            self._context = batch_context()
        names = [self._name(batch) for batch, _ in batches]
        labels = [self._label(batch) for batch, _ in batches]
        payloads = [self._payload(batch, seconds) for batch, seconds in batches]
        try:
            futures = submit_batches(self.client, self._context, names, labels, payloads)
        except ClosedClientError as error:
            raise EpsweepError(SCHEDULER_GONE) from error
        for future, (batch, _) in zip(futures, batches, strict=True):
            self._running[future] = _Sent(batch, np.zeros(len(batch.cells), dtype=bool))
            future.add_done_callback(self._arrived.put)

    def _name(self, batch: Batch) -> str:
        """Experiment, and what all cells of a batch have in common of function, sampling and method."""
        same = (batch.cells == batch.cells[0]).all(axis=0)
        axes = zip(self.sweep.experiment.axes, same, batch.cells[0], strict=True)
        common = [self.sweep.labels[axis.name][index] for axis, shared, index in axes if shared and not axis.numeric]
        return " ".join([self.sweep.experiment.name, *map(str, common)])[:_MOST_NAME]

    def _label(self, batch: Batch) -> str:
        return f"{self._name(batch)}: {len(batch.cells)} cells from {self.sweep.case(batch.cells[0])}"[:200]

    def _payload(self, batch: Batch, seconds: float) -> str:
        cases = [self.sweep.case(cell).labels for cell in batch.cells]
        payload = {
            "experiment": self.sweep.experiment.name,
            "settings": self._settings,
            "code": dict(self.sweep.code),
            "axes": [axis for axis, _ in cases[0]],
            "cases": [[label for _, label in labels] for labels in cases],
            "seconds": seconds,
        }
        return json.dumps(payload)

    def _collect(self, waiting: deque[Batch], suspects: deque[Batch]) -> None:
        """Wait for an arrival, take all that are there, and write them together."""
        lost, broken = False, None
        arrived = self._arrivals()
        self._take(self._handed_over())
        states = self._gather(arrived)
        for future in arrived:
            sent = self._running.pop(future)
            alone = sent.batch is self._alone
            try:
                computed = self._result(future, states.get(future))
            except _LostBatchError:
                lost = True
            except EpsweepError as error:  # raised once what else has arrived is written
                broken = error
                continue
            except KilledWorker as error:
                worker = getattr(error.last_worker, "address", str(error.last_worker))
                self._set_aside(sent, worker, suspects, alone=alone)
                continue
            else:
                self._record.log_batch(len(computed.outcomes), computed.seconds, computed.worker)
                self._keep(sent, computed.first, computed.outcomes)
            if sent.left is not None:
                waiting.appendleft(sent.left)
        if arrived and not lost:
            self._record.write()
        if lost and not self._kept:
            self._lost += 1
        elif self._kept:
            self._lost = 0
        self._kept = False
        if broken:
            raise broken
        if self._lost > _LOST_LIMIT:
            raise EpsweepError(SCHEDULER_GONE)

    def _set_aside(self, sent: _Sent, worker: str, suspects: deque[Batch], *, alone: bool) -> None:
        """Keep what a batch whose worker died has not handed over for later; a cell that is condemned has failed."""
        self._supply.disturb()
        left = sent.left
        if left is None:
            return
        _LOGGER.warning(
            "worker %s died over %d cells, from %s",
            worker,
            len(left.cells),
            self.sweep.case(left.cells[0]),
            extra={"event": "batch_lost", "worker": worker, "cells": len(left.cells)},
        )
        if alone and left.condemned:
            self._keep(sent, 0, [Outcome(None, _DEADLY)])
            self._record.write()
        elif alone:
            suspects.extendleft(reversed(left.pieces()))
        else:
            suspects.append(left)

    def _take(self, messages: Sequence[Message]) -> None:
        """Take what batches that are out have handed over; what is not of this run, or has come back, is let go."""
        running = {future.key: sent for future, sent in self._running.items()} if messages else {}
        for message in messages:
            if message["key"] in running:
                handed = Handed.of(message, self._quantities)
                self._keep(running[handed.key], handed.first, handed.outcomes)

    def _keep(self, sent: _Sent, first: int, outcomes: Sequence[Outcome]) -> None:
        """Take outcomes of a batch from a cell on, of which some may have been taken before."""
        places = np.arange(first, first + len(outcomes))
        new = places[~sent.back[places]]
        if not len(new):
            return
        found = [outcomes[place - first] for place in new]
        sent.back[new] = True
        self._kept = True
        self._record.add(sent.batch.cells[new], found)
        elapsed = np.array([outcome.elapsed for outcome in found])
        self._pace.record(sent.batch.cells[new], sent.batch.costs[new], elapsed)

    def _handed_over(self) -> list[Message]:
        """What has been handed over since it was asked last."""
        messages = []
        with suppress(Empty):
            while True:
                messages.append(self._handed.get_nowait())
        return messages

    def _last_messages(self) -> list[Message]:
        """What workers have finished and not handed over, of those that say so at once."""
        client = self.client

        async def ask() -> dict[str, list[Message]]:
            return dict(await client.run(last_messages, on_error="ignore"))

        with suppress(Exception):
            return [each for found in client.sync(ask, callback_timeout=_LAST_SECONDS).values() for each in found]
        return []

    def _arrivals(self) -> list[Future[State[Computed]]]:
        arrived = []
        with suppress(Empty):
            arrived.append(self._arrived.get(timeout=_POLL_SECONDS))
            while True:
                arrived.append(self._arrived.get_nowait())
        return arrived

    def _gather(self, futures: Sequence[Future[State[Computed]]]) -> dict[Future[State[Computed]], State[Computed]]:
        """Ask for what has arrived in one request; for nothing if that fails, so that each is asked for alone."""
        finished = [future for future in futures if future.status == "finished"]
        client = self.client

        async def fetch() -> list[State[Computed]]:
            return list(await client.gather(finished, asynchronous=True))

        if finished:
            with suppress(Exception):  # one may be lost with its worker, and would be waited for
                return dict(zip(finished, client.sync(fetch, callback_timeout=_GATHER_SECONDS), strict=True))
        return {}

    def _result(self, future: Future[State[Computed]], state: State[Computed] | None) -> Computed:
        if state is None and future.status not in ("finished", "error"):
            raise _LostBatchError
        try:
            return (future.result(timeout=_GATHER_SECONDS) if state is None else state).result()
        except (KilledWorker, CodeError):
            raise
        except (CancelledRun, TimeoutError) as error:
            raise _LostBatchError from error
        except Exception as error:  # a failing case is an outcome: this is Prefect's or the cluster's
            raise EpsweepError(
                f"flow: a batch could not be run ({describe(error)}); finished cells are stored: check the Prefect "
                "server and the workers, then run the same again"
            ) from error


class _LostBatchError(Exception):
    """The scheduler no longer knows a batch."""
