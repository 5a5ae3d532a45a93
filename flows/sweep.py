"""The flow: plan, batches on Dask, one writer, summary."""

import logging
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Annotated

import numpy as np
from distributed.system import MEMORY_LIMIT
from prefect import State, flow
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelled, Failed
from pydantic import Field
from rich.console import Console

from flows.bookkeeping import Bookkeeper, logs_in_prefect, publish_results, take_over
from flows.clusters import check_cluster, connect, open_cluster
from flows.dispatch import Dispatcher
from flows.planning import make_plan
from flows.progress import Reporter, Tally
from flows.specs import find_sweep, import_from
from flows.stopping import REMEDY, STOPPED
from pipeline.errors import EpsweepError, InputError, Interrupted, one_line
from pipeline.experiments import code_allowed
from pipeline.files import find_file, sha256_of
from pipeline.grid import MAX_SPEC_CHARACTERS, Sweep, parse_sweep
from storage import Status, Writer, failure_groups, pending, sweep_status

_LOGGER = logging.getLogger("epsweep")
_NOT_CONTROL = r"^[^\x00-\x1f\x7f]+$"


ended: list[EpsweepError] = []  # why the last run of this process stopped, where no server can be told


def _text(description: str, longest: int, pattern: str | None = None) -> object:
    """Limits of a text parameter; Prefect takes the description from the JSON schema only."""
    return Field(min_length=1, max_length=longest, pattern=pattern, json_schema_extra={"description": description})


Spec = Annotated[
    str,
    _text(
        "Name of a shipped sweep, path of a specification where the flow runs, or the YAML text itself",
        MAX_SPEC_CHARACTERS,
    ),
]
Store = Annotated[str, _text("Path, or s3://bucket/key, of the results; made if there is none", 1000, _NOT_CONTROL)]
Cluster = Annotated[
    str, _text("local, local:N, tcp://host:port, tls://host:port, or the path of a profile", 1000, _NOT_CONTROL)
]
RetryFailed = Annotated[
    bool, Field(json_schema_extra={"description": "Whether cells that failed before are computed again"})
]
AcceptCode = Annotated[
    bool,
    Field(
        json_schema_extra={
            "description": "Whether code of one's own that has changed is taken for what finished cells were made with"
        }
    ),
]
Folder = Annotated[
    str | None, Field(json_schema_extra={"description": "Makes spec a text, of which files and modules are there"})
]
Files = Annotated[
    dict[str, str] | None,
    Field(json_schema_extra={"description": "SHA-256 of files that spec names, by name; others are refused"}),
]


@dataclass(frozen=True)
class Summary:
    """Cells of a sweep by state, after a run."""

    cells: int
    done: int
    failed: int
    missing: int

    def __str__(self) -> str:
        """Counts in one line."""
        return ", ".join(f"{count} {name}" for name, count in asdict(self).items())


@flow(name="sweep", flow_run_name="{store}", persist_result=False)
def sweep_flow(
    spec: Spec,
    store: Store,
    cluster: Cluster = "local",
    retry_failed: RetryFailed = False,
    accept_code: AcceptCode = False,
    folder: Folder = None,
    files: Files = None,
) -> "Summary | State[None]":
    """Compute the pending cells of a sweep and write them to its store.

    Parameters
    ----------
    spec : str
        Path of a specification, name of a shipped one, or the YAML text itself.
    store : str
        Path or URL of the result store; created if it does not exist.
    cluster : str
        As `flows.clusters.open_cluster` takes it.
    retry_failed : bool
        Whether cells that failed before are computed again.
    accept_code : bool
        Whether code of a user's own that has changed is taken for what finished cells were computed with.
    folder : str or None
        Folder of a specification that `spec` is the text of: files that it names and modules of its user's own are
        there. Whoever has checked a file passes its text, so that what was checked is what runs.
    files : dict of str to str, or None
        SHA-256 of files that the specification names, by its names for them.

    Returns
    -------
    Summary or State
        A failed state if cells failed, or if specification, store or cluster cannot be used (it raises an
        `EpsweepError`); a cancelled state after a signal, or when the flow run is cancelled at the server.
    """
    ended.clear()
    with logs_in_prefect():
        try:
            return _run(load(spec, folder, files or {}), store, cluster, retry_failed, accept_code)
        except (Interrupted, KeyboardInterrupt, TerminationSignal) as error:
            message = str(error) or STOPPED
            ended.append(Interrupted(message))
            _LOGGER.warning(message, extra={"event": "stopped"})
            return Cancelled(message=message)
        except EpsweepError as error:
            ended.append(error)
            _LOGGER.error(str(error), extra={"event": "refused"})  # noqa: TRY400 (the message says it all)
            return Failed(message=str(error), data=error)


