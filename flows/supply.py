"""The workers of a cluster while a run lasts: how many threads there are, and whether any is left."""

import logging
from dataclasses import dataclass, field
from time import monotonic

from distributed import Client
from distributed.client import ClosedClientError

from flows.ready import SCHEDULER_GONE
from flows.spread import worker_threads
from pipeline.errors import EpsweepError

_LOOK_SECONDS = 5.0
_SETTLING_SECONDS = 2.0
_LOGGER = logging.getLogger("epsweep")


@dataclass
class Supply:
    """Worker threads, counted every few seconds: workers come late and go.

    Attributes
    ----------
    client : distributed.Client
        Of the cluster.
    patience : float
        Seconds to wait where there is no worker.
    threads : int
        At the last count.
    """

    client: Client
    patience: float
    threads: int = 0
    _workers: frozenset[str] = frozenset()
    _looked: float = field(default_factory=monotonic)
    _supplied: float = field(default_factory=monotonic)
    _changed: float = field(default_factory=monotonic)

    def look(self) -> None:
        """Count, if the last count is some seconds old.

        Raises
        ------
        EpsweepError
            If the scheduler is gone, or there has been no worker for too long.
        """
        now = monotonic()
        if self.threads and now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        try:
            threads = worker_threads(self.client)
        except (OSError, ClosedClientError, TimeoutError) as error:
            raise EpsweepError(SCHEDULER_GONE) from error
        self.threads = sum(threads.values())
        for worker in sorted(self._workers - threads.keys()):
            _LOGGER.warning("worker %s is gone", worker, extra={"event": "worker_lost", "worker": worker})
        self._workers = frozenset(threads)
        if self.threads:
            self._supplied = now
        elif now - self._supplied > self.patience:
            raise EpsweepError(
                f"cluster: no worker for {self.patience:.0f} s; finished cells are stored: start workers (do they "
                "import this package?) and run the same again"
            )

    def disturb(self) -> None:
        """Note that a worker has died."""
        self._changed = monotonic()

    def is_settled(self) -> bool:
        """Whether no worker has just started: a nanny gives one up that dies before it has seen it run."""
        self.threads = 0  # look now
        before = self._workers
        self.look()
        if self._workers != before:
            self._changed = monotonic()
        return bool(self._workers) and monotonic() - self._changed > _SETTLING_SECONDS
