"""Array types and the interface of a matrix that is made where it is needed."""

from collections.abc import Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError

FloatArray: TypeAlias = npt.NDArray[np.float64]
RealArray: TypeAlias = npt.NDArray[Any]
"""Single or double precision."""

LARGEST = 1e300
"""Entries beyond this overflow in a decomposition."""
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


def as_matrix(values: npt.ArrayLike | BlockMatrix) -> FloatArray:
    """Convert to a two-dimensional float64 array of finite entries.

    Raises
    ------
    InputError
        If the values are not a real, finite, non-empty two-dimensional array.
    """
    array = values if isinstance(values, BlockMatrix) else _as_real(values, "matrix")
    if len(array.shape) != 2 or 0 in array.shape:
        raise InputError(f"matrix: shape {array.shape} is not that of a non-empty matrix; pass a 2-D array")
    return _checked(array if isinstance(array, np.ndarray) else array.block(slice(None), slice(None)), "matrix")


def as_tensor(values: npt.ArrayLike) -> FloatArray:
    """Convert to a C-ordered float64 array of finite entries, of order 2 or more.

    Raises
    ------
    InputError
        If the values are not a real, finite, non-empty array of that order.
    """
    array = _as_real(values, "tensor")
    if array.ndim < 2 or 0 in array.shape:
        raise InputError(
            f"tensor: shape {array.shape} is not that of a non-empty tensor; pass an array of order 3, say"
        )
    return np.ascontiguousarray(_checked(array, "tensor"))


def _as_real(values: npt.ArrayLike, name: str) -> npt.NDArray[Any]:
    try:
        return np.asarray(values)
    except ValueError as error:
        raise InputError(f"{name}: its rows differ in length; pass an array") from error


def _checked(array: npt.NDArray[Any], name: str) -> FloatArray:
    if array.dtype.kind not in "fiub":
        raise InputError(f"{name}: dtype {array.dtype} is not real; pass real numbers")
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
