"""Array types and the interface of a matrix that is made where it is needed."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt
from typing_extensions import TypeAliasType  # of typing from Python 3.12 on; signatures show its name

from pipeline.containers import REAL, plain_array
from pipeline.errors import InputError, one_line, shown

FloatArray = TypeAliasType("FloatArray", npt.NDArray[np.float64])
RealArray = TypeAliasType("RealArray", npt.NDArray[Any])
"""Single or double precision."""

LARGEST = 1e300
"""Entries beyond this overflow in a decomposition."""
_CONVERTED_BYTES = 2 * 2**30  # the most that numpy.asarray makes of an array in blocks
SINGLE_RESOLVES = 1e-3
"""Relative errors below this are pursued in double precision."""
ROUNDING_LEVEL = 16 * float(np.finfo(np.float64).eps)
"""Relative errors below this are nothing but rounding."""
_PANEL_BYTES = 2 * 2**20  # row panels of a residual stay in the processor's cache …
_PANEL_ROWS = 256  # … unless they would be too flat for matrix products at full speed


@runtime_checkable
class BlockMatrix(Protocol):
    """A real matrix known by its shape and by any block of its entries."""

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and columns."""
        ...

    def block(self, rows: slice, cols: slice) -> FloatArray:
        """Entries of a contiguous row and column range."""
        ...


Matrix: TypeAlias = FloatArray | BlockMatrix
MatrixLike = TypeAliasType("MatrixLike", npt.ArrayLike | BlockMatrix)
"""A matrix in any container: array, lists, data frame, FunctionMatrix, FileMatrix."""


class BlockArray(ABC):
    """An array whose entries are made or read when they are asked for, with what NumPy's own ones say of themselves."""

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """Length of each mode."""

    @abstractmethod
    def block(self, *ranges: slice) -> RealArray:
        """Entries of a contiguous range of every mode."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the entries."""
        return np.dtype(np.float64)

    @property
    def ndim(self) -> int:
        """Number of modes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def T(self) -> "BlockArray":  # noqa: N802 (NumPy's name)
        """The transpose, with the modes in reverse order, in blocks as well."""
        return TransposedArray(self)

    def to_numpy(self) -> RealArray:
        """All entries."""
        return self.block(*(slice(None) for _ in self.shape))

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        """All entries, for `numpy.asarray`; InputError where they are too many to be made by the way."""
        if copy is False:
            raise ValueError("its entries are made when they are asked for; leave copy=False out")
        if self.dtype.itemsize * self.size > _CONVERTED_BYTES:
            raise InputError(
                f"array: {' × '.join(map(str, self.shape))} entries take {self.dtype.itemsize * self.size / 2**30:.3g} "
                f"GiB; ask for parts by block({', '.join(['slice(0, 100)'] * self.ndim)}), or for all by to_numpy()"
            )
        return self.to_numpy().astype(dtype or self.dtype, copy=False)


@dataclass(frozen=True, repr=False)
class TransposedArray(BlockArray):
    """The transpose of an array in blocks, with the modes in reverse order."""

    original: BlockArray

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each mode."""
        return self.original.shape[::-1]

    @property
    def T(self) -> BlockArray:  # noqa: N802 (NumPy's name)
        """The array itself."""
        return self.original

    def block(self, *ranges: slice) -> RealArray:
        """Entries of a contiguous range of every mode."""
        return self.original.block(*ranges[::-1]).T

    def __repr__(self) -> str:
        return f"{self.original!r}.T"


def bounds_of(ranges: Sequence[slice], shape: Sequence[int]) -> list[tuple[int, int]]:
    """First place of a contiguous range of every mode, and the one after its last.

    Raises
    ------
    InputError
        If there are not as many ranges as modes, or one is no slice or has another step than 1.
    """
    if len(ranges) != len(shape):
        raise InputError(f"block: {len(ranges)} ranges for a tensor of order {len(shape)}; give one a mode")
    if wrong := [each for each in ranges if not isinstance(each, slice)]:
        raise InputError(f"block: {shown(wrong[0])} is no range; give a slice, such as slice(0, 100)")
    bounds = [each.indices(length) for each, length in zip(ranges, shape, strict=True)]
    if any(step != 1 for _, _, step in bounds):
        steps = " and ".join(str(step) for _, _, step in bounds)
        raise InputError(f"block: steps {steps}; ask for contiguous ranges (step 1)")
    return [(start, stop) for start, stop, _ in bounds]


