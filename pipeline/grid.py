"""The sweep model: a YAML specification, validated, and the grid of cases that it declares."""

import difflib
import math
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import numpy as np
import numpy.typing as npt
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from pipeline.errors import InputError, one_line, shown
from pipeline.experiment import Axis, Case, Experiment, Label
from pipeline.experiments import get_experiment
from pipeline.figure import Figure
from pipeline.files import find_file, sha256_of
from pipeline.predicates import Predicate

MAX_CELLS = 20_000_000
MAX_SPEC_CHARACTERS = 200_000
_MAX_EVALUATED = 5 * MAX_CELLS
_MAX_LABELS = 100_000
_MAX_INTEGER = 2**31 - 1
_MAX_EXACT = 2**53  # integers up to here are numbers of double precision
_MAX_DIGITS = 5000

_WANTED = {
    int: "an integer; write it in digits, such as 1000",
    float: "a number; write it as 0.01 or 1e20",
    str: "a text; write a name",
}
_TOO_LONG = f"more than {MAX_SPEC_CHARACTERS} characters; a spec is a short text: use ranges, or several specs"

SpecName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Labels = dict[str, tuple[Label, ...]]
Mask = npt.NDArray[np.bool_]


class Range(BaseModel):
    """Evenly spaced integers, on a linear or logarithmic scale; both ends belong to it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    start: Annotated[int, Field(alias="from", ge=0, le=_MAX_INTEGER)]
    stop: Annotated[int, Field(alias="to", ge=0, le=_MAX_INTEGER)]
    count: Annotated[int, Field(ge=2, le=_MAX_LABELS)]
    scale: Literal["linear", "log"] = "linear"

    def labels(self) -> list[int]:
        """Round to integers; labels that coincide on the logarithmic scale appear once."""
        if self.stop <= self.start:
            raise ValueError(f"to: {self.stop} is not greater than from: {self.start}")
        if self.count > self.stop - self.start + 1:
            available = self.stop - self.start + 1
            raise ValueError(f"count: {self.count} is more than the {available} integers from {self.start} on")
        if self.scale == "log" and self.start == 0:
            raise ValueError("from: 0 has no logarithm; start at 1 or use scale: linear")
        space = np.geomspace if self.scale == "log" else np.linspace
        return [int(label) for label in np.unique(np.rint(space(self.start, self.stop, self.count)))]


class RealRange(BaseModel):
    """Evenly spaced numbers, on a linear or logarithmic scale; both ends belong to it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    start: Annotated[float, Field(alias="from", ge=0, allow_inf_nan=False)]
    stop: Annotated[float, Field(alias="to", ge=0, allow_inf_nan=False)]
    count: Annotated[int, Field(ge=2, le=_MAX_LABELS)]
    scale: Literal["linear", "log"] = "linear"

    def labels(self) -> list[float]:
        """Round those between the ends to six significant digits; labels that coincide appear once."""
        if self.stop <= self.start:
            raise ValueError(f"to: {self.stop} is not greater than from: {self.start}")
        if self.scale == "log" and self.start == 0:
            raise ValueError("from: 0 has no logarithm; start above it or use scale: linear")
        space = np.geomspace if self.scale == "log" else np.linspace
        inner = [float(f"{label:.6g}") for label in space(self.start, self.stop, self.count)[1:-1]]
        between = [label for label in inner if self.start < label < self.stop]  # some are rounded beyond an end
        return list(dict.fromkeys([self.start, *between, self.stop]))


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
    """

    name: str
    experiment: Experiment
    settings: BaseModel
    labels: Labels
    wanted: Mask
    figures: tuple[Figure, ...]
    text: str

    @property
    def files(self) -> Mapping[str, str]:
        """Absolute path of each file, by label."""
        files: Mapping[str, str] = getattr(self.settings, "files", {})
        return files

    @cached_property
    def used_settings(self) -> dict[str, dict[str, object]]:
        """The groups of settings that influence the values of this sweep; a file's digest is one of its own."""
        groups = sorted(self.experiment.settings_used(self.labels))
        digests: dict[str, dict[str, object]] = {name: {"sha256": sha256_of(path)} for name, path in self.files.items()}
        return {group: getattr(self.settings, group).model_dump() for group in groups} | digests

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
        with path.open("rb") as file:
            content = file.read(4 * MAX_SPEC_CHARACTERS + 1)  # no more, whatever it is
        if len(content) > 4 * MAX_SPEC_CHARACTERS:
            raise InputError(f"{path}: {_TOO_LONG}")
        text = content.decode("utf-8")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); name a YAML file or a shipped sweep") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: is not UTF-8 text ({error.reason}); name a YAML file") from error
    try:
        return parse_sweep(text, allow_code=allow_code, folder=path.parent)
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
    if len(text) > MAX_SPEC_CHARACTERS:
        raise InputError(_TOO_LONG)
    document = _parse_yaml(text)
    experiment = get_experiment(document.get("experiment", "approximation"), allow_code=allow_code)
    _check_label_count(document.get("grid"))
    files = _take_files(document, experiment, folder)
    model = _spec_model(experiment, allow_code)
    try:
        spec: Any = model.model_validate(document)
    except ValidationError as error:
        raise InputError(_explain(error, model)) from error
    settings = spec.settings.model_copy(update={"files": files}) if files else spec.settings
    labels, wanted = _grid(spec.grid, experiment, settings)
    figures = _complete(spec.figures, experiment)
    for position, figure in enumerate(figures):
        for axis, label in figure.at.items():
            if label not in labels[axis]:
                have = one_line(", ".join(map(str, labels[axis])), 80)
                raise InputError(f"figures[{position}].at.{axis}: {shown(label)} is not in the grid; it has {have}")
        if (predicate := figure.predicate(experiment)) and not (wanted & predicate(_columns(labels))).any():
            raise InputError(f"figures[{position}].where: {shown(figure.where)} leaves no cell; loosen it")
    return Sweep(spec.name, experiment, settings, labels, wanted, figures, text)


