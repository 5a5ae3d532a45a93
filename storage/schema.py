"""Layout of a result store: a Zarr v3 group whose arrays span the axes of an experiment."""

import json
import math
from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Any

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.dtype import VariableLengthUTF8

from pipeline.experiment import Experiment, Label

FORMAT = 3  # 2, up to 0.8.0: numbers in the order they came; 1, up to 0.2.0: no checksums, which its chunks never get
MAIN_QUANTITY = "main_quantity"
"""Attribute of a store that names the quantity of its curves."""
_CHUNK_CELLS = 8192
_CHUNK_LABELS = 1024
TEXT: Any = VariableLengthUTF8()
_COORDINATES: Mapping[type, Any] = {str: TEXT, int: "int64", float: "float64"}
_COMPRESSORS: Any = (ZstdCodec(), Crc32cCodec())  # a chunk that was changed is found when it is read


class Status(IntEnum):
    """State of a cell; what a store holds for it is valid only where it is DONE."""

    MISSING = 0
    DONE = 1
    FAILED = 2
    SKIPPED = 3


def chunk_shape(experiment: Experiment, lengths: Sequence[int]) -> tuple[int, ...]:
    """Choose the chunk length of each axis, for arrays that may grow along any of them.

    Lengths are doubled, each time where most chunks would be saved, until a chunk has 8192 cells; axes of numbers
    are expected to grow, axes of names are not.
    """
    chunk = [1] * len(lengths)
    numeric = [axis.numeric for axis in experiment.axes]
    while math.prod(chunk) < _CHUNK_CELLS:
        chunks = [math.ceil(length / size) for length, size in zip(lengths, chunk, strict=True)]
        widest = max(range(len(chunk)), key=lambda i: (chunks[i], numeric[i], -chunk[i]))
        chunk[widest] *= 2
    return tuple(chunk)


def create_arrays(group: zarr.Group, experiment: Experiment, labels: Mapping[str, Sequence[Label]]) -> None:
    """Create coordinates and variables, all cells missing."""
    for axis in experiment.axes:
        coordinate = group.create_array(
            axis.name,
            shape=(len(labels[axis.name]),),
            chunks=(_CHUNK_LABELS,),
            dtype=_COORDINATES[axis.kind],
            fill_value="" if axis.kind is str else 0,
            compressors=_COMPRESSORS,
            dimension_names=(axis.name,),
            attributes=_described(axis.description, axis.comment),
        )
        coordinate[:] = label_array(labels[axis.name])
    lengths = [len(labels[axis.name]) for axis in experiment.axes]
    common: dict[str, Any] = {
        "shape": lengths,
        "chunks": chunk_shape(experiment, lengths),
        "compressors": _COMPRESSORS,
        "dimension_names": [axis.name for axis in experiment.axes],
    }
    for quantity in experiment.quantities:
        floating = np.dtype(quantity.dtype).kind == "f"
        group.create_array(
            quantity.name,
            dtype=quantity.dtype,
            fill_value=math.nan if floating else -1,
            attributes=_described(quantity.long_name, quantity.comment) | {"units": quantity.units},
            **common,
        )
    meanings: dict[str, Any] = {
        **_described("state of the cell", "other variables are valid where it is done"),
        "flag_values": [int(status) for status in Status],
        "flag_meanings": " ".join(status.name.lower() for status in Status),
    }
    group.create_array("status", dtype="int8", fill_value=0, attributes=meanings, **common)
    group.create_array(
        "message",
        dtype=TEXT,
        fill_value="",
        attributes={"long_name": "why a failed cell failed"},
        **common,
    )


def _described(long_name: str, comment: str) -> dict[str, Any]:
    """Attributes by which an array is described (CF conventions)."""
    return {"long_name": long_name} | ({"comment": comment} if comment else {})


def label_array(labels: Sequence[Label]) -> Any:
    """Array of labels in the type that Zarr stores them in."""
    return np.array(labels, dtype=np.dtypes.StringDType() if isinstance(labels[0], str) else None)


def identity(experiment: Experiment, settings: Mapping[str, object]) -> dict[str, str | int]:
    """Attributes that every spec written to one store must agree on."""
    return {
        "epsweep_format": FORMAT,
        "experiment": experiment.name,
        "revision": experiment.revision,
        "settings": json.dumps(settings, sort_keys=True),
    }
