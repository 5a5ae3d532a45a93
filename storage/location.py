"""Where a store lies: a folder, or a key of a bucket. Nothing else knows the difference."""

import asyncio
import os
import re
import shutil
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from time import monotonic
from typing import TypeVar

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.core.common import concurrent_map
from zarr.core.sync import sync
from zarr.storage import LocalStore, WrapperStore

from pipeline.errors import StoreError, shown
from storage.disk import PARTIAL, Disk, DurableStore, sync_path
from storage.holders import denied, file_lock

ROOT = "zarr.json"
COPY = f"status/{ROOT}.copy"  # of the root document; within an array, where plain Zarr does not look for arrays
_LONGEST_PAUSE = 5.0
_AT_ONCE = 16
_SAFE = "finished cells are safe: mend that and run the same again"
_T = TypeVar("_T")
Confirm = Callable[[], None]  # raises StoreError once a lock is not certain to be held


def locate(path: "str | Path | Location") -> "Location":
    """Find where a store lies from a local path or ``s3://bucket/key``.

    Raises
    ------
    StoreError
        If it is another kind of URL, or holds what a store's name cannot.
    """
    if isinstance(path, Location):
        return path
    text = str(path)
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*):/", text)
    if scheme is None:
        if not text.strip() or not text.isprintable():
            raise StoreError(f"store: {shown(text)} names nothing; give a path, or s3://bucket/key")
        return Folder(Path(text))
    if scheme[1].lower() != "s3":
        raise StoreError(f"store: {scheme[1]}:// cannot hold a store; give a local path, or s3://bucket/key")
    if isinstance(path, Path) or not text[len(scheme[0]) :].startswith("/"):
        raise StoreError("store: an object store is spelt s3://bucket/key, as a text; a Path loses a slash")
    from storage.bucket import parse_url  # its libraries take a while to import

    return parse_url(text)


class Location(ABC):
    """A place for one store.

    Attributes
    ----------
    name : str
        How messages spell it.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.patience = 0.0
        self.limit: float | None = None  # seconds for one operation
        self._confirm: Confirm | None = None

    def __str__(self) -> str:
        return self.name

    @abstractmethod
    def exists(self) -> bool:
        """Whether something is there."""

    @abstractmethod
    def publish(self, documents: Mapping[str, bytes]) -> None:
        """Make a store of keys and their contents; it appears whole or not at all."""

    @abstractmethod
    def _hold(self) -> AbstractContextManager[Confirm | None]:
        """Hold the lock, which gives what confirms it; StoreError names the holder, or why nothing can be written."""

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Write alone; raises StoreError that names another holder. What this process has reserved is taken over."""
        reserved = next((each for each in _reserved if each.same(self)), None)
        if reserved is None:
            with self._hold() as confirm, self._writing(confirm):
                yield
            return
        _reserved.remove(reserved)  # for one writer at a time
        try:
            with self._writing(reserved._confirm):
                yield
        finally:
            _reserved.append(reserved)

    @contextmanager
    def reserve(self) -> Iterator[None]:
        """Hold the lock for a writer of this process that is to come; raises StoreError as `lock` does."""
        with self.lock():
            _reserved.append(self)
            try:
                yield
            finally:
                _reserved.remove(self)

    @contextmanager
    def _writing(self, confirm: Confirm | None) -> Iterator[None]:
        self._confirm, self.patience = confirm, self._patience()
        try:
            yield
        finally:
            self._confirm, self.patience = None, 0.0

    def _patience(self) -> float:
        """Seconds for which what may succeed later is tried again under the lock."""
        return 0.0

    @abstractmethod
    def tidy(self) -> None:
        """Remove what writes left behind that were killed."""

    @abstractmethod
    def same(self, other: "Location") -> bool:
        """Whether another location is this one."""

    @abstractmethod
    def reason(self, error: Exception) -> str | None:
        """One line for an error of this kind of place; None for any other."""

    @abstractmethod
    def _zarr(self, *, read_only: bool) -> Store:
        """Zarr's own store for the place."""

    def _may_pass(self, error: Exception) -> bool:
        """Whether the same may succeed later."""
        return False

    def store(self, *, read_only: bool = True) -> Store:
        """Zarr store whose errors are one line, and that repeats under the lock what may succeed later."""
        return _Guarded(self._zarr(read_only=read_only), self)

    def read(self, key: str) -> bytes | None:
        """Content of a key; None if there is none."""
        found = sync(self.store().get(key, default_buffer_prototype()))
        return None if found is None else found.to_bytes()

    def write(self, documents: Mapping[str, bytes]) -> None:
        """Write keys, each in one atomic step; they are durable then, and so is all that was written before."""
        with self.batch():
            _put(self.store(read_only=False), documents)

    def batch(self) -> AbstractContextManager[None]:
        """Context at whose end what was written within it is durable, after all that was written before."""
        return nullcontext()

    def delete(self, keys: Iterable[str]) -> None:
        """Remove keys, which need not be there."""
        store = self.store(read_only=False)
        sync(concurrent_map([(key,) for key in keys], store.delete, _AT_ONCE))

    def names(self) -> set[str]:
        """All keys."""
        return sync(self.attempt("read", self._listed))

    async def _listed(self) -> set[str]:
        return {key async for key in self._zarr(read_only=True).list()}

    async def attempt(self, action: str, operation: Callable[[], Awaitable[_T]]) -> _T:
        """Do something with one key, again while it may succeed later and there is patience left."""
        deadline, pause = monotonic() + self.patience, 0.2
        while True:
            try:
                if self._confirm is not None:
                    await asyncio.to_thread(self._confirm)
                async with asyncio.timeout(self.limit):
                    return await operation()
            except Exception as error:
                reason = self.reason(error)
                if reason is None:
                    raise
                if not self._may_pass(error) or monotonic() > deadline:
                    advice = f"; {_SAFE}" if action == "written" or self._confirm is not None else ""
                    raise StoreError(f"store: {self.name} cannot be {action} ({reason}){advice}") from error
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)


