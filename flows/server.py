"""The Prefect server that a run uses: the user's own, or one embedded for the time of the run.

The embedded server ends when its parent does, also when that is killed: it watches a pipe that only the parent
holds open. When it is the server that dies, another takes over its database and its socket, where requests wait.
"""

import asyncio
import logging
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from importlib.resources import files
from pathlib import Path
from typing import IO, Any

import httpx
from filelock import FileLock
from platformdirs import user_data_path

from pipeline.errors import EpsweepError, InputError, without_secrets

_ANSWER_SECONDS = 10
_MIGRATION_SECONDS = 120
_RESTARTS = 20
_RESTART_SECONDS = 60  # that requests wait for the embedded server to come back
_BACKLOG = 512
CLIENT_SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_CLIENT_MAX_RETRIES": "2",  # a server that is away holds a run up for seconds, not for minutes
    "PREFECT_API_REQUEST_TIMEOUT": "15",
    "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",  # a request of each batch, failing with the server
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
}
_SERVER_SETTINGS = {  # for the embedded server: Prefect's own writes each event alone, 30 ms of computing a batch
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
}
_QUIET = CLIENT_SETTINGS | {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
}


def configured_server() -> str | None:
    """URL of the Prefect API that the user has configured, by variable or in the active profile."""
    if url := os.environ.get("PREFECT_API_URL"):
        return url
    home = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser()
    try:
        profiles = tomllib.loads((home / "profiles.toml").read_text(encoding="utf-8"))
        active = os.environ.get("PREFECT_PROFILE", profiles.get("active"))
        url = profiles.get("profiles", {}).get(active, {}).get("PREFECT_API_URL")
    except (OSError, tomllib.TOMLDecodeError, AttributeError):
        return None
    return url if isinstance(url, str) else None


def check_health(url: str) -> None:
    """Ask the configured server something that needs its credentials.

    Raises
    ------
    InputError
        If it does not answer, or refuses the credentials.
    """
    shown = without_secrets(url)
    try:
        httpx.get(f"{url.rstrip('/')}/health", timeout=_ANSWER_SECONDS).raise_for_status()
        refused = _refused()
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        reason = without_secrets(error) or type(error).__name__
        raise InputError(
            f"Prefect: the configured server {shown} does not answer ({reason}); start it, or unset PREFECT_API_URL"
        ) from error
    if refused:
        raise InputError(
            f"Prefect: the configured server {shown} refuses the credentials; set PREFECT_API_AUTH_STRING to its "
            "user:password"
        )


def _refused() -> bool:
    """Whether the server refuses the credentials of Prefect's own settings."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        try:
            client.api_version()
        except httpx.HTTPStatusError as error:
            if error.response.status_code not in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
                raise
            return True
    return False


def prefect_home() -> Path:
    """Folder of the embedded server's database."""
    return Path(os.environ.get("PREFECT_HOME") or user_data_path("epsweep") / "prefect").expanduser()


def quieten() -> None:
    """Set what keeps Prefect and Dask off the terminal and its waits short; before it is imported."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    logging.raiseExceptions = False  # its log handler writes to the terminal when the server is away
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # as do requests of Dask's that a dead scheduler leaves


@contextmanager
def prefect_server() -> Iterator[Callable[[], None]]:
    """Use the configured server, or start an embedded one.

    Yields
    ------
    callable
        It waits until the server answers. Prefect may be imported, but not used, before that.

    Raises
    ------
    EpsweepError
        From that call, if the server does not start.
    """
    if url := configured_server():
        quieten()
        check_health(url)
        yield lambda: None
        return
    os.environ.setdefault("PREFECT_API_REQUEST_TIMEOUT", str(_RESTART_SECONDS))
    quieten()
    home = prefect_home().absolute()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.environ["PREFECT_HOME"] = str(home)
    with (
        socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG) as listener,
        open(home / "server.log", "ab", opener=_private) as log,
    ):
        servers = [_start(listener, log)]
        closing = threading.Event()

        def supervise() -> None:
            with listener, suppress(OSError):  # closed, requests fail at once instead of waiting
                while True:
                    with servers[-1] as server:
                        server.wait()
                    if closing.is_set() or len(servers) > _RESTARTS:
                        break
                    servers.append(_start(listener, log))

        supervisor = threading.Thread(target=supervise, daemon=True)

        def wait() -> None:
            if not (servers[0].stdout and servers[0].stdout.readline()):
                raise EpsweepError(f"Prefect: the embedded server did not start; see {home / 'server.log'}")
            supervisor.start()

        os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        try:
            yield wait
        finally:
            os.environ.pop("PREFECT_API_URL", None)
            closing.set()
            if supervisor.ident is None:
                supervisor.start()
            end = subprocess.Popen.terminate
            while supervisor.is_alive():
                end(servers[-1])
                supervisor.join(_ANSWER_SECONDS)
                end = subprocess.Popen.kill


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, mode=0o600)


def _start(listener: socket.socket, log: IO[bytes]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # noqa: S603
        [sys.executable, "-P", "-m", "flows.server", str(listener.fileno())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env=_SERVER_SETTINGS | os.environ,
        pass_fds=[listener.fileno()],
        start_new_session=True,  # the terminal's Ctrl-C is for the run, which then ends its server
    )


def _serve(listener: socket.socket) -> None:
    """Run the server until standard input closes; print a line once it answers."""
    os.umask(0o077)  # parameters and logs of runs are their owner's

    def end_with_parent() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    import uvicorn
    from prefect.server.api.server import create_app

    migrating = FileLock(prefect_home() / "server.lock", timeout=_MIGRATION_SECONDS)

    class AnnouncedServer(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            migrating.release()
            print("ready", flush=True)  # noqa: T201 (the parent reads it)

    os.chdir(prefect_home())  # migrations import from the working directory, where a user's files may have any name
    migrating.acquire()
    _make_database()
    app: Any = create_app(ephemeral=True, final=True)
    server = AnnouncedServer(uvicorn.Config(app, log_level="error", lifespan="on", backlog=_BACKLOG))
    asyncio.run(server.serve(sockets=[listener]))


def _make_database() -> None:
    """Make the server's database, where there is none in the home, with the tables of one migrated before.

    Prefect's own hundred migrations take 6 s (measured); those that the tables lack follow when the server starts.
    """
    from prefect.server.database import provide_database_interface
    from sqlalchemy import make_url

    prefect = provide_database_interface()
    path = prefect_home() / "prefect.db"
    tables = files("flows").joinpath("prefect.sql").read_text(encoding="utf-8")
    revision = tables.partition('"alembic_version" VALUES(\'')[2].partition("'")[0]
    known = any(Path(prefect.orm.versions_dir).glob(f"*_{revision}_*.py"))
    if path.exists() or not known or make_url(prefect.database_config.connection_url).database != str(path):
        return
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with closing(sqlite3.connect(new)) as database:
        database.executescript(tables)
    for left in ("prefect.db-wal", "prefect.db-shm"):  # of a database that was deleted: SQLite would replay it
        path.with_name(left).unlink(missing_ok=True)
    new.replace(path)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
