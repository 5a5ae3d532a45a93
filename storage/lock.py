"""The lock that keeps a store to one writer."""

import getpass
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import StoreError


def lock_path(store: Path) -> Path:
    """File beside the store that its writer holds locked."""
    store = store.resolve()  # the same lock however the store is spelt
    return store.with_name(store.name + ".lock")


@contextmanager
def single_writer(store: Path) -> Iterator[None]:
    """Hold the lock of a store; the operating system frees it when its holder ends, however it ends.

    Raises
    ------
    StoreError
        If another process holds it; the message names that process.
    """
    path = lock_path(store)
    lock = FileLock(path, mode=0o600, fallback_to_soft=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise StoreError(f"store: {store} is being written by {_holder(path)}; wait or use another --store") from error
    except OSError as error:
        reason = error.strerror or error
        raise StoreError(f"store: {path} cannot be locked ({reason}); use a --store that can be written") from error
    try:
        holder = {"process": os.getpid(), "host": socket.gethostname(), "user": _user(), "since": _now()}
        path.write_text(json.dumps(holder), encoding="utf-8")
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
        return "process {process} of {user} on {host} since {since}".format(**holder)
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"  # it has only just taken the lock


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
