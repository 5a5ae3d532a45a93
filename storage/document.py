"""The root document of a store: read once, checked against its digest, changed in memory, written in one step."""

import hashlib
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import zarr
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import collect_aiterator, sync
from zarr.errors import ZarrUserWarning
from zarr.storage import MemoryStore

from pipeline.errors import StoreError, one_line
from pipeline.experiment import Experiment, Label
from pipeline.recall import asked_for
from storage.location import COPY, ROOT, Location
from storage.schema import FORMAT, create_arrays, label_array
from storage.verified import Kept, Layout, Verified

DIGEST = "epsweep_digest"
_MOST_CELLS = 10**10
_REMEDY = "restore it from a copy, or move the store away and run the sweep again"


class _LaterFormat(StoreError):
    """A store of a later version, whose root document is as it was written."""


@dataclass(frozen=True)
class Document:
    """What the root document says.

    Attributes
    ----------
    attributes : dict
        Attributes of the group, without the digest.
    metadata : dict of str to dict
        Metadata of each array.
    labels : dict of str to list
        Labels of each axis, in the order in which they are stored.
    notes : tuple of str
        What was put right when it was read, or since, a line each.
    """

    attributes: dict[str, Any]
    metadata: dict[str, dict[str, Any]]
    labels: dict[str, list[Label]]
    notes: tuple[str, ...] = ()

    @property
    def layouts(self) -> dict[str, Layout]:
        """Layout of each array."""
        return {name: Layout.parse(name, each) for name, each in self.metadata.items()}

    def dump(self, indent: int | None = 2) -> bytes:
        """Bytes of the document, with its digest."""
        digest = _digest(self.attributes, self.metadata, self.labels)
        inline = {"kind": "inline", "must_understand": False, "metadata": self.metadata}
        root = {"zarr_format": 3, "node_type": "group", "attributes": self.attributes | {DIGEST: digest}}
        return json.dumps(root | {"consolidated_metadata": inline}, indent=indent, ensure_ascii=False).encode()

    def verified(self, location: Location) -> Verified:
        """Store to read from."""
        return Verified(location.store(), self.dump(indent=None), self.layouts, location.name, self.asked)

    def asked(self) -> npt.NDArray[np.bool_]:
        """Which cells the specifications of all runs asked for, as far as their texts tell."""
        return asked_for((session.get("spec") for session in self.sessions), self.labels)

    @property
    def sessions(self) -> list[dict[str, object]]:
        """Runs that wrote to the store."""
        return list(json.loads(self.attributes["sessions"]))

    def arrays(self, location: Location, names: set[str] | None = None) -> dict[str, zarr.Array[Any]]:
        """Arrays to write to; each chunk that is written exists, whatever it holds.

        `names` are the keys that are there, where they are known.
        """
        names = location.names() if names is None else names
        with zarr.config.set({"array.write_empty_chunks": True}):
            group = zarr.open_group(
                Kept(location.store(read_only=False), self.dump(indent=None), names),
                mode="r+",
                use_consolidated=True,
            )
            return {name: array for name, array in group.arrays() if isinstance(array, zarr.Array)}

    def with_labels(self, labels: Mapping[str, Sequence[Label]]) -> "Document":
        """The document of a store that has grown to these labels."""
        metadata = {
            name: each | {"shape": [len(labels[axis]) for axis in each["dimension_names"]]}
            for name, each in self.metadata.items()
        }
        return replace(self, metadata=metadata, labels={axis: list(values) for axis, values in labels.items()})

    def in_other_keys(self) -> "Document":
        """The document of a store whose chunks all have other keys than now."""
        other = {"/": ".", ".": "/"}[self.layouts["status"].separator]
        encoding = {"name": "default", "configuration": {"separator": other}}
        return replace(
            self, metadata={name: each | {"chunk_key_encoding": encoding} for name, each in self.metadata.items()}
        )

    def with_attributes(self, attributes: Mapping[str, Any]) -> "Document":
        """The document with some attributes changed."""
        return replace(self, attributes=self.attributes | dict(attributes))


def new_store(
    experiment: Experiment,
    labels: Mapping[str, Sequence[Label]],
    status: npt.NDArray[np.int8],
    attributes: Mapping[str, Any],
) -> dict[str, bytes]:
    """Keys and contents of a new store."""
    memory = MemoryStore()
    with warnings.catch_warnings(), zarr.config.set({"array.write_empty_chunks": True}):
        group = zarr.open_group(memory, mode="w-")
        create_arrays(group, experiment, labels)
        array = group["status"]
        assert isinstance(array, zarr.Array)  # noqa: S101
        array[:] = status
        warnings.filterwarnings("ignore", "Consolidated metadata", ZarrUserWarning)
        zarr.consolidate_metadata(memory)
    keys = collect_aiterator(memory.list())
    documents = {key: _content(memory, key) for key in keys}
    metadata = json.loads(documents[ROOT])["consolidated_metadata"]["metadata"]
    values = {axis: list(each) for axis, each in labels.items()}
    return documents | {ROOT: Document(dict(attributes), metadata, values).dump()}


