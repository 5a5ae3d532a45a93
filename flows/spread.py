"""Passes over a matrix that no worker can hold, made by all workers of a cluster."""

import logging
import sys
import threading
from asyncio import CancelledError
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from queue import Empty, SimpleQueue
from threading import get_ident
from time import monotonic
from typing import Any, TypeAlias
from uuid import uuid4

import numpy as np
from distributed import Client, Future, get_worker
from distributed.client import ClosedClientError
from distributed.scheduler import KilledWorker

from flows.batch import limit_threads
from flows.ready import SCHEDULER_GONE, require_code
from pipeline.arithmetic import own_state
from pipeline.arrays import Matrix, RealArray
from pipeline.errors import CodeError, EpsweepError, Halted, InputError
from pipeline.experiment import Recipe, describe
from pipeline.failure import ReportedError, failure_of
from pipeline.kept import ScaledMatrix
from pipeline.passes import Joining, Kernel, Piece, Transposed, row_groups

_POLL_SECONDS = 0.25
_MOST_LOSSES = 5  # of one group of rows in a pass
_WINDOW_A_THREAD = 3
_RUNS_A_THREAD = 4
_LOGGER = logging.getLogger("epsweep")
_MAKING = threading.Lock()  # all threads of a worker begin at once

_Code: TypeAlias = tuple[tuple[str, str], ...]
"""Names and digests of a user's own code."""
_Found: TypeAlias = tuple[str, Piece]
"""The address of the worker, and what it found."""


def worker_threads(client: Client) -> dict[str, int]:
    """Number of threads of each worker.

    Raises
    ------
    ClosedClientError, OSError, TimeoutError
        If the scheduler cannot be asked.
    """
    try:
        return dict(client.nthreads())
    except AttributeError as error:  # how a client that has given its scheduler up says so
        raise ClosedClientError(str(error)) from error


class Halt(Halted):
    """A pass ends unfinished, which is no fault of the case: `error` says why."""

    def __init__(self, error: EpsweepError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True)
class _Scaling:
    """What the entries are divided by, and the precision that they are then in."""

    scale: float
    dtype: np.dtype[Any]


class ClusterPasses:
    """Passes whose groups of rows are tasks on a cluster; a group whose worker dies is computed again, and no other.

    Parameters
    ----------
    client : distributed.Client
    recipe : Recipe
    stop : threading.Event
        Set from anywhere, it raises Halt.
    patience : float
        Seconds to wait where there is no worker.
    scaling : optional
        Where the passes are over F / scale.
    code : tuple of pairs of str
        Names and digests of a user's own code, which every worker must have.
    """

    def __init__(
        self,
        client: Client,
        recipe: Recipe,
        stop: threading.Event,
        patience: float = 120.0,
        scaling: _Scaling | None = None,
        code: _Code = (),
    ) -> None:
        self.matrix: Matrix = recipe.make()
        self.dtype = scaling.dtype if scaling else np.dtype(np.float64)
        self._client, self._recipe, self._stop, self._patience = client, recipe, stop, patience
        self._scaling, self._code = scaling, code
        self._places: dict[int, str] = {}

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        n1, n2 = self.matrix.shape
        return n1, n2

    def run(
        self,
        kernel: Kernel,
        shared: Sequence[RealArray] = (),
        by_rows: Sequence[RealArray] = (),
        *,
        transposed: bool = False,
    ) -> Piece:
        """Make one pass.

        Raises
        ------
        Halt
            If it is stopped, or the cluster is lost.
        EpsweepError
            If a group of rows cannot be computed.
        """
        shape = self.shape[::-1] if transposed else self.shape
        groups = row_groups(shape)
        places = {} if transposed or self._scaling is None else self._places
        what = kernel, self._recipe, self._code, self._scaling, transposed
        work = _Pass(self._client, what, shared, self._stop, self._patience, places)
        try:
            return work.run(groups, by_rows)
        finally:
            work.cancel()

    def scaled(self, scale: float, dtype: type[np.floating[Any]]) -> "ClusterPasses":
        """Passes over F / scale in a precision; a group of rows stays with the worker that keeps its entries."""
        scaling = _Scaling(scale, np.dtype(dtype))
        return ClusterPasses(self._client, self._recipe, self._stop, self._patience, scaling, self._code)


