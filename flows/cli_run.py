"""Commands that compute the cells of a specification, or say what that would take."""

import math
import os
import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import click
import numpy as np

from flows.cli_options import retry_option, spec_argument, sweep_options
from flows.cli_stores import name_failures
from flows.specs import default_store, find_sweep
from pipeline.errors import EpsweepError, InputError, Interrupted, one_line
from pipeline.experiment import describe
from pipeline.experiments import ALLOW_CODE
from pipeline.grid import Sweep

EXIT_FAILED_CELLS = 1
STOPPED = "stopped; finished cells are stored: run the same command to go on"
_YEAR = 365 * 86400


@click.command()
@spec_argument
@sweep_options
@retry_option
@click.option("--log", type=click.Path(path_type=Path), help="Append a JSON line an event to this file.")
def run(spec: str, store: str | None, cluster: str, retry_failed: bool, allow_code: bool, log: Path | None) -> None:
    """Compute the cells of SPEC that its store does not have, and draw the curves.

    SPEC is a YAML file or the name of a shipped sweep. Running the same command again goes on where it stopped.

    \b
    Example:
      epsweep run quickstart
      epsweep run my-sweep.yaml --store results/mine.zarr --cluster local:8
    """
    from distributed.system import MEMORY_LIMIT

    from flows.clusters import check_cluster, describe_cluster, local_workers, open_cluster, reaches_loopback
    from flows.logs import log_file
    from flows.planning import make_plan
    from flows.server import configured_server, prefect_server
    from storage import Writer, open_results, pending, single_writer, sweep_status

    if allow_code:
        os.environ[ALLOW_CODE] = "1"  # for the flow
    path, sweep = find_sweep(spec, allow_code=allow_code)
    target = store or default_store(sweep)
    check_cluster(cluster)
    if not configured_server() and not reaches_loopback(cluster):
        raise InputError(f"cluster: workers of {cluster} need a Prefect server they can reach; set PREFECT_API_URL")
    damaged: list[str] = []
    status = sweep_status(target, sweep, damaged.append)
    for line in damaged:
        click.echo(f"damaged: {line}", err=True)
    todo = pending(sweep, status, retry_failed=retry_failed)
    workers = local_workers(cluster)
    plan = make_plan(sweep, todo, workers.count if workers else 1, workers.memory if workers else math.inf)
    if workers:
        plan.require_memory(workers.memory, MEMORY_LIMIT, workers.count)
    with single_writer(target):
        pass  # a store that is being written is refused before anything starts
    have = int((sweep.wanted & ~todo).sum())
    click.echo(f"{sweep.name}: {int(sweep.wanted.sum())} cells, {have} in {target}, {plan.cells} to compute")
    if plan.cells:
        seconds = plan.wall_seconds(workers.count if workers else 1)
        click.echo(f"predicted: {_duration(seconds)}, {plan.peak_memory / 2**20:.0f} MiB a worker")
        click.echo(f"cluster: {describe_cluster(cluster)}")
        with (
            _stopping_on_sigterm(),
            log_file(log),
            prefect_server() as wait_for_server,
            open_cluster(cluster) as running,
        ):
            _run_flow(str(path), target, running.address, retry_failed, wait_for_server)
    elif damaged or open_results(target).attrs["spec"] != sweep.text:
        with Writer.open(target, sweep):
            pass  # it is mended; its figures may be others
    same = ["epsweep", "run", spec, "--store", target, "--cluster", cluster, *["--allow-code"] * allow_code]
    _conclude(sweep, target, shlex.join(same), ran=plan.cells > 0)


def _run_flow(spec: str, store: str, cluster: str, retry_failed: bool, wait_for_server: Callable[[], None]) -> None:
    """Run the flow, which leaves failed cells for `_conclude` to name; raise whatever else stopped it."""
    import httpx
    from prefect.exceptions import CancelledRun, FailedRun, ParameterTypeError
    from prefect.logging.handlers import APILogHandler

    from flows.sweep import ended, sweep_flow

    wait_for_server()
    try:
        sweep_flow(spec, store, cluster, retry_failed)
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
def _stopping_on_sigterm() -> Iterator[None]:
    """Turn SIGTERM into an orderly end, which takes the cluster's jobs with it."""

    def stop(number: int, frame: object) -> None:
        raise Interrupted(STOPPED)

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _conclude(sweep: Sweep, store: str, same: str, *, ran: bool) -> None:
    """Say what there is now; exit 1 if cells failed."""
    from flows.figures import draw_results, figures_folder
    from storage import Status, sweep_status

    status = sweep_status(store, sweep)
    failed = np.argwhere(sweep.wanted & (status == Status.FAILED))
    done = int((sweep.wanted & (status == Status.DONE)).sum())
    click.echo(f"done: {done} of {int(sweep.wanted.sum())} cells" + (f", {len(failed)} failed" if len(failed) else ""))
    click.echo(f"store: {store}")
    if missing := int(sweep.wanted.sum()) - done - len(failed):
        raise EpsweepError(f"store: {missing} cells of {store} are missing; run the same again")
    if done:
        drawn = sorted(figures_folder(store).glob("*.png")) if ran else []
        figures, reason = (drawn, "") if drawn else draw_results(store, sweep.experiment)
        click.echo("figures: " + (" ".join(map(str, figures)) or f"none ({reason})"))
    if len(failed):
        name_failures(store)
        click.echo(f"next: mend the cause, then: {same} --retry-failed")
        raise SystemExit(EXIT_FAILED_CELLS)
    click.echo(f"next: epsweep curves {store}")


@click.command()
@spec_argument
@sweep_options
@retry_option
def plan(spec: str, store: str | None, cluster: str, retry_failed: bool, allow_code: bool) -> None:
    """Show what a run of SPEC would do: cells, matrices, predicted time and peak memory, what is done.

    \b
    Example:
      epsweep plan fig.yaml --cluster local:8
    """
    from distributed.system import MEMORY_LIMIT

    from flows.clusters import check_cluster, local_workers
    from flows.planning import make_plan
    from storage import Status, pending, sweep_status

    _, sweep = find_sweep(spec, allow_code=allow_code)
    target = store or default_store(sweep)
    check_cluster(cluster)
    status = sweep_status(target, sweep)
    todo = pending(sweep, status, retry_failed=retry_failed)
    workers = local_workers(cluster)
    threads = workers.count if workers else 1
    plan = make_plan(sweep, todo, threads, workers.memory if workers else math.inf)
    wanted = sweep.wanted
    click.echo(f"sweep:    {sweep.name} ({sweep.experiment.name})")
    click.echo("axes:     " + ", ".join(f"{len(labels)} {axis}" for axis, labels in sweep.labels.items()))
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
    if workers:
        click.echo(f"limit:    {workers.memory / 2**20:.0f} MiB a worker")
        plan.require_memory(workers.memory, MEMORY_LIMIT, workers.count)


def _duration(seconds: float) -> str:
    if seconds > _YEAR:
        return "more than a year"
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 1 else "less than 1 s"
    return str(timedelta(seconds=round(seconds)))
