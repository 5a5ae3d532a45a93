"""Clusters other than the default one: a running scheduler, and profiles."""

import datetime
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from distributed import Client, LocalCluster

import flows.clusters
from flows.batch import compute_batch
from flows.cli import main
from flows.clusters import (
    check_cluster,
    describe_cluster,
    expected_threads,
    find_running,
    local_workers,
    open_cluster,
    reaches_loopback,
)
from flows.dispatch import Dispatcher
from flows.doctor import examine
from flows.launch import RESTARTING, environment, worker_lifetime
from flows.planning import PROCESS_BYTES, Batch
from flows.profiles import load_profile, shipped_profiles
from flows.ready import check_workers
from flows.specs import find_sweep
from flows.spread import ClusterPasses, Halt
from pipeline.errors import CodeError, InputError
from pipeline.matrix import MatrixRecipe
from pipeline.passes import max_norm
from tests.flows.processes import eventually

LOOPBACK = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "worker_dashboard_address": "127.0.0.1:0"}


def test_running_scheduler_takes_a_sweep_with_a_deadly_cell(write_spec, workspace, epsweep, monkeypatch):
    monkeypatch.chdir(workspace)  # the workers import the user's module from where they were started
    spec = write_spec(function="[gaussian, 'mine:deadly']", m="[2, 3]", seeds="1")
    with (
        dask.config.set(RESTARTING),
        LocalCluster(n_workers=2, threads_per_worker=1, **LOOPBACK) as cluster,
    ):
        done = epsweep("run", spec, "--cluster", cluster.scheduler_address)
    assert done.returncode == 1, done.stderr
    assert "done: 3 of 4 cells, 1 failed" in done.stdout
    assert "function=mine:deadly, sampling=ball-independent, m=3" in done.stderr


def test_profile_starts_the_cluster_that_it_names(write_spec, workspace, epsweep):
    """The specification is gone when the cluster is there: what was checked is what runs."""
    (workspace / "profile.yaml").write_text("class: distributed.LocalCluster\nworkers: 2\ntls: temporary\n")
    spec = write_spec(function="['gone:f']")
    other = (
        "from pathlib import Path\nimport numpy as np\nPath(__file__).with_name('small.yaml').write_text('other: 1')\n"
    )
    (workspace / "gone.py").write_text(
        other + "def f(x, y):\n    return np.exp(x @ y.T)\n"
    )  # imported after the reading
    text = spec.read_text()
    done = epsweep("run", spec, "--cluster", "profile.yaml")
    assert done.returncode == 0, done.stderr
    assert spec.read_text() == "other: 1"
    with xr.open_zarr(workspace / "results/small.zarr") as ds:
        assert (ds["status"] == 1).all()
        assert ds.attrs["spec"] == text


def test_adapted_cluster_has_its_smallest_number_of_workers_at_first(tmp_path):
    (tmp_path / "p.yaml").write_text("{class: distributed.LocalCluster, adapt: {minimum: 2, maximum: 3}, minimum: 2}")
    chosen = check_cluster(str(tmp_path / "p.yaml"))
    (tmp_path / "p.yaml").write_text("what was checked is what is opened: it is read once")
    assert describe_cluster(chosen).startswith("2 to 3 workers of distributed.LocalCluster")
    assert not reaches_loopback(chosen)
    with open_cluster(chosen) as running:
        assert (running.workers, running.threads) == (2, 2)
        assert running.address.startswith("tcp://127.0.0.1:")
        with open_cluster(running.address) as again:  # as the flow does
            assert again is running


def test_profile_that_is_no_text_is_named(tmp_path):
    (tmp_path / "p.yaml").write_bytes(b"class: a.B\xff")
    with pytest.raises(InputError, match=r"p.yaml is not UTF-8 text \("):
        check_cluster(str(tmp_path / "p.yaml"))


