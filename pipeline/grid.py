"""The sweep model: a specification and the grid of cases that it declares."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from pipeline.errors import InputError, one_line, shown
from pipeline.experiment import Case, Experiment, Label
from pipeline.experiments import get_experiment
from pipeline.figure import Figure
from pipeline.files import sha256_of
from pipeline.own_code import code_digest
from pipeline.ranges import Range, RealRange
from pipeline.spec import complete_figures, declared_figures, validate
from pipeline.spec_text import MAX_SPEC_CHARACTERS, parse_yaml, read_text

__all__ = [
    "CODE",
    "MAX_CELLS",
    "MAX_SPEC_CHARACTERS",
    "Labels",
    "Mask",
    "Range",
    "RealRange",
    "Sweep",
    "declared_figures",
    "load_sweep",
    "parse_sweep",
    "positions",
]

CODE = "code"
"""Key of a digest of code among the settings that a store records."""
MAX_CELLS = 20_000_000
_MAX_EVALUATED = 5 * MAX_CELLS

Labels = dict[str, tuple[Label, ...]]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Sweep:
    """A validated specification and its grid.

    Attributes
    ----------
    name : str
    experiment : Experiment
    settings : pydantic model
        All settings of the experiment, defaults filled in.
    labels : dict of str to tuple
        Labels of each axis: the smallest box that holds every block, in the order of the axes.
    wanted : ndarray of bool, one dimension an axis
        The cases of the sweep within that box.
    figures : tuple of Figure
        Those that it declares, complete.
    text : str
        The specification as it was written.
    notes : tuple of str
        What is to be known before it runs, a line each.
    """

    name: str
    experiment: Experiment
    settings: BaseModel
    labels: Labels
    wanted: Mask
    figures: tuple[Figure, ...]
    text: str
    notes: tuple[str, ...] = ()

    @property
    def files(self) -> Mapping[str, str]:
        """Absolute path of each file, by label."""
        files: Mapping[str, str] = getattr(self.settings, "files", {})
        return files

    @cached_property
    def code(self) -> Mapping[str, str]:
        """Digest of each function or experiment of a user's own, by ``module:name``, as this process imported it."""
        axes = [axis.name for axis in self.experiment.axes if axis.imports]
        names = [label for axis in axes for label in map(str, self.labels[axis]) if label not in self.files]
        own = {name.partition("(")[0] for name in (self.experiment.name, *names) if ":" in name}
        return {name: code_digest(name) for name in sorted(own)}

    @cached_property
    def used_settings(self) -> dict[str, dict[str, object]]:
        """The groups of settings that influence the values of this sweep; a digest of a file or code is one of its own.

        Raises
        ------
        InputError
            If a file cannot be read, or it cannot be told what code was imported.
        """
        groups = sorted(self.experiment.settings_used(self.labels))
        digests: dict[str, dict[str, object]] = {name: {"sha256": each} for name, each in self.digests.items()}
        digests |= {name: {CODE: digest} for name, digest in self.code.items()}
        return {group: getattr(self.settings, group).model_dump() for group in groups} | digests

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of each file, by label, when it was first asked for."""
        return {name: sha256_of(path) for name, path in self.files.items()}

    def changed_files(self) -> list[str]:
        """Labels of the files that have other contents than those of `digests`, or are gone; none is read twice."""
        changed = []
        for name, path in self.files.items():
            try:
                same = sha256_of(path) == self.digests[name]
            except InputError:
                same = False
            changed += [] if same else [name]
        return changed

    def columns(self, cells: npt.NDArray[np.intp]) -> dict[str, npt.NDArray[Any]]:
        """Labels of cells given by their indices, shape (number of cells, number of axes)."""
        return {
            axis: np.array(labels)[cells[:, position]] for position, (axis, labels) in enumerate(self.labels.items())
        }

    def case(self, cell: Iterable[int]) -> Case:
        """The case at the given index of each axis."""
        return Case(tuple((axis, labels[i]) for (axis, labels), i in zip(self.labels.items(), cell, strict=True)))


def load_sweep(path: str | Path, *, allow_code: bool = False) -> Sweep:
    """Read and validate a specification file.

    Parameters
    ----------
    path : str or Path
    allow_code : bool
        As `parse_sweep` takes it.

    Raises
    ------
    InputError
        If the file cannot be read or the specification is not valid; the message names the field.
    """
    path = Path(path)
    try:
        return parse_sweep(read_text(path), allow_code=allow_code, folder=path.parent)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error.__cause__


def parse_sweep(text: str, *, allow_code: bool = False, folder: Path = Path()) -> Sweep:
    """Validate a specification given as YAML text.

    Parameters
    ----------
    text : str
    allow_code : bool
        Whether it may name a user's own functions or experiment, ``module:name``: importing them runs their code.
    folder : Path
        Where files that it names are, if not in the working directory.

    Raises
    ------
    InputError
        If it is not valid; the message names the field, the value and the remedy.

    Examples
    --------
    >>> sweep = parse_sweep('''
    ... name: tiny
    ... experiment: approximation
    ... grid:
    ...   - {function: [gaussian], sampling: [ball-symmetric], m: [2], n: [40], r: [2, 4], method: [svd], seeds: 3}
    ... ''')
    >>> int(sweep.wanted.sum())
    6
    """
    document = parse_yaml(text)
    experiment = get_experiment(document.get("experiment", "approximation"), allow_code=allow_code)
    spec, settings, places = validate(document, experiment, allow_code=allow_code, folder=folder)
    labels, wanted = _grid(spec.grid, experiment, settings, places or range(len(spec.grid)))
    figures = complete_figures(spec.figures, experiment, [axis for axis in labels if len(labels[axis]) == 1])
    _check_figures(figures, experiment, labels, wanted)
    return Sweep(
        spec.name, experiment, settings, labels, wanted, figures, text, _shortened(document, spec.grid, places)
    )


def _shortened(document: Mapping[object, Any], blocks: Sequence[Any], places: Sequence[int]) -> tuple[str, ...]:
    """What is to be known of ranges with fewer labels than their count, because some are rounded to the same one."""
    notes: dict[str, None] = {}
    for block, place in zip(blocks, places or range(len(blocks)), strict=True):
        for key, value in document["grid"][place].items():
            labels = getattr(block, str(key), None)
            count = value.get("count") if isinstance(value, dict) else None
            if type(count) is int and isinstance(labels, tuple) and len(labels) < count:
                written = one_line(", ".join(f"{part}: {each}" for part, each in value.items()), 100)
                told = f"grid[{place}].{key}: {{{written}}} gives {len(labels)} labels, not {count}"
                notes[f"{told}: some are rounded to the same one; widen the range, or list the labels"] = None
    return tuple(notes)


def _grid(
    blocks: Sequence[Any], experiment: Experiment, settings: BaseModel, places: Sequence[int]
) -> tuple[Labels, Mask]:
    """Unite the blocks: the labels of the box that holds them all, and which of its cells are wanted.

    `places` has the number of each block as it was written.
    """
    labels: Labels = {}
    for axis in experiment.axes:
        united = dict.fromkeys(label for block in blocks for label in getattr(block, axis.key))
        labels[axis.name] = tuple(sorted(united) if axis.numeric else united)
    box = math.prod(map(len, labels.values()))
    if box > MAX_CELLS:
        sizes = " × ".join(f"{len(values)} {axis}" for axis, values in labels.items())
        raise InputError(f"grid: {sizes} = {box} cells are more than {MAX_CELLS}; split the sweep into several specs")
    evaluated = sum(math.prod(len(getattr(block, axis.key)) for axis in experiment.axes) for block in blocks)
    if evaluated > _MAX_EVALUATED:
        raise InputError(f"grid: its blocks have {evaluated} cells, over {_MAX_EVALUATED}; join those that overlap")
    wanted = np.zeros([len(values) for values in labels.values()], dtype=bool)
    met: dict[int, bool] = {}
    for position, block in zip(places, blocks, strict=True):
        chosen = {axis.name: getattr(block, axis.key) for axis in experiment.axes}
        columns = _columns(chosen)
        shape = [len(values) for values in chosen.values()]
        cells = np.broadcast_to(True if block.where is None else block.where(columns), shape)
        met[position] = met.get(position, False) or bool(cells.any())
        _check_constraints(experiment, settings, columns, cells, f"grid[{position}]")
        where = np.ix_(*(positions(labels[axis], values) for axis, values in chosen.items()))
        wanted[where] |= cells
    for position, block in zip(places, blocks, strict=True):
        if not met[position]:
            raise InputError(f"grid[{position}].where: {shown(block.where.text)} leaves no cell; loosen it")
    return labels, wanted


def _columns(labels: Mapping[str, Sequence[Label]]) -> dict[str, npt.NDArray[Any]]:
    """Labels of each axis along a dimension of its own."""
    return dict(zip(labels, np.ix_(*(np.array(values) for values in labels.values())), strict=True))


def positions(labels: Sequence[Label], chosen: Sequence[Label]) -> list[int]:
    """Indices of the chosen labels among the labels of an axis."""
    index = {label: position for position, label in enumerate(labels)}
    return [index[label] for label in chosen]


def _check_constraints(
    experiment: Experiment, settings: BaseModel, columns: Mapping[str, Any], cells: Mask, place: str
) -> None:
    for constraint in experiment.constraints:
        broken = cells & ~constraint.holds(columns, settings)
        if broken.any():
            cell = np.argwhere(broken)[0]
            values = {axis: column.ravel()[i] for (axis, column), i in zip(columns.items(), cell, strict=True)}
            named = ", ".join(f"{axis} = {values[axis]}" for axis in values if axis in constraint.axes)
            raise InputError(f"{place}: {named} breaks {constraint.text}; {constraint.remedy}")


def _check_figures(figures: Sequence[Figure], experiment: Experiment, labels: Labels, wanted: Mask) -> None:
    """Refuse a figure of labels that are not in the grid, of no cell, or of several cells at one place."""
    if (evaluated := wanted.size * sum(bool(figure.where) for figure in figures)) > _MAX_EVALUATED:
        raise InputError(f"figures: where is evaluated on {evaluated} cells, over {_MAX_EVALUATED}; declare fewer")
    for position, figure in enumerate(figures):
        held = [("at", axis, label) for axis, label in figure.at.items()]
        drawn_only = [("only", axis, label) for axis, chosen in figure.only.items() for label in chosen]
        for key, axis, label in held + drawn_only:
            if label not in labels[axis]:
                have = one_line(", ".join(map(str, labels[axis])), 80)
                raise InputError(f"figures[{position}].{key}.{axis}: {shown(label)} is not in the grid; it has {have}")
        if predicate := figure.predicate(experiment):
            drawn = wanted & predicate(_columns(labels))
            _check_where(figure, experiment, labels, drawn, f"figures[{position}].where: {shown(figure.where)} leaves")


def _check_where(figure: Figure, experiment: Experiment, labels: Labels, drawn: Mask, leaves: str) -> None:
    """Refuse a condition that no cell of `drawn` meets, or several labels of an axis that has to follow the others."""
    if not drawn.any():
        raise InputError(f"{leaves} no cell; loosen it")
    axes = list(labels)
    for axis, chosen in (figure.only | {axis: [label] for axis, label in figure.at.items()}).items():
        drawn = drawn.take([labels[axis].index(label) for label in chosen], axis=axes.index(axis))
    trials = tuple(position for position, axis in enumerate(experiment.axes) if axis.key == "seeds")
    drawn = np.any(drawn, axis=trials, keepdims=True)
    for axis in figure.followers(experiment):
        if (drawn.sum(axis=axes.index(axis)) > 1).any():
            raise InputError(
                f"{leaves} several labels of {axis} at one place; narrow it, or name {axis} in at or panels"
            )
        drawn = np.any(drawn, axis=axes.index(axis), keepdims=True)