def _content(store: Store, key: str) -> bytes:
    found = sync(store.get(key, default_buffer_prototype()))
    return b"" if found is None else found.to_bytes()


def read_document(location: Location) -> Document:
    """Read and check the root document of a store.

    Raises
    ------
    StoreError
        If there is no store, it is damaged, or it is of a later version.
    """
    root = location.read(ROOT) if location.exists() else None
    if root is None and not location.exists():
        raise StoreError(f"store: {location} does not exist; check the path, or make it with 'epsweep run'")
    try:
        return _checked(location, root)
    except _LaterFormat:
        raise
    except StoreError as error:
        with suppress(StoreError):
            note = f"{ROOT}: not as it was written; its copy was read, which lacks no finished cell"
            return replace(_checked(location, location.read(COPY)), notes=(note,))
        raise error from error.__cause__


def _checked(location: Location, root: bytes | None) -> Document:
    if root is None:
        raise StoreError(
            f"store: {location} is not a result store, or has lost its {ROOT}; give the path of one, or of a new one"
        )
    try:
        return _parse(location, root)
    except StoreError:
        raise
    except Exception as error:  # whatever a foreign or damaged document leads zarr to raise
        raise _damaged(location, f"{ROOT}: {one_line(error)}") from error


def write_document(location: Location, document: Document) -> None:
    """Publish a document in one step, and a copy, which plain Zarr does not look at, for where the first is spoilt."""
    content = document.dump()
    location.write({ROOT: content, COPY: content})


def _damaged(location: Location, what: str) -> StoreError:
    return StoreError(f"store: {location} is damaged ({what}); {_REMEDY}")


def _parse(location: Location, root: bytes) -> Document:
    content = json.loads(root)
    attributes = dict(content["attributes"]) if isinstance(content, dict) and "attributes" in content else {}
    if "epsweep_format" not in attributes:
        raise StoreError(f"store: {location} is not a result store of epsweep; give the path of one, or of a new one")
    version, digest = attributes["epsweep_format"], attributes.pop(DIGEST, None)
    if type(version) is not int or version > FORMAT:
        raise _LaterFormat(
            f"store: {location} has format {one_line(version, 40)}, this version knows {FORMAT}; upgrade it"
        )
    metadata = content["consolidated_metadata"]["metadata"]
    layouts = {name: Layout.parse(name, each) for name, each in metadata.items()}
    axes = layouts["status"].dimensions
    if math.prod(layouts["status"].shape) > _MOST_CELLS:
        raise ValueError(f"{layouts['status'].shape} cells")
    sizes = dict(zip(axes, layouts["status"].shape, strict=True))
    for layout in layouts.values():
        if layout.shape != tuple(sizes[axis] for axis in layout.dimensions):
            raise _damaged(location, f"{layout.name} has the shape {layout.shape}, which is not that of its axes")
    store = Verified(location.store(), root, layouts, location.name, lambda: np.ones(layouts["status"].shape, bool))
    group = zarr.open_group(store, mode="r", use_consolidated=True)
    labels = {axis: _labels(location, group, axis) for axis in axes}
    kinds = {"settings": dict, "sessions": list}
    if not all(isinstance(json.loads(attributes[name]), kind) for name, kind in kinds.items()):
        raise ValueError("settings or sessions are not what is written")
    if "message" not in layouts:
        raise ValueError("no message")
    if _digest(attributes, metadata, labels) != digest and (version > 1 or digest is not None):
        raise _damaged(location, f"{ROOT}, or the labels of an axis, are not those that were written")
    if any(len(set(values)) < len(values) for values in labels.values()):
        raise _damaged(location, "a label stands twice on its axis")
    return Document(attributes, metadata, labels)


def _labels(location: Location, group: zarr.Group, axis: str) -> list[Label]:
    try:
        labels: list[Label] = np.asarray(group[axis][:]).tolist()  # type: ignore[index]
    except (ValueError, RuntimeError, KeyError) as error:
        raise _damaged(location, f"labels of {axis}: {one_line(error)}") from error
    return labels


def _digest(attributes: Mapping[str, Any], metadata: Mapping[str, Any], labels: Mapping[str, Sequence[Label]]) -> str:
    text = json.dumps([attributes, metadata, labels], sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


def write_labels(arrays: Mapping[str, zarr.Array[Any]], labels: Mapping[str, Sequence[Label]]) -> None:
    """Write the labels of each axis."""
    for axis, values in labels.items():
        arrays[axis][:] = label_array(values)


def mend_copies(location: Location, document: Document) -> None:
    """Make each array's own document, which readers of the root do not need, say what the root says."""
    for name, metadata in document.metadata.items():
        key = f"{name}/{ROOT}"
        try:
            same = json.loads(location.read(key) or b"null") == metadata
        except ValueError:
            same = False
        if not same:
            location.write({key: json.dumps(metadata, indent=2).encode()})
