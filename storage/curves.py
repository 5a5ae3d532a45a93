"""Curves over the trials: median, spread and count."""

import numpy as np
import numpy.typing as npt
import xarray as xr

from pipeline.errors import InputError, shown
from pipeline.experiments import EXPERIMENTS
from storage.schema import MAIN_QUANTITY, Status

TRIALS = "seed"
_NO_QUANTITIES = ("status", "message")


def median_curves(ds: xr.Dataset, quantity: str | None = None) -> xr.Dataset:
    """Summarise a quantity over its trials.

    A median of fewer trials than were declared would pass for the published median of five, so the statistics are
    missing (NaN) until every declared trial is done; `trials` and `trials_declared` say how many there are.

    Parameters
    ----------
    ds : xarray.Dataset
        Results, as `open_results` returns them, or a selection of them.
    quantity : str, optional
        The variable to summarise; by default the main one of the experiment, such as `epsilon`.

    Returns
    -------
    xarray.Dataset
        Over the remaining axes: the median under the name of the quantity, its minimum, maximum and quartiles with
        the suffixes ``_min``, ``_max``, ``_q25`` and ``_q75``, the medians of `lower_bound` and `guarantee`, and the
        counts `trials` and `trials_declared`.

    Raises
    ------
    InputError
        If the dataset is not one of results, or has no such quantity.
    """
    quantity = _chosen(ds, quantity)
    if TRIALS not in ds.dims:
        ds = ds.expand_dims(TRIALS)
    ds = (
        ds[[name for name in dict.fromkeys(("status", quantity, "lower_bound", "guarantee")) if name in ds]]
        .reset_coords(drop=True)
        .load()
    )
    done = (ds["status"] == Status.DONE) & ds[quantity].notnull()  # values of a live store may be older than status
    declared = (ds["status"] != Status.SKIPPED).sum(TRIALS)
    count = done.sum(TRIALS)
    complete = done & (count == declared)  # a failed or pending trial withholds the whole curve point
    result = _statistics(ds, quantity, complete)
    result["trials"] = count.astype(np.int32).assign_attrs(long_name="trials that are done")
    result["trials_declared"] = declared.astype(np.int32).assign_attrs(long_name="trials that belong to the sweep")
    return result


def _chosen(ds: xr.Dataset, quantity: str | None) -> str:
    """The quantity that is asked for, or the main one, checked to be there."""
    if not isinstance(ds, xr.Dataset) or "status" not in ds:
        kind = "a dataset without status" if isinstance(ds, xr.Dataset) else f"a {type(ds).__name__}"
        raise InputError(f"ds: {kind} is not one of results; pass what open_results returns, or a selection of it")
    known = [
        str(name) for name, each in ds.data_vars.items() if name not in _NO_QUANTITIES and each.dtype.kind in "fiu"
    ]
    if quantity is None:
        named = EXPERIMENTS.get(ds.attrs.get("experiment", "approximation"))
        quantity = ds.attrs.get(MAIN_QUANTITY, named.main if named else None)
        if quantity is None and len(alone := [name for name in known if name != "seconds"]) == 1:
            return alone[0]
    if not isinstance(quantity, str) or quantity not in known:
        problem = (
            "the dataset does not say its main one" if quantity is None else f"{shown(quantity)} is not in the dataset"
        )
        raise InputError(f"quantity: {problem}; use one of {', '.join(known)}")
    return quantity


def _statistics(ds: xr.Dataset, quantity: str, complete: xr.DataArray) -> xr.Dataset:
    """Median of every variable and spread of one, over the trials of complete curve points."""
    result = xr.Dataset()
    for name in (name for name in ds.data_vars if name != "status"):
        shares = {"": 0.5} | ({"_min": 0.0, "_q25": 0.25, "_q75": 0.75, "_max": 1.0} if name == quantity else {})
        ordered = np.sort(ds[name].where(complete).transpose(..., TRIALS).values, axis=-1)  # NaN comes last
        for suffix, share in shares.items():
            result[f"{name}{suffix}"] = ds[name].isel({TRIALS: 0}, drop=True).copy(data=_quantile(ordered, share))
            result[f"{name}{suffix}"].attrs["cell_methods"] = f"{TRIALS}: quantile {share}"
    return result


def _quantile(ordered: npt.NDArray[np.float64], share: float) -> npt.NDArray[np.float64]:
    """Quantile along the last axis of sorted values, NaN left out (`numpy.nanquantile` loops over the points)."""
    place = share * np.maximum(np.isfinite(ordered).sum(axis=-1, keepdims=True) - 1, 0)
    low, high = np.floor(place).astype(int), np.ceil(place).astype(int)
    below, above = np.take_along_axis(ordered, low, -1), np.take_along_axis(ordered, high, -1)
    return np.asarray(np.where(low == high, below, below + (place - low) * (above - below))[..., 0])
