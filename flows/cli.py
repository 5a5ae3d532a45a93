"""The command line."""

import math
import os
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import numpy as np

from flows.specs import default_store, find_sweep, import_from, shipped_sweeps
from pipeline.errors import EpsweepError, InputError, Interrupted, one_line
from pipeline.experiment import describe
from pipeline.experiments import ALLOW_CODE, code_allowed
from pipeline.grid import Sweep

EXIT_FAILED_CELLS = EXIT_FINDINGS = 1
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
_NAMED_FAILURES = 100
_STOPPED = "stopped; finished cells are stored: run the same command to go on"
_YEAR = 365 * 86400


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="epsweep", prog_name="epsweep")
def cli() -> None:
    """Sweeps of the entrywise error of low-rank approximation: run, resume, query, plot.

    \b
    Example:
      epsweep run quickstart
    """
    if code_allowed():
        import_from(Path.cwd())


def _spec_argument(command: Callable[..., None]) -> Callable[..., None]:
    return click.argument("spec")(command)


def _store_argument(command: Callable[..., None]) -> Callable[..., None]:
    return click.argument("store")(command)


def _sweep_options(command: Callable[..., None]) -> Callable[..., None]:
    for option in (
        click.option(
            "--allow-code",
            is_flag=True,
            envvar=ALLOW_CODE,
            help="Import functions and experiments of your own that SPEC names (module:name), which runs their code.",
        ),
        click.option(
            "--cluster",
            default="local",
            show_default=True,
            help="local[:N], tcp://host:port, a profile, or slurm, ssh, kubernetes.",
        ),
        click.option("--store", help="Path or s3://bucket/key of the results; default results/NAME.zarr."),
    ):
        command = option(command)
    return command


_retry_option = click.option("--retry-failed", is_flag=True, help="Compute cells again that failed before.")


@cli.command()
@_spec_argument
@_sweep_options
@_retry_option
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
    status = sweep_status(target, sweep)
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
    elif open_results(target).attrs["spec"] != sweep.text:
        with Writer.open(target, sweep):
            pass  # its figures may be others
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
        raise Interrupted(_STOPPED)

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
        _name_failures(store)
        click.echo(f"next: mend the cause, then: {same} --retry-failed")
        raise SystemExit(EXIT_FAILED_CELLS)
    click.echo(f"next: epsweep curves {store}")


def _warn_of_damage(store: str) -> None:
    from storage import damaged_cells

    if found := damaged_cells(store):
        click.echo(f"damaged: {len(found)} chunks read as missing; see epsweep status {store}", err=True)


def _name_failures(store: str | Path) -> None:
    from storage import failures

    lines = failures(store)
    for line in lines[:_NAMED_FAILURES]:
        click.echo(f"failed: {line}", err=True)
    if len(lines) > _NAMED_FAILURES:
        click.echo(f"failed: {len(lines) - _NAMED_FAILURES} more; see epsweep export {store} cells.csv", err=True)


@cli.command()
@_spec_argument
@_sweep_options
@_retry_option
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


@cli.command()
@_store_argument
def status(store: str) -> None:
    """Show what STORE holds: its axes, cells by state, runs, and each failed cell.

    \b
    Example:
      epsweep status results/quickstart.zarr
    """
    import json

    from storage import Status, damage_report, open_results

    ds = open_results(store)
    states = ds["status"].values
    counts = {state.name.lower(): int((states == state).sum()) for state in Status}
    click.echo(f"store:    {store}")
    click.echo(f"sweep:    {ds.attrs['title']}")
    for axis in ds["status"].dims:
        labels = ds[axis].values.tolist()
        shown = ", ".join(map(str, labels[:12])) + (f", … ({len(labels)})" if len(labels) > 12 else "")
        click.echo(f"{f'{axis}:':<9} {shown}")
    click.echo("cells:    " + ", ".join(f"{count} {state}" for state, count in counts.items()))
    for session in json.loads(ds.attrs["sessions"]):
        click.echo(
            f"run:      {session['started']} to {session.get('ended', 'no recorded end (killed, or still running)')}"
        )
    for line in damage_report(store):
        click.echo(f"damaged:  {line}", err=True)
    _name_failures(store)


