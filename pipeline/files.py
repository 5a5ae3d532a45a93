"""A user's own matrix or tensor in a file: a NumPy array on disk, or a Zarr array, alone or in a group."""

import hashlib
import importlib
import math
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.arithmetic import own_state
from pipeline.arrays import BlockArray, FloatArray, bounds_of, check_finite
from pipeline.containers import REAL, missing_values
from pipeline.errors import InputError, one_line
from pipeline.passes import STORED_BYTES

_BUFFER = 2**22
_LARGEST_CHUNK = 64 * 2**20


class _NpyFile:
    """Array in a ``.npy`` file that is read, not mapped: what was looked at of a map counts as memory of the process.

    Parameters
    ----------
    path : str

    Raises
    ------
    ValueError, OSError
        If it is not such a file.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        with Path(path).open("rb") as file:
            version = np.lib.format.read_magic(file)
            if version not in _HEADERS:
                raise ValueError(f"format version {version[0]}.{version[1]}")
            self.shape, self._fortran, self.dtype = _HEADERS[version](file)
            self._offset = file.tell()
            size = os.fstat(file.fileno()).st_size
        if self.dtype.hasobject:
            raise ValueError("it holds Python objects")
        if size < self._offset + math.prod(self.shape) * self.dtype.itemsize:
            raise ValueError("it is shorter than its header says")

    def __getitem__(self, ranges: tuple[slice, ...]) -> npt.NDArray[Any]:
        bounds = bounds_of(ranges, self.shape)
        if self._fortran:
            return self._read(bounds[::-1], self.shape[::-1]).T
        return self._read(bounds, self.shape)

    def _read(self, bounds: Sequence[tuple[int, int]], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """Read a block of an array in C order, one run of neighbouring entries after the other."""
        block = np.empty([max(stop - start, 0) for start, stop in bounds], self.dtype)
        while len(shape) > 1 and bounds[-1] == (0, shape[-1]):  # whole rows are one run
            start, stop = (each * shape[-1] for each in bounds[-2])
            bounds, shape = [*bounds[:-2], (start, stop)], (*shape[:-2], shape[-2] * shape[-1])
        runs = block.reshape(-1, bounds[-1][1] - bounds[-1][0]) if block.size else ()
        strides = [math.prod(shape[k + 1 :]) for k in range(len(shape) - 1)]
        leading = product(*(range(start, stop) for start, stop in bounds[:-1]))
        with Path(self._path).open("rb") as file:
            for run, index in zip(runs, leading, strict=False):
                first = bounds[-1][0] + sum(i * stride for i, stride in zip(index, strides, strict=True))
                file.seek(self._offset + first * self.dtype.itemsize)
                if file.readinto(run.data.cast("B")) != run.nbytes:
                    raise InputError(f"file: {one_line(self._path)} has become shorter while it was read; restore it")
        return block


_HEADERS: dict[tuple[int, int], Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def _open_zarr(path: str) -> Any:
    """Array of a folder, or the only one of its group that is neither an axis nor a coordinate, as xarray writes it."""
    zarr = importlib.import_module("zarr")  # only who has such a folder needs it
    found = zarr.open(path, mode="r")
    if isinstance(found, zarr.Array):
        return found
    arrays = dict(found.arrays())
    beside = {name for each in (found, *arrays.values()) for name in str(each.attrs.get("coordinates", "")).split()}
    data = [name for name, each in arrays.items() if each.ndim > 1 and name not in beside] or list(arrays)
    if len(data) != 1:
        names = ", ".join(sorted(data)) or "none"
        raise InputError(
            f"file: {one_line(path)} is a group of several arrays ({one_line(names, 120)}); name one of them, as "
            f"{one_line(Path(path).name)}/{sorted(data)[0] if data else 'NAME'}"
        )
    return arrays[data[0]]


_READERS = {".npy": _NpyFile, ".zarr": _open_zarr}


def _reader(path: str) -> Any:
    """Reader of a file, of a folder, or of an array within a folder."""
    place = Path(path)
    within = any(each.suffix == ".zarr" and each.is_dir() for each in place.parents)
    return _READERS.get(place.suffix, _open_zarr if within else None)


@dataclass(frozen=True)
class FileRecipe:
    """A file of entries, in a form that can be sent to where it is worked on.

    Attributes
    ----------
    path : str
        Absolute.
    shape : tuple of int
    stamp : int
        Of names, sizes and times, where it was made: whoever keeps entries keeps them under it.
    """

    path: str
    shape: tuple[int, ...]
    stamp: int

    @classmethod
    def of(cls, path: str) -> "FileRecipe":
        """Look at a file."""
        shape = FileMatrix(path).shape
        stamp = hashlib.sha256(repr(_stamps(path)).encode(errors="surrogateescape")).digest()
        return cls(path, shape, int.from_bytes(stamp[:8], "big"))

    def make(self) -> "FileMatrix":
        """The matrix or tensor.

        Raises
        ------
        InputError
            If it cannot be read, or is another one.
        """
        matrix = FileMatrix(self.path)
        if matrix.shape != self.shape:
            raise InputError(
                f"file: {one_line(self.path)} has the shape {matrix.shape} here and {self.shape} where the run was "
                "started; give every machine the same file"
            )
        return matrix

    def require_same(self, digest: str) -> None:
        """Raise InputError unless the file has the SHA-256 here too; it is read only if its stamp is another one.

        Parameters
        ----------
        digest : str
            Of the file where the run was started.
        """
        self.make()
        if FileRecipe.of(self.path) != self and sha256_of(self.path) != digest:
            raise InputError(
                f"file: {one_line(self.path)} has other contents here than where the run was started; give every "
                "machine the same file"
            )


@dataclass(frozen=True)
class FileMatrix(BlockArray):
    """A matrix, or a tensor of higher order, of which only the blocks in use are read.

    Attributes
    ----------
    path : str
        Of a ``.npy`` file, of a ``.zarr`` folder that holds one array beside its axes, or of an array in such a folder.

    Raises
    ------
    InputError
        If it cannot be read, or is not an array of real numbers of order 2 or more.
    """

    path: str
    _values: Any = field(init=False, repr=False, compare=False)
    _missing: set[float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        reader, name = _reader(self.path), one_line(self.path)
        if reader is None:
            raise InputError(f"file: {name} is neither a .npy file nor a .zarr folder; save it as one")
        try:
            values = reader(self.path)
            dtype, shape = np.dtype(values.dtype), tuple(values.shape)
            object.__setattr__(self, "_missing", missing_values(values, f"file: {name}"))
        except (ImportError, InputError):
            raise
        except Exception as error:  # of the library that reads it
            raise InputError(
                f"file: {name} cannot be read ({type(error).__name__}: {one_line(error)}); name an array that every "
                "worker can read, beside the spec or with its whole path"
            ) from error
        if dtype.kind not in REAL or len(shape) < 2 or 0 in shape:
            raise InputError(
                f"file: {name} holds {one_line(dtype, 80)} of shape {shape}; give real numbers of two or more "
                "dimensions"
            )
        chunk = math.prod(getattr(values, "chunks", None) or (1,)) * dtype.itemsize
        if chunk > _LARGEST_CHUNK and 8 * math.prod(shape) > STORED_BYTES:
            raise InputError(
                f"file: {name} has chunks of {chunk / 2**20:.0f} MiB, which are read anew for every block; store it in "
                f"chunks of up to {_LARGEST_CHUNK // 2**20} MiB, such as 1024 × 2048"
            )
        object.__setattr__(self, "_values", values)

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each mode."""
        return tuple(map(int, self._values.shape))

    @own_state()
    def block(self, *ranges: slice) -> FloatArray:
        """Entries of a contiguous range of every mode, in double precision.

        Raises
        ------
        InputError
            If one of them is missing, NaN or infinite, a step is not 1, or there are not as many ranges as modes.
        """
        starts = [start for start, _ in bounds_of(ranges, self.shape)]
        block = np.array(self._values[ranges], dtype=np.float64, order="C")
        for each in self._missing:
            block[block == each] = np.nan
        check_finite(block, f"file {one_line(self.path)}", starts)
        return block


