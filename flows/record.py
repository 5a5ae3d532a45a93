"""What becomes of the cells of a run: written to the store, counted, and logged."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress
from time import monotonic

import numpy as np

from flows.planning import Cells
from flows.progress import Tally
from pipeline.errors import InputError, one_line
from pipeline.experiment import Outcome
from pipeline.grid import Sweep
from storage import Writer

_LOGGER = logging.getLogger("epsweep")
_LOGGED_SHARE = 0.05
_LOGGED_FAILURES = 100
_EVERY_SECONDS = 2.0
_WRITING_SHARE = 0.1


@dataclass
class Record:
    """Outcomes of a run on their way to its store, where they are written together every two seconds or so.

    Attributes
    ----------
    sweep : Sweep
    writer : Writer
    tally : Tally
    """

    sweep: Sweep
    writer: Writer
    tally: Tally
    _cells: list[Cells] = field(default_factory=list)
    _outcomes: list[Outcome] = field(default_factory=list)
    _logged: float = 0.0
    _failures: int = 0
    _due: float = 0.0

    def add(self, cells: Cells, outcomes: Sequence[Outcome]) -> None:
        """Take outcomes, to be written by and by."""
        if not self._outcomes:
            self._due = max(self._due, monotonic() + _EVERY_SECONDS)
        self._cells.append(cells)
        self._outcomes.extend(outcomes)
        for cell, outcome in zip(cells, outcomes, strict=True):
            if outcome.values is None:
                self._log_failure(cell, outcome)

    def write_if_due(self) -> None:
        """Write what has been taken, if that has waited long enough; writing takes a tenth of the time at most."""
        if self._outcomes and monotonic() >= self._due:
            self.write()

    def write(self) -> None:
        """Write all that has been taken.

        Raises
        ------
        InputError
            If a file of the sweep has changed; what has been taken of it may be of either contents and is let go.
        """
        if not self._outcomes:
            return
        started = monotonic()
        cells, outcomes = np.concatenate(self._cells), self._outcomes
        self._cells, self._outcomes = [], []
        if changed := self.sweep.changed_files():
            cases = map(self.sweep.case, cells)
            sound = [not any(label in changed for _, label in case.labels) for case in cases]
            cells, outcomes = cells[sound], list(compress(outcomes, sound))
        if outcomes:
            self.writer.write(cells, outcomes)
        self._due = monotonic() + (monotonic() - started) / _WRITING_SHARE
        failed = sum(outcome.values is None for outcome in outcomes)
        self.tally.failed += failed
        self.tally.done += len(outcomes) - failed
        self._log_progress()
        if changed:
            raise InputError(
                f"file: {one_line(changed[0])} has changed during the run; cells that were finished before are stored: "
                "restore it and run the same again, or use another --store"
            )

    def log_batch(self, cells: int, seconds: float, worker: str) -> None:
        """Tell the log file of a batch that has come back."""
        fields = {"cells": cells, "seconds": round(seconds, 3), "worker": worker, "send_to_api": False}
        _LOGGER.info("%d cells computed", cells, extra={"event": "batch", **fields})

    def _log_failure(self, cell: Cells, outcome: Outcome) -> None:
        """Tell the log file of a failed cell; of the first ones Prefect too."""
        self._failures += 1
        case = str(self.sweep.case(cell))
        fields = {"event": "cell_failed", "case": case, "send_to_api": self._failures <= _LOGGED_FAILURES}
        if outcome.traceback:
            fields["traceback"] = outcome.traceback
        _LOGGER.error("%s: %s", case, outcome.message, extra=fields)

    def _log_progress(self) -> None:
        share = self.tally.finished / max(self.tally.cells, 1)
        if share >= self._logged + _LOGGED_SHARE:
            self._logged = share
            fields = {"event": "progress", "done": self.tally.done, "failed": self.tally.failed}
            _LOGGER.info("%s", self.tally, extra=fields)
