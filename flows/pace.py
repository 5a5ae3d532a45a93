"""How fast a run is: measured seconds of finished cells correct what is predicted of those that are left."""

from collections import deque
from collections.abc import Sequence
from time import monotonic

import numpy as np
import numpy.typing as npt

from flows.planning import BATCH_SECONDS, Batch, Cells, join
from pipeline.grid import Sweep

_PARTS_A_THREAD = 4
_SHORTEST_BATCH = 0.5
_FIRST_SECONDS = 10.0
_LEAST_LIMIT = 5.0
_TRUSTED_SECONDS = 2.0
_OVERSHOOT = 1.25

Seconds = npt.NDArray[np.float64]


class Pace:
    """Measured against predicted seconds of the cells of a run, by function, sampling and method.

    Parameters
    ----------
    sweep : Sweep
    batches : sequence of Batch
        All that is to be computed.
    """

    def __init__(self, sweep: Sweep, batches: Sequence[Batch]) -> None:
        axes = sweep.experiment.axes
        self._named = [place for place, axis in enumerate(axes) if not axis.numeric]
        self._shared = [place for place, axis in enumerate(axes) if axis.name in sweep.experiment.shared]
        self._sizes = tuple(sweep.wanted.shape[place] for place in self._named)
        groups = int(np.prod(self._sizes))
        self._left, self._predicted, self._measured = (np.zeros(groups) for _ in range(3))
        for batch in batches:
            np.add.at(self._left, self._groups(batch.cells), batch.costs)
        self._known: Seconds | None = None
        self._supplied = 0.0
        self._looked = monotonic()

    def record(self, cells: Cells, costs: Seconds, elapsed: Seconds) -> None:
        """Note what finished cells took."""
        groups = self._groups(cells)
        np.add.at(self._left, groups, -costs)
        np.add.at(self._predicted, groups, costs)
        np.add.at(self._measured, groups, elapsed)
        self._known = None

    def supply(self, threads: int) -> None:
        """Note that so many worker threads were there since the last call."""
        now = monotonic()
        self._supplied += threads * (now - self._looked)
        self._looked = now

    def seconds(self, batch: Batch) -> Seconds:
        """Computing time of each cell of a batch, as far as is known by now."""
        corrected: Seconds = batch.costs * self._ratios()[self._groups(batch.cells)]
        return corrected

    @property
    def measured(self) -> bool:
        """Whether any cell has been measured for long enough."""
        return float(self._measured.sum()) > _TRUSTED_SECONDS

    @property
    def left(self) -> float:
        """Computing time of all that is left, in seconds of one thread."""
        return float((np.maximum(self._left, 0.0) * self._ratios()).sum())

    def wall_seconds(self, threads: int) -> float | None:
        """Time until all is finished, at the share of the threads' time that was spent on cells; None before any was.

        Parameters
        ----------
        threads : int
            Number of worker threads.
        """
        measured = float(self._measured.sum())
        if not measured:
            return None
        return self.left / max(threads, 1) * max(self._supplied / measured, 1.0)

    def target(self, threads: int) -> float:
        """Seconds that the next batch should last: a minute, or a share of what is left so that all threads end alike.

        The first ones are short: they show how good the prediction is.
        """
        longest = BATCH_SECONDS if self.measured else _FIRST_SECONDS
        return min(longest, max(self.left / (max(threads, 1) * _PARTS_A_THREAD), _SHORTEST_BATCH))

    @staticmethod
    def limit(target: float) -> float:
        """Seconds after which a worker returns a batch that was to last for a target."""
        return min(max(2 * target, _LEAST_LIMIT), BATCH_SECONDS)

    def cut(self, batch: Batch, target: float) -> tuple[Batch, Batch | None]:
        """Part of a batch that lasts for the target, between two matrices; None where nothing is left."""
        ends = np.flatnonzero((np.diff(batch.cells[:, self._shared], axis=0) != 0).any(axis=1)) + 1
        if not len(ends):
            return batch, None
        lasts = np.cumsum(self.seconds(batch))
        if lasts[-1] <= _OVERSHOOT * target:
            return batch, None
        fitting = ends[lasts[ends - 1] <= _OVERSHOOT * target]
        return batch.split(int(fitting[-1] if len(fitting) else ends[0]))

    def take(self, waiting: deque[Batch], threads: int) -> tuple[Batch, float]:
        """The next batch of those that wait, cut or joined with others to last for the target; and its limit.

        Parameters
        ----------
        waiting : deque of Batch
            Of which the first are taken.
        threads : int
            Number of worker threads.
        """
        target = self.target(threads)
        first, rest = self.cut(waiting.popleft(), target)
        if rest is not None:
            waiting.appendleft(rest)
            return first, self.limit(target)
        taken, seconds = [first], float(self.seconds(first).sum())
        while self.measured and waiting:
            seconds += float(self.seconds(waiting[0]).sum())
            if seconds > target:
                break
            taken.append(waiting.popleft())
        return join(taken), self.limit(target)

    def _groups(self, cells: Cells) -> npt.NDArray[np.intp]:
        if not self._named:
            return np.zeros(len(cells), dtype=np.intp)
        return np.asarray(np.ravel_multi_index(tuple(cells[:, self._named].T), self._sizes))

    def _ratios(self) -> Seconds:
        """Measured for predicted seconds of each group; where one is new, that of its method, or of all."""
        if self._known is None:
            measured, predicted = (each.reshape(self._sizes) for each in (self._measured, self._predicted))
            ratio = np.ones(self._sizes)
            every = tuple(range(len(self._named)))
            matrices = tuple(place for place, axis in enumerate(self._named) if axis in self._shared)
            for axes, trusted in ((every, 0.0), (matrices, _TRUSTED_SECONDS), ((), _TRUSTED_SECONDS)):
                many, few = (each.sum(axis=axes, keepdims=True) for each in (measured, predicted))
                own = np.divide(many, few, out=np.ones_like(many), where=few > 0)
                weight = np.divide(many, many + trusted, out=np.zeros_like(many), where=many > 0)
                ratio = weight * own + (1.0 - weight) * ratio
            self._known = ratio.ravel()
        return self._known
