"""The numbers behind the curves of a report, as compact as the page can use them."""

import json
import math
from collections.abc import Collection, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr

from flows.chosen import chosen_figures, select
from flows.colours import COLOURS, line_places
from pipeline.errors import InputError
from pipeline.experiment import Experiment, Label, Quantity
from pipeline.figure import Figure
from storage import Status, median_curves
from storage.curves import TRIALS

MOST_CELLS = 100_000
_MOST_VALUES = 4_000_000
_BOUND = "lower_bound"


def curve_data(ds: xr.Dataset, experiment: Experiment) -> dict[str, Any] | None:
    """Arrays over the curve points that have a finished trial.

    Up to `MOST_CELLS` finished cells every trial is there; beyond, the medians, minima and maxima of points whose
    trials are all done. Quantities after the main one and its bound are left out where the page would grow too large.

    Parameters
    ----------
    ds : xarray.Dataset
        Results, as `open_results` returns them.
    experiment : Experiment

    Returns
    -------
    dict or None
        What the page's script reads, without NaN; None if nothing is done, or even one quantity is too much.
    """
    if TRIALS not in ds.dims:
        ds = ds.expand_dims(TRIALS)
    axes = [axis for axis in experiment.axes if axis.name != TRIALS]
    labels = {axis.name: ds[axis.name].values.tolist() for axis in axes}
    order = [*labels, TRIALS]
    status = ds["status"].transpose(*order).values
    done, declared = status == Status.DONE, (status != Status.SKIPPED).sum(axis=-1).ravel()
    every_trial = int(done.sum()) <= MOST_CELLS
    count = done.sum(axis=-1).ravel()
    points = np.flatnonzero((count > 0) & (every_trial | (count == declared)))
    width = done.shape[-1] if every_trial else 3
    room = _MOST_VALUES // max(1, len(points) * width)
    if not len(points) or not room:
        return None
    values: dict[str, list[float | None]] = {}
    kept: list[Quantity] = []
    dropped: list[str] = []
    for quantity in _in_order(ds, experiment):
        if len(kept) == room:
            dropped.append(quantity.name)
            continue
        found = _trials(ds, quantity, order, done) if every_trial else _statistics(ds, quantity, order)
        found = found.reshape(-1, width)[points]
        if quantity.name == experiment.main or np.isfinite(found).any():
            kept.append(quantity)
            values[quantity.name] = _rounded(found)
    at = zip(labels, np.unravel_index(points, done.shape[:-1]), strict=True)
    columns = {axis: ds[axis].values[positions] for axis, positions in at}
    return {
        "axes": [
            {
                "name": axis.name,
                "text": axis.description,
                "numeric": axis.numeric,
                "labels": labels[axis.name],
                "places": line_places(axis.name, labels[axis.name]),
            }
            for axis in axes
        ],
        "trials": {"name": TRIALS, "labels": ds[TRIALS].values.tolist()},
        "quantities": [
            {"name": each.name, "text": each.description, "units": each.units, "label": each.axis_label}
            for each in kept
        ],
        "figures": _figures(ds, experiment, labels, columns, list(values)),
        "main": experiment.main,
        "bound": _BOUND if _BOUND in values else None,
        "theory": _theory(ds, experiment, columns, values),
        "colours": COLOURS,
        "everyTrial": every_trial,
        "cells": int(done.sum()),
        "mostCells": MOST_CELLS,
        "dropped": dropped,
        "points": np.diff(points, prepend=0).tolist(),
        "declared": declared[points].tolist(),
        "values": values,
    }


def _in_order(ds: xr.Dataset, experiment: Experiment) -> list[Quantity]:
    """Quantities of a store: the main one, its bound, the others."""
    first = {experiment.main: 0, _BOUND: 1}
    there = [quantity for quantity in experiment.quantities if quantity.name in ds]
    return sorted(there, key=lambda quantity: first.get(quantity.name, 2))


def _trials(
    ds: xr.Dataset, quantity: Quantity, order: list[str], done: npt.NDArray[np.bool_]
) -> npt.NDArray[np.float64]:
    return np.where(done, ds[quantity.name].transpose(*order).values, np.nan)


def _statistics(ds: xr.Dataset, quantity: Quantity, order: list[str]) -> npt.NDArray[np.float64]:
    curves = median_curves(ds, quantity.name)
    columns = [curves[f"{quantity.name}{suffix}"].transpose(*order[:-1]).values for suffix in ("", "_min", "_max")]
    return np.stack(columns, axis=-1)


def _figures(
    ds: xr.Dataset,
    experiment: Experiment,
    labels: Mapping[str, list[Label]],
    columns: Mapping[str, npt.NDArray[Any]],
    shown: Sequence[str],
) -> list[dict[str, Any]]:
    """What the figures on disk set, as places in lists; those that have no curve are left out."""
    try:
        figures = chosen_figures(ds, experiment, {})
    except InputError:
        return []
    names, found = list(labels), []
    for figure in figures:
        there = all(label in labels[axis] for axis, label in figure.at.items())
        if figure.y not in shown or not there or len(labels[figure.x]) < 2:
            continue
        held, predicate = _held(ds, experiment, figure), figure.predicate(experiment)
        if held is None:
            continue
        found.append(
            {
                "name": figure.name,
                "quantity": shown.index(figure.y),
                "x": names.index(figure.x),
                "lines": names.index(figure.lines),
                "only": [i for i, each in enumerate(labels[figure.lines]) if each in figure.only[figure.lines]]
                if figure.lines in figure.only
                else None,
                "at": {names.index(axis): labels[axis].index(label) for axis, label in held.items()},
                "where": figure.where,
                "points": np.flatnonzero(predicate(columns)).tolist() if predicate else None,
                "followers": [names.index(axis) for axis in figure.followers(experiment)],
                "statistic": figure.statistic,
                "beside": [name for name in figure.beside if name in shown],
                "xScale": figure.x_scale,
                "yScale": figure.y_scale,
                "yLeast": figure.y_least,
            }
        )
    return found


def _held(ds: xr.Dataset, experiment: Experiment, figure: Figure) -> dict[str, Label] | None:
    """Labels of the first panel that has a curve, those at which it is held included; None for no figure at all."""
    try:
        curves, held, _ = select(ds, experiment, figure)
    except InputError:
        return None
    for each in product(*(curves[axis].values.tolist() for axis in figure.panels or ())):
        panel = dict(zip(figure.panels or (), each, strict=True))
        if bool(curves[figure.y].sel(panel).notnull().any()):
            return {**held, **panel}
    return dict(figure.at)


def _theory(
    ds: xr.Dataset, experiment: Experiment, columns: Mapping[str, npt.NDArray[Any]], shown: Collection[str]
) -> list[dict[str, Any]]:
    """What theorems say of the quantities that are shown, at points given by their labels along each axis."""
    settings = json.loads(ds.attrs["settings"])
    said = [
        (bound, bound.values(columns))
        for bound in experiment.theory
        if bound.listed and bound.quantity in shown and bound.applies(settings)
    ]
    return [
        {"label": bound.label, "quantity": bound.quantity, "values": _rounded(values)}
        for bound, values in said
        if np.isfinite(values).any()
    ]


def _rounded(values: npt.NDArray[np.float64]) -> list[float | None]:
    """Six significant digits, integers as such; None for NaN."""
    return [_short(value) if math.isfinite(value) else None for value in values.ravel().tolist()]


def _short(value: float) -> float:
    return int(value) if value.is_integer() and abs(value) < 1e15 else float(f"{value:.6g}")
