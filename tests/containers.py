"""Runs a compose file without Docker: each service's exact command in a container of bubblewrap's, on one loopback.

As under Docker, a service has its own user, environment, read-only root and volumes, and finds the others by name.
Unlike there, all share a network namespace, where each name has an address of its own, and "/usr" is this machine's.
It takes root, and Debian's packages bubblewrap, postgresql and wget.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psutil

from tests.compose import ROOT, read_dockerfile

PACKAGES = ("pipeline", "storage", "flows")
POSTGRES_BIN = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/nowhere"))  # of Debian's package
_DEADLINE = 240.0
_SYSTEM_PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"

# what the official image's entry point does, with Debian's programs
_POSTGRES = """
if [ ! -e "$PGDATA/PG_VERSION" ]; then
    (umask 077; printf %s "$POSTGRES_PASSWORD" > /tmp/password)
    initdb --username="$POSTGRES_USER" --pwfile=/tmp/password $POSTGRES_INITDB_ARGS
    echo "CREATE DATABASE $POSTGRES_DB" | postgres --single -j postgres
    echo "host all all all $POSTGRES_HOST_AUTH_METHOD" >> "$PGDATA/pg_hba.conf"
fi
exec postgres -c listen_addresses='*'
"""


@dataclass
class Image:
    """What an image gives its containers: environment, user id, working directory, entry point and command."""

    environment: dict[str, str]
    user: int | str = 0
    folder: str = "/"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)


def _own_image() -> Image:
    image = Image({"PATH": _SYSTEM_PATH})
    instructions = read_dockerfile(ROOT / "Dockerfile")
    last = max(i for i, (name, _) in enumerate(instructions) if name == "FROM")
    for name, argument in instructions[last:]:
        if name == "ENV":
            for pair in argument.split():
                key, value = pair.split("=", 1)
                image.environment[key] = value.replace("$PATH", _SYSTEM_PATH)
        elif name == "USER":
            image.user = int(argument.split(":")[0])
        elif name == "WORKDIR":
            image.folder = argument
        elif name == "ENTRYPOINT":
            image.entrypoint = json.loads(argument)
        elif name == "CMD":
            image.command = json.loads(argument)
    return image


def _image(name: str) -> Image:
    if name.startswith("postgres:"):
        environment = {"PATH": f"{POSTGRES_BIN}:{_SYSTEM_PATH}", "PGDATA": "/var/lib/postgresql/data"}
        return Image(environment, entrypoint=["sh", "-ec", _POSTGRES])
    if name.startswith("chrislusf/seaweedfs:"):
        return Image({"PATH": f"/opt/epsweep/bin:{_SYSTEM_PATH}"}, folder="/data")
    return _own_image()


@dataclass
class Container:
    """A service's process, or one of its replicas'.

    Attributes
    ----------
    started : Popen
    log : Path
        What it writes.
    """

    started: "subprocess.Popen[bytes]"
    log: Path

    def process(self) -> psutil.Process:
        """Its main process: nsenter and bwrap wait for it."""
        return psutil.Process(self.started.pid).children()[0].children()[0]


class Stack:
    """The services of an interpolated compose file.

    Attributes
    ----------
    services : dict
    folder : Path
        Where the compose file would be: what it mounts of "." is below.
    containers : dict
        Lists of containers by service.
    """

    def __init__(self, document: Mapping[str, Any], folder: Path, profiles: Sequence[str] = ()) -> None:
        self.services: dict[str, dict[str, Any]] = document["services"]
        self.folder = folder
        self.active = [
            name
            for name, service in self.services.items()
            if "profiles" not in service or set(service["profiles"]) & set(profiles)
        ]
        self.containers: dict[str, list[Container]] = {}
        self._init = 0
        lines = [f"127.0.0.{10 + i} {name}" for i, name in enumerate(self.services)]
        (folder / "hosts").write_text("127.0.0.1 localhost\n" + "\n".join(lines) + "\n")
        users = ["root:x:0:0::/root:/bin/sh", "epsweep:x:1000:1000::/tmp:/bin/sh"]
        users += [line for line in Path("/etc/passwd").read_text().splitlines() if line.startswith("postgres:")]
        (folder / "passwd").write_text("\n".join(users) + "\n")

    @contextmanager
    def network(self) -> Iterator["Stack"]:
        """Open the namespace in which all run, and which ends them all, also when this process is killed."""
        reading, writing = os.pipe()
        command = ["bwrap", "--dev-bind", "/", "/", "--proc", "/proc", "--unshare-net", "--unshare-pid"]
        command += ["--die-with-parent", "--info-fd", str(writing), "sh", "-c", "echo; exec cat"]
        with (
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[writing]) as holder,
            os.fdopen(reading) as info,
        ):
            os.close(writing)
            assert holder.stdin is not None
            assert holder.stdout is not None
            assert holder.stdout.read(1)  # it is up
            self._init = json.loads(info.read())["child-pid"]
            try:
                yield self
            finally:
                holder.stdin.close()
                for container in (each for containers in self.containers.values() for each in containers):
                    container.started.wait(timeout=_DEADLINE)

    def command(self, name: str, arguments: Sequence[str] | None = None) -> list[str]:
        """Command line of a service's container, with other arguments if given."""
        service = self.services[name]
        image = _image(service["image"])
        entrypoint = service.get("entrypoint", image.entrypoint)
        given = service.get("command", [] if "entrypoint" in service else image.command)
        return self._inside(name, [*entrypoint, *(given if arguments is None else arguments)])

    def _inside(self, name: str, command: Sequence[str]) -> list[str]:
        service = self.services[name]
        image = _image(service["image"])
        user = str(service.get("user", image.user)).split(":")[0]
        mounts = ["--ro-bind", "/usr", "/usr", "--ro-bind", "/etc", "/etc", "--proc", "/proc"]
        mounts += ["--dev", "/dev", "--perms", "1777", "--tmpfs", "/dev/shm"]
        for link in ("bin", "lib", "lib64", "sbin"):
            mounts += ["--symlink", f"usr/{link}", f"/{link}"]
        mounts += ["--dir", "/run", "--dir", "/var", "--symlink", "/run", "/var/run", "--dir", image.folder]
        for file in ("hosts", "passwd"):
            mounts += ["--ro-bind", str(self.folder / file), f"/etc/{file}"]
        for target in service.get("tmpfs", []):
            mounts += ["--perms", "1777", "--tmpfs", target.partition(":")[0].replace("/var/run", "/run")]
        for path in (
            sys.base_prefix,
            sys.prefix,
            *(str(ROOT / package) for package in ("pipeline", "storage", "flows")),
        ):
            mounts += ["--dir", path, "--ro-bind", path, path]  # with --dir, all may pass through its parents
        mounts += ["--dir", "/opt/epsweep", "--ro-bind", sys.prefix, "/opt/epsweep"]
        for volume in service.get("volumes", []):
            source, target, *mode = volume.split(":")
            mounts += [
                "--dir",
                target,
                "--ro-bind" if "ro" in mode else "--bind",
                str(self._volume(source, user)),
                target,
            ]
        if service.get("read_only"):
            mounts += ["--remount-ro", "/"]
        environment = image.environment | (service.get("environment") or {})
        for key, value in environment.items():
            mounts += ["--setenv", key, value]
        isolated = ["bwrap", "--clearenv", *mounts, "--cap-drop", "ALL"]
        isolated += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
        isolated += ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
        isolated += ["env", f"--chdir={service.get('working_dir', image.folder)}"]
        return ["nsenter", f"--target={self._init}", "--mount", "--net", "--pid", "--", *isolated, *command]

    def _volume(self, source: str, user: str) -> Path:
        if source.startswith("."):
            path = self.folder / source
            path.mkdir(exist_ok=True)
            return path
        path = self.folder / "volumes" / source
        if not path.exists():
            path.mkdir(parents=True, mode=0o700)
            owner = int(user) if user.isdecimal() else user
            shutil.chown(path, owner, owner)
        return path

    def start(self, name: str) -> None:
        """Start a service's containers."""
        for _ in range(int(self.services[name].get("deploy", {}).get("replicas", 1))):
            there = self.containers.setdefault(name, [])
            log = self.folder / f"{name}-{len(there)}.log"
            with log.open("wb") as output:
                started = subprocess.Popen(
                    self.command(name), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
                )
            there.append(Container(started, log))

    def healthy(self, name: str) -> bool:
        """Run the health check of a service."""
        check = self.services[name]["healthcheck"]
        kind, *command = check["test"]
        assert kind == "CMD"
        limited = self._inside(name, ["timeout", check["timeout"], *command])
        return subprocess.run(limited, capture_output=True, timeout=_DEADLINE).returncode == 0

    def run(self, name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """What ``docker compose run --rm NAME ARGUMENTS`` does."""
        command = self.command(name, arguments)
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_DEADLINE)

    def exec(self, name: str, *command: str) -> "subprocess.CompletedProcess[str]":
        """What ``docker compose exec NAME COMMAND`` does, though with a /tmp of its own."""
        inside = self._inside(name, command)
        return subprocess.run(inside, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_DEADLINE)

    def up(self) -> None:
        """Start the active services in the order of their conditions, and wait until all are healthy or done.

        Raises
        ------
        AssertionError
            With its log, if one ends that should not.
        """
        reached: dict[str, set[str]] = {name: set() for name in self.active}
        deadline = monotonic() + _DEADLINE
        while any(not states - {"service_started"} for states in reached.values()):
            for name, states in reached.items():
                if name not in self.containers:
                    if self._may_start(name, reached):
                        self.start(name)
                        states.add("service_started")
                elif not states - {"service_started"}:
                    states |= self._state(name)
            if monotonic() > deadline:
                slow = [name for name, states in reached.items() if not states - {"service_started"}]
                raise AssertionError(f"not ready: {slow}\n" + "\n".join(map(self.log, slow)))
            sleep(0.5)

    def _may_start(self, name: str, reached: Mapping[str, set[str]]) -> bool:
        conditions = self.services[name].get("depends_on", {})
        for other, how in conditions.items():
            if other not in reached:
                assert not how.get("required", True), f"{name} needs {other}, which no active profile has"
            elif how["condition"] not in reached[other]:
                return False
        return True

    def _state(self, name: str) -> set[str]:
        codes = [container.started.poll() for container in self.containers[name]]
        if self.services[name].get("restart") == "no":
            assert not any(codes), self.log(name)
            return {"service_completed_successfully"} if codes == [0] * len(codes) else set()
        assert set(codes) == {None}, self.log(name)
        return {"service_healthy"} if self.healthy(name) else set()

    def log(self, name: str) -> str:
        """End of what a service's containers wrote."""
        containers = self.containers.get(name, [])
        return f"--- {name}\n" + "\n".join(container.log.read_text()[-3000:] for container in containers)
