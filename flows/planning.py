"""From the cells that are pending to batches for the workers."""

import math
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pipeline.arithmetic import own_state
from pipeline.errors import InputError
from pipeline.experiment import Case
from pipeline.grid import Sweep

BATCH_SECONDS = 60.0
_BATCHES_A_THREAD = 8
_SHORTEST_BATCH = 0.5
_PARTS_A_THREAD = 2
PROCESS_BYTES = 300e6

Cells = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Batch:
    """Cells that one task computes, neighbours sharing their matrix.

    Attributes
    ----------
    cells : ndarray of shape (number of cells, number of axes)
        Indices into the box of the sweep.
    costs : ndarray of shape (number of cells,)
        Predicted computing time of each on one core, with its share of the matrix, in seconds.
    condemned : bool
        Whether it is a single cell that has already failed alone.
    """

    cells: Cells
    costs: npt.NDArray[np.float64]
    condemned: bool = False

    @cached_property
    def seconds(self) -> float:
        """Predicted computing time on one core."""
        return float(self.costs.sum())

    def pieces(self) -> list["Batch"]:
        """Split in halves after a failure; condemn a single cell."""
        if len(self.cells) == 1:
            return [replace(self, condemned=True)]
        return [half for half in self.split(len(self.cells) // 2) if half is not None]

    def split(self, count: int) -> tuple["Batch", "Batch | None"]:
        """Part after the first `count` cells; None where nothing is left."""
        if count == len(self.cells):
            return self, None
        return Batch(self.cells[:count], self.costs[:count]), Batch(self.cells[count:], self.costs[count:])

    def without(self, finished: npt.NDArray[np.bool_]) -> "Batch | None":
        """The cells that are not finished; None if there are none."""
        if not finished.any():
            return self
        return None if finished.all() else replace(self, cells=self.cells[~finished], costs=self.costs[~finished])


@dataclass(frozen=True)
class Plan:
    """The work that is left of a sweep.

    Attributes
    ----------
    batches : list of Batch
        Longest first.
    cells, matrices : int
    seconds : float
        Predicted computing time on one core.
    peak_memory : float
        Predicted for one worker process, in bytes.
    largest : Case or None
        The case that needs it.
    spread : list of Batch
        Cells of which each needs the whole cluster: its matrix does not fit into a worker.
    memory_spread, memory_here : float
        Predicted for a worker process over which they are spread, and for the process that spreads them, in bytes.
    """

    batches: list[Batch]
    cells: int
    matrices: int
    seconds: float
    peak_memory: float
    largest: Case | None
    spread: list[Batch] = field(default_factory=list)
    memory_spread: float = 0.0
    memory_here: float = 0.0

    def wall_seconds(self, threads: int) -> float:
        """Predicted time on a number of worker threads, start-up aside."""
        longest = max((batch.seconds for batch in self.batches), default=0.0)
        return max(self.seconds / threads, longest)

    def require_memory(self, limit: float, here: float = math.inf, neighbours: int = 0) -> None:
        """Raise InputError if a case cannot fit.

        Parameters
        ----------
        limit : float
            Memory of a worker, in bytes.
        here : float
            Memory of this machine, in bytes, which runs the flow.
        neighbours : int
            Number of workers on this machine.
        """
        if self.peak_memory > limit:
            raise InputError(
                f"grid: a case needs {self.peak_memory / 2**30:.1f} GiB and a worker has {limit / 2**30:.1f} GiB "
                f"({self.largest}), over which its method cannot be spread; take a smaller one, larger workers, or "
                "leave out svd.driver, ap.projection and minimax.warm_start"
            )
        needed = self.memory_here + neighbours * self.memory_spread
        if self.memory_here and needed > here:
            raise InputError(
                f"grid: a case that is spread over the cluster needs {needed / 2**30:.1f} GiB on the machine of the "
                f"flow, which has {here / 2**30:.1f} GiB; lower n or r, or run it on a larger machine"
            )


@own_state()  # costs are predicted by division and powers of labels
def make_plan(sweep: Sweep, todo: npt.NDArray[np.bool_], threads: int, limit: float = math.inf) -> Plan:
    """Group cells that share a matrix into batches of similar predicted time.

    A batch lasts about a minute, less where the sweep is too short to keep every thread busy with several; a matrix
    with more work than that is generated again for each of its batches. A cell that does not fit into a worker is
    spread over the cluster, if its method can be.

    Parameters
    ----------
    sweep : Sweep
    todo : ndarray of bool
        The pending cells within the box of the sweep.
    threads : int
        Number of worker threads to keep busy.
    limit : float
        Memory of a worker, in bytes.
    """
    cells = np.argwhere(todo)
    if not len(cells):
        return Plan([], 0, 0, 0.0, 0.0, None)
    experiment = sweep.experiment
    shared = [position for position, axis in enumerate(experiment.axes) if axis.name in experiment.shared]
    sizes = [todo.shape[position] for position in shared]
    _, first, group = np.unique(
        np.ravel_multi_index(tuple(cells[:, shared].T), sizes), return_index=True, return_inverse=True
    )
    prepare = experiment.prepare_cost(sweep.columns(cells[first]), sweep.settings)
    evaluate = experiment.evaluate_cost(sweep.columns(cells), sweep.settings)
    memory = prepare.memory[group] + evaluate.memory + PROCESS_BYTES
    if (memory > limit).any():
        return _with_spread(sweep, todo, cells, memory > limit, threads)
    total = float(prepare.seconds.sum() + evaluate.seconds.sum())
    target = float(np.clip(total / (threads * _BATCHES_A_THREAD), _SHORTEST_BATCH, BATCH_SECONDS))
    order = np.argsort(group, kind="stable")
    ends = np.flatnonzero(np.diff(group[order])) + 1
    members, work = np.split(cells[order], ends), np.split(evaluate.seconds[order], ends)
    pieces = [
        piece
        for index in range(len(members))
        for piece in _pieces(members[index], float(prepare.seconds[index]), work[index], target)
    ]
    largest = int(memory.argmax())
    batches = _pack(pieces, target, threads)
    return Plan(batches, len(cells), len(members), total, float(memory[largest]), sweep.case(cells[largest]))


def _with_spread(
    sweep: Sweep, todo: npt.NDArray[np.bool_], cells: Cells, large: npt.NDArray[np.bool_], threads: int
) -> Plan:
    """Plan where some cells do not fit into a worker: batches of the others, then these, one matrix after the other."""
    few = todo.copy()
    few[tuple(cells[large].T)] = False
    plan = make_plan(sweep, few, threads)
    cost = sweep.experiment.spread_cost(sweep.columns(cells[large]), sweep.settings)
    memory, here = cost.memory + PROCESS_BYTES, cost.here + PROCESS_BYTES
    if not np.isfinite(memory).all():
        alone = np.zeros_like(todo)
        alone[tuple(cells[large][np.isinf(memory)].T)] = True
        return make_plan(sweep, alone, threads)  # the message tells what these need alone
    shared = [axis.name in sweep.experiment.shared for axis in sweep.experiment.axes]
    _, group = np.unique(cells[large][:, shared], axis=0, return_inverse=True)
    spread = [Batch(cells[large][group == index], cost.seconds[group == index]) for index in range(group.max() + 1)]
    largest = int(memory.argmax())
    most = max(
        (plan.peak_memory, plan.largest), (float(memory[largest]), sweep.case(cells[large][largest])), key=_first
    )
    seconds = plan.seconds + float(cost.seconds.sum())
    matrices = plan.matrices + len(spread)
    return Plan(plan.batches, len(cells), matrices, seconds, *most, spread, float(memory.max()), float(here.max()))


def _first(pair: tuple[float, object]) -> float:
    return pair[0]


def _pieces(cells: Cells, prepare: float, work: npt.NDArray[np.float64], target: float) -> list[Batch]:
    """Split the cells of one matrix where they last longer than a batch and its preparation is worth repeating."""
    total = float(work.sum())
    count = min(len(cells), max(1, round(total / max(target, 4 * prepare))))
    if count == 1:
        return [Batch(cells, work + prepare / len(cells))]
    shares = np.floor(np.cumsum(work) / total * count * (1 - 1e-12))
    ends = np.flatnonzero(np.diff(shares)) + 1
    parts = zip(np.split(cells, ends), np.split(work, ends), strict=True)
    return [Batch(part, costs + prepare / len(part)) for part, costs in parts]


def _pack(pieces: list[Batch], target: float, threads: int) -> list[Batch]:
    """Join short pieces until they reach the target, or a share of what is left; longest batches first.

    The shares shrink with what is left, so that all threads end together: in time, and in number, where the prediction
    is far too low, as it may be for a user's function (guided self-scheduling: Polychronopoulos and Kuck, 1987).
    """
    batches: list[Batch] = []
    joined: list[Batch] = []
    seconds, left = 0.0, sum(piece.seconds for piece in pieces)
    for number, piece in enumerate(sorted(pieces, key=lambda piece: -piece.seconds)):
        joined.append(piece)
        seconds += piece.seconds
        enough = min(target, max(left / (threads * _PARTS_A_THREAD), _SHORTEST_BATCH))
        most = (len(pieces) - number - 1 + len(joined)) / (threads * _PARTS_A_THREAD)
        if seconds >= enough or len(joined) >= most:
            batches.append(join(joined))
            left -= seconds
            joined, seconds = [], 0.0
    if joined:
        batches.append(join(joined))
    return sorted(batches, key=lambda batch: -batch.seconds)


def join(pieces: list[Batch]) -> Batch:
    """One batch of several."""
    if len(pieces) == 1:
        return pieces[0]
    return Batch(np.concatenate([piece.cells for piece in pieces]), np.concatenate([piece.costs for piece in pieces]))
