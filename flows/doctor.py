"""Checks of everything that a run needs, before it is needed."""

import math
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from distributed.system import MEMORY_LIMIT
from packaging.requirements import Requirement

from flows.clusters import ChosenCluster, check_cluster, connect, open_cluster, reaches_loopback
from flows.own_matplotlib import own_matplotlib
from flows.planning import make_plan
from flows.prefect_settings import current_settings
from flows.ready import check_workers
from flows.server import find_server
from flows.specs import default_store, find_sweep
from pipeline.errors import EpsweepError, InputError, StoreError
from storage import pending, single_writer, sweep_status


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes
    ----------
    subject : str
    good : bool
    text : str
        What is there, or what is wrong and how to mend it.
    """

    subject: str
    good: bool
    text: str


def examine(
    spec: str | None, store: str | None, cluster: str, *, allow_code: bool, accept_code: bool = False
) -> Iterator[Finding]:
    """Check versions, store, Prefect, cluster and, for a spec, files, code and the memory of its largest case.

    Parameters
    ----------
    spec : str or None
        As `flows.specs.find_sweep` takes it.
    store : str or None
        Path or URL of the store that a run would write; without it a spec's own, without both none is checked.
    cluster : str
        As `flows.clusters.open_cluster` takes it; it is started for the time of the check.
    allow_code : bool
        As `flows.specs.find_sweep` takes it.
    accept_code : bool
        Whether code may be other than that of the store's finished cells.

    Yields
    ------
    Finding
        One a check, as soon as it is made.
    """
    memory: list[float] = []
    chosen = _looked_up(cluster)
    neighbours = chosen.local.count if isinstance(chosen, ChosenCluster) and chosen.local else 0
    checks: dict[str, Callable[[], str]] = {
        "packages": _packages,
        "prefect": lambda: _prefect(chosen),
        "cluster": lambda: _cluster(chosen, memory, spec, allow_code),
    }
    if spec is not None:
        checks["sweep"] = lambda: _sweep(spec, store, memory, neighbours, allow_code, accept_code)
    elif store is not None:
        checks["store"] = lambda: _store(store)
    checks["figures"] = _figures
    for subject, check in checks.items():
        try:
            yield Finding(subject, True, check())
        except (EpsweepError, OSError) as error:
            yield Finding(subject, False, str(error).removeprefix(f"{subject}: ").removeprefix("Prefect: "))


def _packages() -> str:
    """Compare the installed versions with those that this package asks for."""
    wanted = [Requirement(line) for line in requires("epsweep") or ()]
    wrong = []
    for requirement in wanted:
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            have = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is not installed")
            continue
        if not requirement.specifier.contains(have, prereleases=True):
            wrong.append(f"{requirement.name} {have} is not {requirement.specifier}")
    if wrong:
        raise InputError(f"{', '.join(wrong)}; install again with the README's command")
    shown = ", ".join(f"{name} {version(name)}" for name in ("epsweep", "prefect", "dask", "zarr", "xarray", "numpy"))
    return f"{shown}; Python {sys.version.split()[0]}"


def _store(store: str) -> str:
    """Take the store's lock, which shows that it can be written."""
    with single_writer(store):
        pass
    if "://" in store:
        return f"{store} can be written, and its server keeps it to one writer"
    free = shutil.disk_usage(Path(store).resolve().parent).free
    return f"{store} can be written, {free / 2**30:.1f} GiB free"


def _looked_up(cluster: str) -> ChosenCluster | InputError:
    try:
        return check_cluster(cluster)
    except InputError as error:
        return error


def _prefect(cluster: ChosenCluster | InputError) -> str:
    return find_server(loopback=isinstance(cluster, InputError) or reaches_loopback(cluster)).text


def _cluster(cluster: ChosenCluster | InputError, memory: list[float], spec: str | None, allow_code: bool) -> str:
    """Start or find the cluster, and ask its workers what a run asks; versions are compared with ours on the way."""
    if isinstance(cluster, InputError):
        raise cluster
    current_settings()  # which its workers read too
    sweep = None
    with suppress(EpsweepError):  # of the specification, which is checked for itself
        sweep = find_sweep(spec, allow_code=allow_code)[1] if spec is not None else None
    with open_cluster(cluster) as running:
        memory.append(running.worker_memory)
        if sweep is not None:
            with connect(running) as client:
                check_workers(client, sweep)
        return f"{cluster.name}: {running.threads} worker threads, {_gib(running.worker_memory)} each, versions as here"


def _sweep(
    spec: str, store: str | None, memory: list[float], neighbours: int, allow_code: bool, accept_code: bool
) -> str:
    _, sweep = find_sweep(spec, allow_code=allow_code)
    target = store or default_store(sweep)
    status = sweep_status(target, sweep, accept_code=accept_code)
    todo = pending(sweep, status, retry_failed=True)
    try:
        writable = _store(target)
    except StoreError as error:
        if pending(sweep, status, retry_failed=False).any():
            raise
        writable = f"that needs no writing, and {str(error).removeprefix('store: ')}"
    limit = min(memory, default=math.inf)
    plan = make_plan(sweep, todo, 1, limit)
    plan.require_memory(limit, MEMORY_LIMIT, neighbours)
    if not plan.cells:
        return f"{sweep.name}: nothing to compute; {writable}"
    return f"{sweep.name}: {plan.cells} cells to compute, at most {_gib(plan.peak_memory)} a worker; {writable}"


def _figures() -> str:
    """What a run would say of its figures, for which it does not fail."""
    try:
        with own_matplotlib({}):
            return f"drawn by Matplotlib {version('matplotlib')}"
    except EpsweepError as error:
        return f"none ({error})"


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size < float("inf") else "unlimited memory"