@cli.command()
@_store_argument
@click.option("--out", type=click.Path(path_type=Path), help="CSV file; standard output if not given.")
def curves(store: str, out: Path | None) -> None:
    """Write median, extremes and quartiles over the trials, a row a curve point.

    A median needs all its trials: where some are missing or failed it is empty, and `trials` says how many there are.

    \b
    Example:
      epsweep curves results/quickstart.zarr --out curves.csv
    """
    from storage import median_curves, open_results, store_experiment

    ds = open_results(store)
    _warn_of_damage(store)
    experiment = store_experiment(store)
    frame = median_curves(ds, experiment.main).to_dataframe().reset_index()
    frame = frame[frame["trials_declared"] > 0]
    axes = [axis.name for axis in experiment.axes if axis.name in frame]
    frame = frame[[*axes, *(str(name) for name in frame if name not in axes)]]
    if out is None:
        click.echo(frame.to_csv(index=False), nl=False)
        return
    with _writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        frame.to_csv(out, index=False)
    click.echo(f"{len(frame)} rows: {out}")


@cli.command()
@_store_argument
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for PNG and SVG files.")
@click.option("--at", multiple=True, metavar="AXIS=LABEL", help="Hold an axis at a label, such as r=20.")
def plot(store: str, out: Path, at: tuple[str, ...]) -> None:
    """Draw the error against m, r and n, one panel a function and sampling, one line a method.

    \b
    Example:
      epsweep plot results/quickstart.zarr --out figures --at r=20
    """
    from flows.figures import plot_curves
    from storage import open_results, store_experiment

    held: dict[str, float] = {}
    for item in at:
        axis, _, label = item.partition("=")
        try:
            held[axis] = int(label) if label.isdecimal() else float(label)
        except ValueError as error:
            raise InputError(f"at: {item!r} is not AXIS=LABEL with a number; write r=20, say") from error
    _warn_of_damage(store)
    with _writing(out):
        for path in plot_curves(open_results(store), store_experiment(store), out, held):
            click.echo(path)


@cli.command()
@_store_argument
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the page.")
def report(store: str, out: Path) -> None:
    """Write one HTML page about STORE: its axes, status, cost and provenance, and curves to explore.

    The page needs no network and can be sent as it is.

    \b
    Example:
      epsweep report results/quickstart.zarr --out report
    """
    from flows.findings import findings
    from flows.report import write_report
    from storage import open_results, store_experiment

    _warn_of_damage(store)
    with _writing(out):
        click.echo(write_report(store, out, findings(open_results(store), store_experiment(store))))


@cli.command()
@_store_argument
@click.argument("target", type=click.Path(path_type=Path))
def export(store: str, target: Path) -> None:
    """Copy STORE to TARGET: .nc, .zarr (the grid), .parquet or .csv (a row a cell).

    \b
    Example:
      epsweep export results/quickstart.zarr quickstart.parquet
    """
    from storage import export as export_results
    from storage import open_results

    _warn_of_damage(store)
    count = export_results(open_results(store), target)
    click.echo(f"{count} finished cells: {target}")


@cli.command()
@click.argument("into")
@click.argument("other")
def merge(into: str, other: str) -> None:
    """Copy into the store INTO the finished cells of OTHER that it does not have.

    Both must hold one experiment with equal settings. A cell that both have done keeps the value of INTO; cells whose
    values differ are named.

    \b
    Example:
      epsweep merge results/all.zarr results/second-machine.zarr
    """
    from storage import merge as merge_stores

    merged = merge_stores(into, other)
    click.echo(f"{merged}: {into}")


