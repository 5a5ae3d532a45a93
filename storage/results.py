"""Result stores: opening them, and the one writer that creates, extends and fills them."""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr

from pipeline.errors import StoreError
from pipeline.experiment import Experiment, Label, Outcome
from pipeline.experiments import EXPERIMENTS
from pipeline.grid import Sweep, positions
from storage import provenance
from storage.lock import single_writer
from storage.schema import Status, consolidate, create_arrays, extend_arrays, identity, label_array

Cells = npt.NDArray[np.intp]
StatusBox = npt.NDArray[np.int8]


def open_results(path: str | Path) -> xr.Dataset:
    """Open a result store, axes sorted, values read when they are used.

    Parameters
    ----------
    path : str or Path
        A store on disk.

    Returns
    -------
    xarray.Dataset
        Variables over the axes of the experiment; `status` says which cells are done.

    Raises
    ------
    StoreError
        If there is no store at the path.
    """
    path = _local(path)
    experiment = store_experiment(path)
    dataset = xr.open_zarr(path, chunks=None)
    ordered: xr.Dataset = dataset.sortby([axis.name for axis in experiment.axes if axis.kind is int])
    return ordered


def store_experiment(path: Path) -> Experiment:
    """Return the experiment whose results a store holds.

    Raises
    ------
    StoreError
        If the path holds no store, or one that this version does not know.
    """
    attributes = _attributes(path)
    name = attributes.get("experiment")
    if name not in EXPERIMENTS:
        raise StoreError(f"store: {path} holds the experiment {name!r}, which this version does not know; upgrade it")
    return EXPERIMENTS[name]


def sweep_status(path: str | Path, sweep: Sweep) -> StatusBox:
    """Status of every cell in the box of a sweep; missing where the store does not reach, or does not exist."""
    status = np.full(sweep.wanted.shape, Status.MISSING, dtype=np.int8)
    path = _local(path)
    if not path.exists():
        return status
    _check_identity(path, sweep)
    group = zarr.open_group(path, mode="r", use_consolidated=True)
    here, there = [], []
    for axis, labels in sweep.labels.items():
        index = {label: i for i, label in enumerate(_labels(group, axis))}
        pairs = [(i, index[label]) for i, label in enumerate(labels) if label in index]
        if not pairs:
            return status
        here.append([i for i, _ in pairs])
        there.append([j for _, j in pairs])
    status[np.ix_(*here)] = np.asarray(_array(group, "status")[:])[np.ix_(*there)]
    return status


def pending(sweep: Sweep, status: StatusBox, *, retry_failed: bool) -> npt.NDArray[np.bool_]:
    """Cells of a sweep that are still to be computed."""
    settled = status == Status.DONE
    if not retry_failed:
        settled = settled | (status == Status.FAILED)
    return np.asarray(sweep.wanted & ~settled)


class Writer:
    """The writer of a store, for as long as `open` lasts.

    Use ``with Writer.open(path, sweep) as writer:``. Cells are indices into the box of the sweep, shape
    (number of cells, number of axes).
    """

    def __init__(self, path: Path, sweep: Sweep) -> None:
        self.path = path
        self.sweep = sweep
        group = zarr.open_group(path, mode="r+", use_consolidated=True)
        self._arrays = {name: array for name, array in group.arrays() if isinstance(array, zarr.Array)}
        self._positions = [np.array(positions(_labels(group, axis), sweep.labels[axis])) for axis in sweep.labels]

    @classmethod
    @contextmanager
    def open(cls, path: str | Path, sweep: Sweep) -> Iterator[Self]:
        """Create or extend the store of a sweep and hold its lock.

        Raises
        ------
        StoreError
            If another process writes to it, it holds another experiment or other settings, or the disk refuses.
        """
        path = _local(path)
        with single_writer(path):
            with _disk_errors(path):
                if path.exists():
                    _check_identity(path, sweep)
                    _extend(path, sweep)
                else:
                    _create(path, sweep)
                writer = cls(path, sweep)
                _add_session(path, sweep)
            try:
                yield writer
            finally:
                with _disk_errors(path):
                    _end_session(path)

    def write(self, cells: Cells, outcomes: Sequence[Outcome]) -> None:
        """Store what became of cells: first the values, last the status that makes them valid."""
        with _disk_errors(self.path):
            done = np.array([outcome.values is not None for outcome in outcomes])
            at = tuple(place[cells[:, axis]] for axis, place in enumerate(self._positions))
            if done.any():
                values = [outcome.values for outcome in outcomes if outcome.values is not None]
                where = tuple(index[done] for index in at)
                for quantity in self.sweep.experiment.quantities:
                    column = np.array([quantity.of(row) for row in values], dtype=quantity.dtype)
                    self._arrays[quantity.name].set_coordinate_selection(where, column)
            old = np.asarray(self._arrays["status"].get_coordinate_selection(at))
            noted = ~done | (old == Status.FAILED)
            if noted.any():
                messages = label_array([outcome.message for outcome in outcomes])
                self._arrays["message"].set_coordinate_selection(tuple(index[noted] for index in at), messages[noted])
            status = np.where(done, Status.DONE, Status.FAILED).astype(np.int8)
            self._arrays["status"].set_coordinate_selection(at, status)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise StoreError(
            f"store: {path} cannot be written ({reason}); finished cells are safe: mend that and run the same again"
        ) from error