class _Pass:
    """One pass: a window of groups that are out, and the pieces that have come back."""

    def __init__(
        self,
        client: Client,
        what: tuple[Any, ...],
        shared: Sequence[RealArray],
        stop: threading.Event,
        patience: float,
        places: dict[int, str],
    ) -> None:
        self._client, self._what, self._stop, self._patience = client, what, stop, patience
        self._places = places  # by first row of a run of groups: the worker that computed it last
        self._shared = list(shared)
        self._sent: list[Future[Any]] = []
        self._out: dict[Future[_Found], int] = {}
        self._back: SimpleQueue[Future[_Found]] = SimpleQueue()
        self._supplied = monotonic()

    def run(self, groups: Sequence[slice], by_rows: Sequence[RealArray]) -> Piece:
        """Compute all groups and join their pieces; those of a few groups in a row are joined by their worker."""
        length = _run_length(len(groups), self._threads())
        runs = [groups[first : first + length] for first in range(0, len(groups), length)]
        joining, missing = Joining(), len(runs)
        losses, unfetched = [0] * len(runs), 0
        waiting = list(range(len(runs)))[::-1]
        self._send()
        while missing:
            threads = self._threads()
            while waiting and len(self._out) < _WINDOW_A_THREAD * threads:
                index = waiting.pop()
                self._start(index, runs[index], by_rows)
            future = self._next()
            if future is None:
                continue
            index = self._out.pop(future)
            rows = slice(runs[index][0].start, runs[index][-1].stop)
            try:
                self._places[rows.start], piece = future.result(timeout=60)
                joining.put(index * length, len(runs[index]), piece)
                missing -= 1
                continue
            except KilledWorker as error:
                losses[index] += 1
                if losses[index] > _MOST_LOSSES:
                    raise EpsweepError(
                        f"rows {rows.start} to {rows.stop}: the worker died each time they were computed (killed, or "
                        "out of memory)"
                    ) from error
            except (Exception, CancelledError) as error:
                if isinstance(error, CodeError):
                    raise Halt(error) from error
                if future.status == "error":  # of the function itself
                    raise
                unfetched += 1
                if unfetched > _MOST_LOSSES + len(runs):
                    reason = f"cluster: results cannot be fetched from the workers ({describe(error)})"
                    raise Halt(EpsweepError(f"{reason}; check them, then run the same again")) from error
            _LOGGER.warning("rows %d to %d are computed again", rows.start, rows.stop)
            waiting.append(index)
            if not all(each.status == "finished" for each in self._sent):
                self._send()  # lost with all workers that had it
        return joining.whole()

    def _send(self) -> None:
        """Give every worker what all groups need; again where one dies over it."""
        failures = 0
        while self._shared:
            self._threads()
            try:
                self._sent = self._client.scatter(self._shared, broadcast=True, hash=False)
            except (AttributeError, ClosedClientError) as error:  # closed in between
                raise Halt(EpsweepError(SCHEDULER_GONE)) from error
            except (OSError, TimeoutError, ValueError, KeyError) as error:
                failures += 1
                if failures > _MOST_LOSSES:
                    raise Halt(EpsweepError(f"cluster: workers cannot be reached ({describe(error)})")) from error
            else:
                return

    def _start(self, index: int, run: Sequence[slice], by_rows: Sequence[RealArray]) -> None:
        start, stop = run[0].start, run[-1].stop
        places = [self._places[start]] if start in self._places else None
        what = *self._what, run, self._sent, tuple(each[start:stop] for each in by_rows)
        try:
            key = f"spread {self._what[0].__name__}-{uuid4()}"
            future = self._client.submit(_compute, *what, key=key, workers=places, allow_other_workers=bool(places))
        except ClosedClientError as error:
            raise Halt(EpsweepError(SCHEDULER_GONE)) from error
        self._out[future] = index
        future.add_done_callback(self._back.put)

    def _next(self) -> "Future[_Found] | None":
        if self._stop.is_set():
            raise Halt(EpsweepError("stopped"))
        try:
            future = self._back.get(timeout=_POLL_SECONDS)
        except Empty:
            return None
        return future if future in self._out else None

    def _threads(self) -> int:
        """Number of worker threads; waits for one."""
        while True:
            try:
                threads = sum(worker_threads(self._client).values())
            except (OSError, ClosedClientError, TimeoutError) as error:
                raise Halt(EpsweepError(SCHEDULER_GONE)) from error
            if threads:
                self._supplied = monotonic()
                return threads
            if self._stop.wait(_POLL_SECONDS):
                raise Halt(EpsweepError("stopped"))
            if monotonic() - self._supplied > self._patience:
                raise Halt(
                    EpsweepError(
                        "cluster: no worker is left; finished cells are stored: start workers and run the same"
                    )
                )

    def cancel(self) -> None:
        """Give up what is out."""
        with suppress(Exception):  # a cluster that is gone has nothing to cancel
            self._client.cancel([*self._out, *self._sent], force=True)


