"""The command line: its commands, and how each ends."""

import sys
from pathlib import Path
from typing import Any

import click

from flows.cli_run import STOPPED, plan, run
from flows.cli_setup import deploy, doctor, list_names
from flows.cli_stores import curves, export, merge, plot, report, status
from flows.specs import import_from
from pipeline.errors import EpsweepError, Interrupted
from pipeline.experiments import code_allowed

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


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


for _command in (run, plan, status, curves, plot, report, export, merge, deploy, doctor, list_names):
    cli.add_command(_command)


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
        click.echo(f"epsweep: {STOPPED}", err=True)
        sys.exit(EXIT_INTERRUPTED)
    except EpsweepError as error:
        click.echo(f"epsweep: {error}", err=True)
        sys.exit(EXIT_BAD_INPUT)
    except OSError as error:
        where = f"{str(error.filename)[:200]}: {error.strerror or error}; use another path" if error.filename else error
        click.echo(f"epsweep: {where}", err=True)
        sys.exit(EXIT_BAD_INPUT)