class _Declared(BaseModel):
    """The part of a specification that declares figures."""

    figures: list[Figure] = []


def declared_figures(text: str, experiment: Experiment) -> tuple[Figure, ...]:
    """The figures that a specification declares, whose sweep was checked when it ran.

    Raises
    ------
    InputError
        If they are not valid.
    """
    try:
        declared = _Declared.model_validate(_parse_yaml(text))
    except ValidationError as error:
        raise InputError(_explain(error, _Declared)) from error
    return _complete(declared.figures, experiment)


def _complete(figures: Sequence[Figure], experiment: Experiment) -> tuple[Figure, ...]:
    names = Counter(figure.name for figure in figures)
    if names and names.most_common(1)[0][1] > 1:
        raise InputError(f"figures: {names.most_common(1)[0][0]} is the name of two; name each another way")
    found = []
    for position, figure in enumerate(figures):
        try:
            found.append(figure.complete(experiment))
        except InputError as error:
            raise InputError(f"figures[{position}].{error}") from error
    return tuple(found)


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice in one mapping, and what makes a short text cost much."""

    _merged = 0

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge ``<<`` keys, which nested a few times multiply without bound."""
        super().flatten_mapping(node)
        self._merged += len(node.value)
        if self._merged > _MAX_LABELS:
            raise yaml.constructor.ConstructorError(None, None, "too many merged keys", node.start_mark)

    def number(self, node: yaml.ScalarNode) -> object:
        """Read a number of bounded length: long ones in base 60 take a time that is its square."""
        if len(node.value) > _MAX_DIGITS:
            raise yaml.constructor.ConstructorError(None, None, "a number is too long", node.start_mark)
        integer = node.tag == "tag:yaml.org,2002:int"
        return self.construct_yaml_int(node) if integer else self.construct_yaml_float(node)


def _unique_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[object, object]:
    seen: set[object] = set()
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            continue  # refused by construct_mapping
        key = key_node.value
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)
for _tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
    _UniqueKeyLoader.add_constructor(_tag, _UniqueKeyLoader.number)
