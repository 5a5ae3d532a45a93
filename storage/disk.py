"""Files that are on the disk before they take their name, so that a power cut leaves each as it was or as it became."""

import asyncio
import errno
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from zarr.core.buffer import Buffer
from zarr.storage import LocalStore, WrapperStore

PARTIAL = ".partial"
_AT_ONCE = 16  # a file system joins what is synced at one time: 0.3 ms each then, 7 ms alone


class Disk:
    """What is being written below one folder."""

    def __init__(self) -> None:
        self._batch: dict[Path, Path] | None = None
        self._noting = threading.Lock()  # of the files of a batch, and its end
        self._folders: set[Path] = set()  # changed, and perhaps not on the disk yet

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Context whose files take their names at its end, all on the disk by then; none of them after an exception.

        What was written or removed before is on the disk before the first of them takes its name.
        """
        self._batch = {}
        try:
            yield
            self._settle(self._batch)
        finally:
            with self._noting:  # writes beside the one that failed may be under way
                left = list(self._batch.values())
                self._batch = None
            for temporary in left:
                temporary.unlink(missing_ok=True)

    def put(self, path: Path, content: Buffer) -> None:
        """Write a file, which no other write of the batch may be about."""
        batch = self._batch
        self._make_folder(path.parent)
        temporary = path.with_name(f"{path.name}.{uuid4().hex}{PARTIAL}")
        try:
            temporary.write_bytes(content.as_buffer_like())
            if batch is None:  # or it failed before this began: chunks that no status vouches for
                sync_path(temporary)
                temporary.replace(path)
                self._folders.add(path.parent)
            else:
                self._note(batch, path, temporary)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise

    def _note(self, batch: dict[Path, Path], path: Path, temporary: Path) -> None:
        """Have a file that is written take its name at the end of its batch, which may have failed meanwhile."""
        with self._noting:
            if batch is not self._batch:
                raise OSError(errno.ECANCELED, os.strerror(errno.ECANCELED), str(path))
            if path in batch:
                raise ValueError(f"{path} is written twice at once")
            batch[path] = temporary

    def removed(self, path: Path) -> None:
        """Note that a file is gone."""
        self._folders.add(path.parent)

    def _make_folder(self, folder: Path) -> None:
        missing = folder
        while not missing.exists():
            missing = missing.parent
            self._folders.add(missing)
        folder.mkdir(parents=True, exist_ok=True)

    def _settle(self, batch: dict[Path, Path]) -> None:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            list(pool.map(sync_path, [*batch.values(), *self._folders]))
            self._folders = set()
            for path, temporary in batch.items():
                temporary.replace(path)
            list(pool.map(sync_path, {path.parent for path in batch}))


class DurableStore(WrapperStore[LocalStore]):
    """Zarr's store on disk, whose files are on the disk when they appear."""

    def __init__(self, store: LocalStore, disk: Disk) -> None:
        super().__init__(store)
        self._disk = disk

    def _with_store(self, store: LocalStore) -> "DurableStore":
        return DurableStore(store, self._disk)

    async def set(self, key: str, value: Buffer) -> None:
        """Write a key."""
        await asyncio.to_thread(self._disk.put, self._store.root / key, value)

    async def delete(self, key: str) -> None:
        """Remove a key, which need not be there."""
        await self._store.delete(key)
        self._disk.removed(self._store.root / key)


def sync_path(path: Path) -> None:
    """Have a file or folder on the disk.

    What has gone meanwhile is left alone, and so are folders where the file system or their owner does not allow it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return
    except PermissionError:
        if path.is_dir():
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(descriptor)