def _run_length(groups: int, threads: int) -> int:
    """How many groups a task has: a power of two, so that pieces are joined as they are one by one."""
    length = 1
    while 2 * length * _RUNS_A_THREAD * threads <= groups:
        length *= 2
    return length


@own_state()
def _compute(
    kernel: Kernel,
    recipe: Recipe,
    code: _Code,
    scaling: _Scaling | None,
    transposed: bool,
    run: Sequence[slice],
    shared: list[RealArray],
    parts: tuple[RealArray, ...],
) -> _Found:
    """Compute groups of rows on a worker, on one core.

    What a user's function raises is sent as its message: Dask ends the worker on some exceptions, cannot send others
    (nor those that they are the context of), and takes a third kind for its own.
    """
    failed: Exception
    try:
        return get_worker().address, _pieces(kernel, recipe, code, scaling, transposed, run, shared, parts)
    except InputError as error:
        failed = type(error)(str(error))
    except BaseException as error:
        failure = failure_of(error)
        failed = ReportedError(failure.message, failure.traceback)
    raise failed


def _pieces(
    kernel: Kernel,
    recipe: Recipe,
    code: _Code,
    scaling: _Scaling | None,
    transposed: bool,
    run: Sequence[slice],
    shared: list[RealArray],
    parts: tuple[RealArray, ...],
) -> Piece:
    """Pieces of the groups of a run, joined."""
    with _MAKING:
        matrix = _matrix(recipe, code) if scaling is None else _scaled_matrix(recipe, code, scaling)
    limit_threads(get_ident(), len(sys.modules))
    seen, arrays, first = Transposed(matrix) if transposed else matrix, tuple(map(np.asarray, shared)), run[0].start
    joining = Joining()
    for number, rows in enumerate(run):
        own = tuple(part[rows.start - first : rows.stop - first] for part in parts)
        joining.put(number, 1, kernel(seen, rows, arrays, own))
    return joining.whole()


@lru_cache(maxsize=1)
def _matrix(recipe: Recipe, code: _Code) -> Matrix:
    try:
        require_code(dict(code))
    except CodeError as error:
        raise CodeError(f"cluster: worker {get_worker().address}: {error}") from error
    _scaled_matrix.cache_clear()
    matrix: Matrix = recipe.make()
    return matrix


@lru_cache(maxsize=1)  # the file of the one before goes with it
def _scaled_matrix(recipe: Recipe, code: _Code, scaling: _Scaling) -> ScaledMatrix:
    return ScaledMatrix(_matrix(recipe, code), scaling.scale, scaling.dtype, get_worker().local_directory)


def forget_kept() -> None:
    """Give up what this worker keeps on its disk."""
    _scaled_matrix.cache_clear()
