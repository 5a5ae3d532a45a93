"""Prefect as a service: PostgreSQL, a server with basic authentication, a worker of a process pool, all real."""

import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import xarray as xr
from distributed import LocalCluster

from flows.deploy import _schedules
from pipeline.errors import InputError
from tests.conftest import FUNCTIONS
from tests.flows.processes import eventually

SECRET = "sweeper:a-password-of-the-test"
DEADLINE = 120
POSTGRES = "postgres"  # the server refuses to run as root
SPEC = """
name: {name}
settings: {{certificate: {{bound: tail}}}}
grid:
  - {{function: ["{function}"], sampling: [ball-independent], m: {m}, n: [20], r: {r}, method: [svd], seeds: {seeds}}}
"""


def arrived(place: Path) -> None:
    """Wait until the run of a place has opened and closed its pipe."""
    pipe = os.open(place / "arrived", os.O_RDONLY | os.O_NONBLOCK)
    try:
        poller = select.poll()
        poller.register(pipe, select.POLLHUP)
        assert poller.poll(1000 * DEADLINE)
    finally:
        os.close(pipe)


@contextmanager
def running(command: list[str], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("ab") as output, subprocess.Popen(command, stdout=output, stderr=output, **options) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT if "postgres" in command[0] else signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def postgres() -> Iterator[str]:
    """Connection URL of a database that lives in a folder of its own and listens on a socket there."""
    binary = shutil.which("postgres") or str(max(Path("/usr/lib/postgresql").glob("*/bin/postgres")))
    options: dict[str, Any] = {}
    if os.getuid() == 0:
        options = {"user": POSTGRES, "group": POSTGRES, "extra_groups": []}
    with tempfile.TemporaryDirectory(prefix="epsweep-pg-") as folder:
        if options:
            shutil.chown(folder, POSTGRES, POSTGRES)
        initdb = [str(Path(binary).with_name("initdb")), "-D", f"{folder}/data", "-U", "prefect", "-A", "trust"]
        subprocess.run([*initdb, "--no-sync"], check=True, capture_output=True, cwd=folder, **options)
        command = [binary, "-D", f"{folder}/data", "-k", folder, "-c", "listen_addresses=", "-c", "fsync=off"]
        with running(command, Path(folder) / "log", cwd=folder, **options):
            eventually((Path(folder) / ".s.PGSQL.5432").exists, "the database")
            yield f"postgresql+asyncpg://prefect@/postgres?host={folder}"


@dataclass
class Service:
    """A server that answers, and the environment of its clients."""

    folder: Path
    environment: dict[str, str]
    api: httpx.Client
    server: "subprocess.Popen[bytes]"

    def epsweep(self, *arguments: object, **changes: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows", *map(str, arguments)]
        environment = self.environment | changes
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=DEADLINE
        )

    def post(self, path: str, **body: Any) -> Any:
        return self.api.post(path, json=body).raise_for_status().json()

    def deployment(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(f"deployments/name/sweep/{name}").raise_for_status().json()
        return found

    def start(self, deployment: str, **parameters: Any) -> str:
        identifier = self.deployment(deployment)["id"]
        return str(self.post(f"deployments/{identifier}/create_flow_run", parameters=parameters)["id"])

    def state(self, run: str) -> tuple[str, str]:
        state = self.api.get(f"flow_runs/{run}").raise_for_status().json()["state"]
        return state["type"], state["message"]

    def ended(self, run: str) -> tuple[str, str]:
        terminal = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
        eventually(lambda: self.state(run)[0] in terminal, f"the end of {self.state(run)}")
        return self.state(run)

    def cancel(self, run: str) -> None:
        self.post(f"flow_runs/{run}/set_state", state={"type": "CANCELLING"})

    def run_of(self, store: str) -> str:
        found = self.post("flow_runs/filter", flow_runs={"name": {"any_": [store]}}, sort="START_TIME_DESC")
        return str(found[0]["id"])

    def artifacts(self, run: str) -> dict[str, Any]:
        found = self.post("artifacts/filter", artifacts={"flow_run_id": {"any_": [run]}})
        return {artifact["key"]: artifact for artifact in found}

    def task_messages(self, run: str) -> list[str]:
        found = self.post("task_runs/filter", flow_runs={"id": {"any_": [run]}})
        return [each["state"]["message"] for each in found]

    def logs(self, run: str) -> list[str]:
        found = self.post("logs/filter", logs={"flow_run_id": {"any_": [run]}}, sort="TIMESTAMP_ASC")
        return [line["message"] for line in found if line["name"] == "epsweep"]

    def place(self, name: str) -> Path:
        """Folder with the user's functions and pipes of one waiting run."""
        folder = self.folder / name
        folder.mkdir()
        (folder / "mine.py").write_text(FUNCTIONS)
        for pipe in ("arrived", "go"):
            os.mkfifo(folder / pipe)
        (folder / "w.yaml").write_text(SPEC.format(name=name, function="mine:waiting", m="[2, 3]", r="[2, 3]", seeds=1))
        return folder

    def waiting_run(self, place: Path) -> "subprocess.Popen[str]":
        """Start `epsweep run` from the command line; returns when it waits in the middle."""
        command = [sys.executable, "-m", "flows", "run", "w.yaml", "--store", f"{place.name}.zarr"]
        process = subprocess.Popen(
            [*command, "--cluster", "local:1"],
            cwd=place,
            env=self.environment | {"EPSWEEP_ALLOW_CODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        arrived(place)
        return process


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PREFECT_", "EPSWEEP_"))}
    environment = clean | {
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_HOME": str(folder / "home"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "PREFECT_API_AUTH_STRING": SECRET,
    }
    prefect = [sys.executable, "-m", "prefect"]
    with ExitStack() as stack:
        own = environment | {
            "PREFECT_SERVER_API_AUTH_STRING": SECRET,
            "PREFECT_API_DATABASE_CONNECTION_URL": stack.enter_context(postgres()),
        }
        command = [*prefect, "server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
        server = stack.enter_context(running(command, folder / "server.log", env=own, cwd=folder))
        api = stack.enter_context(
            httpx.Client(base_url=environment["PREFECT_API_URL"] + "/", auth=tuple(SECRET.split(":")), timeout=30)
        )

        def answers() -> bool:
            assert server.poll() is None, (folder / "server.log").read_text()
            try:
                return api.get("health").is_success
            except httpx.TransportError:
                return False

        eventually(answers, "the server")
        found = Service(folder, environment, api, server)
        for name, extra in (("strict", []), ("open", ["--allow-code"])):
            done = found.epsweep("deploy", name, *extra, "--folder", folder)
            assert done.returncode == 0, done.stderr
        worker = [*prefect, "worker", "start", "--pool", "epsweep", "--name", "one"]
        hurry = environment | {"PREFECT_WORKER_QUERY_SECONDS": "1"}
        stack.enter_context(running(worker, folder / "worker.log", env=hurry, cwd=folder))
        yield found


def test_parameters_are_described_limited_and_enforced(service):
    schema = service.deployment("strict")["parameter_openapi_schema"]
    assert schema["required"] == ["spec", "store"]
    assert all(each["description"] for each in schema["properties"].values())
    assert {schema["properties"][name]["type"] for name in ("retry_failed", "accept_code")} == {"boolean"}
    good = {"spec": "quickstart", "store": "s.zarr"}
    for bad in ({"spec": ""}, {"spec": "x" * 300_000}, {"store": "a\nb"}, {"cluster": 5}, {"retry_failed": "perhaps"}):
        identifier = service.deployment("strict")["id"]
        answer = service.api.post(f"deployments/{identifier}/create_flow_run", json={"parameters": good | bad})
        assert answer.status_code in (409, 422), bad
    missing = service.api.post(f"deployments/{identifier}/create_flow_run", json={"parameters": {"spec": "a"}})
    assert missing.status_code in (409, 422)


def test_runs_end_in_the_state_that_says_what_became_of_them(service):
    place = service.place("states")
    ok = SPEC.format(name="ok", function="exponential", m="[2, 4]", r="[2]", seeds=2)
    ok += "# a long text goes to the workers too\n" * 3000
    partial = SPEC.format(name="partial", function="mine:picky", m="[2, 3]", r="[2]", seeds=1)
    (place / "partial.yaml").write_text(partial)
    runs = {
        "ok": service.start("strict", spec=ok, store="ok.zarr", cluster="local:1"),
        "partial": service.start("open", spec="states/partial.yaml", store="partial.zarr", cluster="local:1"),
        "code": service.start("strict", spec="states/partial.yaml", store="code.zarr", cluster="local:1"),
        "spec": service.start("open", spec="grid: 5", store="spec.zarr"),
        "cluster": service.start("open", spec="quickstart", store="c.zarr", cluster="local:none"),
    }
    states = {name: service.ended(run) for name, run in runs.items()}
    assert states["ok"][0] == "COMPLETED", (states, (service.folder / "worker.log").read_text())
    kind, message = states["partial"]
    assert kind == "FAILED"
    assert message.startswith("1 of 2 cells failed: function=mine:picky, sampling=ball-independent, m=3")
    assert "no m = 3 here (mine.py, line 23); mend the cause, then run the same with retry_failed" in message
    assert not (service.folder / "code.zarr").exists()
    assert "'mine:picky'" in states["code"][1]
    assert "'grid: 5' is neither a file nor a shipped sweep" in states["spec"][1]
    assert "'local:none' has no valid number of workers" in states["cluster"][1]
    assert all(states[name][0] == "FAILED" and "\n" not in states[name][1] for name in ("code", "spec", "cluster"))
    with xr.open_zarr(service.folder / "ok.zarr") as ds:
        assert (ds["status"] == 1).all()
    published = service.artifacts(runs["ok"])
    assert published["sweep-progress"]["data"] == 100.0
    assert len(json.loads(published["sweep-summary"]["data"])) == 2
    assert str(service.folder / "ok.figures/epsilon-against-m.png") in published["sweep-report"]["data"]
    assert "- function=mine:picky" in service.artifacts(runs["partial"])["sweep-report"]["data"]
    lines = eventually(
        lambda: [line for line in service.logs(runs["ok"]) if "missing" in line] and service.logs(runs["ok"]), "the log"
    )
    assert lines[0] == "sweep ok into ok.zarr on local:1"
    assert any(line.startswith("4 cells to compute in ") for line in lines)
    assert lines[-2].startswith("4 of 4 cells, ")
    assert lines[-1] == "4 cells, 4 done, 0 failed, 0 missing"


def test_cancelled_run_of_a_worker_stops_its_batches_and_can_be_resumed(service, monkeypatch):
    place = service.place("cancelled")
    monkeypatch.chdir(place)
    monkeypatch.syspath_prepend(place)
    loopback = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "worker_dashboard_address": "127.0.0.1:0"}
    with LocalCluster(n_workers=1, threads_per_worker=1, **loopback) as cluster:
        parameters = {"spec": "cancelled/w.yaml", "store": "cancelled.zarr", "cluster": cluster.scheduler_address}
        run = service.start("open", **parameters)
        arrived(place)
        service.cancel(run)
        assert service.ended(run)[0] == "CANCELLED"
        with xr.open_zarr(service.folder / "cancelled.zarr") as ds:
            assert (ds["status"].sel(m=3) == 0).all()
        (place / "go").open("w").close()
        eventually(
            lambda: "the flow was stopped" in service.task_messages(run), "the end of the batch at its next cell"
        )
        resumed = service.start("open", **parameters)
        arrived(place)
        (place / "go").open("w").close()
        assert service.ended(resumed)[0] == "COMPLETED"
    with xr.open_zarr(service.folder / "cancelled.zarr") as ds:
        assert (ds["status"] == 1).all()


def test_killed_run_of_a_worker_is_crashed(service):
    place = service.place("killed")
    run = service.start("open", spec="killed/w.yaml", store="killed.zarr", cluster="local:1")
    arrived(place)
    engine = [
        process
        for process in psutil.process_iter(["environ"])
        if (process.info["environ"] or {}).get("PREFECT__FLOW_RUN_ID") == run and "spawn" not in str(process.cmdline())
    ]
    for process in engine:
        process.kill()
    assert engine
    assert service.ended(run)[0] == "CRASHED"


def test_command_line_run_cancelled_at_the_server_stops(service):
    place = service.place("stopped")
    process = service.waiting_run(place)
    run = service.run_of("stopped.zarr")
    service.cancel(run)
    _, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 130
    assert errors.splitlines()[-1].startswith("epsweep: cancelled at the Prefect server; finished cells are stored")
    assert service.state(run)[0] == "CANCELLED"


def test_killed_command_line_run_is_marked_crashed_by_its_successor(service):
    place = service.place("succeeded")
    process = service.waiting_run(place)
    process.kill()
    process.communicate()
    first = service.run_of("succeeded.zarr")
    assert service.state(first)[0] == "RUNNING"
    successor = service.waiting_run(place)
    (place / "go").open("w").close()
    _, errors = successor.communicate(timeout=DEADLINE)
    assert successor.returncode == 0, errors
    second = service.run_of("succeeded.zarr")
    kind, message = service.state(first)
    assert kind == "CRASHED"
    assert second in message
    assert service.state(second)[0] == "COMPLETED"


@pytest.mark.parametrize("cron", ["0 0 3 * * *", "* * * *", "", "99 * * * *", "R * * * *"])
def test_schedule_that_is_none_of_five_fields_is_refused(cron):
    """Among them one with a first field for seconds, as other schedulers have it: Prefect would take it for another."""
    assert len(_schedules(["@daily", "0 3 * * *"], [60])) == 3
    with pytest.raises(InputError, match=rf"^cron: {re.escape(repr(cron))} will not do; write five fields, such as"):
        _schedules(["0 3 * * *", cron], [])


@pytest.mark.parametrize("seconds", [0, 59, 365 * 86400 + 1, 10**30])
def test_interval_that_is_not_between_a_minute_and_a_year_is_refused(seconds):
    with pytest.raises(InputError, match=f"^interval: {seconds} s will not do; give 60 to 31536000$"):
        _schedules([], [60, seconds])


def test_schedules_and_crash_detection_are_registered(service):
    refused = service.epsweep("deploy", "nightly", "--cron", "0 3 * * *")
    assert refused.returncode == 2
    assert "spec: a scheduled run has nobody to ask; give --spec" in refused.stderr
    options = ["--spec", "quickstart", "--store", "q.zarr", "--cron", "0 3 * * *", "--interval", "86400"]
    for _ in range(2):
        assert service.epsweep("deploy", "nightly", *options).returncode == 0
    schedules = [each["schedule"] for each in service.deployment("nightly")["schedules"]]
    assert {each.get("cron", each.get("interval")) for each in schedules} == {"0 3 * * *", 86400.0}
    assert len(schedules) == 2
    automations = service.post("automations/filter")
    assert [each["actions"][0]["state"] for each in automations] == ["CRASHED"]


@pytest.mark.parametrize("command", [["run", "quickstart"], ["deploy", "strict"]])
def test_wrong_password_is_refused_in_one_line(service, command):
    refused = service.epsweep(*command, PREFECT_API_AUTH_STRING="sweeper:wrong-one")
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "refuses the credentials; set PREFECT_API_AUTH_STRING" in refused.stderr
    assert "wrong-one" not in refused.stderr


def test_run_outlives_the_death_of_the_server(service):
    """The last test of the file: nothing answers after it."""
    place = service.place("orphaned")
    process = service.waiting_run(place)
    service.server.kill()
    service.server.wait()
    (place / "go").open("w").close()
    output, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, errors
    assert "done: 4 of 4 cells" in output
    started, *progress, line = errors.splitlines()
    assert started == "epsweep: starting workers"
    assert all(each.partition(" ")[2].startswith("of 4 cells") for each in progress)
    assert line.startswith("epsweep: Prefect: the server does not answer (")


def test_password_is_nowhere(service):
    for path in service.folder.rglob("*"):
        if path.is_file():
            assert SECRET.partition(":")[2].encode() not in path.read_bytes(), path
