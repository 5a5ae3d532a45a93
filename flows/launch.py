"""Starts the cluster that a profile names, with what our workers need to hold whatever its class."""

from __future__ import annotations

import copy
import inspect
import logging
import re
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dask
from distributed import LocalCluster, SSHCluster
from distributed.deploy import Cluster
from distributed.security import Security

from flows.profiles import Profile, security_of
from flows.shared import dask_settings
from flows.stopping import STOPPED
from pipeline.arithmetic import import_undisturbed
from pipeline.errors import EpsweepError, InputError, Interrupted, one_line, shown
from pipeline.experiment import describe

_KEPT_BYTES = 2**28
_NO_DASHBOARD = "127.0.0.1:0"  # distributed opens one whatever it is told, and on all addresses unless told so
_DEATH_SECONDS = 30
_IDLE_SECONDS = 300
_WALLTIME = re.compile(r"(?:(?P<days>\d+)-)?(?P<parts>\d+(?::\d+){0,2})")

# A batch's memory is NumPy's, which Dask can neither spill nor shrink by waiting: only the upper limit is of use. Dask
# has glibc give freed memory back at once, so that each temporary array costs its page faults anew: half the time.
_PRE_SPAWN = "distributed.nanny.pre-spawn-environ."
SETTINGS: Mapping[str, Any] = {
    f"{_PRE_SPAWN}MALLOC_TRIM_THRESHOLD_": _KEPT_BYTES,
    f"{_PRE_SPAWN}MALLOC_MMAP_THRESHOLD_": _KEPT_BYTES,
    f"{_PRE_SPAWN}PYTHONSAFEPATH": 1,  # no file in the folder where a worker starts hides a module of Python or ours
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.profile.enabled": False,  # looks at every thread 100 times a second
    "distributed.admin.system-monitor.interval": "2s",
    "distributed.admin.tick.interval": "500ms",  # Dask's 20 ms wake every process of a cluster 50 times a second
    "distributed.scheduler.allowed-failures": 0,  # the dispatcher looks at a batch whose worker died on its own
}

# For clusters whose nannies restart workers: 15 s after a worker died, Dask's cluster ends its nanny, unless another
# worker of it runs just then: that may have died, too.
RESTARTING: Mapping[str, Any] = {**SETTINGS, "distributed.deploy.lost-worker-timeout": "1h"}


def environment() -> dict[str, str]:
    """`SETTINGS` as environment variables, for workers that do not inherit Dask's configuration."""
    return {
        key.removeprefix(_PRE_SPAWN)
        if key.startswith(_PRE_SPAWN)
        else "DASK_" + key.upper().replace(".", "__").replace("-", "_"): str(value)
        for key, value in SETTINGS.items()
    }


def cluster_class(profile: Profile, name: str) -> Any:
    """The class that a profile names, made sure to be a cluster's.

    Raises
    ------
    InputError
        If it cannot be imported, or is anything else.
    """
    module, _, attribute = str(profile.cluster_class).rpartition(".")
    try:
        found = getattr(import_undisturbed(module), attribute)
    except ImportError as error:
        package = module.partition(".")[0]
        reason = f"pip install {package.replace('_', '-')}" if error.name == package else describe(error)
        raise InputError(f"cluster: {name}: class: {profile.cluster_class} cannot be imported: {reason}") from error
    except AttributeError as error:
        raise InputError(f"cluster: {name}: class: {module} has no {attribute}; write MODULE.CLASS") from error
    if found is SSHCluster:  # a function
        if find_spec("asyncssh") is None:
            raise InputError(f"cluster: {name}: class: {profile.cluster_class} needs asyncssh; pip install asyncssh")
        if profile.model_fields_set & {"workers", "adapt"}:
            raise InputError(f"cluster: {name}: workers: SSHCluster has those of arguments.hosts; leave workers out")
        if profile.tls == "temporary":
            raise InputError(f"cluster: {name}: tls: SSH workers need certificates in files: ca, cert, key")
    elif not (isinstance(found, type) and issubclass(found, Cluster)):
        raise InputError(
            f"cluster: {name}: class: {profile.cluster_class} is no Dask cluster; name a subclass of "
            "distributed.deploy.Cluster"
        )
    elif profile.tls is not None and "security" not in inspect.signature(found).parameters:
        raise InputError(f"cluster: {name}: tls: {profile.cluster_class} takes no certificates; leave tls out")
    return found


