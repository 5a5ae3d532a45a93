"""Sends batches to the workers, keeps them supplied, and writes what comes back."""

import json
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from time import monotonic
from types import FrameType
from typing import Any

import numpy as np
from distributed.client import ClosedClientError
from distributed.scheduler import KilledWorker
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect_dask.task_runners import DaskTaskRunner, PrefectDaskFuture
from threadpoolctl import threadpool_limits

from flows.planning import BATCH_SECONDS, Batch
from flows.progress import Tally
from pipeline.errors import EpsweepError, Interrupted
from pipeline.experiment import Case, Outcome, describe
from pipeline.experiments import EXPERIMENTS
from pipeline.grid import Sweep
from storage import Writer

_POLL_SECONDS = 0.25
_LOST_LIMIT = 3  # times in a row
_WINDOW_A_THREAD = 2
_LOOK_SECONDS = 5.0
_PATIENCE_SECONDS = 120.0
_SCHEDULER_GONE = "cluster: the scheduler is gone; finished cells are stored: start it and run the same again"
_DEADLY = "its worker process died each time this cell was computed alone (killed, or out of memory)"


@task(name="batch", task_run_name="{label}", cache_policy=NO_CACHE, persist_result=False)
def compute_batch(label: str, payload: str) -> list[Outcome]:
    """Compute the cases of a batch on one core, as many as can be done in the time of a batch but at least one.

    Parameters
    ----------
    label : str
        Name of the task run.
    payload : str
        The batch as JSON: experiment, settings, axes, and a list of labels a case.

    Returns
    -------
    list of Outcome
        Of the first cases; the dispatcher sends the others again.
    """
    batch = json.loads(payload)
    experiment = EXPERIMENTS[batch["experiment"]]
    settings = experiment.settings.model_validate(batch["settings"])
    cases = [Case(tuple(zip(batch["axes"], labels, strict=True))) for labels in batch["cases"]]
    outcomes = []
    deadline = monotonic() + BATCH_SECONDS
    with threadpool_limits(1):
        for outcome in experiment.run(cases, settings):
            outcomes.append(outcome)
            if monotonic() > deadline:
                break
    return outcomes


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
    """

    sweep: Sweep
    writer: Writer
    runner: DaskTaskRunner
    tally: Tally
    on_progress: Callable[[], None]

    def __post_init__(self) -> None:
        self._arrived: SimpleQueue[PrefectDaskFuture[Any]] = SimpleQueue()
        self._running: dict[Any, Batch] = {}
        self._stop = threading.Event()
        self._lost = 0
        self._threads = 0
        self._looked = self._supplied = monotonic()

    def run(self, batches: Sequence[Batch]) -> None:
        """Compute batches in order and write their outcomes.

        Raises
        ------
        Interrupted
            After SIGINT or SIGTERM, once what had arrived is written.
        EpsweepError
            If the cluster is lost.
        """
        waiting, suspects = deque(batches), deque[Batch]()
        with self._stopping_on_signals():
            try:
                while waiting or suspects or self._running:
                    self._look_at_workers()
                    self._submit(waiting, suspects)
                    self._collect(waiting, suspects)
                    self.on_progress()
                    if self._stop.is_set():
                        raise Interrupted("stopped")
            finally:
                with suppress(Exception):  # a cluster that is gone has nothing to cancel
                    for future in self._running:
                        future.wrapped_future.cancel(force=True)

    def _look_at_workers(self) -> None:
        """Count the worker threads every few seconds: workers come late and go."""
        now = monotonic()
        if self._threads and now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        try:
            self._threads = sum(self.runner.client.nthreads().values())
        except (OSError, ClosedClientError, TimeoutError) as error:
            raise EpsweepError(_SCHEDULER_GONE) from error
        if self._threads:
            self._supplied = now
        elif now - self._supplied > _PATIENCE_SECONDS:
            raise EpsweepError(
                f"cluster: no worker for {_PATIENCE_SECONDS:.0f} s; finished cells are stored: start workers (do they "
                "import this package?) and run the same again"
            )

    def _submit(self, waiting: deque[Batch], suspects: deque[Batch]) -> None:
        while waiting and len(self._running) < _WINDOW_A_THREAD * max(self._threads, 1):
            self._start(waiting.popleft())
        if suspects and not waiting and not self._running:
            self._start(suspects.popleft())

    def _start(self, batch: Batch) -> None:
        cases = [self.sweep.case(cell).labels for cell in batch.cells]
        payload = {
            "experiment": self.sweep.experiment.name,
            "settings": self.sweep.settings.model_dump(),
            "axes": [axis for axis, _ in cases[0]],
            "cases": [[label for _, label in labels] for labels in cases],
        }
        label = f"{len(cases)} cells from {self.sweep.case(batch.cells[0])}"
        try:
            future: PrefectDaskFuture[Any] = self.runner.submit(
                compute_batch, {"label": label[:200], "payload": json.dumps(payload)}
            )
        except ClosedClientError as error:
            raise EpsweepError(_SCHEDULER_GONE) from error
        self._running[future] = batch
        future.wrapped_future.add_done_callback(lambda _: self._arrived.put(future))

    def _collect(self, waiting: deque[Batch], suspects: deque[Batch]) -> None:
        """Wait for an arrival, take all that are there, and write them together."""
        cells, outcomes = [], []
        lost, broken = False, None
        for future in self._arrivals():
            batch = self._running.pop(future)
            alone = not self._running and not waiting
            try:
                results = self._result(future)
            except _LostBatchError:
                lost = True
                waiting.appendleft(batch)
                continue
            except EpsweepError as error:  # raised once what else has arrived is written
                broken = error
                continue
            except KilledWorker:
                if alone and batch.condemned:
                    results = [Outcome(None, _DEADLY)]
                elif alone:
                    suspects.extendleft(reversed(batch.pieces()))
                    continue
                else:
                    suspects.append(batch)
                    continue
            done, rest = batch.split(len(results))
            if rest is not None:
                waiting.append(rest)
            cells.append(done.cells)
            outcomes.extend(results)
            self.tally.worked += done.seconds
        if cells:
            self._lost = 0
            self.writer.write(np.concatenate(cells), outcomes)
            failed = sum(outcome.values is None for outcome in outcomes)
            self.tally.failed += failed
            self.tally.done += len(outcomes) - failed
        elif lost:
            self._lost += 1
        if broken:
            raise broken
        if self._lost > _LOST_LIMIT:
            raise EpsweepError(_SCHEDULER_GONE)

    def _arrivals(self) -> Iterator[PrefectDaskFuture[Any]]:
        try:
            yield self._arrived.get(timeout=_POLL_SECONDS)
            while True:
                yield self._arrived.get_nowait()
        except Empty:
            return

    def _result(self, future: PrefectDaskFuture[Any]) -> list[Outcome]:
        if future.wrapped_future.status in ("cancelled", "lost"):
            raise _LostBatchError
        try:
            outcomes: list[Outcome] = future.result()
        except KilledWorker:
            raise
        except Exception as error:  # a failing case is an outcome: this is Prefect's or the cluster's
            raise EpsweepError(
                f"flow: a batch could not be run ({describe(error)}); finished cells are stored: check the Prefect "
                "server and the workers, then run the same again"
            ) from error
        return outcomes

    @contextmanager
    def _stopping_on_signals(self) -> Iterator[None]:
        """Turn the first SIGINT or SIGTERM into an orderly stop; leave threads other than the main one alone."""

        def stop(number: int, frame: FrameType | None) -> None:
            self._stop.set()
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
