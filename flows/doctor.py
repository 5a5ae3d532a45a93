"""Checks of everything that a run needs, before it is needed."""

import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from distributed import Client
from distributed.system import MEMORY_LIMIT
from packaging.requirements import Requirement

from flows.clusters import check_cluster, open_cluster, reaches_loopback
from flows.planning import make_plan
from flows.ready import check_workers
from flows.server import check_health, configured_server, prefect_home
from flows.specs import default_store, find_sweep
from pipeline.errors import EpsweepError, InputError, StoreError, without_secrets
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
    checks: dict[str, Callable[[], str]] = {
        "packages": _packages,
        "prefect": lambda: _prefect(cluster),
        "cluster": lambda: _cluster(cluster, memory, spec, allow_code),
    }
    if spec is not None:
        checks["sweep"] = lambda: _sweep(spec, store, memory, allow_code, accept_code)
    elif store is not None:
        checks["store"] = lambda: _store(store)
    for subject, check in checks.items():
        try:
            yield Finding(subject, True, check())
        except (EpsweepError, OSError) as error:
            yield Finding(subject, False, str(error).removeprefix(f"{subject}: "))


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
    """Take the store's lock, which shows that its surroundings can be written."""
    with single_writer(store):
        if Path(store).exists() and not os.access(store, os.W_OK):
            raise StoreError(f"store: {store} cannot be written; change its permissions or its mount")
    if "://" in store:
        return f"{store} can be written, and its server keeps it to one writer"
    free = shutil.disk_usage(Path(store).resolve().parent).free
    return f"{store} can be written, {free / 2**30:.1f} GiB free"


def _prefect(cluster: str) -> str:
    if url := configured_server():
        check_health(url)
        return f"{without_secrets(url)} answers"
    if not reaches_loopback(cluster):
        raise InputError(f"workers of {cluster} need a Prefect server that they can reach; set PREFECT_API_URL")
    home = prefect_home()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not os.access(home, os.W_OK):
        raise InputError(f"{home} cannot be written; set PREFECT_HOME to a folder that can")
    return f"a server of its own for each run, database in {home}"


def _cluster(cluster: str, memory: list[float], spec: str | None, allow_code: bool) -> str:
    """Start or find the cluster, and ask its workers what a run asks; versions are compared with ours on the way."""
    check_cluster(cluster)
    sweep = None
    with suppress(EpsweepError):  # of the specification, which is checked for itself
        sweep = find_sweep(spec, allow_code=allow_code)[1] if spec is not None else None
    with open_cluster(cluster) as running:
        memory.append(running.worker_memory)
        if sweep is not None:
            with Client(running.address, set_as_default=False) as client:
                check_workers(client, sweep)
        return f"{cluster}: {running.threads} worker threads, {_gib(running.worker_memory)} each, versions as here"


def _sweep(spec: str, store: str | None, memory: list[float], allow_code: bool, accept_code: bool) -> str:
    _, sweep = find_sweep(spec, allow_code=allow_code)
    target = store or default_store(sweep)
    writable = _store(target)
    todo = pending(sweep, sweep_status(target, sweep, accept_code=accept_code), retry_failed=True)
    limit = min(memory, default=math.inf)
    plan = make_plan(sweep, todo, 1, limit)
    plan.require_memory(limit, MEMORY_LIMIT)
    return f"{sweep.name}: {plan.cells} cells to compute, at most {_gib(plan.peak_memory)} a worker; {writable}"


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size < float("inf") else "unlimited memory"
