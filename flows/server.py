"""The Prefect server that a run uses: the user's own, or one embedded for the time of the run.

The embedded server ends when its parent does, also when that is killed: it watches a pipe that only the parent
holds open.
"""

import asyncio
import os
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from filelock import FileLock
from platformdirs import user_data_path

from pipeline.errors import EpsweepError, InputError

_HEALTH_SECONDS = 10
_QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_CLI_PROMPT": "false",
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


def _check_health(url: str) -> None:
    try:
        httpx.get(f"{url.rstrip('/')}/health", timeout=_HEALTH_SECONDS).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise InputError(
            f"Prefect: the configured server {url} does not answer ({error}); start it, or unset PREFECT_API_URL"
        ) from error


def prefect_home() -> Path:
    """Folder of the embedded server's database."""
    return Path(os.environ.get("PREFECT_HOME") or user_data_path("epsweep") / "prefect").expanduser()


@contextmanager
def prefect_server() -> Iterator[Callable[[], None]]:
    """Use the configured server, or start an embedded one.

    Yields
    ------
    callable
        To be called before Prefect is imported, which reads its settings then: it waits until the server answers.

    Raises
    ------
    EpsweepError
        From that call, if the server does not start.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if url := configured_server():
        _check_health(url)
        yield lambda: None
        return
    home = prefect_home()
    home.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.environ["PREFECT_HOME"] = str(home)
    with (
        (home / "server.log").open("ab") as log,
        subprocess.Popen(
            [sys.executable, "-P", "-m", "flows.server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # the terminal's Ctrl-C is for the run, which then ends its server
        ) as process,
    ):

        def wait() -> None:
            url = process.stdout.readline().decode().strip() if process.stdout else ""
            if not url:
                raise EpsweepError(f"Prefect: the embedded server did not start; see {home / 'server.log'}")
            os.environ["PREFECT_API_URL"] = url

        try:
            yield wait
        finally:
            os.environ.pop("PREFECT_API_URL", None)
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=_HEALTH_SECONDS)


def _serve() -> None:
    """Run the server until standard input closes; print its URL once it answers."""
    import uvicorn
    from prefect.server.api.server import create_app

    listener = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
    migrating = FileLock(prefect_home() / "server.lock")

    class AnnouncedServer(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            migrating.release()
            print(url, flush=True)  # noqa: T201 (the parent reads it)

    def end_with_parent() -> None:
        sys.stdin.buffer.read()
        os._exit(0)

    threading.Thread(target=end_with_parent, daemon=True).start()
    migrating.acquire()
    app: Any = create_app(ephemeral=True, final=True)
    server = AnnouncedServer(uvicorn.Config(app, log_level="error", lifespan="on"))
    asyncio.run(server.serve(sockets=[listener]))


if __name__ == "__main__":
    _serve()
