"""Progress of a run: a live bar on a terminal, plain lines elsewhere."""

from dataclasses import dataclass, field
from datetime import timedelta
from time import monotonic
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

_PLAIN_SECONDS = 5.0


@dataclass
class Tally:
    """Counts of a run.

    Attributes
    ----------
    cells : int
        Cells to compute.
    predicted : float
        Predicted computing time of all of them, in seconds.
    done, failed : int
        Finished cells.
    worked : float
        Predicted computing time of the finished ones, in seconds.
    """

    cells: int
    predicted: float
    done: int = 0
    failed: int = 0
    worked: float = 0.0
    started: float = field(default_factory=monotonic)

    @property
    def finished(self) -> int:
        """Cells done or failed."""
        return self.done + self.failed

    @property
    def rate(self) -> float:
        """Finished cells a second."""
        return self.finished / max(monotonic() - self.started, 1e-9)

    @property
    def seconds_left(self) -> float | None:
        """Estimate from the share of the predicted work that is finished; None before any is."""
        if not self.worked:
            return None
        return (monotonic() - self.started) * max(self.predicted - self.worked, 0.0) / self.worked

    def __str__(self) -> str:
        """One line for people."""
        left = "unknown" if self.seconds_left is None else str(timedelta(seconds=round(self.seconds_left)))
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.finished} of {self.cells} cells{failed}, {self.rate:.1f} a second, {left} left"


class Reporter:
    """Shows a tally while it changes; use it as a context manager and call `update`."""

    def __init__(self, tally: Tally, console: Console) -> None:
        self._tally = tally
        self._console = console
        self._last = monotonic()
        self._bar: Progress | None = None
        if console.is_terminal:
            self._bar = Progress(BarColumn(), TextColumn("{task.description}"), console=console, transient=True)
            self._bar.add_task(str(tally), total=max(tally.cells, 1))

    def __enter__(self) -> Self:
        """Start the bar."""
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove the bar."""
        if self._bar:
            self._bar.stop()

    def update(self) -> None:
        """Show the tally as it is now."""
        if self._bar:
            self._bar.update(self._bar.task_ids[0], completed=self._tally.finished, description=str(self._tally))
        elif monotonic() - self._last >= _PLAIN_SECONDS:
            self._last = monotonic()
            self._console.print(str(self._tally), highlight=False)
