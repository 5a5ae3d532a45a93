"""Growth of a store: labels are added, axes of numbers kept in order, and what was damaged is made missing."""

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr

from pipeline.experiment import Label
from pipeline.grid import positions
from storage.document import Document, mend_copies, write_document, write_labels
from storage.location import COPY, Location
from storage.schema import FORMAT, Status
from storage.verified import DamagedChunk, Verified, read_array

_AT_ONCE = 8
StatusBox = npt.NDArray[np.int8]


def extend(
    location: Location, document: Document, labels: Mapping[str, Sequence[Label]], wanted: npt.NDArray[np.bool_]
) -> Document:
    """Mend a store, add labels that it does not have, and publish the document; returns what was published.

    Nothing is visible before the document is, and a kill at any point before is made good by the next extension.
    Labels that come last are added in place. Where others come between, all chunks are written under other keys, which
    the document then names; those of the old keys stay until the next extension, for readers that are at it.
    """
    location.tidy()
    names = _without_leftovers(location, document)
    old = document.labels
    new = {axis: _united(old[axis], labels[axis]) for axis in old}
    verified = document.verified(location)
    status = read_array(verified, "status")
    grown = np.full([len(values) for values in new.values()], Status.SKIPPED, dtype=np.int8)
    grown[np.ix_(*(positions(new[axis], old[axis]) for axis in old))] = status
    here = np.ix_(*(positions(values, labels[axis]) for axis, values in new.items()))
    grown[here] = np.where(wanted & (grown[here] == Status.SKIPPED), Status.MISSING, grown[here])
    moved = any(new[axis][: len(old[axis])] != old[axis] for axis in old)
    before, document = document, document.with_labels(new).with_attributes({"epsweep_format": FORMAT})
    document = document.in_other_keys() if moved else document
    arrays = document.arrays(location, names)
    with location.batch():
        if new != old:
            write_labels(arrays, new)
        if moved:
            _move(verified, before, document, arrays, grown)
        if new != old or verified.damaged or (grown != status).any():
            arrays["status"][:] = grown
    if not moved:
        beside = [each for each in verified.damaged.values() if each.array != "status"]
        location.delete(document.layouts[each.array].key(each.chunk) for each in beside)
    write_document(location, document)
    mend_copies(location, document)
    return replace(document, notes=(*document.notes, *damage_lines(verified.damaged.values())))


def damage_lines(damaged: Iterable[DamagedChunk]) -> list[str]:
    """What was damaged, a line a chunk."""
    return [
        f"{each.array}, chunk {'/'.join(map(str, each.chunk))}: {each.cells} "
        + (
            "finished cells are missing now"
            if each.array != "status"
            else "cells are missing now, finished before or not"
        )
        for each in sorted(damaged, key=lambda each: (each.array, each.chunk))
    ]


def _united(old: Sequence[Label], added: Sequence[Label]) -> list[Label]:
    """Labels of an axis with others: numbers in order, names as they came."""
    labels = list(dict.fromkeys([*old, *added]))
    return labels if isinstance(labels[0], str) else sorted(labels)


def _without_leftovers(location: Location, document: Document) -> set[str]:
    """Remove chunks of other keys than the document names, which an earlier growth left; returns the keys there are."""
    others = document.in_other_keys()
    names, layouts = location.names(), others.layouts
    stale = {name for name in names if (layout := layouts.get(name.partition("/")[0])) and layout.chunk(name)}
    if stale:
        location.write({COPY: document.dump()})  # which may name those keys still
        location.delete(stale)
    return names - stale


def _move(
    verified: Verified, before: Document, document: Document, arrays: Mapping[str, zarr.Array[Any]], status: StatusBox
) -> None:
    """Write the finished cells of every quantity to where their labels are now, chunk by chunk."""
    group = zarr.open_group(verified, mode="r", use_consolidated=True)
    index = {axis: {label: i for i, label in enumerate(values)} for axis, values in before.labels.items()}
    places = [np.array([index[axis].get(label, -1) for label in labels]) for axis, labels in document.labels.items()]
    layout = document.layouts["status"]
    grid = [-(-length // size) for length, size in zip(layout.shape, layout.chunks, strict=True)]
    found = [(cells, set(np.unique(status[cells]).tolist())) for cells in map(layout.cells, np.ndindex(*grid))]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        for name, each in document.layouts.items():
            if each.dimensions != layout.dimensions or name == "status":
                continue
            state = Status.FAILED if name == "message" else Status.DONE
            here = [cells for cells, states in found if state in states]
            list(pool.map(partial(_move_chunk, group[name], arrays[name], places), here))


def _move_chunk(source: Any, target: Any, places: Sequence[npt.NDArray[np.intp]], cells: tuple[slice, ...]) -> None:
    """Write one chunk with what the cells of its labels held before."""
    at = [place[part] for place, part in zip(places, cells, strict=True)]
    block = np.full([len(each) for each in at], source.fill_value, dtype=source.dtype)
    block[np.ix_(*(np.flatnonzero(each >= 0) for each in at))] = source.oindex[tuple(each[each >= 0] for each in at)]
    target[cells] = block
