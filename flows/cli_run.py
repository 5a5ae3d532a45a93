"""Commands that compute the cells of a specification, or say what that would take."""

import math
import os
import shlex
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import numpy as np

from flows.cli_options import retry_option, spec_argument, sweep_options
from flows.cli_stores import name_failures
from flows.specs import default_store, find_sweep
from flows.stopping import STOPPED
from pipeline.errors import EpsweepError, InputError, Interrupted, StoreError, one_line
from pipeline.experiment import describe
from pipeline.experiments import ALLOW_CODE
from pipeline.grid import Sweep

EXIT_FAILED_CELLS = 1
_YEAR = 365 * 86400


@click.command()
@spec_argument
@sweep_options
@retry_option
@click.option("--log", type=click.Path(path_type=Path), help="Append a JSON line an event to this file.")
def run(
    spec: str,
    store: str | None,
    cluster: str,
    retry_failed: bool,
    allow_code: bool,
    accept_code: bool,
    log: Path | None,
) -> None:
    """Compute the cells of SPEC that its store does not have, and draw the curves.

    SPEC is a YAML file or the name of a shipped sweep. Running the same command again goes on where it stopped.

    \b
    Example:
      epsweep run quickstart
      epsweep run my-sweep.yaml --store results/mine.zarr --cluster local:8
    """
    from distributed.system import MEMORY_LIMIT

    from flows.clusters import (
        check_cluster,
        describe_cluster,
        expected_threads,
        find_running,
        open_cluster,
        reaches_loopback,
    )
    from flows.logs import log_file
    from flows.planning import make_plan
    from flows.server import find_server, prefect_server
    from storage import pending, reserved, sweep_status

    if allow_code:
        os.environ[ALLOW_CODE] = "1"  # for the flow
    path, sweep = find_sweep(spec, allow_code=allow_code)
    target = store or default_store(sweep)
    chosen = check_cluster(cluster)
    damaged: list[str] = []
    status = sweep_status(target, sweep, damaged.append, accept_code=accept_code)
    for line in damaged:
        click.echo(f"damaged: {line}", err=True)
    todo = pending(sweep, status, retry_failed=retry_failed)
    server = find_server(loopback=reaches_loopback(chosen)) if todo.any() else None
    workers, found = chosen.local, find_running(chosen) if server else None
    threads = (found.threads or 1) if found else expected_threads(chosen)
    plan = make_plan(sweep, todo, threads, workers.memory if workers else math.inf)
    if workers:
        plan.require_memory(workers.memory, MEMORY_LIMIT, workers.count)
    files = sweep.digests
    for note in sweep.notes:
        click.echo(f"note: {note}", err=True)
    have = int((sweep.wanted & ~todo).sum())
    counts = f"{sweep.name}: {int(sweep.wanted.sum())} cells, {have} in {target}, {plan.cells} to compute"
    if server:
        with _stopping_on_sigterm(), reserved(target):  # refused before anything starts, or held to the end
            click.echo(counts)
            seconds = plan.wall_seconds(threads)
            click.echo(f"predicted: {_duration(seconds)}, {plan.peak_memory / 2**20:.0f} MiB a worker")
            click.echo(f"cluster: {describe_cluster(chosen)}")
            if not (server.url or server.home):
                click.echo(f"prefect: {server.text}")
            waited_for = f"waiting for workers of {cluster}" if chosen.address else "starting workers"
            with (
                log_file(log),
                _telling("" if server.url else "starting Prefect"),
                prefect_server(server) as wait_for_server,
                _telling(waited_for),
                open_cluster(chosen) as running,
            ):
                wait_for_server()
                checked = {"spec": sweep.text, "folder": str(path.parent.absolute()), "files": files}
                _run_flow(
                    **checked,  # not where it stood
                    store=target,
                    cluster=running.address,
                    retry_failed=retry_failed,
                    accept_code=accept_code,
                )
    else:
        click.echo(f"{counts}\nnothing to compute")
        _record_spec(sweep, target, damaged=bool(damaged), accept_code=accept_code)
    same = shlex.join(["epsweep", "run", spec, "--store", target, "--cluster", cluster, *["--allow-code"] * allow_code])
    _conclude(sweep, target, same, ran=plan.cells > 0, accept_code=accept_code)


def _record_spec(sweep: Sweep, store: str, *, damaged: bool, accept_code: bool) -> None:
    """Mend the store of a sweep that is done and record its spec: its figures may be others.

    Who may only read the store goes without.
    """
    from storage import Writer, changed_code, open_results

    if damaged or open_results(store).attrs["spec"] != sweep.text or changed_code(store, sweep):
        try:
            with Writer.open(store, sweep, accept_code=accept_code):
                pass
        except StoreError as error:
            click.echo(f"note: the spec is not recorded in the store ({str(error).removeprefix('store: ')})", err=True)


