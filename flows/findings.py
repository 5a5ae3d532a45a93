"""What fits and theorems say of the curves of a store, beside what is expected of them."""

import json
import math
from collections.abc import Iterator, Mapping
from itertools import islice, product
from typing import Any

import numpy as np
import xarray as xr

from flows.report import Finding
from pipeline.experiment import Expectation, Experiment, Label, Theory
from pipeline.fits import Fit, compare_growth, flatness, power_law
from storage import Status
from storage.curves import TRIALS, median_curves

_FEWEST = 3  # labels along an axis
_MOST = 150  # of one kind
_DIGITS = 9  # of a power, after the point


def findings(ds: xr.Dataset, experiment: Experiment) -> list[Finding]:
    """Fit every complete curve along the axes that the experiment expects something of; evaluate its theorems.

    A curve has a label on every other axis, all of its trials done at three labels or more, and positive values.

    Parameters
    ----------
    ds : xarray.Dataset
        Results, as `open_results` returns them.
    experiment : Experiment

    Returns
    -------
    list of Finding
        Of at most 150 curves of each kind; how many more there are stands in a row of its own.
    """
    found: list[Finding] = []
    for expectation in experiment.expectations:
        curves = _curves(ds, experiment, expectation)
        found += (row for curve in islice(curves, _MOST) for row in _fitted(*curve, expectation))
        found += _left_out("Fits", f"{expectation.quantity} along {expectation.axis}", sum(1 for _ in curves))
    settings = json.loads(ds.attrs.get("settings", "{}"))
    for bound in (bound for bound in experiment.theory if bound.listed and bound.applies(settings)):
        rows = _bounds(ds, experiment, bound)
        found += islice(rows, _MOST)
        found += _left_out("Theory", bound.label, sum(1 for _ in rows))
    return found


def _left_out(section: str, name: str, count: int) -> list[Finding]:
    """A row that says how many are not shown."""
    return [Finding(section, name, math.nan, None, "", f"{count:,} more are left out here")] if count else []


def _bounds(ds: xr.Dataset, experiment: Experiment, bound: Theory) -> Iterator[Finding]:
    """What a theorem says of each complete median that it applies to, the largest medians first."""
    medians = median_curves(ds, bound.quantity)[bound.quantity]
    quantity = experiment.quantity(bound.quantity)
    medians = medians.isel(dict.fromkeys(quantity.along, 0))
    labels = np.meshgrid(*(medians[axis].values for axis in medians.dims), indexing="ij")
    columns = {str(axis): each.ravel() for axis, each in zip(medians.dims, labels, strict=True)}
    columns |= {axis: np.full(medians.size, ds[axis].values[0]) for axis in quantity.along}
    measured, said = medians.values.ravel(), bound.values(columns)
    there = np.flatnonzero(np.isfinite(measured) & np.isfinite(said))
    for i in there[np.argsort(-measured[there], kind="stable")]:
        where = ", ".join(f"{axis} = {columns[str(axis)][i]}" for axis in medians.dims)
        expected = f"{bound.label} = {said[i]:.4g}"
        yield Finding("Theory", f"median of {bound.quantity}", float(measured[i]), None, expected, where)


def _curves(
    ds: xr.Dataset, experiment: Experiment, expectation: Expectation
) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], str]]:
    """Labels, values of shape (trials, labels), and a description of each curve along an axis."""
    axis, name = expectation.axis, expectation.quantity
    quantity = experiment.quantity(name)
    others = [each.name for each in experiment.axes if each.name not in (axis, TRIALS, *quantity.along)]
    first = dict.fromkeys(quantity.along, 0)
    values = ds[name].isel(first).transpose(*others, TRIALS, axis)
    status = ds["status"].isel(first).transpose(*others, TRIALS, axis).values
    array, ready, wanted, labels = values.values, status == Status.DONE, status != Status.SKIPPED, ds[axis].values
    names = [ds[each].values.tolist() for each in others]
    for index in product(*(range(len(each)) for each in names)):
        held: dict[str, Label] = {axis: each[i] for axis, each, i in zip(others, names, index, strict=True)}
        inside = _within(expectation, held, labels)
        positive = np.where(ready[index], array[index], 0) > 0
        trials = wanted[index][:, inside].any(axis=1)
        complete = inside & positive[trials].all(axis=0) if trials.any() else np.zeros(len(labels), dtype=bool)
        if complete.sum() >= _FEWEST:
            where = ", ".join(f"{each} = {label}" for each, label in held.items())
            yield labels[complete], array[index][np.ix_(trials, complete)], where


def _within(expectation: Expectation, held: Mapping[str, Label], labels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    columns = {axis: np.full(len(labels), label) for axis, label in held.items()} | {expectation.axis: labels}
    return np.asarray(expectation.within(columns))


def _fitted(
    x: np.ndarray[Any, Any], values: np.ndarray[Any, Any], where: str, expectation: Expectation
) -> Iterator[Finding]:
    """Rows of one curve."""
    axis, name = expectation.axis, expectation.quantity
    span = f"{where}, {axis} from {x[0]:g} to {x[-1]:g}"
    if expectation.kind == "flat":
        flat = flatness(x, values)
        text = f"largest median of {name} over {axis}, divided by the smallest"
        yield Finding("Fits", text, flat.ratio, None, expectation.expected, span)
        yield _quoted(flat.change, f"power of {axis} in {name}", "0 where it is flat", span)
        return
    compared = compare_growth(x, values) if expectation.kind == "growth" and x[0] > 1 else None
    fit = compared.power if compared else power_law(x, values)
    yield _quoted(fit, f"power of {axis} in {name}", expectation.expected, span)
    if compared:
        said = f"best described: {compared.best}" if compared.best else "too few to tell which describes it best"
        yield _quoted(compared.logarithmic, f"power of log {axis} in {name}", said, span)


def _quoted(fit: Fit, name: str, expected: str, where: str) -> Finding:
    """Mean over the trials with its interval, with one trial the estimate alone; no digits that are rounding."""
    mean, low, high = (round(each, _DIGITS) + 0.0 for each in (fit.mean, fit.low, fit.high))
    if math.isnan(low):
        return Finding("Fits", name, round(fit.estimate, _DIGITS), None, expected, where)
    return Finding("Fits", name, mean, (low, high), expected, where, fit.level)
