"""Numbers in any container, such as a masked array, a data frame or nested lists, as a plain NumPy array.

Everything that an array may say beside its numbers (which of them are masked, their unit) would be lost without a word
by `numpy.asarray`: it is refused here in one line. Libraries are known by their protocols, none of them is imported.
"""

import base64
import math
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError, one_line, shown

REAL = "fiub"
"""Kinds of NumPy types whose values are real numbers."""
_NOTHING_MORE = (np.matrix, np.memmap, np.recarray)  # subclasses that say nothing beside their numbers
_SCALARS = (int, float, complex, str, bytes, np.generic, type(None))
_MOST_DIMENSIONS = 64  # of NumPy


def plain_array(values: Any, place: str) -> npt.NDArray[Any]:
    """Convert to an array of NumPy's own class, of any type and shape.

    Parameters
    ----------
    values : array_like
        An array, nested sequences, a data frame, a labelled or lazy array, or whatever NumPy can convert.
    place : str
        What messages call it.

    Raises
    ------
    InputError
        If something of it would be lost, or it cannot be converted.
    """
    if type(values) is np.ndarray:
        return values
    if isinstance(values, np.ma.MaskedArray):
        return _unmasked(values, place)
    if isinstance(values, np.ndarray):
        if type(values) not in _NOTHING_MORE:
            raise InputError(
                f"{place}: a {_kind(values)} may be more than its numbers, such as a unit; pass them alone, as a "
                "numpy.ndarray"
            )
        return np.asarray(values)
    if isinstance(values, _SCALARS):
        return np.asarray(values)
    if _has_rows(values):
        return _of_rows(values, place)
    return _of_other_library(values, place)


def real_number(value: Any, place: str) -> float:
    """Convert to a float; InputError if it is no real number, or something of it would be lost."""
    if type(value) in (float, np.float64):
        return float(value)
    array = plain_array(value, place)
    if array.shape or array.dtype.kind not in REAL:
        raise InputError(f"{place}: {shown(value)} is not one real number; return a float")
    return float(array)


def _unmasked(values: np.ma.MaskedArray[Any, Any], place: str) -> npt.NDArray[Any]:
    if masked := int(np.ma.getmaskarray(values).sum()) if values.dtype.names is None else 0:
        raise InputError(
            f"{place}: {masked} of its {values.size} entries are masked; fill them, as in .filled(0.0), or leave their "
            "rows out"
        )
    return np.ma.getdata(values, subok=False)


def _has_rows(values: object) -> bool:
    """Whether it is a list, a tuple, a deque or the like."""
    return isinstance(values, Sequence) and not isinstance(values, memoryview)


def _of_rows(rows: Sequence[Any], place: str) -> npt.NDArray[Any]:
    try:
        return np.asarray(_plain_rows(rows, place, 1))
    except ValueError as error:
        raise InputError(f"{place}: its rows differ in length; pass an array") from error


def _plain_rows(rows: Sequence[Any], place: str, depth: int) -> Sequence[Any]:
    """Nested sequences of which every array is one of NumPy's own class."""
    if depth > _MOST_DIMENSIONS or all(issubclass(kind, _SCALARS) for kind in set(map(type, rows))):
        return rows
    found: list[Any] = []
    for position, each in enumerate(rows):
        here = f"{place}[{position}]"
        if isinstance(each, _SCALARS):
            found.append(each)
        else:
            found.append(_plain_rows(each, here, depth + 1) if _has_rows(each) else plain_array(each, here))
    return found


def _of_other_library(values: Any, place: str) -> npt.NDArray[Any]:
    kind = type(values)
    if hasattr(kind, "units") or hasattr(kind, "unit"):
        _refuse_unit(values, place)
    for method in ("toarray", "todense"):
        if hasattr(kind, method):
            raise InputError(f"{place}: a {_kind(values)} is sparse; pass its .{method}()")
    if hasattr(kind, "data_vars"):
        raise InputError(f"{place}: a {_kind(values)} holds several arrays; pass one of them, by its name")
    if hasattr(kind, "attrs") and hasattr(kind, "dtype") and not hasattr(kind, "iloc"):  # of xarray, Zarr or HDF5
        return _of_attributes(values, place)
    if hasattr(kind, "__dask_graph__"):
        return plain_array(values.compute(), place)
    if hasattr(kind, "iloc"):  # of pandas
        return _of_columns(values, place) if hasattr(kind, "columns") else _of_columns(values.to_frame(), place)[:, 0]
    _refuse_unit(values, place)  # of an object, where those of columns and attributes are no longer taken for one
    return _converted(values, place)