def entries_of(matrix: Matrix, rows: slice, cols: slice) -> FloatArray:
    """Entries of a contiguous row and column range."""
    return matrix[rows, cols] if isinstance(matrix, np.ndarray) else matrix.block(rows, cols)


def divided(values: RealArray, scale: float, dtype: npt.DTypeLike) -> RealArray:
    """Values / scale, rounded to a precision."""
    quotient: RealArray = np.divide(values, scale, out=np.empty(values.shape, dtype), casting="same_kind")
    return quotient


def row_panels(matrix: RealArray) -> list[slice]:
    """Row ranges in which an iterative method passes over a stored matrix."""
    step = max(_PANEL_ROWS, _PANEL_BYTES // (matrix.itemsize * matrix.shape[1]))
    return [slice(start, min(start + step, len(matrix))) for start in range(0, len(matrix), step)]


def as_matrix(values: MatrixLike, name: str = "matrix") -> FloatArray:
    """Convert to a two-dimensional float64 array of finite entries.

    Raises
    ------
    InputError
        If the values are not a real, finite, non-empty two-dimensional array, or say more than its numbers.
    """
    array = values if isinstance(values, BlockMatrix) else _real(values, name)
    if len(array.shape) != 2 or 0 in array.shape:
        raise InputError(f"{name}: shape {array.shape} is not that of a non-empty matrix; pass a 2-D array")
    return _checked(_entries(array, name), name)


def as_tensor(values: Any, name: str = "tensor") -> FloatArray:
    """Convert to a C-ordered float64 array of finite entries, of order 2 or more.

    Raises
    ------
    InputError
        If the values are not a real, finite, non-empty array of that order, or say more than its numbers.
    """
    array = values if isinstance(values, BlockMatrix) else _real(values, name)
    if len(array.shape) < 2 or 0 in array.shape:
        raise InputError(
            f"{name}: shape {array.shape} is not that of a non-empty tensor; pass an array of order 3, say"
        )
    return np.ascontiguousarray(_checked(_entries(array, name), name))


def _entries(matrix: RealArray | BlockMatrix, name: str) -> RealArray:
    if isinstance(matrix, np.ndarray):
        return matrix
    return _real(matrix.block(*(slice(None) for _ in matrix.shape)), name)


def _real(values: Any, name: str) -> RealArray:
    """Array of real numbers of any type."""
    array = plain_array(values, name)
    if array.dtype.kind in REAL:
        return array
    if array.dtype == object:
        for index, entry in np.ndenumerate(array):
            if not isinstance(entry, int | float | np.number):
                place = f"entry [{', '.join(map(str, index))}] is" if index else "there is only"
                raise InputError(f"{name}: {place} {shown(entry)}; pass an array whose every entry is a real number")
    remedies = {"O": "convert it, as in .astype(float)", "c": "pass real numbers, such as its .real"}
    remedy = f"pass one field, such as {array.dtype.names[0]!r}" if array.dtype.names else "pass real numbers"
    raise InputError(f"{name}: dtype {one_line(array.dtype, 80)} is not real; {remedies.get(array.dtype.kind, remedy)}")


def _checked(array: RealArray, name: str) -> FloatArray:
    with np.errstate(over="ignore"):  # of extended precision: the infinity is refused by its place
        array = array.astype(np.float64, copy=False)
    check_finite(array, name)
    if (largest := float(np.abs(array).max())) > LARGEST:
        raise InputError(f"{name}: entries up to {largest:.3g} overflow in a decomposition; scale them below {LARGEST}")
    return array


def check_finite(array: FloatArray, name: str, corner: Sequence[int] | None = None) -> None:
    """Raise InputError naming the first entry that is NaN or infinite, in a block that begins at `corner`."""
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(array.sum()):
            return
    finite = np.isfinite(array)
    if not finite.all():
        index = np.argwhere(~finite)[0]
        place = ", ".join(map(str, index if corner is None else index + np.array(corner)))
        raise InputError(f"{name}: entry [{place}] is {array[tuple(index)]}; every entry must be finite")
