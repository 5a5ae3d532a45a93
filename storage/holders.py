"""Who holds a store: how a writer is described, recognised as dead, and kept alone on a disk."""

import errno
import getpass
import json
import os
import socket
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from pipeline.errors import StoreError, one_line
from storage.provenance import now

_OPENING = b'{"process"'
_READ_WRITE = 0o666


def myself() -> dict[str, object]:
    """Describe this process, enough to name it and to recognise its end."""
    return {
        "process": os.getpid(),
        "host": socket.gethostname(),
        "user": _user(),
        "since": now(),
        "machine": _machine(),
        "started": _started(os.getpid()),
    }


def named(holder: object) -> str:
    """Holder as a message names it."""
    try:
        return one_line("process {process} of {user} on {host} since {since}".format(**holder))  # type: ignore[arg-type]
    except (KeyError, TypeError):
        return "another process"  # it has only just taken the lock


def is_near(holder: Mapping[str, object]) -> bool:
    """Whether the holder runs, or ran, where this process could see it."""
    return bool(_machine()) and holder.get("machine") == _machine()


def is_dead(holder: Mapping[str, object]) -> bool:
    """Whether a holder that is near has ended."""
    process = holder.get("process")
    return not isinstance(process, int) or _started(process) != holder.get("started")


def denied(path: Path) -> str:
    """Say whose a file or folder is, and its mode, for one that this user may not write."""
    try:
        found = path.stat()
    except OSError as error:
        return f"{path}: {error.strerror}"
    if os.access(path, os.W_OK):
        return f"{path}: permission denied"
    if found.st_uid == os.geteuid():
        return f"{path} is read only, mode {stat.S_IMODE(found.st_mode):03o}"
    return f"{path} is {_owner(path)}'s, mode {stat.S_IMODE(found.st_mode):03o}, and not writable for {_user()}"


@contextmanager
def file_lock(path: Path, name: str, like: Path | None = None) -> Iterator[None]:
    """Hold a lock file; the operating system frees it when its holder ends, however it ends.

    Its mode follows the umask, and later on whoever may write `like` may lock it too.

    Parameters
    ----------
    path : Path
        The lock file; its folder is made if there is none.
    name : str
        What it locks, as messages name it.
    like : Path, optional
        A file of what it locks.

    Raises
    ------
    StoreError
        If another process holds it, which the message names, or it cannot be a lock file.
    """
    lock = FileLock(path, fallback_to_soft=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise StoreError(f"store: {name} is being written by {_holder(path)}; wait or use another --store") from error
    except OSError as error:
        reason = _refusal(path, error)
        raise StoreError(f"store: {path} cannot be locked ({reason}); use a --store that can be written") from error
    try:
        _sign(path, like)
        yield
    finally:
        lock.release()


def _refusal(path: Path, error: OSError) -> object:
    """Why a lock file cannot be opened."""
    if error.errno == errno.ENAMETOOLONG:
        return error.strerror
    if path.is_symlink():
        return "it is a link"
    if error.errno in (errno.EACCES, errno.EPERM):
        return denied(path if path.exists() else path.parent)
    return error.strerror or error


def _sign(path: Path, like: Path | None) -> None:
    """Write the holder into its lock file, and into no other."""
    descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    try:
        if not _OPENING.startswith(os.read(descriptor, len(_OPENING))):
            raise StoreError(f"store: {path} is not a lock file; move it away, or use another --store")
        with suppress(OSError):  # one that a version before 0.9 made, or of a store that has been shared since
            if like is not None and os.fstat(descriptor).st_uid == os.geteuid():
                mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
                os.fchmod(descriptor, mode | stat.S_IMODE(like.stat().st_mode) & _READ_WRITE)
        with suppress(OSError):  # on a full disk the lock holds without its text
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(myself()).encode(), 0)
    finally:
        os.close(descriptor)


def _holder(path: Path) -> str:
    try:
        return named(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return named(None)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return str(os.getuid())


def _owner(path: Path) -> str:
    """Name of the user that a file is of, or its number where it has none."""
    try:
        return path.owner()
    except KeyError:
        return f"user {path.stat().st_uid}"


def _machine() -> str:
    """Boot and process namespace, within which a process number means one process; empty where unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _started(process: int) -> str | None:
    """Start of a living process in clock ticks after boot, which no change of the clock moves."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    state, *rest = text.rpartition(")")[2].split()
    return None if state in "ZX" else rest[18]
