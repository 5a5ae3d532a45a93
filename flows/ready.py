"""What workers must have before cells are sent: the files of a sweep, and a user's own code as the run has it."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from distributed import Client
from distributed.client import ClosedClientError

from flows.specs import import_from
from pipeline.errors import EpsweepError, InputError
from pipeline.files import FileRecipe
from pipeline.grid import Sweep
from pipeline.own_code import check_code

SCHEDULER_GONE = "cluster: the scheduler is gone; finished cells are stored: start it and run the same again"


def check_workers(client: Client, sweep: Sweep) -> None:
    """Ask every worker: one that lacks something fails cells as fast as it is given them.

    Raises
    ------
    InputError
        If a worker cannot read a file or reads another, cannot import a function or an experiment, or has other code
        of it.
    EpsweepError
        If the cluster does not answer.
    """
    files = [(FileRecipe.of(path), sweep.digests[name]) for name, path in sweep.files.items()]
    if not files and not sweep.code:
        return
    try:
        found = client.run(lacking, files, dict(sweep.code), on_error="return")
    except (OSError, TimeoutError, ClosedClientError) as error:
        raise EpsweepError(SCHEDULER_GONE) from error
    for worker, problem in found.items():
        if problem and not isinstance(problem, OSError):  # a worker that goes is not asked again
            raise InputError(f"cluster: worker {worker}: {problem}")


def lacking(files: Sequence[tuple[FileRecipe, str]], code: Mapping[str, str]) -> str:
    """What this worker cannot read or import, or has in another version; empty where it has all.

    Parameters
    ----------
    files : sequence of tuple of FileRecipe and str
        Each with the SHA-256 of its file.
    code : mapping of str to str
        Digests, by ``module:name``.
    """
    try:
        for recipe, digest in files:
            recipe.require_same(digest)
        require_code(code)
    except InputError as error:
        return str(error)
    return ""


def require_code(code: Mapping[str, str]) -> None:
    """Import a user's own code on a worker, from where it was started too; CodeError unless it is that of the run."""
    if code:
        with suppress(OSError):  # a folder that is gone
            import_from(Path.cwd())
        check_code(code)