@cli.command()
@click.argument("name")
@click.option("--work-pool", default="epsweep", show_default=True, help="Process work pool; made if there is none.")
@click.option("--spec", help="Default of the runs: shipped name, path on the worker's machine, or YAML text.")
@_sweep_options
@_retry_option
@click.option("--cron", multiple=True, help="Schedule of five fields in UTC, such as '0 3 * * *'.")
@click.option("--interval", multiple=True, type=click.IntRange(60, _YEAR), help="Schedule in seconds.")
@click.option(
    "--folder", type=click.Path(path_type=Path), default=Path(), help="Working directory of the runs; default this one."
)
def deploy(
    name: str,
    work_pool: str,
    spec: str | None,
    store: str | None,
    cluster: str,
    allow_code: bool,
    retry_failed: bool,
    cron: tuple[str, ...],
    interval: tuple[int, ...],
    folder: Path,
) -> None:
    """Register the sweep flow as deployment NAME on the configured Prefect server, to be run from its UI, API or clock.

    A Prefect worker of the pool runs it, on a machine where this package is installed. What is given here are the
    defaults of the runs; each run may say otherwise, except for --allow-code.

    \b
    Example:
      epsweep deploy nightly --spec quickstart --store s3://bucket/nightly.zarr --cron '0 3 * * *'
      prefect worker start --pool epsweep
    """
    from flows.server import quieten

    quieten()
    from flows.deploy import deploy as register

    given = {"spec": spec, "store": store, "cluster": cluster, "retry_failed": retry_failed}
    register(
        name,
        work_pool=work_pool,
        parameters={key: value for key, value in given.items() if value is not None},
        cron=cron,
        interval=interval,
        folder=folder,
        allow_code=allow_code,
    )
    click.echo(f"deployment: sweep/{name}, work pool {work_pool}")
    click.echo(f"next: prefect worker start --pool {work_pool}, then prefect deployment run sweep/{name}")


@cli.command()
@click.argument("spec", required=False)
@_sweep_options
def doctor(spec: str | None, store: str | None, cluster: str, allow_code: bool) -> None:
    """Check packages, store, Prefect server and cluster, and the memory that SPEC needs; exit 1 if one is not good.

    \b
    Example:
      epsweep doctor fig.yaml --store s3://bucket/fig.zarr --cluster slurm.yaml
    """
    from flows.doctor import examine

    good = True
    for finding in examine(spec, store, cluster, allow_code=allow_code):
        click.echo(f"{'ok' if finding.good else 'BAD':<4}{finding.subject + ':':<10}{finding.text}")
        good = good and finding.good
    if not good:
        raise SystemExit(EXIT_FINDINGS)


@cli.command("list")
def list_names() -> None:
    """List functions, samplings, methods, experiments and shipped sweeps.

    \b
    Example:
      epsweep list
    """
    from flows.profiles import shipped_profiles
    from pipeline.approximation import METHODS
    from pipeline.experiments import EXPERIMENTS
    from pipeline.functions import BUILT_IN
    from pipeline.sampling import SAMPLINGS

    sweeps, profiles = (
        {name: path.read_text(encoding="utf-8").splitlines()[0].lstrip("# ") for name, path in shipped.items()}
        for shipped in (shipped_sweeps(), shipped_profiles())
    )
    for title, entries in (
        ("functions", {name: function.summary for name, function in BUILT_IN.items()}),
        ("samplings", {name: sampling.summary for name, sampling in SAMPLINGS.items()}),
        ("methods", {name: method.summary for name, method in METHODS.items()}),
        ("experiments", {name: experiment.summary for name, experiment in EXPERIMENTS.items()}),
        ("sweeps", sweeps),
        ("clusters", profiles),
    ):
        click.echo(f"{title}:")
        for name, summary in entries.items():
            click.echo(f"  {name:<22} {summary}")


def _duration(seconds: float) -> str:
    if seconds > _YEAR:
        return "more than a year"
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 1 else "less than 1 s"
    return str(timedelta(seconds=round(seconds)))


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"out: {target} cannot be written ({error.strerror or error}); name another place") from error


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; whatever a user can mend is one line and an exit code."""
    try:
        cli.main(arguments, prog_name="epsweep", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as help_needed:
        click.echo(help_needed.format_message(), err=True)
        sys.exit(EXIT_BAD_INPUT)
    except click.ClickException as error:
        click.echo(f"epsweep: {' '.join(error.format_message().split())}", err=True)
        sys.exit(EXIT_BAD_INPUT)
    except Interrupted as error:
        click.echo(f"epsweep: {error}", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except (KeyboardInterrupt, click.Abort):
        click.echo(f"epsweep: {_STOPPED}", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except EpsweepError as error:
        click.echo(f"epsweep: {error}", err=True)
        sys.exit(EXIT_BAD_INPUT)
    except OSError as error:
        where = f"{str(error.filename)[:200]}: {error.strerror or error}; use another path" if error.filename else error
        click.echo(f"epsweep: {where}", err=True)
        sys.exit(EXIT_BAD_INPUT)
