"""Numbers of callers as float64, or one line that names the field, the first value that is wrong, and the remedy."""

from collections.abc import Callable
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.arrays import FloatArray
from pipeline.containers import REAL, plain_array
from pipeline.errors import InputError, shown

Numbers: TypeAlias = npt.ArrayLike


def tolerance(values: Numbers) -> FloatArray:
    """Relative errors."""
    return numbers("epsilon", values, lambda e: (e > 0) & (e < 1), "give a number strictly between 0 and 1")


def positive(field: str, values: Numbers) -> FloatArray:
    """Positive finite numbers."""
    return numbers(field, values, lambda v: (v > 0) & np.isfinite(v), "give a positive finite number")


def norms(field: str, values: Numbers) -> FloatArray:
    """Numbers that are not negative, among them inf."""
    return numbers(field, values, lambda v: v >= 0, "give a number of at least 0")


def whole(field: str, values: Numbers, least: int = 1) -> FloatArray:
    """Whole numbers."""
    remedy = f"give a whole number of at least {least}"
    return numbers(field, values, lambda v: (v >= least) & np.isfinite(v) & (v == np.floor(v)), remedy)


def one_number(field: str, value: float) -> float:
    """A single number of at least 1, or inf."""
    return _one(field, numbers(field, value, lambda v: v >= 1, "give a number of at least 1, or inf"))


def one_positive(field: str, value: float) -> float:
    """A single positive number."""
    return _one(field, positive(field, value))


def one_whole(field: str, value: float, least: int = 1) -> int:
    """A single whole number."""
    return int(_one(field, whole(field, value, least)))


def _one(field: str, number: FloatArray) -> float:
    if number.ndim:
        raise InputError(f"{field}: {shown(number.tolist())} is not one number; call once for each")
    return float(number)


def numbers(
    field: str, values: Numbers, valid: Callable[[FloatArray], npt.NDArray[np.bool_]], remedy: str
) -> FloatArray:
    """Numbers as float64, or one line that shows the first that is wrong."""
    try:
        found = floats(field, values)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{field}: {shown(values)} is not a number; {remedy}") from None
    if (wrong := ~valid(found)).any():
        raise InputError(f"{field}: {float(found[wrong][0])} is out of range; {remedy}")
    return found


def floats(field: str, values: Numbers) -> FloatArray:
    """Convert to float64; TypeError, ValueError or OverflowError if one of the values is no real number."""
    array = plain_array(values, field)
    casting: Literal["unsafe", "safe"] = "unsafe" if array.dtype.kind in f"{REAL}O" else "safe"
    return array.astype(np.float64, casting=casting, copy=False)
