"""A sweep on workers that are started through a real sshd, which these tests run on loopback."""

import getpass
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import xarray as xr

from flows.clusters import open_cluster
from pipeline.errors import InputError
from tests.flows.processes import eventually

SSHD = "/usr/sbin/sshd"  # it wants to be called by its full name
CONFIGURATION = """
ListenAddress 127.0.0.1:{port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile none
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
StrictModes no
SetEnv PYTHONPATH={path}
"""

FUNCTION = '''
import os
from pathlib import Path

import dask
import numpy as np
from distributed import Worker
from scipy.spatial.distance import cdist


def witnessed(x, y):
    """Tell by which settings this is computed."""
    worker = next(iter(Worker._instances))
    names = ["MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "OMP_NUM_THREADS"]
    witness = [os.environ.get(name) for name in names]
    witness += [dask.config.get("distributed.worker.memory.spill"), worker.state.nthreads, "SSH_CLIENT" in os.environ]
    with open(Path(__file__).parent / "witness.log", "a") as log:
        log.write(" ".join(map(str, witness)) + "\\n")
    return np.exp(-cdist(x, y))
'''

PROFILE = """
class: distributed.SSHCluster
arguments:
  hosts: [127.0.0.1, 127.0.0.1, 127.0.0.1]
  connect_options: {{port: {port}, username: {user}, client_keys: [{folder}/user], known_hosts: {known}, config: []}}
  scheduler_options: {{host: 127.0.0.1}}
  worker_options: {{nthreads: 1, host: 127.0.0.1}}
minimum: 1
"""


@pytest.fixture
def sshd(workspace: Path) -> Iterator[psutil.Process]:
    """An SSH server with keys of its own, and profile.yaml that starts a scheduler and two workers through it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    folder = workspace / "ssh"
    folder.mkdir()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    path = os.pathsep.join([str(workspace), *filter(None, [os.environ.get("PYTHONPATH")])])
    (folder / "config").write_text(CONFIGURATION.format(port=port, folder=folder, path=path))
    (folder / "known").write_text(f"[127.0.0.1]:{port} {(folder / 'host.pub').read_text()}")
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # as Debian's service makes it
    profile = PROFILE.format(port=port, user=getpass.getuser(), folder=folder, known=folder / "known")
    (workspace / "profile.yaml").write_text(profile)
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "config"], stderr=log) as process,
    ):
        try:
            eventually(lambda: b"listening" in (folder / "log").read_bytes(), "sshd listens")
            yield psutil.Process(process.pid)
        finally:
            process.terminate()


def test_sweep_through_ssh(sshd, write_spec, workspace, epsweep):
    (workspace / "remote.py").write_text(FUNCTION)
    done = epsweep("run", write_spec(function="['remote:witnessed']"), "--cluster", "profile.yaml")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    with xr.open_zarr(workspace / "results/small.zarr") as ds:
        assert (ds["status"] == 1).all()
    witnesses = set((workspace / "witness.log").read_text().splitlines())
    assert witnesses == {f"{2**28} {2**28} 1 False 1 True"}
    eventually(lambda: not sshd.children(recursive=True), "no remote process is left")


def test_unknown_host_key_is_one_line(sshd, workspace):
    known = workspace / "ssh" / "known"
    known.write_text("")
    with (
        pytest.raises(InputError, match=r"Host key is not trusted.*; check class and arguments"),
        open_cluster(str(workspace / "profile.yaml")),
    ):
        pass