def _run_flow(**parameters: Any) -> None:
    """Run the flow, which leaves failed cells for `_conclude` to name; raise whatever else stopped it."""
    import httpx
    from prefect.exceptions import CancelledRun, FailedRun, ParameterTypeError
    from prefect.logging.handlers import APILogHandler

    from flows.sweep import ended, sweep_flow

    try:
        sweep_flow(**parameters)
    except FailedRun:
        pass  # cells failed
    except CancelledRun as error:
        raise Interrupted(str(error)) from error
    except ParameterTypeError as error:
        raise InputError(f"flow: {one_line(error)}") from error
    except httpx.HTTPError as error:
        reason = f"the server does not answer ({describe(error)})"
        click.echo(f"epsweep: Prefect: {reason}; its record of this run is incomplete", err=True)
        if ended:
            raise ended[-1] from error
    finally:
        APILogHandler().flush()  # while the server is there


@contextmanager
def _telling(what: str) -> Iterator[None]:
    """Say what is about to be done, which takes seconds."""
    if what:
        click.echo(f"epsweep: {what}", err=True)
    yield


@contextmanager
def _stopping_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into an orderly end, which takes the cluster's jobs with it."""

    def stop(number: int, frame: object) -> None:
        raise Interrupted(STOPPED)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _conclude(sweep: Sweep, store: str, same: str, *, ran: bool, accept_code: bool) -> None:
    """Say what there is now; exit 1 if cells failed."""
    from flows.figures import draw_results, figures_folder
    from storage import Status, sweep_status

    status = sweep_status(store, sweep, accept_code=accept_code)  # a reader's store keeps the code that it had
    failed = np.argwhere(sweep.wanted & (status == Status.FAILED))
    done = int((sweep.wanted & (status == Status.DONE)).sum())
    click.echo(f"done: {done} of {int(sweep.wanted.sum())} cells" + (f", {len(failed)} failed" if len(failed) else ""))
    click.echo(f"store: {store}")
    if missing := int(sweep.wanted.sum()) - done - len(failed):
        raise EpsweepError(f"store: {missing} cells of {store} are missing; run the same again")
    if done:
        drawn = sorted(figures_folder(store).glob("*.png")) if ran else []
        figures, reason = (drawn, "") if drawn else draw_results(store, sweep.experiment, sweep.text)
        click.echo(f"figures: {shlex.join(map(str, figures)) or 'none'}" + (f" ({reason})" if reason else ""))
    if len(failed):
        name_failures(store)
        click.echo(f"next: mend the cause, then: {same} --retry-failed")
        raise SystemExit(EXIT_FAILED_CELLS)
    click.echo(f"next: {shlex.join(['epsweep', 'curves', store])}")


@click.command()
@spec_argument
@sweep_options
@retry_option
def plan(spec: str, store: str | None, cluster: str, retry_failed: bool, allow_code: bool, accept_code: bool) -> None:
    """Show what a run of SPEC would do: cells, matrices, predicted time and peak memory, what is done.

    \b
    Example:
      epsweep plan fig.yaml --cluster local:8
    """
    from distributed.system import MEMORY_LIMIT

    from flows.clusters import check_cluster, expected_threads, find_running
    from flows.planning import make_plan
    from storage import Status, pending, sweep_status

    _, sweep = find_sweep(spec, allow_code=allow_code)
    target = store or default_store(sweep)
    chosen = check_cluster(cluster)
    status = sweep_status(target, sweep, accept_code=accept_code)
    todo = pending(sweep, status, retry_failed=retry_failed)
    workers, running = chosen.local, find_running(chosen)
    threads = (running.threads or 1) if running else expected_threads(chosen)
    limit = workers.memory if workers else running.worker_memory if running else math.inf
    plan = make_plan(sweep, todo, threads, limit)
    wanted = sweep.wanted
    click.echo(f"sweep:    {sweep.name} ({sweep.experiment.name})")
    click.echo("axes:     " + ", ".join(f"{len(labels)} {axis}" for axis, labels in sweep.labels.items()))
    for note in sweep.notes:
        click.echo(f"note:     {note}")
    click.echo(f"cells:    {int(wanted.sum())}")
    click.echo(f"store:    {target}")
    click.echo(f"done:     {int((wanted & (status == Status.DONE)).sum())}")
    click.echo(f"failed:   {int((wanted & (status == Status.FAILED)).sum())}")
    click.echo(f"to do:    {plan.cells} cells of {plan.matrices} matrices in {len(plan.batches)} batches")
    for batch in plan.spread:
        click.echo(
            f"spread:   {len(batch.cells)} cells from {sweep.case(batch.cells[0])} over the cluster, "
            f"{_duration(batch.seconds / threads)}, up to {plan.memory_here / 2**20:.0f} MiB in the process of the flow"
        )
    click.echo(f"time:     {_duration(plan.wall_seconds(threads))} predicted on {threads} worker threads")
    click.echo(f"memory:   {plan.peak_memory / 2**20:.0f} MiB predicted peak of a worker")
    if running and not running.threads:
        click.echo(f"workers:  none at {running.address} yet; a run waits for one")
    if limit < math.inf:
        click.echo(f"limit:    {limit / 2**20:.0f} MiB a worker")
    plan.require_memory(limit, MEMORY_LIMIT, workers.count if workers else 0)


def _duration(seconds: float) -> str:
    if seconds > _YEAR:
        return "more than a year"
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 1 else "less than 1 s"
    return str(timedelta(seconds=round(seconds)))
