"""Dask clusters: local worker processes, a running scheduler, or a profile that names either a class or a scheduler."""

from __future__ import annotations

import logging
import os
import signal
import ssl
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from multiprocessing import resource_tracker
from typing import Any

from dask.system import CPU_COUNT
from distributed import Client, LocalCluster
from distributed.security import Security
from distributed.system import MEMORY_LIMIT
from distributed.utils import LoopRunner
from tornado.ioloop import IOLoop

from flows.launch import RESTARTING, cluster_class, interruptible, log_folder, started
from flows.planning import PROCESS_BYTES
from flows.profiles import Profile, load_profile, security_of
from flows.shared import dask_settings, logger_level
from pipeline.errors import EpsweepError, InputError, one_line

_RESERVED_BYTES = 2**30  # for the flow, the scheduler and the Prefect server
_START_SECONDS = 60.0
_ANSWER_SECONDS = 15.0
_LOOK_SECONDS = 10.0  # for a plan
_SAME_VERSIONS = ("epsweep", "prefect", "distributed")
_LOCAL = {**RESTARTING, "distributed.worker.preload": ["flows.clusters"]}
_LOGGER = logging.getLogger("epsweep")
_TALKATIVE = ("distributed", "distributed.client")  # of every connection that a dead process leaves, with tracebacks


@dataclass(frozen=True)
class LocalWorkers:
    """Worker processes of this machine.

    Attributes
    ----------
    count : int
    memory : float
        Limit of each, in bytes.
    """

    count: int
    memory: float


@dataclass(frozen=True)
class RunningCluster:
    """A scheduler that can be reached.

    Attributes
    ----------
    address : str
    workers : int
        At the start.
    threads : int
        Worker threads at the start.
    worker_memory : float
        Smallest memory that a worker has for one of its threads, in bytes; the process itself is in it undivided.
    timeout : float
        Seconds that workers may take to come.
    security : distributed.security.Security or None
        What clients encrypt with; None for Dask's configuration.
    """

    address: str
    workers: int
    threads: int
    worker_memory: float
    timeout: float
    security: Security | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class ChosenCluster:
    """What the name of a cluster stands for, looked up once: a profile may change while a run waits for its cluster.

    Attributes
    ----------
    name : str
    local : LocalWorkers or None
    address : str or None
        Of a scheduler that the name is.
    profile : Profile or None
    """

    name: str
    local: LocalWorkers | None = None
    address: str | None = None
    profile: Profile | None = None


_opened: dict[str, RunningCluster] = {}  # by this process, by address: what opens one again need not ask again