def _run(sweep: Sweep, store: str, cluster: str, retry_failed: bool, accept_code: bool) -> "Summary | State[None]":
    _LOGGER.info(
        "sweep %s into %s on %s",
        sweep.name,
        store,
        cluster,
        extra={"event": "start", "sweep": sweep.name, "store": store, "cluster": cluster},
    )
    with Writer.open(store, sweep, accept_code=accept_code) as writer:
        take_over(store)
        for line in writer.mended:
            _LOGGER.warning("store: damaged: %s", line, extra={"event": "mended"})
        chosen = check_cluster(cluster)
        with open_cluster(chosen) as running:
            todo = pending(sweep, sweep_status(store, sweep), retry_failed=retry_failed)
            plan = make_plan(sweep, todo, running.threads, running.worker_memory)
            plan.require_memory(running.worker_memory, MEMORY_LIMIT, chosen.local.count if chosen.local else 0)
            fields = {"cells": plan.cells, "batches": len(plan.batches), "predicted_seconds": round(plan.seconds, 1)}
            _LOGGER.info(
                "%d cells to compute in %d batches on %d worker threads",
                plan.cells,
                len(plan.batches),
                running.threads,
                extra={"event": "plan", "threads": running.threads, **fields},
            )
            tally, stop = Tally(plan.cells), threading.Event()
            with (
                Bookkeeper(tally, stop) as bookkeeper,
                connect(running) as client,
                Reporter(tally, Console(stderr=True)) as reporter,
            ):
                try:
                    dispatcher = Dispatcher(sweep, writer, client, tally, reporter.update, stop, running.timeout)
                    dispatcher.run(plan.batches, plan.spread)
                except Interrupted as error:
                    if bookkeeper.cancelled:
                        raise Interrupted(f"cancelled at the Prefect server; {REMEDY}") from error
                    raise
        return _conclude(store, sweep)


def load(spec: str, folder: str | None = None, files: Mapping[str, str] = MappingProxyType({})) -> Sweep:
    """Sweep of a text, which has a folder, several lines, or is one mapping; of a path or a name.

    Raises
    ------
    InputError
        If it is not valid, or a file is not the one that its digest was made of.
    """
    allow_code, place = code_allowed(), Path(folder or "")
    if folder is not None or "\n" in spec or spec.lstrip().startswith("{"):
        if allow_code:
            import_from(place.resolve(), Path.cwd())
        sweep = parse_sweep(spec, allow_code=allow_code, folder=place)
    else:
        sweep = find_sweep(spec, allow_code=allow_code)[1]
    for name, digest in files.items():
        if sha256_of(sweep.files.get(name) or find_file(name, place)) != digest:
            raise InputError(f"file: {one_line(name)} has changed since the run was checked; run the same again")
    return sweep


def _conclude(store: str, sweep: Sweep) -> "Summary | State[None]":
    from flows.figures import draw_results  # only now: Matplotlib would hold up the first cell

    summary = summarise(store, sweep)
    named = failure_groups(store) if summary.failed else []
    figures, reason = draw_results(store, sweep.experiment)
    publish_results(store, sweep, str(summary), named, figures, reason)
    _LOGGER.info("%s", summary, extra={"event": "end", **asdict(summary)})
    if summary.failed:
        return Failed(
            message=f"{summary.failed} of {summary.cells} cells failed: {named[0]}; mend the cause, then run the same "
            "with retry_failed"
        )
    if summary.missing:
        return Failed(message=f"{summary.missing} of {summary.cells} cells are missing; run the same again")
    return summary


def summarise(store: str | Path, sweep: Sweep) -> Summary:
    """Count the cells of a sweep by their state in its store."""
    status = sweep_status(store, sweep)[sweep.wanted]
    done, failed = (int(np.count_nonzero(status == state)) for state in (Status.DONE, Status.FAILED))
    return Summary(status.size, done, failed, status.size - done - failed)
