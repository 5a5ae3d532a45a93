"""Dask clusters: local worker processes, a running scheduler, or a profile that names a cluster class."""

from __future__ import annotations

import importlib
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import dask
import yaml
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster
from distributed.system import MEMORY_LIMIT
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.errors import InputError
from pipeline.experiment import describe

_LOOPBACK = ("127.", "localhost", "[::1]")
_RESERVED_BYTES = 2**30  # for the flow, the scheduler and the Prefect server
_START_SECONDS = 60
_KEPT_BYTES = 2**28

# A batch's memory is NumPy's, which Dask can neither spill nor shrink by waiting: only the upper limit is of use. Dask
# has glibc give freed memory back at once, so that each temporary array costs its page faults anew: half the time.
_WORKER_MEMORY = {
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": _KEPT_BYTES,
    "distributed.nanny.pre-spawn-environ.MALLOC_MMAP_THRESHOLD_": _KEPT_BYTES,
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
}
_LOCAL = {
    **_WORKER_MEMORY,
    "distributed.scheduler.allowed-failures": 0,  # the dispatcher looks at a batch whose worker died on its own
    "distributed.worker.preload": ["flows.clusters"],
}


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


def dask_setup(worker: object) -> None:
    """Prepare a local worker process, as Dask calls it: Ctrl-C is for the flow, which then ends its workers."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    logging.getLogger("distributed").setLevel(logging.CRITICAL)


class Profile(BaseModel):
    """A cluster as a YAML file describes it: class, its arguments, and the number of workers."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    cluster_class: Annotated[str, Field(alias="class", pattern=r"^[\w.]+\.\w+$")]
    arguments: dict[str, Any] = {}
    workers: Annotated[int, Field(ge=1)] = 1


@dataclass(frozen=True)
class RunningCluster:
    """A scheduler that can be reached.

    Attributes
    ----------
    address : str
    threads : int
        Worker threads at the start.
    worker_memory : float
        Smallest memory limit of a worker thread, in bytes.
    """

    address: str
    threads: int
    worker_memory: float


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


def check_cluster(cluster: str) -> None:
    """Raise InputError if a cluster cannot be what its name says, before anything is started."""
    if local_workers(cluster) is None and not cluster.startswith(("tcp://", "tls://")):
        _cluster_class(_load_profile(cluster), cluster)


def reaches_loopback(cluster: str) -> bool:
    """Whether all workers of a cluster certainly run on this machine, and so reach a server on loopback."""
    if cluster.startswith(("tcp://", "tls://")):
        return cluster.partition("://")[2].startswith(_LOOPBACK)
    return local_workers(cluster) is not None


@contextmanager
def open_cluster(cluster: str) -> Iterator[RunningCluster]:
    """Start or find the cluster that `cluster` names and wait for its first workers.

    Parameters
    ----------
    cluster : str
        ``local``, ``local:N``, ``tcp://host:port``, ``tls://host:port``, or the path of a YAML profile.

    Raises
    ------
    InputError
        If it is none of these, cannot be reached, or shows no worker in time.
    """
    workers = local_workers(cluster)
    if workers is not None:
        with (
            dask.config.set(_LOCAL),
            LocalCluster(
                n_workers=workers.count,
                threads_per_worker=1,
                memory_limit=int(workers.memory),
                silence_logs=logging.CRITICAL,  # the dispatcher tells what matters of it
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                worker_dashboard_address="127.0.0.1:0",
            ) as started,
        ):
            yield _inspect(started.scheduler_address, workers.count)
    elif cluster.startswith(("tcp://", "tls://")):
        yield _inspect(cluster, 1)
    else:
        profile = _load_profile(cluster)
        with dask.config.set(_WORKER_MEMORY), _start(profile, cluster) as started:
            started.scale(profile.workers)
            yield _inspect(started.scheduler_address, 1)


def _inspect(address: str, wanted: int) -> RunningCluster:
    try:
        with Client(address, timeout=_START_SECONDS, set_as_default=False) as client:
            client.wait_for_workers(wanted, timeout=_START_SECONDS)
            workers = client.scheduler_info(n_workers=-1)["workers"].values()
    except (OSError, TimeoutError, ValueError) as error:
        raise InputError(
            f"cluster: {address} gave no worker within {_START_SECONDS} s ({error}); are scheduler and workers up?"
        ) from error
    limits = [(worker["memory_limit"] or float("inf")) / worker["nthreads"] for worker in workers]
    return RunningCluster(address, sum(worker["nthreads"] for worker in workers), min(limits, default=float("inf")))


def _load_profile(path: str) -> Profile:
    try:
        document = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        return Profile.model_validate(document)
    except OSError as error:
        raise InputError(
            f"cluster: {path!r} is not local, local:N, tcp://host:port or a profile that can be read ({error.strerror})"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"cluster: {path} is not valid YAML ({' '.join(str(error).split())[:200]})") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the profile"
        raise InputError(
            f"cluster: {path}: {key}: {first['msg']}; a profile has class, arguments and workers"
        ) from error


def _start(profile: Profile, path: str) -> Any:
    try:
        return _cluster_class(profile, path)(**profile.arguments)
    except (TypeError, ValueError, RuntimeError, OSError) as error:
        raise InputError(f"cluster: {path}: {describe(error)}; check class and arguments") from error


def _cluster_class(profile: Profile, path: str) -> Any:
    module, _, name = profile.cluster_class.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"cluster: {path}: class: {profile.cluster_class} cannot be imported ({error})") from error
