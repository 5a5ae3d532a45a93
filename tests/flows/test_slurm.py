"""A sweep on a real SLURM of one node, which these tests start on loopback."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest
import xarray as xr

from tests.flows.processes import eventually

CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
CredType=cred/munge
SlurmctldPort={controller_port}
SlurmdPort={node_port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
KillWait=5
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 RealMemory=4000 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

FUNCTION = '''
import os
import time
from pathlib import Path

import dask
import numpy as np
from distributed import Worker
from scipy.spatial.distance import cdist

HERE = Path(__file__).parent


def paced(x, y):
    """Tell who computes, then wait until all may go on."""
    worker = next(iter(Worker._instances))
    witness = [
        os.environ.get("SLURM_JOB_ID"),
        os.environ.get("MALLOC_MMAP_THRESHOLD_"),
        os.environ.get("OMP_NUM_THREADS"),
        dask.config.get("distributed.worker.memory.target"),
        worker.state.nthreads,
        worker.address.partition(":")[0],
        420 <= (worker.lifetime or 0) <= 480,
    ]
    with open(HERE / "witness.log", "a") as log:
        log.write(" ".join(map(str, witness)) + "\\n")
    while not (HERE / "released").exists():
        time.sleep(0.02)
    return np.exp(-cdist(x, y))
'''

PROFILE = """
class: dask_jobqueue.SLURMCluster
arguments:
  cores: 1
  memory: 1GB
  walltime: "00:10:00"
  log_directory: logs
  death_timeout: 10
  scheduler_options: {host: 127.0.0.1}
  worker_extra_args: [--host, 127.0.0.1]
workers: 2
minimum: 2
timeout: 60
tls: temporary
"""


@pytest.fixture(scope="module")
def slurm() -> Iterator[dict[str, str]]:
    """Environment of a SLURM of one node with two processors."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short, for the socket's path
    folder.chmod(0o755)
    host = socket.gethostname().partition(".")[0]
    ports = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    controller_port, node_port = (port.getsockname()[1] for port in ports)
    configuration = folder / "slurm.conf"
    configuration.write_text(
        CONFIGURATION.format(folder=folder, host=host, controller_port=controller_port, node_port=node_port)
    )
    for port in ports:
        port.close()
    (folder / "munge.key").write_bytes(os.urandom(1024))
    (folder / "munge.key").chmod(0o600)
    (folder / "state").mkdir()
    (folder / "spool").mkdir()
    environment = {"SLURM_CONF": str(configuration)}

    def answers(*command: str) -> str:
        return subprocess.run(command, env=os.environ | environment, capture_output=True, text=True).stdout

    own = {"key": "munge.key", "socket": "munge.sock", "pid": "munged.pid", "seed": "seed", "log": "munged.log"}
    munged = [f"--{key}{'' if key == 'socket' else '-file'}={folder / name}" for key, name in own.items()]
    daemons = [
        (["munged", "--foreground", *munged], lambda: "MUNGE" in answers("munge", "-n", "-S", f"{folder}/munge.sock")),
        (["slurmctld", "-D", "-i"], lambda: "UP" in answers("scontrol", "ping")),
        (["slurmd", "-D", "-N", host], lambda: "idle" in answers("sinfo", "-h", "-o", "%T")),
    ]
    try:
        with ExitStack() as stack:
            for command, ready in daemons:
                log = stack.enter_context((folder / f"{command[0]}.out").open("wb"))
                process = stack.enter_context(
                    subprocess.Popen(command, env=os.environ | environment, stdout=log, stderr=log)
                )
                stack.callback(process.terminate)
                eventually(ready, f"{command[0]} answers (see {folder})")
            yield environment
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def queue(slurm: dict[str, str]) -> Callable[[], list[str]]:
    """Identifiers of the jobs that are not over."""

    def jobs() -> list[str]:
        command = ["squeue", "-h", "-o", "%i", "-t", "PENDING,RUNNING,SUSPENDED"]
        return subprocess.run(
            command, env=os.environ | slurm, capture_output=True, text=True, check=True
        ).stdout.split()

    return jobs


