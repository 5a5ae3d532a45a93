"""Result stores: opening them, and the one writer that creates, extends and fills them."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import xarray as xr

from pipeline.errors import InputError, StoreError, one_line
from pipeline.experiment import Experiment, Outcome
from pipeline.experiments import code_allowed, get_experiment
from pipeline.grid import Sweep, positions
from storage import provenance
from storage.agreement import Changed, check_arrays, check_identity, code_of
from storage.description import described, description_of
from storage.document import Document, new_store, read_document, write_document
from storage.growth import StatusBox, damage_lines, extend
from storage.location import Location, locate
from storage.schema import MAIN_QUANTITY, Status, identity
from storage.verified import DamagedChunk, read_array

Cells = npt.NDArray[np.intp]
Index = tuple[npt.NDArray[np.intp], ...]


def open_results(path: str | Path) -> xr.Dataset:
    """Open a result store, axes sorted, values read and checked when they are used.

    What was in a damaged chunk reads as missing; `damaged_cells` names it.

    Parameters
    ----------
    path : str or Path
        A local path or ``s3://bucket/key``.

    Returns
    -------
    xarray.Dataset
        Variables over the axes of the experiment; `status` says which cells are done.

    Raises
    ------
    StoreError
        If there is no store at the path, or it cannot be read.
    """
    location = locate(path)
    document = read_document(location)
    if ":" not in str(document.attributes.get("experiment")):  # a user's own is not needed here
        experiment_of(location, document)
    dataset = xr.open_zarr(document.verified(location), chunks=None)
    flags = np.array(list(Status), dtype=np.int8)  # JSON has no types, and CF wants one
    dataset["status"].attrs["flag_values"] = flags
    numbers = {axis: values for axis, values in document.labels.items() if not isinstance(values[0], str)}
    unordered = [axis for axis, values in numbers.items() if values != sorted(values)]  # up to 0.8.0
    ordered: xr.Dataset = dataset.sortby(unordered) if unordered else dataset
    return ordered


def damaged_cells(path: str | Path) -> list[DamagedChunk]:
    """Read every chunk of a store and name those that were changed or lost since they were written.

    Their cells are missing in `sweep_status`, so that running the same sweep again computes just these.

    Parameters
    ----------
    path : str or Path
        A local path or ``s3://bucket/key``.

    Raises
    ------
    StoreError
        If there is no store at the path, or its root document or labels are damaged.
    """
    location = locate(path)
    store = read_document(location).verified(location)
    read_array(store, "status")
    return sorted(store.damaged.values(), key=lambda each: (each.array, each.chunk))


def damage_report(path: str | Path) -> list[str]:
    """Say in lines what `damaged_cells` finds, and what to do; no line for a store without damage."""
    lines = [*read_document(locate(path)).notes, *damage_lines(damaged_cells(path))]
    return [*lines, "run the same sweep again: what was damaged is computed again"] if lines else []


def store_experiment(path: str | Path) -> Experiment:
    """Return the experiment whose results a store holds.

    One of a user's own is imported where code is allowed; otherwise, or if it cannot be, it is what the store says of
    it, which is enough to read and to draw, without its theory.

    Raises
    ------
    StoreError
        If the path holds no store, or one that this version does not know.
    """
    location = locate(path)
    return experiment_of(location, read_document(location))


def experiment_of(location: Location, document: Document) -> Experiment:
    """Return the experiment of a store; StoreError if this version does not know it."""
    name = document.attributes.get("experiment")
    own = ":" in str(name)
    if own and not code_allowed():
        return described(document)
    try:
        experiment = get_experiment(name, allow_code=code_allowed())
    except InputError as error:
        if own:
            return described(document)
        raise StoreError(
            f"store: {location} holds the experiment {name!r}, which this version does not know; upgrade it"
        ) from error
    if [axis.name for axis in experiment.axes] != list(document.labels):
        if own:
            return described(document)
        raise StoreError(f"store: {location} has the axes {', '.join(document.labels)}, which are not those of {name}")
    return experiment


def sweep_status(
    path: str | Path,
    sweep: Sweep,
    on_damage: Callable[[str], object] = lambda line: None,
    *,
    accept_code: bool = False,
) -> StatusBox:
    """Status of every cell in the box of a sweep.

    Missing where the store does not reach, does not exist, or is damaged.

    Parameters
    ----------
    path : str or Path
    sweep : Sweep
    on_damage : callable
        Gets a line of each damage.
    accept_code : bool
        Whether code of a user's own may be other than that of the finished cells.
    """
    status = np.full(sweep.wanted.shape, Status.MISSING, dtype=np.int8)
    location = locate(path)
    if not location.exists():
        return status
    document = read_document(location)
    check_identity(location, document, identity(sweep.experiment, {}), sweep.used_settings, accept_code=accept_code)
    check_arrays(location, document, sweep.experiment)
    verified = document.verified(location)
    found = read_array(verified, "status")
    for line in [*document.notes, *damage_lines(verified.damaged.values())]:
        on_damage(line)
    here, there = [], []
    for axis, labels in sweep.labels.items():
        index = {label: i for i, label in enumerate(document.labels[axis])}
        pairs = [(i, index[label]) for i, label in enumerate(labels) if label in index]
        if not pairs:
            return status
        here.append([i for i, _ in pairs])
        there.append([j for _, j in pairs])
    status[np.ix_(*here)] = found[np.ix_(*there)]
    return status


def changed_code(path: str | Path, sweep: Sweep) -> list[str]:
    """Functions and experiments of a user's own of which a store has other code, or none, than a sweep."""
    stored = code_of(read_document(locate(path)))
    return [name for name, digest in sweep.code.items() if stored.get(name) != digest]


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

    Attributes
    ----------
    sweep : Sweep
    mended : tuple of str
        What was damaged and has been made missing, so that it is computed again, a line each.
    """

    def __init__(self, location: Location, document: Document, sweep: Sweep) -> None:
        self.sweep, self.mended = sweep, document.notes
        self._file = CellFile(location, document)
        self._positions = [np.array(positions(document.labels[axis], sweep.labels[axis])) for axis in sweep.labels]

    @classmethod
    @contextmanager
    def open(cls, path: str | Path, sweep: Sweep, *, accept_code: bool = False) -> Iterator[Self]:
        """Create or extend the store of a sweep, mend what is damaged, and hold its lock.

        Parameters
        ----------
        path : str or Path
        sweep : Sweep
        accept_code : bool
            Whether code of a user's own may be other than that of the finished cells; its digest is then recorded in
            place of theirs, which stays in the record of this session.

        Raises
        ------
        StoreError
            If another process writes to it, it holds another experiment or other settings, or the disk or server
            refuses.
        """
        location = locate(path)
        accepted: Changed = {}
        with location.lock():
            if location.exists():
                document, wanted = read_document(location), identity(sweep.experiment, {})
                accepted = check_identity(location, document, wanted, sweep.used_settings, accept_code=accept_code)
                check_arrays(location, document, sweep.experiment)
            else:
                document = _create(location, sweep)
            sessions = [*document.sessions, provenance.session(sweep.text, accepted)]
            settings = json.loads(document.attributes["settings"]) | sweep.used_settings
            changes = {"settings": json.dumps(settings, sort_keys=True), "spec": sweep.text}
            changes |= {MAIN_QUANTITY: sweep.experiment.main, **description_of(sweep.experiment)}
            document = document.with_attributes(changes | {"sessions": json.dumps(sessions)})
            document = extend(location, document, sweep.labels, sweep.wanted)
            try:
                yield cls(location, document, sweep)
            except BaseException:
                location.patience = 0.0
                with suppress(StoreError):
                    _end_session(location, document)
                raise
            _end_session(location, document)

    def write(self, cells: Cells, outcomes: Sequence[Outcome]) -> None:
        """Store what became of cells, durably: first the values, last the status that makes them valid."""
        done = np.array([outcome.values is not None for outcome in outcomes])
        at = tuple(place[cells[:, axis]] for axis, place in enumerate(self._positions))
        values = [outcome.values for outcome in outcomes if outcome.values is not None]
        columns = {
            quantity.name: np.array([quantity.of(row) for row in values], dtype=quantity.dtype)
            for quantity in self.sweep.experiment.quantities
        }
        messages = np.array([outcome.message for outcome in outcomes], dtype=np.dtypes.StringDType())
        self._file.write(at, done, columns, messages)


class CellFile:
    """The cells of a store under its lock."""

    def __init__(self, location: Location, document: Document) -> None:
        self._location = location
        self._arrays = document.arrays(location)

    def write(
        self, at: Index, done: npt.NDArray[np.bool_], columns: Mapping[str, npt.NDArray[Any]], messages: Any
    ) -> None:
        """Write values of the cells that are done, messages of those that are not, and last the status."""
        try:
            old = np.asarray(self._arrays["status"].get_coordinate_selection(at))
            noted = ~done | (old == Status.FAILED)
            with self._location.batch():
                for name, column in columns.items() if done.any() else ():
                    self._arrays[name].set_coordinate_selection(tuple(index[done] for index in at), column)
                if noted.any():
                    where = tuple(index[noted] for index in at)
                    self._arrays["message"].set_coordinate_selection(where, messages[noted])
            with self._location.batch():
                status = np.where(done, Status.DONE, Status.FAILED).astype(np.int8)
                self._arrays["status"].set_coordinate_selection(at, status)
        except (ValueError, RuntimeError) as error:  # a chunk that was changed since the store was opened
            raise StoreError(
                f"store: {self._location} is damaged ({one_line(error)}); run the same again: it is recomputed"
            ) from error


def _create(location: Location, sweep: Sweep) -> Document:
    """Publish an empty store: it appears whole or not at all."""
    status = np.where(sweep.wanted, Status.MISSING, Status.SKIPPED).astype(np.int8)
    attributes = {
        "title": f"{sweep.experiment.summary}: {sweep.name}",
        "Conventions": "CF-1.11",
        "coordinates": "message",  # text beside the numbers: reductions and masks leave it alone
        **identity(sweep.experiment, sweep.used_settings),
        MAIN_QUANTITY: sweep.experiment.main,
        **description_of(sweep.experiment),
        "sessions": "[]",
    }
    location.publish(new_store(sweep.experiment, sweep.labels, status, attributes))
    return read_document(location)


def _end_session(location: Location, document: Document) -> None:
    sessions = document.sessions
    sessions[-1]["ended"] = provenance.now()
    write_document(location, document.with_attributes({"sessions": json.dumps(sessions)}))
