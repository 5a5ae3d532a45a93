"""Which cells of a store's box specifications asked for, told by their texts: no code is imported, no file is read."""

import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np

from pipeline.errors import InputError
from pipeline.experiment import Axis, Label
from pipeline.experiments import EXPERIMENTS
from pipeline.experiments.generated import OF_ANY_FILE
from pipeline.grid import Mask, positions
from pipeline.labels import Fixed, expand
from pipeline.predicates import Predicate
from pipeline.spec_text import parse_yaml

_KNOWN = {axis.name: axis for experiment in EXPERIMENTS.values() for axis in experiment.axes}
_Block = dict[str, list[int] | None]


def asked_for(texts: Iterable[object], labels: Mapping[str, Sequence[Label]]) -> Mask:
    """Tell which cells of a box were asked for.

    What cannot be told counts as asked for: all cells for a text that cannot be parsed, all labels of an axis where a
    block does not say them or means others by now, and every label that no block explains.

    Parameters
    ----------
    texts : iterable of str
        Specifications that were checked when they ran.
    labels : mapping of str to sequence
        Labels of each axis of the box.

    Returns
    -------
    ndarray of bool, one dimension an axis
    """
    asked = np.zeros([len(values) for values in labels.values()], dtype=bool)
    axes = [_axis(name, values) for name, values in labels.items()]
    explained: dict[str, set[int]] = {axis.name: set() for axis in axes}
    for text in dict.fromkeys(str(text) for text in texts):
        try:
            blocks = parse_yaml(text)["grid"]
        except (InputError, KeyError):
            blocks = None
        if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
            return np.ones_like(asked)
        for block in chain.from_iterable(_parts(block, axes) for block in blocks):
            told: _Block = {axis.name: _told(axis, block.get(axis.key), labels[axis.name]) for axis in axes}
            chosen = {name: list(range(len(labels[name]))) if at is None else at for name, at in told.items()}
            asked[np.ix_(*chosen.values())] |= _where(block.get("where"), axes, labels, chosen)
            for name, at in chosen.items():
                explained[name].update(at)
    for position, (name, values) in enumerate(labels.items()):
        for place in set(range(len(values))) - explained[name]:
            asked[(slice(None),) * position + (place,)] = True
    return asked


def _parts(block: Mapping[str, object], axes: Sequence[Axis]) -> list[Mapping[str, object]]:
    """A block of names alone, if there are any, and one for each of its files, with the labels that any file fixes."""
    for axis in axes:
        value = block.get(axis.key)
        listed = value if isinstance(value, list) else [value]
        files = [each for each in listed if isinstance(each, dict) and set(each) == {"file"}]
        if axis.files and files:
            names = [each for each in listed if each not in files]
            fixed = {name: Fixed([label]) for name, label in OF_ANY_FILE.items()} | {"n": None}
            return [
                *([{**block, axis.key: names}] if names else []),
                *({**block, **fixed, axis.key: each} for each in files),
            ]
    return [block]


def _axis(name: str, labels: Sequence[Label]) -> Axis:
    """Axis of a name, of which nothing is checked or imported."""
    kind = type(labels[0])
    known = _KNOWN.get(name)
    if known is None or known.kind is not kind:
        return Axis(name, kind, "", name)
    return replace(known, check=None, label_of=_built_in_label if known.label_of is not None else None)


def _built_in_label(name: str, parameters: Mapping[str, object]) -> str:
    label_of = _KNOWN["function"].label_of
    if ":" in name or label_of is None:
        raise InputError("a user's own function may have to be imported")
    return label_of(name, parameters)


def _told(axis: Axis, value: object, labels: Sequence[Label]) -> list[int] | None:
    """Positions of the labels that a block says for an axis; None where it does not, or they are not in the box."""
    try:
        if axis.files and isinstance(value, dict) and set(value) == {"file"}:
            return positions(labels, [posixpath.normpath(value["file"])])
        return positions(labels, expand(axis, value, allow_code=True))
    except Exception:  # whatever a text that means something else by now leads to
        return None


def _where(
    text: object, axes: Sequence[Axis], labels: Mapping[str, Sequence[Label]], chosen: Mapping[str, Sequence[int]]
) -> Mask:
    """Which of the chosen cells meet the condition of a block; all where it cannot be told."""
    shape = [len(at) for at in chosen.values()]
    if text is None:
        return np.ones(shape, dtype=bool)
    columns = np.ix_(*(np.array([labels[name][i] for i in at]) for name, at in chosen.items()))
    try:
        holds = Predicate(str(text), {axis.name: axis.kind for axis in axes})
        return np.broadcast_to(holds(dict(zip(chosen, columns, strict=True))), shape)
    except Exception:  # a name of an axis that is called otherwise by now
        return np.ones(shape, dtype=bool)
