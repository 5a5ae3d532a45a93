"""Reading that verifies: chunks are checked as they are read, and status admits what is damaged.

A chunk of a quantity that is damaged or lost reads as not computed, and the cells that were done in it as missing, so
that no value is ever taken for one that was computed and a rerun computes just these again.
"""

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
import numpy.typing as npt
import zarr
from numcodecs.zstd import Zstd
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.storage import WrapperStore

from pipeline.errors import StoreError
from storage.location import ROOT
from storage.schema import Status

SEPARATORS = ("/", ".")
_STATES = np.array(list(Status), dtype=np.int8)
_TYPES = ("string", "int8", "int16", "int32", "int64", "float32", "float64")


@dataclass(frozen=True)
class Layout:
    """How one array is stored.

    Attributes
    ----------
    name : str
    shape, chunks : tuple of int
    dimensions : tuple of str
    checked : bool
        Whether its chunks carry a checksum, and a chunk with a finished cell is always there.
    separator : {"/", "."}
        In the keys of its chunks; a growth that changes the order of labels writes those of the other separator.
    """

    name: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dimensions: tuple[str, ...]
    checked: bool
    separator: str = "/"

    @classmethod
    def parse(cls, name: str, metadata: Mapping[str, Any]) -> "Layout":
        """Read the layout of an array from its metadata; ValueError for one that this package does not write."""
        kind, grid, encoding = metadata["data_type"], metadata["chunk_grid"], metadata["chunk_key_encoding"]
        codecs = [codec["name"] for codec in metadata["codecs"]]
        serializer = "vlen-utf8" if kind == "string" else "bytes"
        if kind not in _TYPES or codecs not in ([serializer, "zstd"], [serializer, "zstd", "crc32c"]):
            raise ValueError(f"{name} is stored as {kind!r} by the codecs {codecs}, which are not read")
        if metadata["node_type"] != "array" or metadata["zarr_format"] != 3 or metadata.get("storage_transformers"):
            raise ValueError(f"{name} is not a plain array")
        separator = encoding["configuration"]["separator"]
        if grid["name"] != "regular" or encoding["name"] != "default" or separator not in SEPARATORS:
            raise ValueError(f"{name} has another grid of chunks")
        shape, chunks = tuple(metadata["shape"]), tuple(grid["configuration"]["chunk_shape"])
        dimensions = tuple(metadata["dimension_names"])
        sizes = [*shape, *chunks]
        if not all(type(size) is int and size > 0 for size in sizes) or not len(shape) == len(chunks) == len(
            dimensions
        ):
            raise ValueError(f"{name} has the shape {shape} in chunks of {chunks}")
        return cls(name, shape, chunks, dimensions, codecs[-1] == "crc32c", separator)

    def key(self, chunk: tuple[int, ...]) -> str:
        """Key of a chunk."""
        return f"{self.name}/" + self.separator.join(map(str, ("c", *chunk)))

    def chunk(self, key: str) -> tuple[int, ...] | None:
        """Chunk of a key; None if it is not that of one of its chunks."""
        first, *indices = key.removeprefix(f"{self.name}/").split(self.separator)
        if first != "c" or len(indices) != len(self.shape) or not all(map(str.isdecimal, indices)):
            return None
        return tuple(map(int, indices))

    def cells(self, chunk: tuple[int, ...]) -> tuple[slice, ...]:
        """Box of the cells of a chunk."""
        boxes = zip(chunk, self.chunks, self.shape, strict=True)
        return tuple(slice(i * size, min((i + 1) * size, length)) for i, size, length in boxes)

    def is_whole(self, data: bytes) -> bool:
        """Whether the bytes of a chunk are those that were written, as far as they tell."""
        if self.checked:
            return len(data) > 4 and google_crc32c.value(data[:-4]).to_bytes(4, "little") == data[-4:]
        try:
            return bool(Zstd().decode(data))
        except (RuntimeError, ValueError):
            return False


@dataclass(frozen=True)
class DamagedChunk:
    """Part of a store that was changed or lost.

    Attributes
    ----------
    array : str
    chunk : tuple of int
        Its place in the grid of chunks.
    cells : int
        Finished cells that it held; for `status` those that may have been finished, as it no longer says.
    """

    array: str
    chunk: tuple[int, ...]
    cells: int


class Pinned(WrapperStore[Store]):
    """A store with a given root document, whatever is published meanwhile."""

    def __init__(self, store: Store, root: bytes) -> None:
        super().__init__(store)
        self._root = root

    def _with_store(self, store: Store) -> "Pinned":
        return type(self)(store, self._root)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Content of a key; the root document as given."""
        if key == ROOT:
            return prototype.buffer.from_bytes(self._root)
        return await self._store.get(key, prototype, byte_range)

    async def _get_many(
        self, requests: Iterable[tuple[str, BufferPrototype, ByteRequest | None]]
    ) -> AsyncGenerator[tuple[str, Buffer | None], None]:
        for request in requests:
            yield request[0], await self.get(*request)


class Kept(Pinned):
    """A store to write to, in which no chunk that was there is taken for one that never was."""

    def __init__(self, store: Store, root: bytes, known: set[str]) -> None:
        super().__init__(store, root)
        self._known = known

    def _with_store(self, store: Store) -> "Kept":
        return type(self)(store, self._root, self._known)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Content of a key; RuntimeError for one that has been lost."""
        found = await super().get(key, prototype, byte_range)
        if found is None and key in self._known:
            raise RuntimeError(f"{key} was lost")
        return found

    async def set(self, key: str, value: Buffer) -> None:
        """Write a key."""
        await super().set(key, value)
        self._known.add(key)