def test_threads_of_a_worker_share_its_memory_but_not_what_the_process_takes(tmp_path):
    (tmp_path / "p.yaml").write_text(
        "{class: distributed.LocalCluster, workers: 1, arguments: {threads_per_worker: 4, memory_limit: 2300000000}}"
    )
    with open_cluster(str(tmp_path / "p.yaml")) as running:
        assert (running.workers, running.threads) == (1, 4)
        assert running.worker_memory == pytest.approx(PROCESS_BYTES + 2e9 / 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("workers: 2", "write either class .* or address"),
        ("{class: a.B, address: 'tcp://h:1'}", "write either class .* or address"),
        ("{class: a.B, workers: 0}", r"workers: .* \(it is 0\); a profile has class, address"),
        ("{class: a.B, worker: 1}", "worker: "),
        ("{class: nodots}", "class: "),
        ("{class: a.B, workers: 2, minimum: 3}", "minimum 3 is more than the 2 workers"),
        ("{class: a.B, adapt: {minimum: 2, maximum: 5}, minimum: 3}", "minimum 3 is more than the 2 workers"),
        ("{class: a.B, adapt: {minimum: 2, maximum: 1}}", "adapt: maximum 1 is below minimum 2"),
        ("{class: a.B, adapt: {maximum: 1}, workers: 1}", "write either workers .* or adapt"),
        ("{address: 'tcp://h:1', workers: 1}", "workers: only for a class"),
        ("{address: 'tcp://h:1', tls: temporary}", "is not encrypted; write tls://"),
        ("{address: 'tls://h:1', tls: temporary}", "tls: temporary is only for a class"),
        ("{address: 'http://h:1'}", "address: "),
        ("{class: a.B, tls: {ca: a, cert: b}}", "tls.key: Field required; "),
        ("{class: a.B, tls: {ca: a, cert: b, key: c}}", "tls.ca: .*/a cannot be read"),
        ("[", "p.yaml: line 1, column 2: .*; a profile must be valid YAML"),
        ("[" * 5000, "p.yaml: not valid YAML"),
        ("{class: a.B, class: a.C}", "the key 'class' is given twice"),
        ("{class: a.B, workers: 0100}", "p.yaml: workers: 0100 means one thing in YAML 1.1 .* plain digits"),
        ("{class: a.B, timeout: 1:30}", "p.yaml: timeout: 1:30 means one thing"),
        ("{class: a.B, arguments: {queue: on}}", "p.yaml: arguments.queue: on means one thing .* quote it"),
        ("{class: a.B, arguments: {walltime: 12:00:00}}", "arguments.walltime: 12:00:00 means .* quote it"),
        ("{class: a.B, arguments: {job_extra: [x, 2026-11-22]}}", r"job_extra\[1\]: 2026-11-22 means .* quote it"),
        ("{class: 1e3}", r"class: .*\(it is 1000.0\); quote it"),
        ("{class: a.B, tls: {ca: 5, cert: b, key: c}}", r"tls.ca: .*\(it is 5\); quote it"),
        ("\x00", "not valid YAML"),
        (" " * 70000, "a profile has at most 65536 bytes"),
    ],
)
def test_bad_profile_is_named(tmp_path, text, message):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(InputError, match=message) as raised:
        check_cluster(str(tmp_path / "p.yaml"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{class: no_such_package.Cluster}", "cannot be imported: pip install no-such-package"),
        ("{class: distributed.NoCluster}", "distributed has no NoCluster"),
        ("{class: os.system, arguments: {command: 'touch x'}}", "os.system is no Dask cluster"),
        ("{class: subprocess.Popen, arguments: {args: [touch, x]}}", "subprocess.Popen is no Dask cluster"),
        ("{class: distributed.Client}", "distributed.Client is no Dask cluster"),
        ("{class: distributed.SSHCluster, workers: 3}", "workers: SSHCluster has those of arguments.hosts"),
        ("{class: distributed.SSHCluster, tls: temporary}", "SSH workers need certificates in files"),
        ("{class: distributed.deploy.Cluster, tls: temporary}", "takes no certificates; leave tls out"),
    ],
)
def test_only_cluster_classes_are_called(tmp_path, text, message, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(InputError, match=message), open_cluster("p.yaml"):
        pass
    assert not (tmp_path / "x").exists()
    with pytest.raises(InputError, match=message):
        check_cluster("p.yaml")


def test_cluster_that_cannot_start_is_one_line(tmp_path):
    with socket.socket() as bound:  # and not listening
        bound.bind(("127.0.0.1", 0))
        options = f"{{hosts: [127.0.0.1, 127.0.0.1], connect_options: {{port: {bound.getsockname()[1]}}}}}"
        (tmp_path / "p.yaml").write_text(f"{{class: distributed.SSHCluster, arguments: {options}}}")
        with (
            pytest.raises(InputError, match=r"p.yaml: .*Connect call failed .*; check class and arguments"),
            open_cluster(str(tmp_path / "p.yaml")),
        ):
            pass


def test_shipped_profiles_are_known_by_name():
    assert set(shipped_profiles()) == {"kubernetes", "slurm", "ssh"}
    for name in ("slurm", "ssh"):
        check_cluster(name)
        assert not reaches_loopback(name)
    assert load_profile("kubernetes").workers == 10
    with pytest.raises(InputError, match="pip install dask-kubernetes"):
        check_cluster("kubernetes")
    with pytest.raises(InputError, match=r"a shipped profile \(kubernetes, slurm, ssh\)"):
        check_cluster("slum")


def test_worker_that_the_scheduler_cannot_reach_is_named():
    """As one behind a firewall: it registers, and is then sent nothing."""
    quick = dask.config.set({"distributed.comm.timeouts.connect": "1s"})
    workers = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "protocol": "tcp://", **LOOPBACK}
    with quick, LocalCluster(**workers, contact_address="tcp://127.0.0.1:9") as cluster:
        refused = pytest.raises(InputError, match=r"worker tcp://127.0.0.1:9 does not answer the scheduler; give it")
        with refused, open_cluster(cluster.scheduler_address):
            pass


