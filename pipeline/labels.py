"""Labels of an axis, as a block of a specification writes them: a list, a range, or for seeds a count."""

import math
from collections import Counter
from typing import Any

from pydantic import ValidationError

from pipeline.errors import InputError, one_line, shown
from pipeline.experiment import Axis, Label
from pipeline.ranges import MAX_INTEGER, MAX_LABELS, Range, RealRange
from pipeline.validation import explain

_MAX_EXACT = 2**53  # integers up to here are numbers of double precision
_WANTED = {
    int: "an integer; write it in digits, such as 1000",
    float: "a number; write it as 0.01 or 1e20",
    str: "a text; write a name, and quote it if it looks like a number",
}


class Fixed(tuple[Label, ...]):
    """Labels that a file fixes, which are not checked as those that a user writes."""


class Taken:
    """What stands in a list for a file that became a block of its own."""


def expand(axis: Axis, value: object, *, allow_code: bool) -> tuple[Label, ...]:
    """Labels that a value means.

    Parameters
    ----------
    axis : Axis
    value : object
        As it was parsed, or `Fixed`.
    allow_code : bool
        Whether a label may name a user's own code, which is imported.

    Raises
    ------
    ValueError
        If one will not do, or there are none or too many; the message names it and the remedy, not the axis.
    """
    if isinstance(value, Fixed):
        return tuple(value)
    written = _written(axis, value)
    if not 0 < len(written) <= MAX_LABELS:
        problem = "is empty; give at least one label" if not written else f"has more than {MAX_LABELS} labels"
        raise ValueError(f"the list {problem}")
    labels = []
    for position, each in enumerate(written):
        if not isinstance(each, Taken):
            labels.append(_label(axis, each, f"item {position}: "))
            _check_label(axis, labels[-1], f"item {position}: ", allow_code)
    if len(set(labels)) < len(labels):
        twice = Counter(labels).most_common(1)[0][0]
        raise ValueError(f"{twice!r} is listed twice; name each label once")
    return tuple(labels)


def _written(axis: Axis, value: object) -> list[Any]:
    """The list that a range, a count or one mapping of a name stands for, or that is written out."""
    if isinstance(value, dict) and axis.label_of is not None and "name" in value:
        return [value]
    if isinstance(value, dict):
        return _range_labels(axis, value)
    if isinstance(value, list):
        return value
    if axis.key == "seeds":
        if not isinstance(value, int) or isinstance(value, bool):
            raise ValueError(f"{shown(value)} is neither a count nor a list; write 5, or [0, 3]")
        if not 1 <= value <= MAX_LABELS:
            raise ValueError(f"{shown(value)} trials; give a count of at least 1, at most {MAX_LABELS}, or a list")
        return list(range(value))
    remedy = f"write [{one_line(value, 80)}]" if type(value) in (int, float, str) else "list the labels"
    raise ValueError(f"{shown(value)} is not a list; {remedy}")


def _range_labels(axis: Axis, value: dict[object, object]) -> list[Any]:
    if axis.files:
        raise ValueError(f"{shown(value)} will not do; list the labels, or write {{file: data.npy}}, or a list of both")
    if axis.kind is str:
        raise ValueError(f"{shown(value)} is a range, which is for numbers; list the labels")
    kind = Range if axis.kind is int else RealRange
    try:
        return [*kind.model_validate(value).labels()]
    except ValidationError as error:
        raise ValueError(explain(error, kind)) from error


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
        raise ValueError(f"{place}{shown(label)} is neither {{file: data.npy}} nor {{name: gaussian, scale: 2}}")
    if type(label) is not axis.kind:
        raise ValueError(f"{place}{shown(label)} is not {_WANTED[axis.kind]}")
    if isinstance(label, int) and not axis.least <= label <= MAX_INTEGER:
        raise ValueError(f"{place}{shown(label)} is not between {axis.least} and {MAX_INTEGER}")
    if isinstance(label, float) and not axis.least < label < math.inf:
        raise ValueError(f"{place}{shown(label)} is not a finite number above {axis.least}")
    if isinstance(label, str) and axis.imports and ":" in label and not allow_code:
        raise ValueError(f"{place}{shown(label)} is code of your own; add --allow-code if you trust it")
    if isinstance(label, str) and axis.check is not None:
        try:
            axis.check(label)
        except InputError as error:
            raise ValueError(str(error).removeprefix(f"{axis.key}: ")) from error
