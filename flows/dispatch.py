"""Sends batches to the workers, keeps them supplied, and writes what comes back."""

import json
import logging
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from time import monotonic
from types import FrameType

import numpy as np
from distributed import Future
from distributed.client import ClosedClientError
from distributed.scheduler import KilledWorker
from prefect import State
from prefect.exceptions import CancelledRun
from prefect_dask.task_runners import DaskTaskRunner

from flows.batch import Computed, batch_context, compute_spread, submit_batches
from flows.planning import Batch, Cells
from flows.progress import Tally
from flows.ready import SCHEDULER_GONE, check_workers
from flows.spread import ClusterPasses, Halt, forget_kept, worker_threads
from pipeline.errors import CodeError, EpsweepError, Interrupted
from pipeline.experiment import Outcome, describe
from pipeline.grid import Sweep
from storage import Writer

_POLL_SECONDS = 0.25
_SUBMIT_SECONDS = 1.0
_GATHER_SECONDS = 20.0
_LOST_LIMIT = 3  # times in a row
_WINDOW_A_THREAD = 2
_SENT_AT_ONCE = 100
_LOOK_SECONDS = 5.0
_SETTLING_SECONDS = 2.0
_PATIENCE_SECONDS = 120.0
_LOGGER = logging.getLogger("epsweep")
_LOGGED_SHARE = 0.05
_LOGGED_FAILURES = 100
_STOPPED = "stopped; finished cells are stored: run the same command to go on"
_DEADLY = "its worker process died each time this cell was computed alone (killed, or out of memory)"