def test_signals_mean_what_they_did_after_a_cluster_class_is_imported(tmp_path, monkeypatch):
    """As importing dask_jobqueue has SIGINT raise SystemExit."""
    (tmp_path / "heedless.py").write_text(
        "import signal\nfrom distributed import LocalCluster\nsignal.signal(signal.SIGINT, lambda *_: 1 / 0)\n"
    )
    (tmp_path / "p.yaml").write_text("{class: heedless.LocalCluster, workers: 1}")
    monkeypatch.syspath_prepend(tmp_path)
    before = signal.getsignal(signal.SIGINT)
    check_cluster(str(tmp_path / "p.yaml"))
    assert signal.getsignal(signal.SIGINT) is before


def test_clusters_are_described_before_they_are_started(tmp_path):
    (tmp_path / "p.yaml").write_text("{class: distributed.LocalCluster, adapt: {minimum: 2, maximum: 9}, timeout: 7}")
    assert describe_cluster("local:3").startswith("3 local workers of ")
    assert describe_cluster("tcp://127.0.0.1:8786") == "the scheduler at tcp://127.0.0.1:8786"
    assert describe_cluster("slurm").startswith("20 workers of dask_jobqueue.SLURMCluster; cells are sent once 1 of")
    assert describe_cluster("ssh").startswith("the workers of distributed.SSHCluster")
    described = describe_cluster(str(tmp_path / "p.yaml"))
    assert described.startswith("2 to 9 workers of distributed.LocalCluster")
    assert described.endswith("within 7 s")


@pytest.mark.parametrize(
    ("walltime", "seconds"),
    [("00:02:00", 120), ("30", 1800), ("30:30", 1830), ("04:00:00", 14400), ("1-12", 129600), ("2-00:30", 174600)],
)
def test_workers_retire_before_the_wall_time(walltime, seconds):
    lifetime, stagger = worker_lifetime(walltime, "p.yaml")
    assert 0.7 * seconds <= lifetime - stagger < lifetime + stagger < seconds
    assert seconds - lifetime - stagger >= min(120, seconds // 5)


@pytest.mark.parametrize("walltime", [36000, "4 hours", "1:2:3:4", "00:00:10", None])  # YAML reads 10:00:00 as 36000
def test_wall_time_that_is_none_is_refused(walltime):
    with pytest.raises(InputError, match=r"p.yaml: arguments.walltime: "):
        worker_lifetime(walltime, "p.yaml")


def test_settings_are_passed_as_variables():
    assert environment() == {
        "MALLOC_TRIM_THRESHOLD_": "268435456",
        "MALLOC_MMAP_THRESHOLD_": "268435456",
        "PYTHONSAFEPATH": "1",
        "DASK_DISTRIBUTED__WORKER__MEMORY__TARGET": "False",
        "DASK_DISTRIBUTED__WORKER__MEMORY__SPILL": "False",
        "DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE": "False",
        "DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED": "False",
        "DASK_DISTRIBUTED__ADMIN__SYSTEM_MONITOR__INTERVAL": "2s",
        "DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL": "500ms",
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0",
    }


@contextmanager
def dask_processes(
    folder: Path, *options: str, of_worker: Sequence[str] = (), **worker_environment: str
) -> Iterator[str]:
    """A scheduler with one worker, both real processes on loopback; yields the address."""
    address = folder / "scheduler.json"
    commands = {
        "scheduler": ["--port", "0", "--scheduler-file", str(address)],
        "worker": ["--scheduler-file", str(address), "--nthreads", "1", *of_worker],
    }
    loopback = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
    with ExitStack() as stack:
        for command, own in commands.items():
            log = stack.enter_context((folder / f"{command}.log").open("wb"))
            process = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "dask", command, *own, *loopback, *options],
                    env=os.environ | (worker_environment if command == "worker" else {}),
                    cwd=folder,
                    stdout=log,
                    stderr=log,
                )
            )
            stack.callback(process.terminate)
            eventually(lambda: address.exists() and address.stat().st_size, f"a scheduler (see {folder})")
        yield json.loads(address.read_text())["address"]


