"""The command line: its commands, and how each ends."""

import os
import select
import sys
from pathlib import Path
from typing import IO, NoReturn

import click

from flows.cli_run import plan, run
from flows.cli_setup import deploy, doctor, list_names
from flows.cli_stores import curves, export, merge, plot, report, status
from flows.specs import import_from
from flows.stopping import STOPPED
from pipeline.errors import EpsweepError, Interrupted
from pipeline.experiments import code_allowed

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
EXIT_PIPE = 141  # as of a program that SIGPIPE ends


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


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; whatever a user can mend is one line and an exit code."""
    try:
        _run(arguments)
    except BrokenPipeError as error:
        streams = [stream for stream in (sys.stdout, sys.stderr) if stream is not None and _has_no_reader(stream)]
        for stream in streams:  # or Python would tell at its end
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if streams:
            sys.exit(EXIT_PIPE)
        _fail(EXIT_BAD_INPUT, str(error))  # it was another pipe


def _run(arguments: list[str] | None) -> None:
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with cli.make_context("epsweep", given) as context:  # click's own main ends with 1 on a closed pipe
            cli.invoke(context)
    except click.exceptions.Exit as ended:
        if ended.exit_code:
            sys.exit(ended.exit_code)
    except click.exceptions.NoArgsIsHelpError as help_needed:
        click.echo(help_needed.format_message(), err=True)
        sys.exit(EXIT_BAD_INPUT)
    except click.ClickException as error:
        _fail(EXIT_BAD_INPUT, " ".join(error.format_message().split()))
    except Interrupted as error:
        _fail(EXIT_INTERRUPTED, str(error))
    except (KeyboardInterrupt, click.Abort):
        _fail(EXIT_INTERRUPTED, STOPPED)
    except EpsweepError as error:
        _fail(EXIT_BAD_INPUT, str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{str(error.filename)[:200]}: {error.strerror or error}; use another path" if error.filename else error
        _fail(EXIT_BAD_INPUT, str(where))


def _fail(code: int, message: str) -> NoReturn:
    click.echo(f"epsweep: {message}", err=True)
    sys.exit(code)


def _has_no_reader(stream: IO[str]) -> bool:
    poll = select.poll()
    poll.register(stream.fileno(), 0)
    return bool(poll.poll(0))  # errors are told whatever is asked for