def missing_values(array: Any, subject: str) -> set[float]:
    """What stands for missing entries by the attributes of CF; InputError if entries stand for others.

    Parameters
    ----------
    array : array with ``attrs``
        Of xarray, Zarr or HDF5; any other has none.
    subject : str
        How a message that is about the array begins.
    """
    attributes = dict(getattr(array, "attrs", {}))
    coded = [name for name in ("scale_factor", "add_offset", "_Unsigned") if name in attributes]
    if coded or " since " in str(attributes.get("units", "")):
        raise InputError(
            f"{subject} holds codes of its entries ({', '.join(coded) or 'units'}: "
            f"{one_line(attributes[coded[0] if coded else 'units'], 40)}); give the numbers themselves"
        )
    given = [attributes[name] for name in ("_FillValue", "missing_value") if name in attributes]
    if "_FillValue" not in attributes and "_ARRAY_DIMENSIONS" in attributes:  # of xarray in Zarr's format 2
        given.append(array.fill_value)
    found = {_number(each, array.dtype) for value in given for each in np.atleast_1d(value).tolist()}
    return {each for each in found if not math.isnan(each)}  # NaN is refused wherever it stands


def _number(value: Any, dtype: np.dtype[Any]) -> float:
    """A value of an attribute, in the precision of the entries that it is compared with."""
    if value is None:
        return math.nan
    if isinstance(value, str) and dtype.kind == "f":  # of xarray in Zarr's format 3
        value = struct.unpack("<d", base64.b64decode(value))[0]
    return float(dtype.type(value) if dtype.kind == "f" else value)


def _of_attributes(values: Any, place: str) -> npt.NDArray[Any]:
    """Values of an array with attributes, none of which may say that they are others."""
    real = getattr(values.dtype, "kind", "") in REAL
    missing = missing_values(values, f"{place}: it") if real else set()
    array = plain_array(values.data, place) if hasattr(values, "dims") else _converted(values, place)
    if found := [each for each in missing if (array == each).any()]:
        raise InputError(f"{place}: entries of {found[0]:g} stand for missing ones; fill them, or leave their rows out")
    return array


def _refuse_unit(values: Any, place: str) -> None:
    for name in ("units", "unit"):
        unit = getattr(values, name, None)
        if unit is not None and not callable(unit):
            remedy = ".magnitude" if hasattr(values, "magnitude") else ".value"
            raise InputError(f"{place}: it has the unit {one_line(unit, 40)}; pass its numbers alone, such as {remedy}")


def _of_columns(frame: Any, place: str) -> npt.NDArray[Any]:
    """Values of a data frame, what is missing as NaN; to NumPy, columns of several types are objects."""
    for name, dtype in zip(frame.columns, frame.dtypes, strict=True):
        if getattr(dtype, "kind", "O") not in REAL:
            raise InputError(
                f"{place}: column {shown(name)} has the type {one_line(dtype, 40)}, no real numbers; drop it, or "
                "convert it, as in .astype(float)"
            )
    return np.asarray(frame.to_numpy(dtype=np.float64, na_value=np.nan))


def _converted(values: Any, place: str) -> npt.NDArray[Any]:
    try:
        array = np.asanyarray(values)
    except Exception as error:  # of whatever library it is from
        raise InputError(
            f"{place}: a {_kind(values)} cannot be converted ({type(error).__name__}: {one_line(error)}); pass a "
            "numpy.ndarray"
        ) from error
    if array.dtype == object and not array.shape:
        raise InputError(f"{place}: a {_kind(values)} is no array of numbers; pass a numpy.ndarray")
    return plain_array(array, place)


def _kind(values: object) -> str:
    return one_line(type(values).__name__, 80)
