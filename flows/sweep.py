"""The flow: plan, batches on Dask, one writer, summary."""

from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import cast
from uuid import UUID

import numpy as np
from prefect import flow
from prefect.artifacts import create_progress_artifact, create_table_artifact, update_progress_artifact
from prefect_dask.task_runners import DaskTaskRunner
from rich.console import Console

from flows.clusters import open_cluster
from flows.dispatch import Dispatcher
from flows.planning import make_plan
from flows.progress import Reporter, Tally
from flows.specs import code_allowed, find_sweep
from pipeline.grid import Sweep
from storage import Status, Writer, median_curves, open_results, pending, sweep_status

_ARTIFACT_SECONDS = 5.0
_TABLE_ROWS = 200


@dataclass(frozen=True)
class Summary:
    """Cells of a sweep by state, after a run."""

    cells: int
    done: int
    failed: int
    missing: int


@flow(name="sweep", flow_run_name="{spec}", validate_parameters=False, persist_result=False)
def sweep_flow(spec: str, store: str, cluster: str = "local", retry_failed: bool = False) -> Summary:
    """Compute the pending cells of a sweep and write them to its store.

    Parameters
    ----------
    spec : str
        Path of a specification.
    store : str
        Path of the result store; created if it does not exist.
    cluster : str
        As `flows.clusters.open_cluster` takes it.
    retry_failed : bool
        Whether cells that failed before are computed again.

    Raises
    ------
    EpsweepError
        If the specification, the store or the cluster cannot be used, or the run is interrupted.
    """
    _, sweep = find_sweep(spec, allow_code=code_allowed())
    with Writer.open(store, sweep) as writer, open_cluster(cluster) as running:
        todo = pending(sweep, sweep_status(store, sweep), retry_failed=retry_failed)
        plan = make_plan(sweep, todo, running.threads)
        plan.require_memory(running.worker_memory)
        tally = Tally(plan.cells, plan.seconds)
        with (
            DaskTaskRunner(address=running.address) as runner,
            Reporter(tally, Console(stderr=True)) as reporter,
        ):
            publish = _ProgressArtifact(tally)

            def on_progress() -> None:
                reporter.update()
                publish()

            Dispatcher(sweep, writer, runner, tally, on_progress).run(plan.batches)
            publish(final=True)
    summary = summarise(store, sweep)
    _summary_artifact(store, sweep, summary)
    return summary


def summarise(store: str | Path, sweep: Sweep) -> Summary:
    """Count the cells of a sweep by their state in its store."""
    status = sweep_status(store, sweep)[sweep.wanted]
    done, failed = (int(np.count_nonzero(status == state)) for state in (Status.DONE, Status.FAILED))
    return Summary(status.size, done, failed, status.size - done - failed)


class _ProgressArtifact:
    """The tally as a Prefect artifact, brought up to date every few seconds."""

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._last = monotonic()
        self._artifact = cast("UUID", create_progress_artifact(0.0, key="sweep-progress", description=str(tally)))

    def __call__(self, *, final: bool = False) -> None:
        if final or monotonic() - self._last >= _ARTIFACT_SECONDS:
            self._last = monotonic()
            percent = 100.0 * self._tally.finished / max(self._tally.cells, 1)
            update_progress_artifact(self._artifact, percent, description=str(self._tally))


def _summary_artifact(store: str, sweep: Sweep, summary: Summary) -> None:
    """Publish counts and the medians of the main quantity as a table."""
    quantity = sweep.experiment.main
    curves = median_curves(open_results(store), quantity)
    frame = curves[[quantity, "trials"]].to_dataframe().reset_index().dropna(subset=[quantity])
    counts = ", ".join(f"{count} {name}" for name, count in asdict(summary).items())
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