def dask_setup(worker: object) -> None:
    """Prepare a local worker process, as Dask calls it: the dispatcher tells what matters."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Failed to create the Prefect home", UserWarning)  # nothing needs it here
        import flows.batch  # noqa: F401 (while the Prefect server starts; with the first batch, it would hold that up)
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL)


def local_workers(cluster: str) -> LocalWorkers | None:
    """Number and memory of the workers that ``local`` or ``local:N`` asks for; None for other clusters.

    Raises
    ------
    InputError
        If N is not a positive number.
    """
    kind, _, number = cluster.partition(":")
    if kind != "local":
        return None
    if number and not (number.isdecimal() and 1 <= int(number) <= 1024):
        raise InputError(f"cluster: {cluster!r} has no valid number of workers; write local:2, say")
    count = int(number) if number else CPU_COUNT
    return LocalWorkers(count, max(MEMORY_LIMIT - _RESERVED_BYTES, _RESERVED_BYTES) / count)


def check_cluster(cluster: str) -> ChosenCluster:
    """Look a cluster up, before anything is started.

    Parameters
    ----------
    cluster : str
        ``local``, ``local:N``, ``tcp://host:port``, ``tls://host:port``, the path of a YAML profile, or the name of a
        shipped one.

    Raises
    ------
    InputError
        If it cannot be what its name says.
    """
    if workers := local_workers(cluster):
        return ChosenCluster(cluster, local=workers)
    if cluster.startswith(("tcp://", "tls://")):
        if cluster not in _opened:
            _check_certificates(cluster)
        return ChosenCluster(cluster, address=cluster)
    profile = load_profile(cluster)
    if profile.cluster_class is not None:
        cluster_class(profile, cluster)
    return ChosenCluster(cluster, profile=profile)


def find_running(cluster: str | ChosenCluster) -> RunningCluster | None:
    """See what a running scheduler has, with workers or, after some seconds, without; None where a run starts it.

    Raises
    ------
    InputError
        If there is no scheduler at the address within seconds, or its versions are not ours.
    """
    chosen = _chosen(cluster)
    profile = chosen.profile
    if chosen.local or (profile and profile.address is None):
        return None
    if profile is None:
        return _inspect(str(chosen.address), 1, _START_SECONDS, None, patience=_LOOK_SECONDS)
    security = security_of(profile)
    if security is None:
        _check_certificates(str(profile.address))
    return _inspect(str(profile.address), profile.minimum, profile.timeout, security, patience=_LOOK_SECONDS)


def expected_threads(cluster: str | ChosenCluster) -> int:
    """Number of worker threads that a run would have, as far as can be said before it starts; 1 for a scheduler."""
    chosen = _chosen(cluster)
    if chosen.local:
        return chosen.local.count
    profile = chosen.profile
    if profile is None or profile.address is not None:
        return 1
    hosts = profile.arguments.get("hosts")
    options = profile.arguments.get("worker_options", {}) if hosts else profile.arguments
    threads = options.get("nthreads" if hosts else "threads_per_worker", 1)
    count = max(len(hosts) - 1, 1) if hosts else profile.adapt.maximum if profile.adapt else profile.workers
    return count * threads if isinstance(threads, int) and threads > 0 else count


def reaches_loopback(cluster: str | ChosenCluster) -> bool:
    """Whether all workers of a cluster certainly run on this machine, and so reach a server on loopback."""
    chosen = _chosen(cluster)
    if chosen.local:
        return True
    address = chosen.profile.address if chosen.profile else chosen.address
    host = (address or "").partition("://")[2].rpartition(":")[0]
    return host.startswith("127.") or host in ("localhost", "[::1]")


def describe_cluster(cluster: str | ChosenCluster) -> str:
    """Say in a few words what opening a cluster starts or waits for; nothing is started.

    Raises
    ------
    InputError
        If it is none that `check_cluster` takes.
    """
    chosen = _chosen(cluster)
    if chosen.local:
        return f"{chosen.local.count} local workers of {chosen.local.memory / 2**30:.1f} GiB"
    profile = chosen.profile
    if profile is None:
        return f"the scheduler at {chosen.address}"
    wait = f"cells are sent once {profile.minimum} of them can be seen, within {profile.timeout:g} s"
    if profile.address is not None:
        return f"the workers of {profile.address}; {wait}"
    count = f"{profile.adapt.minimum} to {profile.adapt.maximum}" if profile.adapt else str(profile.workers)
    number = "the" if "hosts" in profile.arguments else count
    return f"{number} workers of {profile.cluster_class}; {wait}"


def _chosen(cluster: str | ChosenCluster) -> ChosenCluster:
    return check_cluster(cluster) if isinstance(cluster, str) else cluster


@contextmanager
def open_cluster(cluster: str | ChosenCluster) -> Iterator[RunningCluster]:
    """Start or find a cluster and wait for its first workers.

    Parameters
    ----------
    cluster : str or ChosenCluster
        What `check_cluster` takes or has returned.

    Raises
    ------
    InputError
        If it is none, cannot be reached, shows no worker in time, or its versions are not ours.
    """
    if running := _opened.get(cluster if isinstance(cluster, str) else str(cluster.address)):
        yield running
        return
    chosen = _chosen(cluster)
    with logger_level(logging.CRITICAL, *_TALKATIVE), _find(chosen) as running:
        _opened[running.address] = running
        _LOGGER.info(
            "%d workers with %d threads at %s",
            running.workers,
            running.threads,
            running.address,
            extra={"event": "cluster_ready", "workers": running.workers, "threads": running.threads},
        )
        try:
            yield running
        finally:
            _opened.pop(running.address, None)


def connect(running: RunningCluster) -> Client:
    """A client of a cluster that was opened, whatever other clients this process, thread or task has.

    Raises
    ------
    EpsweepError
        If the scheduler is gone.
    """
    try:
        return Client(running.address, timeout=_ANSWER_SECONDS, security=running.security, set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise EpsweepError(f"cluster: {running.address} does not answer any more ({_reason(error)})") from error


@contextmanager
def _loop_deaf_to_interrupts() -> Iterator[IOLoop]:
    """Dask's event loop in a thread that blocks SIGINT: the worker processes that it starts inherit that.

    Ctrl-C is for the flow, which then ends its workers.
    """
    os.environ["PYTHONSAFEPATH"] = "1"  # what it starts looks for no libraries in the working directory
    resource_tracker.ensure_running()  # to start it later would unblock the signal
    runner = LoopRunner(asynchronous=False)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        runner.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield runner.loop
    finally:
        runner.stop()


@contextmanager
def _find(chosen: ChosenCluster) -> Iterator[RunningCluster]:
    if workers := chosen.local:
        plain = Security(require_encryption=False)  # whatever the user's Dask configuration asks of other clusters
        with dask_settings(_LOCAL), _loop_deaf_to_interrupts() as loop:
            with interruptible():
                local = LocalCluster(
                    n_workers=workers.count,
                    threads_per_worker=1,
                    memory_limit=int(workers.memory),
                    silence_logs=logging.CRITICAL,  # the dispatcher tells what matters of it
                    host="127.0.0.1",
                    protocol="tcp://",
                    security=plain,
                    dashboard_address="127.0.0.1:0",
                    worker_dashboard_address="127.0.0.1:0",
                    loop=loop,
                )
            with local:
                yield _inspect(local.scheduler_address, workers.count, _START_SECONDS, plain)
    elif chosen.profile is None:
        yield _inspect(str(chosen.address), 1, _START_SECONDS, None)
    elif chosen.profile.address is not None:
        profile = chosen.profile
        security = security_of(profile)
        if security is None:
            _check_certificates(chosen.profile.address)
        yield _inspect(chosen.profile.address, profile.minimum, profile.timeout, security)
    else:
        profile = chosen.profile
        with started(profile, chosen.name) as remote:
            security = getattr(remote, "security", None)
            address = remote.scheduler_address
            yield _inspect(address, profile.minimum, profile.timeout, security, _where_to_look(profile))


def _check_certificates(address: str) -> None:
    if address.startswith("tls://") and Security().get_connection_args("client").get("ssl_context") is None:
        raise InputError(
            f"cluster: {address} needs certificates: give --cluster a profile with address: {address} and tls: "
            "{ca: FILE, cert: FILE, key: FILE}"
        )


def _where_to_look(profile: Profile) -> str:
    folder = log_folder(profile)
    if folder is not None:
        return f"look at the queue and at the jobs' output in {folder}, or wait longer (timeout)"
    return "look at the logs of its workers, or wait longer (timeout)"


def _inspect(
    address: str,
    wanted: int,
    timeout: float,
    security: Security | None,
    remedy: str = "are scheduler and workers up?",
    patience: float | None = None,
) -> RunningCluster:
    """Wait for workers, and see what they are; for `patience` at most, if given, after which none are needed."""
    try:
        with Client(address, timeout=_ANSWER_SECONDS, security=security, set_as_default=False) as client:
            try:
                with suppress(*([] if patience is None else [TimeoutError])):
                    client.wait_for_workers(wanted, timeout=timeout if patience is None else min(timeout, patience))
            except TimeoutError as error:
                have = len(client.scheduler_info(n_workers=-1)["workers"])
                raise InputError(
                    f"cluster: {address} has {have} of {wanted} workers after {timeout:g} s; {remedy}"
                ) from error
            workers = client.scheduler_info(n_workers=-1)["workers"]
            found = client.get_versions(packages=list(_SAME_VERSIONS))
            _check_versions(address, found)
            left = client.scheduler_info(n_workers=-1)["workers"]
            if silent := sorted(workers.keys() & left.keys() - found["workers"].keys()):
                raise InputError(
                    f"cluster: {address}: worker {silent[0]} does not answer the scheduler; give it an address that "
                    "the scheduler reaches (--contact-address, and an open port), or stop it"
                )
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(f"cluster: {address} does not answer ({_reason(error)}); {remedy}") from error
    memory = [(worker["memory_limit"] or float("inf"), worker["nthreads"]) for worker in workers.values()]
    limits = [min(limit, (limit - PROCESS_BYTES) / count + PROCESS_BYTES) for limit, count in memory]
    threads = sum(worker["nthreads"] for worker in workers.values())
    return RunningCluster(address, len(workers), threads, min(limits, default=float("inf")), timeout, security)


def _reason(error: BaseException) -> str:
    """The message of an error; of its cause, if that is a certificate."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLError):
            return f"certificates: {one_line(cause.reason or cause)}"
        cause = cause.__cause__ or cause.__context__
    return one_line(error)


def _check_versions(address: str, found: Mapping[str, Any]) -> None:
    """Raise InputError unless the scheduler and all workers have our Python and packages."""
    wanted = {"python": f"{sys.version_info.major}.{sys.version_info.minor}"}
    wanted |= {name: version(name) for name in _SAME_VERSIONS}
    peers = {"scheduler": found["scheduler"]} | {f"worker {name}": each for name, each in found["workers"].items()}
    for peer, each in peers.items():
        packages = dict(each["packages"])
        packages["python"] = ".".join(packages["python"].split(".")[:2])
        for name, ours in wanted.items():
            theirs = packages.get(name)
            if peer == "scheduler" and name in ("epsweep", "prefect"):
                continue  # it runs neither
            if theirs != ours:
                has = f"has {name} {theirs}, this process {ours}" if theirs else f"cannot import {name}"
                raise InputError(f"cluster: {address}: {peer} {has}; install the same versions on both (constraints)")
