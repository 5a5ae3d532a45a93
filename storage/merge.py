"""Merging of two stores of one experiment."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import StoreError
from pipeline.grid import CODE, positions
from storage import provenance
from storage.agreement import Changed, changed_code, check_identity, code_of, has_finished, require_same_code
from storage.document import Document, read_document
from storage.growth import damage_lines, extend
from storage.location import Location, locate
from storage.results import CellFile, Index, experiment_of
from storage.schema import Status
from storage.verified import read_array

_NAMED = 10
_TIMES = "seconds"  # a second computation takes another time


@dataclass(frozen=True)
class Merged:
    """What a merge did.

    Attributes
    ----------
    copied : int
        Cells that are done now and were not before.
    failed : int
        Failed cells that were copied, with their messages, where there was nothing.
    kept : int
        Cells that were done in both.
    differing : int
        Those of them whose values differ; they kept the value of the store merged into.
    examples : tuple of str
        The first few of these, by their labels.
    damaged : tuple of str
        What was damaged in the two, a line each: cells of the other that were not copied, and of the store merged into
        that are missing now, unless the other had them.
    """

    copied: int
    failed: int
    kept: int
    differing: int
    examples: tuple[str, ...]
    damaged: tuple[str, ...] = ()

    def __str__(self) -> str:
        """One line for the command line."""
        text = f"{self.copied} done and {self.failed} failed cells copied, {self.kept} were done in both"
        if self.differing:
            more = "; …" if self.differing > len(self.examples) else ""
            text += (
                f", {self.differing} of them with other values, which were not taken ({'; '.join(self.examples)}{more})"
            )
        return text


def merge(into: str | Path, other: str | Path, *, accept_code: bool = False) -> Merged:
    """Copy into a store the finished cells of another that it does not have.

    The labels of both are united. A merge that was interrupted is completed by repeating it.

    Parameters
    ----------
    into, other : str or Path
        Local paths or ``s3://bucket/key`` of stores with one experiment and equal settings.
    accept_code : bool
        Whether code of a user's own may be another in the two; a record of that is kept.

    Returns
    -------
    Merged
        What was copied, and where the two differ.

    Raises
    ------
    StoreError
        If one of them is not there, or damaged in its root document, or their experiments, settings or code differ,
        or `into` is being written.
    """
    target, source = locate(into), locate(other)
    if target.same(source):
        raise StoreError(f"store: {target} and {source} are one store; name two")
    _agree(target, source, accept_code=accept_code)
    with target.lock():
        ours, theirs, accepted = _agree(target, source, accept_code=accept_code)
        found = theirs.verified(source)
        status = read_array(found, "status")
        taken, kept = (json.loads(each.attributes["settings"]) for each in (theirs, ours))
        unused = [name for name in code_of(theirs) if not has_finished(target, ours, name)]
        settings = taken | kept | {name: taken[name] for name in unused if name in taken}
        sessions = ours.sessions
        sessions += [session for session in theirs.sessions if session not in sessions]
        if accepted:
            now = {"ended": provenance.now()}
            sessions.append(provenance.session(str(ours.attributes.get("spec", "")), accepted) | now)
        sessions.sort(key=lambda session: str(session.get("started", "")))
        ours = ours.with_attributes(
            {"settings": json.dumps(settings, sort_keys=True), "sessions": json.dumps(sessions)}
        )
        ours = extend(target, ours, theirs.labels, status != Status.SKIPPED)
        return _copy(target, ours, source, theirs, status)


def _agree(target: Location, source: Location, *, accept_code: bool) -> tuple[Document, Document, Changed]:
    """Read both documents; StoreError unless the values of one belong with those of the other, code that differs aside.

    What differs is returned, where that is accepted.
    """
    ours, theirs = read_document(target), read_document(source)
    experiment_of(source, theirs)
    settings = {name: each for name, each in json.loads(theirs.attributes["settings"]).items() if CODE not in each}
    check_identity(target, ours, theirs.attributes, settings, "the other store")
    code = {name: have for name, have in code_of(theirs).items() if has_finished(source, theirs, name)}
    changed = changed_code(target, ours, code)
    if not accept_code:
        require_same_code(target, changed, code, "the other store")
    return ours, theirs, changed


def _copy(target: Location, ours: Document, source: Location, theirs: Document, status: npt.NDArray[np.int8]) -> Merged:
    """Copy cells, quantity by quantity, and the status last; a document says what was damaged in its store."""
    found, have = theirs.verified(source), ours.verified(target)
    read_array(found, "status")
    damaged = set(found.damaged)  # the status given vouches for none of these
    lost = [*theirs.notes, *damage_lines(found.damaged.values())]
    box = np.ix_(*(positions(ours.labels[axis], labels) for axis, labels in theirs.labels.items()))
    before = read_array(have, "status")[box]
    done = (status == Status.DONE) & (before != Status.DONE)
    failed = (status == Status.FAILED) & (before != Status.DONE) & (before != Status.FAILED)
    both = (status == Status.DONE) & (before == Status.DONE)
    differing = np.zeros(status.shape, dtype=bool)
    moved = np.nonzero(done | failed)
    columns = {}
    for name, layout in theirs.layouts.items():
        if layout.dimensions != theirs.layouts["status"].dimensions or name in ("status", "message"):
            continue
        values = read_array(found, name)
        if name != _TIMES and both.any():
            mine = read_array(have, name)[box]
            same = (values == mine) | ((values != values) & (mine != mine))
            differing |= both & ~same
        columns[name] = values[done]
    if set(found.damaged) - damaged:
        raise StoreError(f"store: {source} was changed while it was read; run the same again")
    if len(moved[0]):
        messages = read_array(found, "message")[moved]
        at: Index = tuple(np.asarray(part).ravel()[index] for part, index in zip(box, moved, strict=True))
        CellFile(target, ours).write(at, done[moved], columns, messages)
    examples = [
        ", ".join(f"{axis}={labels[i]}" for (axis, labels), i in zip(theirs.labels.items(), cell, strict=True))
        for cell in np.argwhere(differing)[:_NAMED]
    ]
    lines = (*(f"{target}: {line}" for line in ours.notes), *(f"{source}: {line}" for line in lost))
    return Merged(int(done.sum()), int(failed.sum()), int(both.sum()), int(differing.sum()), tuple(examples), lines)
