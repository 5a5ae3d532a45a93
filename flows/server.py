"""The Prefect server that a run uses: the user's own, or one embedded for the time of the run.

The embedded server ends when its parent does, also when that is killed: it watches a pipe that only the parent
holds open. When it is the server that dies, another takes over its database and its socket, where requests wait.
"""

import asyncio
import os
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import IO, Any

import httpx
from filelock import FileLock
from platformdirs import user_data_path

from flows.environment import CLIENT_SETTINGS, keep_off_proxies, variables
from flows.prefect_settings import current_settings, place_of_url
from pipeline.errors import EpsweepError, InputError, one_line, without_secrets

_ANSWER_SECONDS = 10
_MIGRATION_SECONDS = 120
_RESTARTS = 20
_RESTART_SECONDS = 60  # that requests wait for the embedded server to come back
_BACKLOG = 512
_SERVER_SETTINGS = {  # for the embedded server: Prefect's own writes each event alone, 30 ms of computing a batch
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
}


@dataclass(frozen=True)
class Server:
    """The Prefect server that runs use.

    Attributes
    ----------
    url : str or None
        Of the API that the user has configured; None for an embedded one.
    home : Path or None
        Folder of the embedded one's database; None for a temporary one.
    text : str
        What `epsweep doctor` says of it.
    """

    url: str | None
    home: Path | None
    text: str


def configured_server() -> str | None:
    """URL of the Prefect API that the user has configured, wherever Prefect reads settings, once it answers.

    Raises
    ------
    InputError
        If Prefect cannot read its settings, the server does not answer, or it refuses the credentials.
    """
    url = current_settings().api.url
    if url:
        keep_off_proxies(url)
        _check_health(url)
    return url


def find_server(*, loopback: bool) -> Server:
    """Find the Prefect server that a run uses, and make sure that it can.

    Parameters
    ----------
    loopback : bool
        Whether all workers reach a server on this machine's loopback.

    Raises
    ------
    InputError
        As `configured_server` does, or if there is none but workers need one.
    """
    if url := configured_server():
        return Server(url, None, f"{without_secrets(url)} answers")
    if not loopback:
        raise InputError("Prefect: the workers of this cluster need a server that they can reach; set PREFECT_API_URL")
    home, reason = _home()
    if not reason:
        return Server(None, home, f"a server of its own for each run, database in {home}")
    try:
        temporary = tempfile.gettempdir()
    except OSError as error:
        raise InputError("Prefect: there is no temporary folder that can be written; set TMPDIR to one") from error
    text = f"a server of its own for each run, its database in {temporary} and gone with it: {home} cannot be written "
    return Server(None, None, f"{text}({reason}); set PREFECT_HOME to a folder that can, to keep it")


def _home() -> tuple[Path, str]:
    """Folder of the embedded server's database, made if there is none, and why it cannot be used."""
    settings = current_settings()
    home = settings.home if "home" in settings.model_fields_set else user_data_path("epsweep") / "prefect"
    home = home.absolute()
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=home):
            pass
        for kept in home.glob("prefect.db*"), home.glob("server.lo*"):
            for file in kept:
                with file.open("ab"):
                    pass
    except OSError as error:
        return home, one_line(error.strerror or error)
    return home, ""


def _check_health(url: str) -> None:
    """Ask the configured server something that needs its credentials; InputError if it does not answer well."""
    from prefect.client.orchestration import get_client

    shown = without_secrets(url)
    try:
        with get_client(sync_client=True, httpx_settings={"timeout": _ANSWER_SECONDS}) as client:
            client.api_version()
    except (httpx.HTTPError, httpx.InvalidURL, ImportError, OSError, ValueError) as error:
        if isinstance(error, httpx.HTTPStatusError) and error.response.status_code in (
            httpx.codes.UNAUTHORIZED,
            httpx.codes.FORBIDDEN,
        ):
            raise InputError(
                f"Prefect: the configured server {shown} refuses the credentials; set PREFECT_API_AUTH_STRING to its "
                "user:password, or PREFECT_API_KEY"
            ) from error
        raise InputError(
            f"Prefect: the configured server {shown} does not answer ({_reason(error)}); start it, or unset "
            f"PREFECT_API_URL{place_of_url()}"
        ) from error


def _reason(error: Exception) -> str:
    """Why the configured server was not asked or did not answer, with the setting to look at."""
    text = without_secrets(error) or type(error).__name__
    if isinstance(error, OSError) and not isinstance(error, ConnectionError | TimeoutError):
        return f"PREFECT_API_SSL_CERT_FILE: {text}"
    if isinstance(error, ImportError) or "proxy" in text.lower():
        return f"HTTP_PROXY, HTTPS_PROXY or ALL_PROXY: {text}"
    return text


@contextmanager
def prefect_server(server: Server | None = None) -> Iterator[Callable[[], None]]:
    """Use a Prefect server; the environment of this process names it meanwhile.

    Parameters
    ----------
    server : Server, optional
        From `find_server`; by default what it finds for workers on this machine.

    Yields
    ------
    callable
        It waits until the server answers. Prefect may not be used before that.

    Raises
    ------
    EpsweepError
        From that call, if the server does not start.
    """
    server = server or find_server(loopback=True)
    with ExitStack() as stack:
        if server.url:
            home = current_settings().home
            if not home.exists():  # each process would complain that it cannot make it
                folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="epsweep-"))
                stack.enter_context(variables(PREFECT_HOME=folder))
            yield lambda: None
            return
        folder = str(server.home or stack.enter_context(tempfile.TemporaryDirectory(prefix="epsweep-")))
        stack.enter_context(variables(PREFECT_HOME=folder, **_patience(), **_profiles()))
        yield stack.enter_context(_embedded(Path(folder)))


def _patience() -> dict[str, str]:
    """How long requests wait for the embedded server, which comes back, unless the user says so."""
    name = "PREFECT_API_REQUEST_TIMEOUT"
    return {name: str(_RESTART_SECONDS)} if os.environ.get(name) == CLIENT_SETTINGS[name] else {}


def _profiles() -> dict[str, str]:
    """Where the user's profiles are, for the processes whose home is another one."""
    path = current_settings().profiles_path.absolute()
    return {"PREFECT_PROFILES_PATH": str(path)} if path.exists() else {}


@contextmanager
def _embedded(home: Path) -> Iterator[Callable[[], None]]:
    """Run a server with its database in a folder; yields what waits until it answers."""
    with (
        socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG) as listener,
        open(home / "server.log", "ab", opener=_private) as log,
        variables(PREFECT_API_URL=f"http://127.0.0.1:{listener.getsockname()[1]}/api"),
    ):
        keep_off_proxies(os.environ["PREFECT_API_URL"])
        current_settings()
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

        try:
            yield wait
        finally:
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
    from prefect.settings import get_current_settings

    home = get_current_settings().home
    migrating = FileLock(home / "server.lock", timeout=_MIGRATION_SECONDS)

    class AnnouncedServer(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            migrating.release()
            print("ready", flush=True)  # noqa: T201 (the parent reads it)

    os.chdir(home)  # migrations import from the working directory, where a user's files may have any name
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
    from prefect.settings import get_current_settings
    from sqlalchemy import make_url

    prefect = provide_database_interface()
    path = get_current_settings().home / "prefect.db"
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
