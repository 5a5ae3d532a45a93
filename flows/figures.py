"""Figures: curves of a sweep, as its specification declares them or against each axis, and errors by iteration."""

import errno
import json
import shlex
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from flows.panels import COLOURS, draw_panels
from pipeline.approximation import Approximation
from pipeline.errors import EpsweepError, InputError, one_line, shown
from pipeline.experiment import Experiment, Label
from pipeline.figure import Figure as Declared
from pipeline.grid import CODE, declared_figures
from storage import open_results
from storage.curves import TRIALS, median_curves


def plot_curves(ds: xr.Dataset, experiment: Experiment, out: str | Path, at: Mapping[str, Label]) -> list[Path]:
    """Draw the figures that the specification of a sweep declares.

    Where it declares none, or labels are asked for: the main quantity, or the first that varies along it, against every
    axis of numbers that has more than one label, one panel a combination of names (function and sampling), one line a
    method with the range of its trials as a band. Axes that are not drawn are held at the labels asked for, or at the
    middle of those with most values.

    Parameters
    ----------
    ds : xarray.Dataset
        Results, as `open_results` returns them.
    experiment : Experiment
    out : str or Path
        Folder for the PNG and SVG files; created if it does not exist.
    at : mapping of str to label
        Labels at which axes are held.

    Returns
    -------
    list of Path
        The PNG files.

    Raises
    ------
    InputError
        If a label is not in the results, or there is no complete curve to draw.
    """
    numeric = [axis.name for axis in experiment.axes if axis.numeric and axis.name != TRIALS]
    for axis, label in at.items():
        if axis not in numeric:
            raise InputError(f"at: {axis!r} is not an axis that can be held; use one of {', '.join(numeric)}")
        _require_label(ds, axis, label, "at")
    figures = declared_figures(ds.attrs["spec"], experiment) if "spec" in ds.attrs and not at else ()
    figures = figures or tuple(
        Declared(name=f"{y}-against-{axis}", x=axis, y=y, at=dict(at)).complete(experiment)
        for axis in numeric
        if ds.sizes[axis] > 1 and axis not in at and (y := _varying(experiment, axis))
    )
    written = [path for figure in figures if (path := _draw(ds, experiment, figure, Path(out)))]
    if not written:
        raise InputError("plot: no curve has two complete medians; finish the sweep, or give an axis a second label")
    return written


def _varying(experiment: Experiment, axis: str) -> str:
    """The main quantity, or the first other that is not the same along an axis; empty if all are."""
    main = experiment.quantity(experiment.main)
    return next((each.name for each in (main, *experiment.quantities) if axis not in each.along), "")


def _require_label(ds: xr.Dataset, axis: str, label: Label, field: str) -> None:
    if label not in (have := ds[axis].values.tolist()):
        raise InputError(f"{field}: {axis} = {label} is not in the store; it has {have}")


def figures_folder(store: str) -> Path:
    """Beside a store on disk; where the results of the working directory are for one elsewhere."""
    path = Path("results", store.rstrip("/").rpartition("/")[2]) if "://" in store else Path(store)
    return path.with_name(path.name.removesuffix(".zarr") + ".figures")


def draw_results(store: str, experiment: Experiment, spec: str | None = None) -> tuple[list[Path], str]:
    """Draw the curves of a store into its folder of figures: the PNG files, and the reason why these are old or none.

    They are those that a spec declares, by default the last that was run into the store.
    """
    folder = figures_folder(store)
    try:
        ds = open_results(store)
        return plot_curves(ds if spec is None else ds.assign_attrs(spec=spec), experiment, folder, {}), ""
    except OSError as error:
        refused = error.errno in (errno.EACCES, errno.EPERM, errno.EROFS)  # so what is there is whole
        elsewhere = shlex.join(["epsweep", "plot", store, "--out", "FOLDER"])
        reason = f"{folder} cannot be written: {error.strerror or error}; elsewhere: {elsewhere}"
        return sorted(folder.glob("*.png")) if refused else [], reason
    except (EpsweepError, ValueError) as error:  # cells matter more
        return [], one_line(error)


