"""The model of a specification for one experiment, by which pydantic validates it."""

import posixpath
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, create_model

from pipeline.errors import InputError, shown
from pipeline.experiment import Experiment
from pipeline.figure import Figure
from pipeline.files import find_file
from pipeline.labels import Fixed, Taken, expand
from pipeline.predicates import Predicate
from pipeline.ranges import MAX_LABELS
from pipeline.spec_text import parse_yaml
from pipeline.validation import explain

_MAX_ALL_LABELS = 10 * MAX_LABELS

SpecName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


def validate(
    document: dict[object, object], experiment: Experiment, *, allow_code: bool, folder: Path
) -> tuple[Any, BaseModel, list[int]]:
    """Validate a specification as it was parsed; in its blocks, files are replaced by their labels.

    A block with several files, or with files beside functions, becomes several: each file has axes of its own.

    Parameters
    ----------
    document : dict
    experiment : Experiment
        The one that it names.
    allow_code : bool
        Whether it may name a user's own functions.
    folder : Path
        Where files that it names are, if not in the working directory.

    Returns
    -------
    spec : pydantic model
        With `name`, `figures` and the blocks `grid`, each with the labels of every axis under its key and `where`.
    settings : pydantic model
        All settings of the experiment, defaults filled in, and the paths of files by label.
    places : list of int
        Which block, as it was written, each of those in `grid` is or is a part of.

    Raises
    ------
    InputError
        If it is not valid; the message names the field, the value and the remedy.
    """
    _check_label_count(document.get("grid"))
    document, files, places = _take_files(document, experiment, folder)
    model = _spec_model(experiment, allow_code=allow_code)
    try:
        spec: Any = model.model_validate(document)
    except ValidationError as error:
        raise InputError(explain(error, model, places)) from error
    return spec, spec.settings.model_copy(update={"files": files}) if files else spec.settings, places


def _spec_model(experiment: Experiment, *, allow_code: bool) -> type[BaseModel]:
    """Make the model for one experiment."""
    strict = ConfigDict(extra="forbid", arbitrary_types_allowed=True)
    kinds: dict[str, type] = {axis.name: axis.kind for axis in experiment.axes}
    axes: dict[str, Any] = {
        axis.key: (Annotated[tuple[Any, ...], BeforeValidator(partial(expand, axis, allow_code=allow_code))], ...)
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
        figures=(Annotated[list[Figure], Field(max_length=100)], []),
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


def _check_label_count(blocks: object) -> None:
    """Refuse more labels, over all blocks, than a sweep can use: before ranges are expanded."""
    if not isinstance(blocks, list):
        return
    axes = [axis for block in blocks if isinstance(block, dict) for axis in block.values()]
    lengths = [len(axis) if isinstance(axis, list) else axis for axis in axes]
    counts = [axis.get("count") if isinstance(axis, dict) else axis for axis in lengths]
    total = sum(min(count, MAX_LABELS) for count in counts if type(count) is int and count > 0)
    if total > _MAX_ALL_LABELS:
        raise InputError(f"grid: its blocks have {total} labels, over {_MAX_ALL_LABELS}; join those that overlap")


def _take_files(
    document: dict[object, object], experiment: Experiment, folder: Path
) -> tuple[dict[object, object], dict[str, str], list[int]]:
    """Replace ``{file: name}`` in blocks by its label and the labels that the file fixes.

    Returns the document, the paths of files by label, and for each block which of the written ones it is part of.
    """
    settings, blocks = document.get("settings"), document.get("grid")
    if isinstance(settings, dict) and "files" in settings:
        raise InputError("settings.files: is not a known key; name a file in the grid, as function: {file: data.npy}")
    takes = next((axis.key for axis in experiment.axes if axis.files), None)
    if takes is None or not isinstance(blocks, list):
        return document, {}, []
    files: dict[str, str] = {}
    parts: list[object] = []
    places: list[int] = []
    for position, block in enumerate(blocks):
        found = _parts(block, takes, f"grid[{position}]", experiment, folder, files)
        parts += found
        places += [position] * len(found)
    return document | {"grid": parts}, files, places


def _parts(
    block: Any, takes: str, place: str, experiment: Experiment, folder: Path, files: dict[str, str]
) -> list[object]:
    """A block without files, if anything else is in its list, and a block for each of its files, added to `files`."""
    listed = block.get(takes) if isinstance(block, dict) else None
    entries: list[Any] = listed if isinstance(listed, list) else [listed]
    named = [position for position, each in enumerate(entries) if isinstance(each, dict) and set(each) == {"file"}]
    if not named:
        return [block]
    alone = len(named) == len(entries)
    parts: list[object] = (
        [] if alone else [block | {takes: [Taken() if i in named else e for i, e in enumerate(entries)]}]
    )
    seen: set[str] = set()
    for position in named:
        here = f"{place}.{takes}" if listed is not entries else f"{place}.{takes}[{position}]"
        name, path, fixed = _file(entries[position]["file"], here, experiment, folder)
        if name in seen:
            raise InputError(f"{place}.{takes}: {name!r} is listed twice; name each file once")
        if alone and (given := next((key for key in fixed if key in block), None)):
            raise InputError(f"{place}.{given}: is fixed by {takes}: {{file: {name}}}; leave it out")
        seen.add(name)
        files[name] = path
        parts.append(block | fixed | {takes: Fixed([name])})
    return parts


def _file(name: object, place: str, experiment: Experiment, folder: Path) -> tuple[str, str, dict[str, Fixed]]:
    """Label and path of a file, and the labels that it fixes by key."""
    if not isinstance(name, str) or not name:
        raise InputError(f"{place}.file: {shown(name)} is not a text; name a .npy file or a .zarr folder")
    name = posixpath.normpath(name)
    keys = {axis.name: axis.key for axis in experiment.axes}
    try:
        path = find_file(name, folder)
        return name, path, {keys[axis]: Fixed([label]) for axis, label in experiment.labels_of_file(path).items()}
    except InputError as error:
        raise InputError(f"{place}.{error}") from error


class _Declared(BaseModel):
    """The part of a specification that declares figures."""

    figures: list[Figure] = []


def declared_figures(text: str, experiment: Experiment, unnamed: Collection[str] = ()) -> tuple[Figure, ...]:
    """The figures that a specification declares, whose sweep was checked when it ran.

    Raises
    ------
    InputError
        If they are not valid.
    """
    try:
        declared = _Declared.model_validate(parse_yaml(text, checked=False))  # a store's, which may be old
    except ValidationError as error:
        raise InputError(explain(error, _Declared)) from error
    return complete_figures(declared.figures, experiment, unnamed)


def complete_figures(
    figures: Sequence[Figure], experiment: Experiment, unnamed: Collection[str] = ()
) -> tuple[Figure, ...]:
    """The figures with everything said that may be left out; InputError if one will not do, or two have one name."""
    names = Counter(figure.name for figure in figures)
    if names and names.most_common(1)[0][1] > 1:
        raise InputError(f"figures: {names.most_common(1)[0][0]} is the name of two; name each another way")
    found = []
    for position, figure in enumerate(figures):
        try:
            found.append(figure.complete(experiment, unnamed))
        except InputError as error:
            raise InputError(f"figures[{position}].{error}") from error
    return tuple(found)