class Verified(Pinned):
    """A store whose chunks are checked as they are read.

    Attributes
    ----------
    damaged : dict of (str, tuple of int) to DamagedChunk
        What has been found so far.
    """

    def __init__(
        self,
        store: Store,
        root: bytes,
        layouts: Mapping[str, Layout],
        name: str,
        asked: Callable[[], npt.NDArray[np.bool_]],
    ) -> None:
        super().__init__(store, root)
        self.layouts = layouts
        self.damaged: dict[tuple[str, tuple[int, ...]], DamagedChunk] = {}
        self._name = name
        self._asked = asked  # which cells a specification asked for
        self._seen: set[str] = set()  # keys of chunks that were there
        self._status = layouts["status"]
        self._beside = {
            name: layout
            for name, layout in layouts.items()
            if (layout.dimensions, layout.chunks) == (self._status.dimensions, self._status.chunks)
        }

    def _with_store(self, store: Store) -> "Verified":
        changed = type(self)(store, self._root, self.layouts, self._name, self._asked)
        changed.damaged, changed._seen = self.damaged, self._seen
        return changed

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Content of a key; None for a chunk that is damaged."""
        found = await super().get(key, prototype, byte_range)
        layout = self.layouts.get(key.partition("/")[0])
        chunk = None if layout is None else layout.chunk(key)
        if layout is None or chunk is None:
            return found
        if layout is self._status:
            return await self._masked(found, chunk, prototype)
        if found is None and key in self._seen:
            await self._require_same_order()
            self._note(layout.name, chunk, 0)
        if found is None or layout.is_whole(found.to_bytes()):
            return found
        if layout.name not in self._beside:
            raise ValueError(f"{key} was changed")
        self._note(layout.name, chunk, 0)
        return None

    async def _masked(self, found: Buffer | None, chunk: tuple[int, ...], prototype: BufferPrototype) -> Buffer | None:
        """Chunk of the status, read before what it vouches for, without the cells whose values are damaged.

        Of cells whose state it does not say, those are missing that a specification asked for; others are skipped.
        """
        if found is None:
            await self._require_same_order()
        status, cells = self._decode_status(found), self._status.cells(chunk)
        inside = tuple(slice(0, part.stop - part.start) for part in cells)
        unknown = np.ones(self._status.chunks, dtype=bool)[inside]
        if status is not None:
            unknown = ~np.isin(status[inside], _STATES)
        if unknown.any():
            asked = self._asked()[cells]
            if found is not None or self._status.checked or not asked.all():  # format 1: none where all are missing
                self._note("status", chunk, int((asked & unknown).sum()))
            status = np.zeros(self._status.chunks, dtype=np.int8) if status is None else status.copy()
            status[inside][unknown] = np.where(asked, Status.MISSING, Status.SKIPPED)[unknown]
        lost = await self._unvouched(status, chunk)
        if not (unknown.any() or lost.any()):
            return found
        return self._encode_status(np.where(lost, np.int8(Status.MISSING), status), prototype)

    async def _unvouched(self, status: Any, chunk: tuple[int, ...]) -> Any:
        """Finished cells of a chunk of which something is damaged."""
        lost = np.zeros(status.shape, dtype=bool)
        beside = [layout for layout in self._beside.values() if layout is not self._status]
        contents = await asyncio.gather(*(self._content(layout.key(chunk)) for layout in beside))
        for layout, content in zip(beside, contents, strict=True):
            vouched = status == (Status.FAILED if layout.name == "message" else Status.DONE)
            if content is not None:
                self._seen.add(layout.key(chunk))
            if layout.checked and vouched.any() if content is None else not layout.is_whole(content):
                if content is None:
                    await self._require_same_order()
                self._note(layout.name, chunk, int(vouched.sum()))
                lost |= vouched
        return lost

    async def _content(self, key: str) -> bytes | None:
        found = await self._store.get(key, default_buffer_prototype())
        return None if found is None else found.to_bytes()

    async def _require_same_order(self) -> None:
        """Raise StoreError where chunks are gone because another order of labels has followed that of the root."""
        root = await self._content(ROOT)
        try:
            metadata = json.loads(root or b"")["consolidated_metadata"]["metadata"]
            now = {name: Layout.parse(name, each).separator for name, each in metadata.items()}
        except (ValueError, KeyError, TypeError):
            return
        if any(layout.separator != now.get(name) for name, layout in self.layouts.items()):
            raise StoreError(
                f"store: {self._name} has been put in another order by runs that added labels since it was opened; "
                "open it again"
            )

    def _decode_status(self, found: Buffer | None) -> Any:
        """Cells of a chunk of the status; None if it is damaged or not there."""
        if found is None or not self._status.is_whole(data := found.to_bytes()):
            return None
        status = np.frombuffer(Zstd().decode(data[:-4] if self._status.checked else data), dtype=np.int8)
        return status.reshape(self._status.chunks) if status.size == math.prod(self._status.chunks) else None

    def _encode_status(self, status: Any, prototype: BufferPrototype) -> Buffer:
        data = bytes(Zstd().encode(status))
        return prototype.buffer.from_bytes(
            data + google_crc32c.value(data).to_bytes(4, "little") if self._status.checked else data
        )

    def _note(self, name: str, chunk: tuple[int, ...], cells: int) -> None:
        known = self.damaged.get((name, chunk))
        if known is None or known.cells < cells:
            self.damaged[name, chunk] = DamagedChunk(name, chunk, cells)


def read_array(store: Store, name: str) -> Any:
    """All of one array of a store, as NumPy has it."""
    array = zarr.open_group(store, mode="r", use_consolidated=True)[name]
    if not isinstance(array, zarr.Array):
        raise StoreError(f"store: {name} is not an array; the store is damaged")
    return np.asarray(array[:])
