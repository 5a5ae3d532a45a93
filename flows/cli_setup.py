"""Commands that prepare runs: the names that specifications may use, checks of what a run needs, a deployment."""

import shlex
from pathlib import Path

import click

from flows.cli_options import retry_option, sweep_options
from flows.specs import shipped_sweeps

EXIT_FINDINGS = 1


@click.command("list")
def list_names() -> None:
    """List functions, samplings, methods, experiments with what figures may show of them, and shipped sweeps.

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
    measured = EXPERIMENTS.values()
    for title, entries in (
        ("functions", {name: function.summary for name, function in BUILT_IN.items()}),
        ("samplings", {name: sampling.summary for name, sampling in SAMPLINGS.items()}),
        ("methods", {name: method.summary for name, method in METHODS.items()}),
        ("experiments", {name: experiment.summary for name, experiment in EXPERIMENTS.items()}),
        ("quantities", {f"{each.name}.{one.name}": one.description for each in measured for one in each.quantities}),
        (
            "theory",
            {f"{each.name}.{one.name}": f"{one.quantity}: {one.label}" for each in measured for one in each.theory},
        ),
        ("sweeps", sweeps),
        ("clusters", profiles),
    ):
        click.echo(f"{title}:")
        width = max(22, *map(len, entries))
        for name, summary in entries.items():
            click.echo(f"  {name:<{width}} {summary}")


@click.command()
@click.argument("spec", required=False)
@sweep_options
def doctor(spec: str | None, store: str | None, cluster: str, allow_code: bool, accept_code: bool) -> None:
    """Check packages, store, Prefect server and cluster, and the memory that SPEC needs; exit 1 if one is not good.

    \b
    Example:
      epsweep doctor fig.yaml --store s3://bucket/fig.zarr --cluster slurm.yaml
    """
    from flows.doctor import examine

    good = True
    for finding in examine(spec, store, cluster, allow_code=allow_code, accept_code=accept_code):
        click.echo(f"{'ok' if finding.good else 'BAD':<4}{finding.subject + ':':<10}{finding.text}")
        good = good and finding.good
    if not good:
        raise SystemExit(EXIT_FINDINGS)


@click.command()
@click.argument("name")
@click.option("--work-pool", default="epsweep", show_default=True, help="Process work pool; made if there is none.")
@click.option("--spec", help="Default of the runs: shipped name, path on the worker's machine, or YAML text.")
@sweep_options
@retry_option
@click.option("--cron", multiple=True, help="Schedule of five fields in UTC, such as '0 3 * * *'.")
@click.option("--interval", multiple=True, type=int, help="Schedule in seconds, from a minute to a year.")
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
    accept_code: bool,
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
    from flows.prefect_settings import current_settings

    current_settings()  # says what is wrong with them, where the next import would not
    from flows.deploy import deploy as register

    given = {"spec": spec, "store": store, "cluster": cluster, "retry_failed": retry_failed}
    given |= {"accept_code": True} if accept_code else {}
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
    click.echo(f"next: {shlex.join(['prefect', 'worker', 'start', '--pool', work_pool])}")
    click.echo(f"then: {shlex.join(['prefect', 'deployment', 'run', f'sweep/{name}'])}")