def test_other_versions_are_refused_before_cells_are_sent(tmp_path):
    metadata = tmp_path / "epsweep-9.9.dist-info"  # first on the worker's path
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: epsweep\nVersion: 9.9\n")
    with (
        dask_processes(tmp_path, PYTHONPATH=str(tmp_path)) as address,
        pytest.raises(InputError, match=r"worker tcp://127.* has epsweep 9.9, this process .*; install the same"),
        open_cluster(address),
    ):
        pass


OWN = "import numpy as np\nSCALE = 1.0\n\n\ndef f(X, Y):\n    return np.exp(-SCALE * abs(X @ Y.T))\n"
OWN_SPEC = """
name: own
grid:
  - {function: ["own_code:f"], sampling: [ball-symmetric], m: [2], n: [20], r: [2], method: [svd], seeds: 1}
"""


@pytest.fixture
def own_spec(tmp_path, monkeypatch):
    """Path of a spec with a module beside it, in a folder in which no worker is started."""
    (folder := tmp_path / "beside").mkdir()
    (folder / "own_code.py").write_text(OWN)
    (folder / "own.yaml").write_text(OWN_SPEC)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(folder)
    yield folder / "own.yaml"
    sys.modules.pop("own_code", None)


def test_doctor_and_run_ask_every_worker_for_the_code_and_plan_for_its_threads(own_spec, tmp_path, capsys):
    """Kinds: no module there, the one of another folder, one that was imported before it changed."""

    def found_of_cluster(store="own.zarr"):
        findings = examine(str(own_spec), str(tmp_path / store), address, allow_code=True)
        return next(each for each in findings if each.subject == "cluster")

    (tmp_path / "at").mkdir()
    with dask_processes(tmp_path / "at", of_worker=["--nthreads", "2"]) as address:
        main(["plan", str(own_spec), "--allow-code", "--cluster", address])
        assert "predicted on 2 worker threads" in capsys.readouterr().out
        lacks = found_of_cluster()
        assert not lacks.good
        assert "worker tcp://127.0.0.1:" in lacks.text
        assert "'own_code:f' cannot be imported (ModuleNotFoundError" in lacks.text
        (tmp_path / "at/own_code.py").write_text(OWN.replace("1.0", "3.0"))
        other = found_of_cluster()
        assert not other.good
        assert "own_code:f, imported there from" in other.text
        shutil.copy(own_spec.parent / "own_code.py", tmp_path / "at")  # what was imported stays what it was
        assert found_of_cluster().text == other.text
        _, sweep = find_sweep(str(own_spec), allow_code=True)
        with Client(address, set_as_default=False) as client:
            with pytest.raises(InputError, match=r"cluster: worker tcp://.*own_code:f, imported there from"):
                check_workers(client, sweep)
            payload = json.dumps({"code": dict(sweep.code)})
            with pytest.raises(CodeError, match=r"cluster: worker tcp://127.*own_code:f, imported there"):
                client.submit(compute_batch.fn, "late", payload).result().result()  # of a worker that came late
            recipe = MatrixRecipe("own_code:f", "ball-symmetric", 2, 2000, 0)
            passes = ClusterPasses(client, recipe, threading.Event(), code=tuple(sweep.code.items()))
            with pytest.raises(Halt, match=r"cluster: worker tcp://127.*own_code:f, imported there"):
                max_norm(passes)
            client.restart()
            check_workers(client, sweep)
            assert max_norm(passes) > 0
        assert found_of_cluster().good


