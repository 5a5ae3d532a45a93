"""Progress of a run: a live bar on a terminal, plain lines elsewhere."""

from dataclasses import dataclass, field
from datetime import timedelta
from time import monotonic
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

_PLAIN_SECONDS = 5.0
_SAME_SECONDS = 60.0  # where nothing has changed
_PLAIN_SHARE = 0.01  # of the time that has passed, so that a long run does not fill its log


@dataclass
class Tally:
    """Counts of a run.

    Attributes
    ----------
    cells : int
        Cells to compute.
    done, failed : int
        Finished cells.
    left : float or None
        Seconds until all are finished; None where that is not known.
    """

    cells: int
    done: int = 0
    failed: int = 0
    left: float | None = None
    started: float = field(default_factory=monotonic)

    @property
    def finished(self) -> int:
        """Cells done or failed."""
        return self.done + self.failed

    @property
    def rate(self) -> float:
        """Finished cells a second."""
        return self.finished / max(monotonic() - self.started, 1e-9)

    def __str__(self) -> str:
        """One line for people, of what is known."""
        said = [f"{self.finished} of {self.cells} cells"]
        said += [f"{self.failed} failed"] if self.failed else []
        said += [_rate(self.rate)] if self.finished else ["none finished yet"]
        said += [f"{timedelta(seconds=round(self.left))} left"] if self.left is not None else []
        return ", ".join(said)


def _rate(rate: float) -> str:
    """Cells a second, a minute or an hour, whichever makes a number of at least one."""
    for unit, seconds in (("second", 1), ("minute", 60)):
        if rate * seconds >= 1:
            return f"{rate * seconds:.1f} a {unit}"
    return f"{rate * 3600:.2g} an hour"


class Reporter:
    """Shows a tally while it changes; use it as a context manager and call `update`."""

    def __init__(self, tally: Tally, console: Console) -> None:
        self._tally = tally
        self._console = console
        self._last = monotonic()
        self._told = 0
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
            return
        now = monotonic()
        changed = self._tally.finished != self._told
        wait = max(_PLAIN_SECONDS, _PLAIN_SHARE * (now - self._tally.started)) if changed else _SAME_SECONDS
        if now - self._last >= wait:
            self._last, self._told = now, self._tally.finished
            self._console.print(str(self._tally), highlight=False)