def plot_convergence(found: Mapping[str, Approximation], out: str | Path) -> Path:
    """Draw the smallest error so far against the iteration, for approximations of one matrix.

    Parameters
    ----------
    found : mapping of str to Approximation
        By label; those of one rank share the certified lower bound that is drawn. A direct method is a single level.
    out : str or Path
        The PNG file; its folder is created if it does not exist.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    InputError
        If there is nothing to draw.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> from pipeline import approximate
    >>> found = {budget: approximate(np.eye(9), 3, budget=budget) for budget in ("quick", "default")}
    >>> plot_convergence(found, f"{tempfile.mkdtemp()}/identity.png").name
    'identity.png'
    """
    if not found:
        raise InputError("found: no approximation to draw; pass at least one, by label")
    figure = Figure(figsize=(6.0, 4.0), layout="constrained")
    axes = figure.subplots()
    for position, (label, approximation) in enumerate(found.items()):
        colour = COLOURS[position % len(COLOURS)]
        if approximation.iterations:
            errors = np.minimum.accumulate(approximation.history)
            axes.plot(np.arange(1, len(errors) + 1), errors, color=colour, label=label)
        else:
            axes.axhline(approximation.max_error, color=colour, linestyle="--", label=label)
    bounds = sorted({approximation.lower_bound for approximation in found.values()} - {0.0})
    for bound in bounds:
        axes.axhline(bound, color="0.45", linestyle=":", label="lower bound" if bound == bounds[0] else None)
    axes.set(xscale="log", yscale="log", xlabel="iteration", ylabel="max |F − G|")
    axes.grid(which="both", color="0.9", linewidth=0.6)
    axes.legend()
    path = Path(out)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160, format="png")
    return path


def _draw(ds: xr.Dataset, experiment: Experiment, figure: Declared, out: Path) -> Path | None:
    """Draw one figure into PNG and SVG files; None where there is no curve."""
    for axis, label in figure.at.items():
        _require_label(ds, axis, label, f"figure {figure.name}: at")
    ds = ds.sel({axis: [label] for axis, label in figure.at.items()})
    curves = median_curves(ds, figure.y).assign({name: median_curves(ds, name)[name] for name in figure.beside})
    curves = _followed(curves, experiment, figure)
    held = _held_labels(curves, experiment, figure)
    if held is None:
        return None
    curves = _measured(curves.sel(held), figure)
    settings = json.loads(ds.attrs.get("settings", "{}"))
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{figure.name}.png"
    draw_panels(curves, experiment, figure, held, settings, _caption(curves, experiment, figure, held, settings), path)
    return path


def _followed(curves: xr.Dataset, experiment: Experiment, figure: Declared) -> xr.Dataset:
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


def _held_labels(curves: xr.Dataset, experiment: Experiment, figure: Declared) -> dict[str, Label] | None:
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


def _measured(curves: xr.Dataset, figure: Declared) -> xr.Dataset:
    """Curves at the labels along x that have a value somewhere, and a place on the axis."""
    there = curves[figure.y].notnull()
    there = there.any([axis for axis in there.dims if axis != figure.x])
    if figure.x_scale == "log":
        there &= curves[figure.x] > 0
    return curves.isel({figure.x: there.values})


def _caption(
    curves: xr.Dataset, experiment: Experiment, figure: Declared, held: Mapping[str, Label], settings: Mapping[str, Any]
) -> list[str]:
    """What is shown: statistic, number of trials, what is held, and the settings that are not the default."""
    counts = curves["trials"].where(curves[figure.y].notnull())
    fewest, most = int(counts.min()), int(counts.max())
    trials = str(most) if fewest == most else f"{fewest} to {most}"
    shows = "median and range" if figure.statistic == "median" else "maximum"
    said = {axis: label for axis, label in held.items() if axis not in experiment.quantity(figure.y).along}
    fixed = ", ".join(f"{axis} = {f'{label:g}' if isinstance(label, float) else label}" for axis, label in said.items())
    text = f"{shows} of {trials} trials" + (f" at {fixed}" if fixed else "")
    text += f", where {figure.where}" if figure.where else ""
    defaults = experiment.settings().model_dump()
    bracketed = "lower_bound" in curves and figure.y == experiment.main and figure.statistic == "median"
    other = [
        f"{group}.{key} = {value}"
        for group, values in settings.items()
        if group != "certificate" or bracketed
        for key, value in values.items()
        if key not in ("sha256", CODE) and value != defaults.get(group, {}).get(key)
    ]
    return [text, ", ".join(other)]
