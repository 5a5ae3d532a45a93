"""Arguments and options that commands share."""

from collections.abc import Callable

import click

from pipeline.experiments import ALLOW_CODE

spec_argument = click.argument("spec")
store_argument = click.argument("store")
accept_option = click.option(
    "--accept-code", is_flag=True, help="Take code of your own that has changed for what finished cells were made with."
)
retry_option = click.option("--retry-failed", is_flag=True, help="Compute cells again that failed before.")


def sweep_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add what says where a sweep is stored and computed, and whether it may import code."""
    for option in (
        accept_option,
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