_UniqueKeyLoader.add_implicit_resolver(  # 1e-4, a text in YAML 1.1
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _parse_yaml(text: str) -> dict[object, object]:
    try:
        document = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "the text"
        raise InputError(f"{place}: {one_line(error.problem)}; the spec must be valid YAML") from error
    except Exception as error:  # tags such as !!bool and !!timestamp raise what they like
        raise InputError(f"not valid YAML ({one_line(error)})") from error
    if not isinstance(document, dict):
        kind = "empty" if document is None else f"a {type(document).__name__}"
        raise InputError(f"the spec is {kind}; give a mapping with the keys name, experiment and grid")
    return document


def _check_label_count(blocks: object) -> None:
    """Refuse more labels, over all blocks, than a sweep can use: before ranges are expanded."""
    if not isinstance(blocks, list):
        return
    axes = [axis for block in blocks if isinstance(block, dict) for axis in block.values()]
    lengths = [len(axis) if isinstance(axis, list) else axis for axis in axes]
    counts = [axis.get("count") if isinstance(axis, dict) else axis for axis in lengths]
    total = sum(min(count, _MAX_LABELS) for count in counts if type(count) is int and count > 0)
    if total > 10 * _MAX_LABELS:
        raise InputError(f"grid: its blocks have {total} labels, over {10 * _MAX_LABELS}; join those that overlap")


class _Fixed(tuple[Label, ...]):
    """Labels that a file fixes, which are not checked as those that a user writes."""


def _take_files(document: Mapping[object, object], experiment: Experiment, folder: Path) -> dict[str, str]:
    """Replace ``{file: name}`` in blocks by its label and the labels that the file fixes; returns paths by label."""
    settings, blocks = document.get("settings"), document.get("grid")
    if isinstance(settings, dict) and "files" in settings:
        raise InputError("settings.files: is not a known key; name a file in the grid, as function: {file: data.npy}")
    files: dict[str, str] = {}
    keys = {axis.name: axis.key for axis in experiment.axes}
    takes = next((axis.key for axis in experiment.axes if axis.files), None)
    for position, block in enumerate(blocks if isinstance(blocks, list) else []):
        if not isinstance(block, dict) or not isinstance(named := block.get(takes), dict) or set(named) != {"file"}:
            continue
        place, name = f"grid[{position}]", named["file"]
        if not isinstance(name, str) or not name:
            raise InputError(f"{place}.{takes}.file: {shown(name)} is not a text; name a .npy file or a .zarr folder")
        name = posixpath.normpath(name)
        try:
            files[name] = find_file(name, folder)
            fixed = experiment.labels_of_file(files[name])
        except InputError as error:
            raise InputError(f"{place}.{takes}.{error}") from error
        for axis, label in fixed.items():
            if keys[axis] in block:
                raise InputError(f"{place}.{keys[axis]}: is fixed by {takes}: {{file: {name}}}; leave it out")
            block[keys[axis]] = _Fixed([label])
        block[takes] = _Fixed([name])
    return files


def _spec_model(experiment: Experiment, allow_code: bool) -> type[BaseModel]:
    """Make the pydantic model of a specification for one experiment."""
    strict = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    kinds: dict[str, type] = {axis.name: axis.kind for axis in experiment.axes}
    axes: dict[str, Any] = {
        axis.key: (Annotated[tuple[Any, ...], BeforeValidator(partial(_expand, axis, allow_code))], ...)
        for axis in experiment.axes
    }
    where = Annotated[Predicate | None, BeforeValidator(partial(_parse_where, kinds))]
    block = create_model("Block", __config__=strict, where=(where, None), **axes)
    return create_model(
        "Spec",
        __config__=strict,
        name=(SpecName, ...),
        experiment=(str, experiment.name),
        settings=(experiment.settings, experiment.settings()),
        figures=(list[Figure], []),
        grid=(Annotated[list[block], Field(min_length=1, max_length=1000)], ...),
    )


def _parse_where(kinds: Mapping[str, type], value: object) -> Predicate | None:
    """Parse a skip predicate."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is not a text; write an expression such as 'r <= n / 2'")
    try:
        return Predicate(value, kinds)
    except InputError as error:
        raise ValueError(str(error)) from error


def _expand(axis: Axis, allow_code: bool, value: object) -> tuple[Label, ...]:
    """Labels of an axis from a list, a range, or for seeds a count."""
    if isinstance(value, _Fixed):
        return tuple(value)
    if axis.label_of is not None and isinstance(value, dict) and "name" in value:
        value = [value]
    if axis.files and isinstance(value, dict):
        raise ValueError(f"{shown(value)} will not do; list the labels, or write {{file: data.npy}}, one file a block")
    if isinstance(value, dict):
        if axis.kind is str:
            raise ValueError(f"{shown(value)} is a range, which is for numbers; list the labels")
        kind = Range if axis.kind is int else RealRange
        try:
            value = kind.model_validate(value).labels()
        except ValidationError as error:
            raise ValueError(_explain(error, kind)) from error
    elif axis.key == "seeds" and isinstance(value, int) and not isinstance(value, bool):
        if not 1 <= value <= _MAX_LABELS:
            raise ValueError(f"{shown(value)} trials; give a count of at least 1, at most {_MAX_LABELS}, or a list")
        value = list(range(value))
    if not isinstance(value, list):
        if axis.key == "seeds":
            raise ValueError(f"{shown(value)} is neither a count nor a list; write 5, or [0, 3]")
        remedy = f"write [{one_line(value, 80)}]" if type(value) in (int, float, str) else "list the labels"
        raise ValueError(f"{shown(value)} is not a list; {remedy}")
    if not 0 < len(value) <= _MAX_LABELS:
        problem = "is empty; give at least one label" if not value else f"has more than {_MAX_LABELS} labels"
        raise ValueError(f"the list {problem}")
    labels = [_label(axis, label, f"item {position}: ") for position, label in enumerate(value)]
    for position, label in enumerate(labels):
        _check_label(axis, label, f"item {position}: ", allow_code)
    if len(set(labels)) < len(labels):
        twice = Counter(labels).most_common(1)[0][0]
        raise ValueError(f"{twice!r} is listed twice; name each label once")
    return tuple(labels)


def _label(axis: Axis, label: Any, place: str) -> Any:
    """Label of a mapping such as ``{name: gaussian, scale: 2}``, or of an integer where any number may stand."""
    if axis.kind is float and type(label) is int and abs(label) <= _MAX_EXACT:
        return float(label)
    if axis.label_of is None or not isinstance(label, dict) or set(label) == {"file"}:
        return label
    if not isinstance(name := label.get("name"), str):
        raise ValueError(f"{place}{shown(label)} says no name; write {{name: gaussian, scale: 2}}, say")
    try:
        return axis.label_of(name, {str(key): value for key, value in label.items() if key != "name"})
    except InputError as error:
        raise ValueError(f"{place}{str(error).removeprefix(f'{axis.key}: ')}") from error


def _check_label(axis: Axis, label: object, place: str, allow_code: bool) -> None:
    if axis.files and isinstance(label, dict):
        raise ValueError(
            f"{place}{shown(label)} stands in a list; write {axis.key}: {{file: data.npy}}, one file a block"
        )
    if type(label) is not axis.kind:
        raise ValueError(f"{place}{shown(label)} is not {_WANTED[axis.kind]}")
    if isinstance(label, int) and not axis.least <= label <= _MAX_INTEGER:
        raise ValueError(f"{place}{shown(label)} is not between {axis.least} and {_MAX_INTEGER}")
    if isinstance(label, float) and not axis.least < label < math.inf:
        raise ValueError(f"{place}{shown(label)} is not a finite number above {axis.least}")
    if isinstance(label, str) and axis.imports and ":" in label and not allow_code:
        raise ValueError(f"{place}{shown(label)} is code of your own; add --allow-code if you trust it")
    if isinstance(label, str) and axis.check is not None:
        try:
            axis.check(label)
        except InputError as error:
            raise ValueError(str(error).removeprefix(f"{axis.key}: ")) from error


def _explain(error: ValidationError, model: type[BaseModel]) -> str:
    """State the first problem in one line: path, value, remedy."""
    first = min(error.errors(), key=lambda problem: problem["type"] == "missing")  # a misspelt key comes first
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{one_line(part, 80)}" for part in first["loc"])
    path = path.lstrip(".")
    value = shown(first["input"])
    if first["type"] == "missing":
        message = "is missing; add it"
    elif first["type"] == "extra_forbidden":
        known = _keys_beside(model, first["loc"])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, 1)
        remedy = f"did you mean {near[0]}?" if near else f"use one of {', '.join(known)}" if known else "it has none"
        message = f"is not a known key; {remedy}"
    elif first["type"] == "value_error":
        message = first["msg"].removeprefix("Value error, ")
    elif first["type"] == "string_pattern_mismatch":
        message = f"{value} will not do; use up to 100 letters, digits, '.', '_', '-', the first a letter or digit"
    else:
        message = f"{value} will not do: {first['msg'][0].lower()}{first['msg'][1:]}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{path}: {message}{more}" if path else f"{message}{more}"


def _keys_beside(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Keys that a mapping of the model may have, at the place of the last part of a path."""
    for part in path[:-1]:
        if isinstance(part, str):
            annotation = model.model_fields[part].annotation
            inner = getattr(annotation, "__args__", (annotation,))[0]
            model = cast("type[BaseModel]", inner)
    return [field.alias or name for name, field in model.model_fields.items() if field.init is not False]


def _grid(blocks: Sequence[Any], experiment: Experiment, settings: BaseModel) -> tuple[Labels, Mask]:
    """Unite the blocks: the labels of the box that holds them all, and which of its cells are wanted."""
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
    for position, block in enumerate(blocks):
        chosen = {axis.name: getattr(block, axis.key) for axis in experiment.axes}
        columns = _columns(chosen)
        shape = [len(values) for values in chosen.values()]
        cells = np.broadcast_to(True if block.where is None else block.where(columns), shape)
        if not cells.any():
            raise InputError(f"grid[{position}].where: {shown(block.where.text)} leaves no cell; loosen it")
        _check_constraints(experiment, settings, columns, cells, f"grid[{position}]")
        where = np.ix_(*(positions(labels[axis], values) for axis, values in chosen.items()))
        wanted[where] |= cells
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