def log_folder(profile: Profile) -> str | None:
    """Where the jobs of a batch system leave their output; None for other clusters."""
    if "dask_jobqueue" not in str(profile.cluster_class):
        return None
    return str(profile.arguments.get("log_directory", "the folder that they were submitted from"))


@contextmanager
def interruptible() -> Iterator[None]:
    """Have Ctrl-C raise an `Exception`: only for these does Dask close a half-started cluster."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        raise Interrupted(STOPPED)

    previous = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


@contextmanager
def started(profile: Profile, name: str) -> Iterator[Any]:
    """Start a profile's cluster with its first workers on the way; ended at the end of the context.

    Its settings and certificates hold for this process meanwhile, so that every client finds them.

    Raises
    ------
    InputError
        If the class refuses its arguments or cannot start.
    """
    build = cluster_class(profile, name)
    security = security_of(profile)
    settings = RESTARTING if build in (LocalCluster, SSHCluster) else SETTINGS
    with dask_settings({**settings, **encryption(security)}):
        try:
            with interruptible():
                cluster = build(**_arguments(build, profile, security, name))
        except EpsweepError:
            raise
        except Exception as error:  # of whatever package
            reason = describe(error).partition(" Very likely")[0]  # dask-jobqueue adds all that it was given
            raise InputError(f"cluster: {name}: {reason}; check class and arguments") from error
        try:
            _scale(cluster, profile, name)
            yield cluster
        finally:
            with suppress(AssertionError):  # Dask's own check of a job that never was
                cluster.close()


def encryption(security: Security | None) -> dict[str, Any]:
    """Dask's configuration for given certificates."""
    if security is None:
        return {}
    roles = {
        f"distributed.comm.tls.{role}.{kind}": getattr(security, f"tls_{role}_{kind}")
        for role in ("client", "scheduler", "worker")
        for kind in ("cert", "key")
    }
    return {
        "distributed.comm.require-encryption": True,
        "distributed.comm.tls.ca-file": security.tls_ca_file,
        **roles,
    }


def _scale(cluster: Any, profile: Profile, name: str) -> None:
    if not _is_jobqueue(type(cluster)):
        if profile.adapt is not None:
            cluster.adapt(minimum=profile.adapt.minimum, maximum=profile.adapt.maximum)
        elif getattr(cluster, "new_spec", cluster):  # SSHCluster has none: it cannot grow
            cluster.scale(profile.workers)
        return

    async def submit_one() -> None:
        cluster.worker_spec.update(cluster.new_worker_spec())
        await cluster

    try:
        cluster.sync(submit_one)  # adapt would try for ever and not say why a job is refused
    except (RuntimeError, OSError, ValueError) as error:
        reason = str(error).partition("stderr:")[2] or str(error)
        raise InputError(f"cluster: {name}: the job was refused ({one_line(reason)}); check arguments") from error
    limits = profile.adapt
    cluster.adapt(  # scale would not replace a lost job
        minimum=limits.minimum if limits else profile.workers, maximum=limits.maximum if limits else profile.workers
    )


def _arguments(build: Any, profile: Profile, security: Security | None, name: str) -> dict[str, Any]:
    """The profile's arguments, completed by what its class can take of our settings."""
    arguments = copy.deepcopy(profile.arguments)
    if build is SSHCluster:  # workers inherit our Dask configuration
        _defaults(arguments, "scheduler_options", dashboard_address=_NO_DASHBOARD, idle_timeout=_IDLE_SECONDS)
        _defaults(arguments, "worker_options", dashboard_address=_NO_DASHBOARD, death_timeout=_DEATH_SECONDS)
        if security is not None:
            _defaults(arguments, "scheduler_options", protocol="tls://")
        python = arguments.get("remote_python") or sys.executable  # of one host, or of each
        safe = [f"{each} -P" for each in python] if isinstance(python, list) else f"{python} -P"
        return {"silence_logs": logging.CRITICAL} | arguments | {"remote_python": safe}
    if security is not None:
        arguments["security"] = security
    if _is_jobqueue(build):
        _complete_jobs(build, arguments, security, name)
    elif issubclass(build, LocalCluster):
        for key, value in {
            "n_workers": 0,
            "threads_per_worker": 1,
            "host": "127.0.0.1",
            "dashboard_address": _NO_DASHBOARD,
            "worker_dashboard_address": _NO_DASHBOARD,
            "silence_logs": logging.CRITICAL,
        }.items():
            arguments.setdefault(key, value)
    elif "env" in inspect.signature(build).parameters and isinstance(arguments.setdefault("env", {}), dict):
        arguments["env"] = environment() | arguments["env"]
    return arguments