@dataclass
class Dispatcher:
    """One run over a list of batches.

    A batch whose worker died is set aside; when nothing else runs, what was set aside is computed one piece at a time
    and halved until its poisonous cell stands alone. A cell that kills its worker twice so is recorded as failed.

    Attributes
    ----------
    sweep : Sweep
    writer : Writer
    runner : DaskTaskRunner
        Started.
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
    runner: DaskTaskRunner
    tally: Tally
    on_progress: Callable[[], None]
    stop: threading.Event = field(default_factory=threading.Event)
    patience: float = 0.0

    def __post_init__(self) -> None:
        self._arrived: SimpleQueue[Future[State[Computed]]] = SimpleQueue()
        self._running: dict[Future[State[Computed]], Batch] = {}
        self._lost = 0
        self._threads = 0
        self._workers: frozenset[str] = frozenset()
        self._logged = 0.0
        self._failures = 0
        self._looked = self._supplied = self._changed = monotonic()
        self.patience = max(self.patience, _PATIENCE_SECONDS)
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
        check_workers(self.runner.client, self.sweep)
        waiting, suspects = deque(batches), deque[Batch]()
        with self._stopping_on_signals():
            try:
                while waiting or suspects or self._running:
                    self._look_at_workers()
                    self._submit(waiting, suspects)
                    self._collect(waiting, suspects)
                    self.on_progress()
                    if self.stop.is_set():
                        raise Interrupted(_STOPPED)
                for batch in spread:
                    self._spread(batch)
                if spread:
                    with suppress(Exception):  # all is written
                        self.runner.client.run(forget_kept, on_error="ignore")
            finally:
                with suppress(Exception):  # a cluster that is gone has nothing to cancel
                    self.runner.client.cancel(list(self._running), force=True)

    def _spread(self, batch: Batch) -> None:
        """Compute a batch in this process, with passes over the cluster; each outcome is written when it is there."""
        found: SimpleQueue[Outcome | BaseException | None] = SimpleQueue()
        code = tuple(self.sweep.code.items())
        passes = partial(ClusterPasses, self.runner.client, stop=self.stop, patience=self.patience, code=code)
        label, payload, finished = self._label(batch), self._payload(batch), 0

        def compute() -> None:
            try:
                compute_spread(label, payload, passes, found.put)
                found.put(None)
            except BaseException as error:  # for the thread that waits
                found.put(error)

        threading.Thread(target=copy_context().run, args=(compute,), daemon=True).start()
        try:
            while True:
                self.on_progress()
                try:
                    outcome = found.get(timeout=_POLL_SECONDS)
                except Empty:
                    continue
                if outcome is None:
                    return
                if isinstance(outcome, BaseException):
                    raise outcome  # noqa: TRY301 (it is the other thread's)
                done = Batch(batch.cells[finished : finished + 1], batch.seconds / len(batch.cells))
                finished += 1
                self._log_batch(done, Computed([outcome], "", 0.0))
                self._store(done.cells, [outcome], done.seconds)
        except Halt as halt:
            raise (Interrupted(_STOPPED) if self.stop.is_set() else halt.error) from halt
        except BaseException:
            self.stop.set()  # where the store fails, the passes end too
            raise

    def _look_at_workers(self) -> None:
        """Count the worker threads every few seconds: workers come late and go."""
        now = monotonic()
        if self._threads and now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        try:
            threads = worker_threads(self.runner.client)
        except (OSError, ClosedClientError, TimeoutError) as error:
            raise EpsweepError(SCHEDULER_GONE) from error
        self._threads = sum(threads.values())
        for worker in sorted(self._workers - threads.keys()):
            _LOGGER.warning("worker %s is gone", worker, extra={"event": "worker_lost", "worker": worker})
        self._workers = frozenset(threads)
        if self._threads:
            self._supplied = now
        elif now - self._supplied > self.patience:
            raise EpsweepError(
                f"cluster: no worker for {self.patience:.0f} s; finished cells are stored: start workers (do they "
                "import this package?) and run the same again"
            )

    def _workers_are_settled(self) -> bool:
        """Whether no worker has just started: a nanny gives one up that dies before it has seen it run."""
        self._threads = 0  # look now
        before = self._workers
        self._look_at_workers()
        if self._workers != before:
            self._changed = monotonic()
        return bool(self._workers) and monotonic() - self._changed > _SETTLING_SECONDS

    def _submit(self, waiting: deque[Batch], suspects: deque[Batch]) -> None:
        until = monotonic() + _SUBMIT_SECONDS  # what has arrived is not kept waiting
        while waiting and monotonic() < until:
            room = _WINDOW_A_THREAD * max(self._threads, 1) - len(self._running)
            if room <= 0:
                break
            self._start([waiting.popleft() for _ in range(min(len(waiting), room, _SENT_AT_ONCE))])
        if suspects and not waiting and not self._running and self._workers_are_settled():
            self._alone = suspects.popleft()
            self._start([self._alone])

    def _start(self, batches: Sequence[Batch]) -> None:
        if self._context is None:
            self._context = batch_context()
        labels = [self._label(batch) for batch in batches]
        payloads = [self._payload(batch) for batch in batches]
        try:
            futures = submit_batches(self.runner.client, self._context, labels, payloads)
        except ClosedClientError as error:
            raise EpsweepError(SCHEDULER_GONE) from error
        for future, batch in zip(futures, batches, strict=True):
            self._running[future] = batch
            future.add_done_callback(self._arrived.put)

    def _label(self, batch: Batch) -> str:
        return f"{len(batch.cells)} cells from {self.sweep.case(batch.cells[0])}"[:200]

    def _payload(self, batch: Batch) -> str:
        cases = [self.sweep.case(cell).labels for cell in batch.cells]
        payload = {
            "experiment": self.sweep.experiment.name,
            "settings": self._settings,
            "code": dict(self.sweep.code),
            "axes": [axis for axis, _ in cases[0]],
            "cases": [[label for _, label in labels] for labels in cases],
        }
        return json.dumps(payload)

    def _collect(self, waiting: deque[Batch], suspects: deque[Batch]) -> None:
        """Wait for an arrival, take all that are there, and write them together."""
        cells, outcomes, worked = [], [], 0.0
        lost, broken = False, None
        arrived = self._arrivals()
        states = self._gather(arrived)
        for future in arrived:
            batch = self._running.pop(future)
            alone = batch is self._alone
            try:
                computed = self._result(future, states.get(future))
            except _LostBatchError:
                lost = True
                waiting.appendleft(batch)
                continue
            except EpsweepError as error:  # raised once what else has arrived is written
                broken = error
                continue
            except KilledWorker as error:
                worker = getattr(error.last_worker, "address", str(error.last_worker))
                self._changed = monotonic()
                _LOGGER.warning(
                    "worker %s died over %d cells, from %s",
                    worker,
                    len(batch.cells),
                    self.sweep.case(batch.cells[0]),
                    extra={"event": "batch_lost", "worker": worker, "cells": len(batch.cells)},
                )
                if alone and batch.condemned:
                    computed = Computed([Outcome(None, _DEADLY)], worker, 0.0)
                elif alone:
                    suspects.extendleft(reversed(batch.pieces()))
                    continue
                else:
                    suspects.append(batch)
                    continue
            done, rest = batch.split(len(computed.outcomes))
            if rest is not None:
                waiting.append(rest)
            cells.append(done.cells)
            outcomes.extend(computed.outcomes)
            self._log_batch(done, computed)
            worked += done.seconds
        if cells:
            self._lost = 0
            self._store(np.concatenate(cells), outcomes, worked)
        elif lost:
            self._lost += 1
        if broken:
            raise broken
        if self._lost > _LOST_LIMIT:
            raise EpsweepError(SCHEDULER_GONE)

    def _store(self, cells: Cells, outcomes: Sequence[Outcome], worked: float) -> None:
        self.writer.write(cells, outcomes)
        failed = sum(outcome.values is None for outcome in outcomes)
        self.tally.failed += failed
        self.tally.done += len(outcomes) - failed
        self.tally.worked += worked
        self._log_progress()

    def _log_batch(self, batch: Batch, computed: Computed) -> None:
        """Each batch for the log file, and each failed cell for Prefect too."""
        fields = {"cells": len(batch.cells), "seconds": round(computed.seconds, 3), "worker": computed.worker}
        _LOGGER.info("%d cells computed", len(batch.cells), extra={"event": "batch", "send_to_api": False, **fields})
        for cell, outcome in zip(batch.cells, computed.outcomes, strict=True):
            if outcome.values is None:
                self._failures += 1
                case = str(self.sweep.case(cell))
                fields = {"event": "cell_failed", "case": case, "send_to_api": self._failures <= _LOGGED_FAILURES}
                _LOGGER.error("%s: %s", case, outcome.message, extra=fields)

    def _log_progress(self) -> None:
        share = self.tally.finished / max(self.tally.cells, 1)
        if share >= self._logged + _LOGGED_SHARE:
            self._logged = share
            fields = {"event": "progress", "done": self.tally.done, "failed": self.tally.failed}
            _LOGGER.info("%s", self.tally, extra=fields)

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
        client = self.runner.client

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

    @contextmanager
    def _stopping_on_signals(self) -> Iterator[None]:
        """Turn the first SIGINT or SIGTERM into an orderly stop; leave threads other than the main one alone."""

        def stop(number: int, frame: FrameType | None) -> None:
            self.stop.set()
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


class _LostBatchError(Exception):
    """The scheduler no longer knows a batch."""
