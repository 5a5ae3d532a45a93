"""The lock of a store on an object server: an object written under conditions and renewed while it is held."""

import json
import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from pipeline.errors import StoreError
from storage.holders import is_dead, is_near, myself, named

RENEWAL_SECONDS = 10.0
RENEWALS = 3  # so many without a sign of life end a lease
_ATTEMPTS = 10
_NO_TAG = '"00000000000000000000000000000000"'
_active: set[object] = set()  # tokens of the leases of this process: one that could not be given back has ended
_log = logging.getLogger(__name__)


class Objects(Protocol):
    """An object server that writes under conditions."""

    def get(self, key: str) -> tuple[bytes, str] | None:
        """Content and tag of an object; None if there is none."""

    def put(self, key: str, content: bytes, tag: str | None) -> str | None:
        """Write if the object still has the tag, or with None if there is none; new tag, None if refused."""

    def remove(self, key: str, tag: str) -> None:
        """Delete an object if it still has the tag."""


def _clock() -> float:
    """Seconds that no change of the clock moves, and that pass while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@contextmanager
def lease(objects: Objects, key: str, name: str, server: str) -> Iterator[Callable[[], None]]:
    """Hold the lock object of a store; yields a function that raises once it is not certain to be held.

    A holder renews its lock all the time. One that is dead, as seen from its own host, is followed at once; elsewhere
    one that has not renewed for three periods. A holder that was suspended renews before it writes again.

    Parameters
    ----------
    objects : Objects
    key : str
        Key of the lock object.
    name, server : str
        Store and server as messages name them.

    Raises
    ------
    StoreError
        If another process holds it, which the message names, or the server ignores conditions.
    """
    held = _Lease(objects, key, name)
    _active.add(held.token)  # before another thread may see it in the lock object
    try:
        held.acquire()
        held.require_conditions(server)
        thread = threading.Thread(target=held.keep, name="epsweep-lease", daemon=True)
        thread.start()
        try:
            yield held.confirm
        finally:
            held.ended.set()
            thread.join()
    finally:
        _active.discard(held.token)
        with suppress(Exception):  # a lock left behind by a server that is gone is taken over
            held.release()


class _Lease:
    def __init__(self, objects: Objects, key: str, name: str) -> None:
        self.objects, self.key, self.name = objects, key, name
        self.ended = threading.Event()
        self.token = secrets.token_hex(8)
        self._me = myself() | {"token": self.token, "renewals": 0}
        self._tag = ""
        self._confirmed = 0.0
        self._lost: str | None = None
        self._turn = threading.Lock()

    def acquire(self) -> None:
        """Take the lock, or raise StoreError with the name of its holder."""
        for _ in range(_ATTEMPTS):
            found = self.objects.get(self.key)
            if found is None:
                if self._take(None):
                    return
                continue  # another was faster, or an answer was lost on its way
            holder, tag = _parse(found[0]), found[1]
            if holder.get("token") == self.token:
                self._tag = tag
                return
            if not self._has_ended(holder, tag):
                raise StoreError(f"store: {self.name} is being written by {named(holder)}; wait or use another --store")
            if self._take(tag):
                return
        raise StoreError(f"store: {self.name} is being locked by others all the time; wait or use another --store")

    def _take(self, tag: str | None) -> bool:
        sent = _clock()
        new = self.objects.put(self.key, json.dumps(self._me).encode(), tag)
        if new is not None:
            self._tag, self._confirmed = new, sent
        return new is not None

    def _has_ended(self, holder: Mapping[str, Any], tag: str) -> bool:
        """Whether the holder says so, is dead, or gives no sign of life."""
        if holder.get("released") is True:
            return True
        if is_near(holder):
            mine = holder.get("process") == self._me["process"]
            return is_dead(holder) or (mine and holder.get("token") not in _active)
        patience = RENEWAL_SECONDS * RENEWALS
        _log.warning("%s was held by %s: watching for %.0f s whether it lives", self.name, named(holder), patience)
        started = _clock()
        while _clock() - started < patience:
            time.sleep(RENEWAL_SECONDS / 5)
            found = self.objects.get(self.key)
            if found is None or found[1] != tag:
                return found is None
        return True

    def require_conditions(self, server: str) -> None:
        """Raise StoreError unless the server refuses writes whose condition does not hold."""
        content = json.dumps(self._me).encode()
        for tag in (None, _NO_TAG):
            new = self.objects.put(self.key, content, tag)
            if new is not None:
                self._tag = new
                raise StoreError(
                    f"store: {server} ignores conditional writes (If-None-Match, If-Match), so two runs could spoil "
                    f"{self.name}; use a server that honours them, such as AWS S3 or SeaweedFS, or a local --store"
                )

    def keep(self) -> None:
        """Renew until the end."""
        while not self.ended.wait(RENEWAL_SECONDS):
            with suppress(Exception):  # tried again at the next turn, and before the next write
                self._renew()

    def confirm(self) -> None:
        """Raise StoreError unless the lock is certain to be held for a while yet."""
        if self._lost is None and _clock() - self._confirmed > RENEWAL_SECONDS * RENEWALS / 2:
            self._renew()
        if self._lost is not None:
            raise StoreError(
                f"store: {self.name} is now being written by {self._lost}, because this process was suspended or cut "
                "off for too long; finished cells are safe: wait for the other, or run the same again"
            )

    def _renew(self) -> None:
        with self._turn:
            if self._lost is not None:
                return
            self._me["renewals"] = int(str(self._me["renewals"])) + 1
            if self._take(self._tag):
                return
            sent = _clock()
            found = self.objects.get(self.key)
            holder = _parse(found[0]) if found else {}
            if found and holder.get("token") == self.token:  # an answer was lost on its way
                self._tag, self._confirmed = found[1], sent
            else:
                self._lost = named(holder)

    def release(self) -> None:
        """Remove the lock if it is still this one."""
        if self._tag:
            self._renew()  # some servers heed conditions of writes alone
        if self._tag and self._lost is None:
            try:
                self.objects.remove(self.key, self._tag)
            except StoreError:  # without permission to delete
                self._me["released"] = True
                self._take(self._tag)


def _parse(content: bytes) -> dict[str, Any]:
    try:
        holder = json.loads(content)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}
