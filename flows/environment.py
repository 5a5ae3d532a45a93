"""The environment of Prefect in this process and in those that it starts: a home, no proxies on loopback, few words."""

import logging
import os
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from pipeline.loopback import on_loopback

CLIENT_SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_CLIENT_MAX_RETRIES": "2",  # a server that is away holds a run up for seconds, not for minutes
    "PREFECT_API_REQUEST_TIMEOUT": "15",
    "PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED": "false",  # a request of each batch, failing with the server
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
}
QUIET = CLIENT_SETTINGS | {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_INTERNAL_LEVEL": "CRITICAL",
}
_NO_HOME = "/dev/null"  # below which nothing is or can be made
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SCHEMES = ("http://", "https://", "all://")


def prepare() -> None:
    """Set what Prefect needs before it is imported, and what keeps it and Dask off the terminal."""
    try:
        home = Path.home()
    except RuntimeError:  # neither HOME nor an entry in the list of users, without which Prefect is not imported
        os.environ["HOME"] = _NO_HOME
        home = Path(_NO_HOME)
    if not os.environ.get("PREFECT_HOME") and _closed(home / ".prefect" / "profiles.toml"):
        os.environ["PREFECT_HOME"] = f"{_NO_HOME}/prefect"  # as if nothing were there
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.raiseExceptions = False  # Prefect's log handler writes to the terminal when the server is away
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # as do requests of Dask's that a dead scheduler leaves
    keep_off_proxies()


def _closed(path: Path) -> bool:
    """Whether it is not for this user to know if something is there."""
    try:
        path.exists()
    except PermissionError:
        return True
    return False


def keep_off_proxies(url: str = "") -> None:
    """Reach loopback without a proxy, from this process and those that it starts.

    Where the URL of the Prefect server is on loopback and httpx cannot make one of the proxies that the environment
    names, httpx uses none at all: it would fail over a proxy that it need not ask.

    Parameters
    ----------
    url : str
        Of the Prefect server, once it is known.
    """
    proxies = urllib.request.getproxies_environment()
    if not proxies or proxies.get("no", "").strip() == "*":
        return
    _bypass(*_LOOPBACK)
    if not _httpx_takes_proxies():
        _bypass(dropped="[]")  # of an entry such as [::1], which it cannot read
    if on_loopback(url):
        _bypass(str(urlsplit(url).hostname))
        if not _httpx_takes_proxies():
            _bypass(*_SCHEMES)


def _bypass(*entries: str, dropped: str = "") -> None:
    """Add entries to NO_PROXY, and drop those with any of some characters."""
    value = urllib.request.getproxies_environment().get("no", "")
    have = [each.strip() for each in value.split(",") if each.strip() and not set(each) & set(dropped)]
    for name in ("no_proxy", "NO_PROXY"):  # libraries prefer one or the other
        os.environ[name] = ",".join(dict.fromkeys([*have, *entries]))


def _httpx_takes_proxies() -> bool:
    try:
        httpx.Client(verify=False).close()  # noqa: S501 (nothing is asked)
    except (ImportError, ValueError, httpx.InvalidURL):  # socks without its package, another scheme, no address
        return False
    return True


@contextmanager
def variables(**values: str) -> Iterator[None]:
    """Hold environment variables."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
