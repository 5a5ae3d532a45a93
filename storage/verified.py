"""Reading that believes nothing: chunks are checked as they are read, and status admits what is damaged.

A chunk of a quantity that is damaged or lost reads as not computed, and the cells that were done in it as missing, so
that no value is ever taken for one that was computed and a rerun computes just these again.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs.zstd import Zstd
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
from zarr.storage import WrapperStore

from pipeline.errors import StoreError
from storage.location import ROOT
from storage.schema import Status

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
    """

    name: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dimensions: tuple[str, ...]
    checked: bool

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
        if grid["name"] != "regular" or encoding["name"] != "default" or encoding["configuration"]["separator"] != "/":
            raise ValueError(f"{name} has another grid of chunks")
        shape, chunks = tuple(metadata["shape"]), tuple(grid["configuration"]["chunk_shape"])
        dimensions = tuple(metadata["dimension_names"])
        sizes = [*shape, *chunks]
        if not all(type(size) is int and size > 0 for size in sizes) or not len(shape) == len(chunks) == len(
            dimensions
        ):
            raise ValueError(f"{name} has the shape {shape} in chunks of {chunks}")
        return cls(name, shape, chunks, dimensions, codecs[-1] == "crc32c")

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
        Finished cells that it held; for `status` all its cells, as it no longer says.
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

    def __init__(self, store: Store, root: bytes, layouts: Mapping[str, Layout]) -> None:
        super().__init__(store, root)
        self.layouts = layouts
        self.damaged: dict[tuple[str, tuple[int, ...]], DamagedChunk] = {}
        self._status = layouts["status"]
        self._beside = {
            name: layout
            for name, layout in layouts.items()
            if (layout.dimensions, layout.chunks) == (self._status.dimensions, self._status.chunks)
        }

    def _with_store(self, store: Store) -> "Verified":
        changed = type(self)(store, self._root, self.layouts)
        changed.damaged = self.damaged
        return changed

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Content of a key; None for a chunk that is damaged."""
        found = await super().get(key, prototype, byte_range)
        name, _, indices = key.partition("/c/")
        if not indices or name not in self.layouts:
            return found
        if name == "status":
            return await self._masked(found, tuple(map(int, indices.split("/"))), prototype)
        if found is None or self.layouts[name].is_whole(found.to_bytes()):
            return found
        if name not in self._beside:
            raise ValueError(f"{key} was changed")
        self._note(name, tuple(map(int, indices.split("/"))), 0)
        return None

    async def _masked(self, found: Buffer | None, chunk: tuple[int, ...], prototype: BufferPrototype) -> Buffer | None:
        """Chunk of the status, read before what it vouches for, without the cells whose values are damaged."""
        status = self._decode_status(found)
        if status is None:
            if found is not None or self._status.checked:
                cells = math.prod(part.stop - part.start for part in self._status.cells(chunk))
                self._note("status", chunk, cells)
            return None
        names = [name for name in self._beside if name != "status"]
        contents = await asyncio.gather(*(self._chunk(name, chunk) for name in names))
        lost = np.zeros(status.shape, dtype=bool)
        for name, content in zip(names, contents, strict=True):
            layout = self._beside[name]
            vouched = status == (Status.FAILED if name == "message" else Status.DONE)
            broken = layout.checked and vouched.any() if content is None else not layout.is_whole(content)
            if broken:
                self._note(name, chunk, int(vouched.sum()))
                lost |= vouched
        return self._encode_status(np.where(lost, np.int8(Status.MISSING), status), prototype) if lost.any() else found

    async def _chunk(self, name: str, chunk: tuple[int, ...]) -> bytes | None:
        found = await self._store.get(f"{name}/c/{'/'.join(map(str, chunk))}", default_buffer_prototype())
        return None if found is None else found.to_bytes()

    def _decode_status(self, found: Buffer | None) -> Any:
        """Cells of a chunk of the status; None if it is damaged or not there."""
        if found is None or not self._status.is_whole(data := found.to_bytes()):
            return None
        status = np.frombuffer(Zstd().decode(data[:-4] if self._status.checked else data), dtype=np.int8)
        return status if status.size == math.prod(self._status.chunks) else None

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