def _local(path: str | Path) -> Path:
    if "://" in str(path):
        raise StoreError(f"store: {path} is a URL; this version writes to local paths only")
    return Path(path)


def _attributes(path: Path) -> dict[str, Any]:
    """Root attributes of a store."""
    if not path.exists():
        raise StoreError(f"store: {path} does not exist; check the path, or make it with 'epsweep run'")
    try:
        attributes = dict(zarr.open_group(path, mode="r", use_consolidated=True).attrs)
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(f"store: {path} is not a result store; give the path of one, or of a new one") from error
    if "epsweep_format" not in attributes:
        raise StoreError(f"store: {path} is not a result store of epsweep; give the path of one, or of a new one")
    return attributes


def _check_identity(path: Path, sweep: Sweep) -> None:
    """Refuse a sweep whose values would not belong with those that are stored."""
    attributes = _attributes(path)
    for key, wanted in identity(sweep.experiment, {}).items():
        if key != "settings" and attributes.get(key) != wanted:
            have = attributes.get(key)
            raise StoreError(f"store: {path} has {key} {have!r}, this sweep {wanted!r}; use another --store")
    stored = json.loads(attributes["settings"])
    for group, settings in sweep.used_settings.items():
        for name, value in settings.items() if group in stored else ():
            if stored[group].get(name) != value:
                have = stored[group].get(name)
                raise StoreError(
                    f"store: {path} was computed with settings.{group}.{name} = {have!r}, this spec says {value!r}; "
                    f"use another --store, or set it to {have!r}"
                )


def _labels(group: zarr.Group, axis: str) -> list[Label]:
    return [label if isinstance(label, str) else int(label) for label in _array(group, axis)[:].tolist()]  # type: ignore[union-attr]


def _array(group: zarr.Group, name: str) -> zarr.Array[Any]:
    array = group[name]
    if not isinstance(array, zarr.Array):
        raise StoreError(f"store: {name} is not an array; the store is damaged")
    return array


def _create(path: Path, sweep: Sweep) -> None:
    """Build the store under another name, then rename it: it appears whole or not at all."""
    building = path.with_name(f".{path.name}.new")
    shutil.rmtree(building, ignore_errors=True)
    group = zarr.open_group(building, mode="w-")
    create_arrays(group, sweep.experiment, sweep.labels)
    if not sweep.wanted.all():
        _array(group, "status")[:] = np.where(sweep.wanted, Status.MISSING, Status.SKIPPED).astype(np.int8)
    group.attrs.update(
        {
            "title": f"{sweep.experiment.summary}: {sweep.name}",
            "Conventions": "CF-1.11",
            "coordinates": "message",  # text beside the numbers: reductions and masks leave it alone
            **identity(sweep.experiment, sweep.used_settings),
            "sessions": "[]",
        }
    )
    consolidate(building)
    building.rename(path)


def _extend(path: Path, sweep: Sweep) -> None:
    """Add the labels and settings of a sweep that the store does not have."""
    for leftover in path.rglob("*.partial"):  # of a write that was killed
        leftover.unlink()
    group = zarr.open_group(path, mode="r+", use_consolidated=True)
    old = {axis: _labels(group, axis) for axis in sweep.labels}
    new = {axis: list(dict.fromkeys([*old[axis], *sweep.labels[axis]])) for axis in old}
    status = np.asarray(_array(group, "status")[:])
    extend_arrays(path, new)  # also where nothing is new: a growth that was killed is undone
    grown = np.full([len(labels) for labels in new.values()], Status.SKIPPED, dtype=np.int8)
    grown[tuple(slice(0, length) for length in status.shape)] = status
    here = np.ix_(*(positions(labels, sweep.labels[axis]) for axis, labels in new.items()))
    grown[here] = np.where(sweep.wanted & (grown[here] == Status.SKIPPED), Status.MISSING, grown[here])
    if new != old or (grown != status).any():
        _array(zarr.open_group(path, mode="r+", use_consolidated=False), "status")[:] = grown
    consolidate(path)
    settings = json.loads(str(group.attrs["settings"])) | sweep.used_settings
    _set_attributes(path, {"settings": json.dumps(settings, sort_keys=True)})


def _set_attributes(path: Path, attributes: Mapping[str, Any]) -> None:
    """Change root attributes in one atomic write; the consolidated metadata stays."""
    zarr.open_group(path, mode="r+", use_consolidated=True).attrs.update(dict(attributes))


def _sessions(path: Path) -> list[dict[str, object]]:
    return list(json.loads(_attributes(path)["sessions"]))


def _add_session(path: Path, sweep: Sweep) -> None:
    sessions = [*_sessions(path), provenance.session(sweep.text)]
    _set_attributes(path, {"spec": sweep.text, "sessions": json.dumps(sessions)})


def _end_session(path: Path) -> None:
    sessions = _sessions(path)
    sessions[-1]["ended"] = provenance.now()
    _set_attributes(path, {"sessions": json.dumps(sessions)})