def test_plan_and_run_refuse_a_scheduler_that_is_not_there(own_spec, capsys, monkeypatch):
    monkeypatch.setattr(flows.clusters, "_ANSWER_SECONDS", 0.2)
    with socket.socket() as bound:  # and not listening
        bound.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{bound.getsockname()[1]}"
        for command in ("plan", "run"):
            with pytest.raises(SystemExit, match="2"):
                main([command, str(own_spec), "--allow-code", "--cluster", address])
            said = capsys.readouterr()
            assert said.err.startswith(f"epsweep: cluster: {address} does not answer")
            assert (said.err.count("\n"), said.out) == (1, "")


@pytest.mark.parametrize(
    ("text", "threads"),
    [
        ("{class: distributed.LocalCluster, workers: 3}", 3),
        ("{class: distributed.LocalCluster, workers: 3, arguments: {threads_per_worker: 2}}", 6),
        ("{class: distributed.LocalCluster, adapt: {minimum: 2, maximum: 9}}", 9),
        ("{class: distributed.SSHCluster, arguments: {hosts: [a, b, c], worker_options: {nthreads: 4}}}", 8),
    ],
)
def test_threads_of_a_cluster_that_is_not_started_are_those_that_its_profile_asks_for(tmp_path, text, threads):
    (tmp_path / "p.yaml").write_text(text)
    assert expected_threads(str(tmp_path / "p.yaml")) == threads
    assert find_running(str(tmp_path / "p.yaml")) is None
    assert expected_threads("local:3") == 3


def test_scheduler_without_workers_can_be_planned_for(monkeypatch):
    monkeypatch.setattr(flows.clusters, "_LOOK_SECONDS", 0.2)
    with LocalCluster(n_workers=0, **LOOPBACK) as cluster:
        running = find_running(cluster.scheduler_address)
    assert (running.workers, running.threads) == (0, 0)