def find_file(name: str, folder: Path) -> str:
    """Absolute path of a file given relative to a folder, or to the working directory.

    Raises
    ------
    InputError
        If there is none.
    """
    with suppress(OSError, ValueError):  # a name that no file can have
        for place in (folder, Path.cwd()):
            if (place / name).exists():
                return str((place / name).absolute())
    raise InputError(f"file: {one_line(name)} is not there; put it beside the spec or in the working directory")


def sha256_of(path: str) -> str:
    """SHA-256 of a file, or of the sizes, names and contents of all files of a folder.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    try:
        return _digest(path, _stamps(path))
    except OSError as error:
        raise InputError(f"file: {one_line(path)} cannot be read ({error.strerror})") from error


def _stamps(path: str) -> tuple[tuple[str, int, int], ...]:
    """Name, size and time of a file, or of all files of a folder and of those that it links to."""
    root = Path(path)
    files = [Path(folder) / each for folder, _, names in os.walk(root, followlinks=True) for each in names] or [root]
    states = [(str(each.relative_to(root)), each.stat()) for each in sorted(files)]
    return tuple((name, state.st_size, state.st_mtime_ns) for name, state in states)


@lru_cache(maxsize=64)
def _digest(path: str, stamps: tuple[tuple[str, int, int], ...]) -> str:
    """Digest of what has not changed since its stamps were taken."""
    digest = hashlib.sha256()
    for name, size, _ in stamps:
        if name != ".":
            digest.update(f"{size} ".encode() + os.fsencode(name) + b"\0")
        with (Path(path) / name).open("rb") as file:
            while part := file.read(_BUFFER):
                digest.update(part)
    return digest.hexdigest()
