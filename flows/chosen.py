"""Which figures of a store are drawn: those that are declared, the automatic ones or a choice, and at which labels."""

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import xarray as xr
from pydantic import ValidationError

from pipeline.errors import InputError, one_line, shown
from pipeline.experiment import Axis, Experiment, Label
from pipeline.figure import Figure
from pipeline.grid import declared_figures
from pipeline.validation import explain
from storage import Status
from storage.curves import TRIALS, median_curves

_STYLE = ("statistic", "y_share")
_LISTED = 300  # characters of the labels that are known


def chosen_figures(ds: xr.Dataset, experiment: Experiment, choice: Mapping[str, Any]) -> tuple[Figure, ...]:
    """Complete figures: those of the specification, or one against every axis of numbers with several labels.

    Parameters
    ----------
    ds : xarray.Dataset
        Results, as `open_results` returns them.
    experiment : Experiment
    choice : mapping of str to object
        Fields of `Figure`. A statistic or a vertical range is that of every figure; any other field brings figures of
        its own in place of those of the specification.

    Raises
    ------
    InputError
        If a field or a label will not do; the message names it, its value and the remedy.
    """
    unnamed = [axis.name for axis in experiment.axes if not axis.numeric]
    if "spec" in ds.attrs and set(choice) <= set(_STYLE):
        declared = declared_figures(ds.attrs["spec"], experiment, unnamed)
        if declared:
            return tuple(figure.model_copy(update=dict(choice)) for figure in declared)
    for field in ("at", "only"):
        for axis, labels in choice.get(field, {}).items():
            for label in labels if field == "only" else [labels]:
                require_label(ds, experiment, axis, label, field)
    numbers = [axis.name for axis in experiment.axes if axis.numeric and axis.name != TRIALS]
    single = [axis for axis in unnamed if ds.sizes[axis] == 1 or len(choice.get("only", {}).get(axis, "ab")) == 1]
    taken = {*choice.get("at", {}), choice.get("lines", ""), *(choice.get("panels") or ())}
    against = [choice["x"]] if "x" in choice else [a for a in numbers if ds.sizes[a] > 1 and a not in taken]
    found = []
    for axis in against:
        if y := choice.get("y") or _varying(experiment, axis):
            fields = {"name": f"{y}-against-{axis}"[:100], "x": axis, **choice, "y": y}
            try:
                found.append(Figure.model_validate(fields).complete(experiment, single))
            except ValidationError as error:
                raise InputError(explain(error, Figure)) from error
    return tuple(found)


def _varying(experiment: Experiment, axis: str) -> str:
    """The main quantity, or the first other that is not the same along an axis; empty if all are."""
    main = experiment.quantity(experiment.main)
    return next((each.name for each in (main, *experiment.quantities) if axis not in each.along), "")


def require_label(ds: xr.Dataset, experiment: Experiment, axis: str, label: Label, field: str) -> None:
    """Refuse a label that is not in the store, or of an axis that cannot be chosen."""
    if axis not in (known := [each.name for each in experiment.axes if each.name != TRIALS]):
        raise InputError(f"{field}: {axis!r} is not an axis that can be held; use one of {', '.join(known)}")
    if label not in (have := ds[axis].values.tolist()):
        listed = one_line(have) if len(str(have)) <= _LISTED else f"{one_line(have, _LISTED)}…"
        raise InputError(f"{field}: {axis} = {label} is not in the store; it has {listed}")


def read_choice(ds: xr.Dataset, experiment: Experiment, items: Sequence[str], option: str) -> dict[str, list[Label]]:
    """Labels by axis of texts such as ``function=gaussian(scale=2),cauchy``.

    Raises
    ------
    InputError
        If a text has no axis of the store or a label that is not there.
    """
    found: dict[str, list[Label]] = {}
    axes = {axis.name: axis for axis in experiment.axes if axis.name != TRIALS}
    for item in items:
        name, equals, text = (part.strip() for part in item.partition("="))
        if not equals or not text:
            raise InputError(f"{option}: {shown(item)} is not AXIS=LABEL; write {option} r=20, say")
        if name not in axes:
            known = ", ".join(axes)
            raise InputError(f"{option}: {shown(name)} is not an axis that can be held; use one of {known}")
        found.setdefault(name, []).extend(_read_labels(axes[name], text, ds[name].values.tolist(), option))
    return found


def _read_labels(axis: Axis, text: str, have: Sequence[Label], option: str) -> list[Label]:
    """Labels of a list with commas, which may stand in labels as well: the longest label that is there is taken."""
    by_text = {_bare(label): label for label in have}
    pieces, labels = text.split(","), []
    while pieces:
        for count in range(len(pieces), 0, -1):
            label = _known(axis, ",".join(pieces[:count]), by_text)
            if label is not None:
                break
        else:
            wrong = text if text.count("(") else pieces[0]
            listed = one_line(", ".join(map(str, have)), _LISTED)
            raise InputError(f"{option}: {axis.name} = {shown(wrong.strip())} is not in the store; it has {listed}")
        labels.append(label)
        del pieces[:count]
    return labels