def test_batch_whose_cells_import_other_code_than_was_asked_for_is_given_up(tmp_path, monkeypatch):
    """Kind: a module that only a cell imports, changed after the run was started."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_late.py").write_text("SCALE = 1.0\n")
    (tmp_path / "own_code.py").write_text(
        "def f(X, Y):\n    from own_late import SCALE\n\n    return SCALE * abs(X @ Y.T)\n"
    )
    (tmp_path / "own.yaml").write_text(OWN_SPEC)
    try:
        _, sweep = find_sweep("own.yaml", allow_code=True)
        batch = Batch(np.argwhere(sweep.wanted), np.ones(1))
        payload = Dispatcher(sweep, None, None, None, None)._payload(batch, 60.0)
        assert len(compute_batch.fn("first", payload).outcomes) == 1
        sys.modules.pop("own_late")
        (tmp_path / "own_late.py").write_text("SCALE = 2.0\n")
        with pytest.raises(CodeError, match="cluster: worker here: code: own_code:f"):
            compute_batch.fn("second", payload).result()
    finally:
        for name in ("own_code", "own_late"):
            sys.modules.pop(name, None)


def test_worker_that_retires_in_the_middle_costs_no_cell(write_spec, workspace, epsweep, monkeypatch):
    monkeypatch.chdir(workspace)
    (workspace / "lengthy.py").write_text(
        "import time\nimport numpy as np\n\n\ndef cell(x, y):\n    time.sleep(0.25)\n    return np.exp(x @ y.T)\n"
    )
    spec = write_spec(function="['lengthy:cell']", m="{from: 1, to: 64, count: 64}", seeds="1")

    def lives():
        return (workspace / "worker.log").read_text().count("Start worker at")

    with dask_processes(workspace, of_worker=["--lifetime", "15s", "--lifetime-restart"]) as address:
        before = lives()
        done = epsweep("run", spec, "--cluster", address)  # 16 s of computing
        assert lives() > before
    assert done.returncode == 0, done.stderr
    assert "done: 64 of 64 cells" in done.stdout


def test_scheduler_without_workers_is_one_line(tmp_path):
    with LocalCluster(n_workers=0, **LOOPBACK) as cluster:
        (tmp_path / "p.yaml").write_text(f"{{address: '{cluster.scheduler_address}', minimum: 2, timeout: 0.2}}")
        with pytest.raises(InputError, match=r"has 0 of 2 workers after 0.2 s"), open_cluster(str(tmp_path / "p.yaml")):
            pass


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ca.pem and, signed by it, cert.pem and key.pem; other.pem is signed by no one."""
    folder = tmp_path_factory.mktemp("certificates")
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in ("ca", "cert", "other")}
    now = datetime.datetime.now(datetime.UTC)
    for name, key in keys.items():
        subject, issuer = (
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each)])
            for each in (name, "ca" if name == "cert" else name)
        )
        certificate = (
            x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=name != "cert", path_length=None), critical=True)
            .sign(keys["ca" if name == "cert" else name], hashes.SHA256())
        )
        (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file = folder / "key.pem"
    key_file.touch(mode=0o600)
    key_file.write_bytes(
        keys["cert"].private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder


@pytest.fixture(scope="module")
def encrypted_scheduler(certificates: Path) -> Iterator[str]:
    """Address of a scheduler with one worker, both real processes that take only our certificates."""
    files = {"--tls-ca-file": "ca", "--tls-cert": "cert", "--tls-key": "key"}
    options = [text for option, name in files.items() for text in (option, str(certificates / f"{name}.pem"))]
    with dask_processes(certificates, "--protocol", "tls", *options) as address:
        yield address


@pytest.fixture
def encrypted(tmp_path: Path, encrypted_scheduler: str, certificates: Path) -> Callable[..., str]:
    """Write a profile of that scheduler; returns its path."""

    def write(**changes: str) -> str:
        files = {kind: f"{certificates / kind}.pem" for kind in ("ca", "cert", "key")} | changes
        path = tmp_path / "tls.yaml"
        path.write_text(f"address: {encrypted_scheduler}\ntimeout: 2\ntls: {json.dumps(files)}\n")
        return str(path)

    return write


def test_sweep_through_an_encrypted_scheduler(write_spec, workspace, epsweep, encrypted, certificates):
    shutil.copytree(certificates, workspace / "tls")
    profile = encrypted(**{kind: f"tls/{kind}.pem" for kind in ("ca", "cert", "key")})  # relative to the profile
    done = epsweep("run", write_spec(function="[gaussian]"), "--cluster", profile)
    assert done.returncode == 0, done.stderr
    with xr.open_zarr(workspace / "results/small.zarr") as ds:
        assert (ds["status"] == 1).all()


def test_encrypted_scheduler_without_certificates_is_one_line(write_spec, epsweep, encrypted_scheduler, encrypted):
    refused = epsweep("run", write_spec(), "--cluster", encrypted_scheduler)
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1), refused.stderr
    assert "needs certificates: give --cluster a profile with address: tls://" in refused.stderr


def test_foreign_certificate_authority_is_named(encrypted, certificates):
    profile = encrypted(ca=str(certificates / "other.pem"))
    with pytest.raises(InputError, match="certificates: CERTIFICATE_VERIFY_FAILED"), open_cluster(profile):
        pass


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ca": "key"}, "tls.ca: .*key.pem holds no certificate"),
        ({"cert": "other"}, "are not a certificate and its unencrypted key"),
        ({"key": "missing"}, r"tls.key: .*missing.pem cannot be read \(No such file"),
    ],
)
def test_bad_certificates_are_named(changes, message, encrypted, certificates):
    profile = encrypted(**{kind: str(certificates / f"{name}.pem") for kind, name in changes.items()})
    with pytest.raises(InputError, match=message):
        check_cluster(profile)


def test_key_that_others_can_read_is_refused(tmp_path, certificates, encrypted):
    copied = Path(shutil.copy(certificates / "key.pem", tmp_path))
    copied.chmod(0o640)
    with pytest.raises(InputError, match=r"tls.key: others can read .*; chmod 600 "):
        check_cluster(encrypted(key=str(copied)))


def test_local_workers_share_the_memory_of_the_machine():
    one, four = local_workers("local:1"), local_workers("local:4")
    assert one is not None
    assert four is not None
    assert (one.count, four.count) == (1, 4)
    assert four.memory == pytest.approx(one.memory / 4)
    assert local_workers("tcp://127.0.0.1:8786") is None


@pytest.mark.parametrize(
    ("cluster", "here"),
    [("local:2", True), ("tcp://127.0.0.1:8786", True), ("tcp://10.0.0.1:8786", False), ("slurm", False)],
)
def test_only_workers_of_this_machine_reach_an_embedded_server(cluster, here):
    assert reaches_loopback(cluster) is here