def _complete_jobs(build: Any, arguments: dict[str, Any], security: Security | None, name: str) -> None:
    """Complete the arguments of a dask-jobqueue class: one thread a worker, no open port, an end before the limit."""
    if "cores" in arguments:
        arguments.setdefault("processes", arguments["cores"])
    arguments.setdefault("death_timeout", _DEATH_SECONDS)
    arguments.setdefault("silence_logs", logging.CRITICAL)
    _defaults(arguments, "scheduler_options", dashboard_address=_NO_DASHBOARD)
    exports = [f"export {key}={value}" for key, value in environment().items()]
    arguments["job_script_prologue"] = exports + list(arguments.get("job_script_prologue", []))
    extra = list(map(str, arguments.get("worker_extra_args", [])))
    given = {each.partition("=")[0] for each in extra}
    if "--dashboard-address" not in given:
        extra += ["--dashboard-address", _NO_DASHBOARD]
    if "--lifetime" not in given and build.__name__ == "SLURMCluster":
        walltime = arguments.get("walltime") or dask.config.get("jobqueue.slurm.walltime")
        lifetime, stagger = worker_lifetime(walltime, name)
        extra += ["--lifetime", f"{lifetime}s", "--lifetime-stagger", f"{stagger}s"]
    arguments["worker_extra_args"] = extra
    if security is not None and "\n" in str(security.tls_ca_file):  # made for this run: workers read them in files
        shared = Path(arguments.get("log_directory", ".")).resolve()
        shared.mkdir(parents=True, exist_ok=True)
        arguments.setdefault("shared_temp_directory", str(shared))


def worker_lifetime(walltime: Any, name: str) -> tuple[int, int]:
    """Seconds after which workers of a SLURM job retire, and by how much that varies, so that all end in time.

    Parameters
    ----------
    walltime : str
        As ``sbatch --time`` takes it.
    name : str
        Of the profile.

    Raises
    ------
    InputError
        If that is no time, or one that YAML has read as a number.
    """
    match = _WALLTIME.fullmatch(walltime) if isinstance(walltime, str) else None
    if match is None:
        raise InputError(
            f'cluster: {name}: arguments.walltime: {shown(walltime)} is no time; write "HH:MM:SS" or "D-HH:MM:SS", in '
            "quotes"
        )
    parts = [int(part) for part in match["parts"].split(":")]
    if match["days"] is not None:  # D-HH[:MM[:SS]]
        hours, minutes, seconds = parts + [0] * (3 - len(parts))
    elif len(parts) == 1:
        hours, minutes, seconds = 0, parts[0], 0
    else:  # MM:SS or HH:MM:SS
        hours, minutes, seconds = [0] * (3 - len(parts)) + parts
    whole = ((int(match["days"] or 0) * 24 + hours) * 60 + minutes) * 60 + seconds
    if whole < 60:
        raise InputError(f"cluster: {name}: arguments.walltime: {shown(walltime)} is too short; give a minute at least")
    stagger = min(whole // 20, 600)
    margin = min(whole // 5, 120)  # to start, to import, and to hand over results
    return whole - stagger - margin, stagger


def _defaults(arguments: dict[str, Any], key: str, **values: Any) -> None:
    arguments[key] = values | dict(arguments.get(key) or {})


def _is_jobqueue(build: type) -> bool:
    return any(base.__module__.startswith("dask_jobqueue.") for base in build.__mro__)
