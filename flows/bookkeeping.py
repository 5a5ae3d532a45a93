"""What Prefect is told of a run and asked about it.

All of it is best effort and bounded: results matter more than their records.
"""

import contextvars
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self, cast
from uuid import UUID

from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import StateType
from prefect.context import FlowRunContext
from prefect.logging.handlers import APILogHandler
from prefect.settings import PREFECT_API_REQUEST_TIMEOUT, PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Crashed

from flows.progress import Tally
from flows.shared import changed, logger_level
from pipeline.experiment import describe
from pipeline.grid import Sweep
from storage import FailureGroup, median_curves, open_results

_LOGGER = logging.getLogger("epsweep")
_EVERY_SECONDS = 3.0
_ANSWER_SECONDS = 5.0
_TABLE_ROWS = 200
_NAMED_FAILURES = 100


@contextmanager
def _impatient() -> Iterator[None]:
    """Ask the server once and not for long; to make Prefect's settings takes 0.1 s of computing."""
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0, PREFECT_API_REQUEST_TIMEOUT: _ANSWER_SECONDS}):
        yield


@contextmanager
def _best_effort(what: str) -> Iterator[None]:
    """Log what does not succeed, for the log file only."""
    try:
        yield
    except Exception as error:
        fields = {"event": "prefect_away", "send_to_api": False}
        _LOGGER.warning("Prefect: %s: %s", what, describe(error), extra=fields)


class _WithTraceback(logging.Formatter):
    """The message of a record, and below it the traceback of a failed cell."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(filter(None, [super().format(record), getattr(record, "traceback", "")]))


@contextmanager
def logs_in_prefect() -> Iterator[None]:
    """Send what the run logs to the log of its flow run."""

    def add() -> Callable[[], None]:  # once for the flows of all threads: it finds the run of each
        handler = APILogHandler()
        handler.setFormatter(_WithTraceback())
        _LOGGER.addHandler(handler)
        return partial(_LOGGER.removeHandler, handler)

    with logger_level(logging.INFO, _LOGGER.name), changed("log in Prefect", add):
        yield


class Bookkeeper:
    """Publishes the progress of a run every few seconds and stops it when it is cancelled at the server.

    Use it as a context manager within the flow run.

    Attributes
    ----------
    cancelled : bool
        Whether it has been cancelled there.
    """

    def __init__(self, tally: Tally, stop: threading.Event) -> None:
        self._tally = tally
        self._stop = stop
        self.cancelled = False
        self._closing = threading.Event()
        self._artifact: UUID | None = None
        context = contextvars.copy_context()  # the flow run
        self._thread = threading.Thread(target=lambda: context.run(self._keep), daemon=True)

    def __enter__(self) -> Self:
        """Start."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Publish the last word."""
        self._closing.set()
        self._thread.join(2 * _ANSWER_SECONDS)

    @_impatient()
    def _keep(self) -> None:
        while True:
            with _best_effort("progress is not published"):
                self._publish()
            if self._closing.is_set():
                return
            with _best_effort("whether the run is cancelled is not known"):
                if _is_cancelled():
                    self.cancelled = True
                    self._stop.set()
            self._closing.wait(_EVERY_SECONDS)

    def _publish(self) -> None:
        percent, text = 100.0 * self._tally.finished / max(self._tally.cells, 1), str(self._tally)
        if self._artifact is None:
            self._artifact = cast("UUID", create_progress_artifact(percent, key="sweep-progress", description=text))
        else:
            update_progress_artifact(self._artifact, percent, description=text)


def _is_cancelled() -> bool:
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(_flow_run_id()).state
    return state is not None and (state.is_cancelling() or state.is_cancelled())


def _flow_run_id() -> UUID:
    context = FlowRunContext.get()
    if context is None or context.flow_run is None:
        raise RuntimeError("not within a flow run")
    return context.flow_run.id


@_impatient()
def take_over(store: str) -> None:
    """Tag the flow run with its store; mark as crashed those of the store that never ended.

    To be called while the store's lock is held, so that no other run of it can be alive.
    """
    tag = f"store:{store}" if "://" in store else f"store:{socket.gethostname()}:{Path(store).resolve()}"
    unended = FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING, StateType.CANCELLING]))
    with _best_effort("earlier runs of the store are not looked for"), get_client(sync_client=True) as client:
        this = client.read_flow_run(_flow_run_id())
        client.update_flow_run(this.id, tags=sorted({*this.tags, tag}))
        found = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(tags=FlowRunFilterTags(all_=[tag]), state=unended), limit=100
        )
        for run in found:
            if run.id != this.id:
                message = f"its process ended without a word; flow run {this.id} goes on with its store"
                client.set_flow_run_state(run.id, Crashed(message=message), force=True)


@_impatient()
def publish_results(
    store: str, sweep: Sweep, counts: str, failures: Sequence[FailureGroup], figures: Sequence[Path], reason: str
) -> None:
    """Publish the medians of the main quantity as a table, and a report that names failed cells and figures."""
    with _best_effort("medians are not published"):
        quantity = sweep.experiment.main
        curves = median_curves(open_results(store), quantity)
        frame = curves[[quantity, "trials"]].to_dataframe().reset_index().dropna(subset=[quantity])
        rows = frame.head(_TABLE_ROWS).astype(object).to_dict("records")
        shown = f"; the first {_TABLE_ROWS} of {len(frame)} medians" if len(frame) > _TABLE_ROWS else ""
        create_table_artifact(
            [
                {str(key): value if isinstance(value, int | float) else str(value) for key, value in row.items()}
                for row in rows
            ],
            key="sweep-summary",
            description=f"{sweep.name} in {store}: {counts}{shown}",
        )
    with _best_effort("the report is not published"):
        create_markdown_artifact(
            _report(store, sweep, counts, failures, figures, reason), key="sweep-report", description=f"{sweep.name}"
        )


def _report(
    store: str, sweep: Sweep, counts: str, failures: Sequence[FailureGroup], figures: Sequence[Path], reason: str
) -> str:
    lines = [f"# {sweep.name}", "", f"{counts}, in `{store}` on {socket.gethostname()}.", "", "## Figures", ""]
    lines += [f"- [{figure.name}]({figure.resolve().as_uri()})" for figure in figures] or [f"None: {reason}."]
    if failures:
        lines += ["", "## Failed cells", "", *(f"- {failure}" for failure in failures[:_NAMED_FAILURES])]
        if len(failures) > _NAMED_FAILURES:
            lines.append(f"- and {sum(each.cells for each in failures[_NAMED_FAILURES:])} more")
        lines += ["", "Mend the cause, then run the same with `retry_failed`."]
    return "\n".join(lines)