def _known(axis: Axis, text: str, by_text: Mapping[str, Label]) -> Label | None:
    if (found := by_text.get(_bare(text))) is not None or not axis.numeric:
        return found
    try:
        number = float(text)
    except ValueError:
        return None
    return next((label for label in by_text.values() if label == number), None)


def _bare(label: Label) -> str:
    return "".join(str(label).split())


def select(ds: xr.Dataset, experiment: Experiment, figure: Figure) -> tuple[xr.Dataset, dict[str, Label], list[str]]:
    """Curves of a figure, labels at which axes that are not drawn are held, and what none of its cells is done of.

    Returns
    -------
    curves : xarray.Dataset
        As `median_curves` returns them, over the axes that are drawn; of size 0 where there is no curve.
    held : dict of str to label
    unfinished : list of str
        Labels along lines and panels.
    """
    for axis, label in figure.at.items():
        require_label(ds, experiment, axis, label, f"figure {figure.name}: at")
    for axis, labels in figure.only.items():
        for label in labels:
            require_label(ds, experiment, axis, label, f"figure {figure.name}: only")
    ds = ds.sel({**{axis: [label] for axis, label in figure.at.items()}, **_in_order(ds, figure)})
    curves = median_curves(ds, figure.y).assign({name: median_curves(ds, name)[name] for name in figure.beside})
    curves = _followed(curves, experiment, figure)
    held = _held_labels(curves, experiment, figure)
    if held is None:
        return curves.isel({figure.x: []}), {}, []
    return _measured(curves.sel(held), figure), held, _unfinished(ds.sel(held), figure)


def _in_order(ds: xr.Dataset, figure: Figure) -> dict[str, list[Label]]:
    """Labels that alone are drawn, in the order of the store."""
    return {axis: [each for each in ds[axis].values.tolist() if each in only] for axis, only in figure.only.items()}


def _unfinished(ds: xr.Dataset, figure: Figure) -> list[str]:
    """Labels of lines and panels that the sweep has and of which no cell is done."""
    found = []
    for axis in (figure.lines, *(figure.panels or ())):
        others = [dim for dim in ds["status"].dims if dim != axis]
        done = (ds["status"] == Status.DONE).any(others).values
        wanted = (ds["status"] != Status.SKIPPED).any(others).values
        labels = ds[axis].values.tolist()
        names = [str(label) for label, ready, asked in zip(labels, done, wanted, strict=True) if asked and not ready]
        if names:
            found.append(f"{axis} = {', '.join(names)}" if not isinstance(labels[0], str) else ", ".join(names))
    return found


def _followed(curves: xr.Dataset, experiment: Experiment, figure: Figure) -> xr.Dataset:
    """Curves where `where` holds: an axis that only it names is no dimension any more, but a coordinate along others.

    Raises
    ------
    InputError
        If it leaves several labels of such an axis at one place.
    """
    if not (predicate := figure.predicate(experiment)):
        return curves
    axes = [axis.name for axis in experiment.axes if axis.name in curves.dims]
    labels = np.ix_(*(curves[axis].values for axis in axes))
    holds = np.broadcast_to(predicate(dict(zip(axes, labels, strict=True))), [curves.sizes[axis] for axis in axes])
    curves = curves.where(xr.DataArray(holds, dims=axes))
    for axis in figure.followers(experiment):
        there = curves[figure.y].notnull()
        if (there.sum(axis) > 1).any():
            raise InputError(
                f"figure {figure.name}: where: {shown(figure.where)} leaves several labels of {axis} at one place; "
                f"narrow it, or name {axis} in at, lines or panels"
            )
        along = curves[axis].where(there).max(axis)
        curves = curves.max(axis).assign_coords({axis: along})
    return curves


def _held_labels(curves: xr.Dataset, experiment: Experiment, figure: Figure) -> dict[str, Label] | None:
    """Labels of axes that are not drawn: those with most values along x, nearest the middle; None without a curve."""
    drawn = (figure.x, figure.lines, *(figure.panels or ()), *figure.followers(experiment))
    others = [axis.name for axis in experiment.axes if axis.name not in (*drawn, TRIALS)]
    there = curves[figure.y].notnull()
    along = there.any([dim for dim in there.dims if dim not in (figure.x, *others)])
    counts = along.sum(figure.x) + there.sum([dim for dim in there.dims if dim not in others]) / (there.size + 1)
    counts = counts.transpose(*others)
    best: tuple[float, float] | None = None
    held: dict[str, Label] | None = None
    for index in product(*(range(counts.sizes[other]) for other in others)):
        off_middle = sum(abs(2 * i + 1 - counts.sizes[other]) for i, other in zip(index, others, strict=True))
        score = (float(counts.values[index]), -off_middle)
        if score[0] >= 2 and (best is None or score > best):
            best = score
            held = {other: counts[other].values.tolist()[i] for i, other in zip(index, others, strict=True)}
    return held


def _measured(curves: xr.Dataset, figure: Figure) -> xr.Dataset:
    """Curves at the labels along x that have a value somewhere, and a place on the axis."""
    there = curves[figure.y].notnull()
    there = there.any([axis for axis in there.dims if axis != figure.x])
    if figure.x_scale == "log":
        there &= curves[figure.x] > 0
    return curves.isel({figure.x: there.values})