_reserved: list[Location] = []  # locks that this process holds for its next writer of the store


def _put(store: Store, documents: Mapping[str, bytes]) -> None:
    buffer = default_buffer_prototype().buffer
    items = [(key, buffer.from_bytes(content)) for key, content in documents.items()]
    sync(concurrent_map(items, store.set, _AT_ONCE))


class _Guarded(WrapperStore[Store]):
    """A store whose every operation is attempted as its location says."""

    def __init__(self, store: Store, location: Location) -> None:
        super().__init__(store)
        self._location = location

    def _with_store(self, store: Store) -> "_Guarded":
        return _Guarded(store, self._location)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        return await self._location.attempt("read", lambda: self._store.get(key, prototype, byte_range))

    async def _get_many(
        self, requests: Iterable[tuple[str, BufferPrototype, ByteRequest | None]]
    ) -> AsyncGenerator[tuple[str, Buffer | None], None]:
        for request in requests:
            yield request[0], await self.get(*request)

    async def set(self, key: str, value: Buffer) -> None:
        await self._location.attempt("written", lambda: self._store.set(key, value))

    async def delete(self, key: str) -> None:
        await self._location.attempt("written", lambda: self._store.delete(key))


class Folder(Location):
    """A store on disk."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        try:
            self.path = path.resolve()  # the same store and lock however it is spelt
        except (OSError, RuntimeError) as error:
            raise StoreError(f"store: {path} cannot be resolved ({error}); use another --store") from error
        self._disk = Disk()

    def exists(self) -> bool:
        """Whether something is there."""
        with self._errors("read"):
            return self.path.exists()

    def publish(self, documents: Mapping[str, bytes]) -> None:
        """Build the store under another name, then rename it."""
        building = self.path.with_name(f".{self.path.name}.new")
        with self._errors("written"):
            shutil.rmtree(building, ignore_errors=True)
            try:
                with self._disk.batch():
                    _put(_Guarded(DurableStore(LocalStore(building), self._disk), self), documents)
                building.rename(self.path)
                for folder in self.path.parents:  # which may be new as well
                    sync_path(folder)
            except Exception:
                shutil.rmtree(building, ignore_errors=True)  # the disk may be full of it
                raise

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Context at whose end what was written within it is durable, after all that was written before."""
        with self._errors("written", _SAFE), self._disk.batch():
            yield

    @contextmanager
    def _hold(self) -> Iterator[None]:
        with self._errors("read"):
            is_file = self.path.exists() and not self.path.is_dir()
        if is_file:
            raise StoreError(f"store: {self.name} is a file, not a result store; use another --store")
        with file_lock(self.path.with_name(self.path.name + ".lock"), self.name, like=self.path / ROOT):
            self._require_writable()
            yield

    def _require_writable(self) -> None:
        """Raise StoreError if a part of the store is not for this user to write, before anything is computed."""
        folders = (folder for folder, _, _ in os.walk(self.path)) if self.path.exists() else (self.path.parent,)
        for folder in folders:
            if not os.access(folder, os.W_OK | os.X_OK):
                raise StoreError(f"store: {self.name} cannot be written ({denied(Path(folder))}); use another --store")

    def tidy(self) -> None:
        """Remove what writes left behind that were killed."""
        with self._errors("written"):
            for leftover in self.path.rglob(f"*{PARTIAL}"):
                leftover.unlink()

    def same(self, other: Location) -> bool:
        """Whether another location is this one."""
        return isinstance(other, Folder) and self.path == other.path

    def reason(self, error: Exception) -> str | None:
        """One line for an error of this kind of place; None for any other."""
        return (error.strerror or str(error)) if isinstance(error, OSError) else None

    def _zarr(self, *, read_only: bool) -> Store:
        store = LocalStore(self.path, read_only=read_only)
        return store if read_only else DurableStore(store, self._disk)

    @contextmanager
    def _errors(self, action: str, advice: str = "mend that") -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StoreError(f"store: {self.name} cannot be {action} ({self.reason(error)}); {advice}") from error
