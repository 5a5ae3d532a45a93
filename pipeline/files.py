"""A user's own matrix or tensor in a file: a NumPy array on disk, or a Zarr array."""

import hashlib
import importlib
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.arrays import FloatArray, check_finite
from pipeline.errors import InputError, one_line

_BUFFER = 2**22


def _map_npy(path: str) -> Any:
    return np.lib.format.open_memmap(path, mode="r")


def _open_zarr(path: str) -> Any:
    return importlib.import_module("zarr").open_array(path, mode="r")  # nothing else here needs it


_READERS = {".npy": _map_npy, ".zarr": _open_zarr}


@dataclass(frozen=True)
class FileRecipe:
    """A file of entries, in a form that can be sent to where it is worked on.

    Attributes
    ----------
    path : str
        Absolute.
    """

    path: str

    def make(self) -> "FileMatrix":
        """The matrix or tensor.

        Raises
        ------
        InputError
            If it cannot be read.
        """
        return FileMatrix(self.path)


@dataclass(frozen=True)
class FileMatrix:
    """A matrix, or a tensor of higher order, of which only the blocks in use are read.

    Attributes
    ----------
    path : str
        Of a ``.npy`` file or of a ``.zarr`` folder that holds one array.

    Raises
    ------
    InputError
        If it cannot be read, or is not an array of real numbers of order 2 or more.
    """

    path: str
    _values: Any = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        reader, name = _READERS.get(Path(self.path).suffix), one_line(self.path)
        if reader is None:
            raise InputError(f"file: {name} is neither a .npy file nor a .zarr folder; save it as one")
        try:
            values = reader(self.path)
            dtype, shape = np.dtype(values.dtype), tuple(values.shape)
        except ImportError:
            raise
        except Exception as error:  # of the library that reads it
            raise InputError(
                f"file: {name} cannot be read ({type(error).__name__}: {one_line(error)}); name an array that every "
                "worker can read, beside the spec or with its whole path"
            ) from error
        if dtype.kind not in "fiub" or len(shape) < 2 or 0 in shape:
            raise InputError(
                f"file: {name} holds {one_line(dtype, 80)} of shape {shape}; give real numbers of two or more "
                "dimensions"
            )
        object.__setattr__(self, "_values", values)

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each mode."""
        return tuple(map(int, self._values.shape))

    def block(self, *ranges: slice) -> FloatArray:
        """Entries of a contiguous range of every mode, in double precision.

        Raises
        ------
        InputError
            If one of them is NaN or infinite.
        """
        block = np.array(self._values[ranges], dtype=np.float64, order="C")
        starts = [each.indices(n)[0] for each, n in zip(ranges, self.shape, strict=True)]
        check_finite(block, f"file {one_line(self.path)}", starts)
        return block

    def to_numpy(self) -> FloatArray:
        """All entries."""
        return self.block(*(slice(None) for _ in self.shape))


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
    root = Path(path)
    try:
        files = sorted(each for each in root.rglob("*") if each.is_file()) if root.is_dir() else [root]
        stamps = tuple((str(each.relative_to(root)), each.stat().st_size, each.stat().st_mtime_ns) for each in files)
        return _digest(path, stamps)
    except OSError as error:
        raise InputError(f"file: {one_line(path)} cannot be read ({error.strerror})") from error


@lru_cache(maxsize=64)
def _digest(path: str, stamps: tuple[tuple[str, int, int], ...]) -> str:
    """Digest of what has not changed since its stamps were taken."""
    digest = hashlib.sha256()
    for name, size, _ in stamps:
        if name != ".":
            digest.update(f"{size} {name}\0".encode())
        with (Path(path) / name).open("rb") as file:
            while part := file.read(_BUFFER):
                digest.update(part)
    return digest.hexdigest()