@pytest.fixture
def start(
    slurm: dict[str, str], server_environment: dict[str, str], workspace: Path, write_spec: Callable[..., Path]
) -> Callable[[], subprocess.Popen[str]]:
    """Start a run on two jobs that waits in its first cells."""
    (workspace / "jobs.py").write_text(FUNCTION)
    (workspace / "slurm.yaml").write_text(PROFILE)
    write_spec("sweep", function="['jobs:paced']", m="[2, 3]", seeds="6", method="[svd]")

    def run() -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "flows", "run", "sweep.yaml", "--cluster", "slurm.yaml"]
        environment = server_environment | slurm | {"DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "1s"}
        return subprocess.Popen(
            command, cwd=workspace, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    return run


def witnesses(workspace: Path) -> list[list[str]]:
    log = workspace / "witness.log"
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def computing(workspace: Path) -> set[str]:
    """Jobs that have begun a cell."""
    return {witness[0] for witness in witnesses(workspace)}


def listening(configuration: str) -> set[str]:
    """Addresses on which the run and its jobs listen: all processes that know this SLURM."""
    found = set()
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.environ().get("SLURM_CONF") == configuration:
                connections = process.net_connections("inet")
                found |= {each.laddr.ip for each in connections if each.status == psutil.CONN_LISTEN}
    return found


def test_cancelled_job_is_replaced_and_costs_nothing(start, queue, slurm, workspace, epsweep):
    with start() as process:
        eventually(lambda: len(computing(workspace)) == 2 or process.poll() is not None, "two jobs compute")
        assert process.poll() is None, process.communicate()
        assert listening(slurm["SLURM_CONF"]) == {"127.0.0.1"}
        first = computing(workspace)
        subprocess.run(["scancel", min(first)], env=os.environ | slurm, check=True)
        eventually(lambda: len(computing(workspace)) == 3 or process.poll() is not None, "a third job computes")
        assert min(first) not in queue()
        (workspace / "released").touch()
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert "done: 12 of 12 cells\n" in output
    assert "Traceback" not in errors
    eventually(lambda: not queue(), "no job is left")
    settings = {tuple(witness[1:]) for witness in witnesses(workspace)}
    assert settings == {(str(2**28), "1", "False", "1", "tls", "True")}
    assert len(list((workspace / "logs").glob("dask-worker-*.err"))) == 3
    assert not list((workspace / "logs").glob(".dask-jobqueue*"))  # the certificates of the run
    assert epsweep("run", "sweep.yaml", "--store", "local.zarr").returncode == 0
    with xr.open_zarr(workspace / "results/sweep.zarr") as found, xr.open_zarr(workspace / "local.zarr") as expected:
        xr.testing.assert_equal(found.drop_vars("seconds"), expected.drop_vars("seconds"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_jobs_end_with_a_run_that_is_stopped_or_killed(number, start, queue, workspace):
    with start() as process:
        eventually(lambda: len(computing(workspace)) == 2 or process.poll() is not None, "two jobs compute")
        assert len(queue()) == 2
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -9), errors
    eventually(lambda: not queue(), "no job is left")


def test_refused_job_is_one_line(start, queue, workspace):
    (workspace / "slurm.yaml").write_text(PROFILE.replace("cores: 1", "cores: 1\n  queue: nowhere"))
    with start() as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    started, errors = errors.split("\n", 1)
    assert started == "epsweep: starting workers"
    assert errors.count("\n") == 1, errors
    assert "the job was refused (sbatch: error: invalid partition specified: nowhere" in errors
    assert not queue()


def test_jobs_that_start_no_worker_are_looked_up_in_their_logs(start, queue, workspace):
    profile = PROFILE.replace("timeout: 60", "timeout: 3").replace("cores: 1", "cores: 1\n  python: /bin/false")
    (workspace / "slurm.yaml").write_text(profile)
    with start() as process:
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    started, errors = errors.split("\n", 1)
    assert started == "epsweep: starting workers"
    assert errors.count("\n") == 1, errors
    assert "has 0 of 2 workers after 3 s; look at the queue and at the jobs' output in logs" in errors
    eventually(lambda: not queue(), "no job is left")
