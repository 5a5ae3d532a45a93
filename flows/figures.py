"""Figures: medians against each axis of a sweep, and errors by iteration of single approximations."""

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator, StrMethodFormatter

from pipeline.approximation import Approximation
from pipeline.errors import EpsweepError, InputError, one_line
from pipeline.experiment import Experiment, Label
from storage import open_results
from storage.curves import TRIALS, median_curves

_PANEL_INCHES = (3.6, 2.9)
_MOST_PANELS = 24
_MOST_TICKS = 8
_MARKERS = "osD^vP*X"
# Okabe and Ito's colours, which most colour-blind readers can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")


def plot_curves(ds: xr.Dataset, experiment: Experiment, out: str | Path, at: Mapping[str, Label]) -> list[Path]:
    """Draw the main quantity against every integer axis that has more than one label.

    One panel a combination of names (function and sampling), one line a method with the range of its trials as a
    band; the axes that are not drawn are held at the labels of `at`, or at the middle of those with most medians.

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
        If `at` names no axis or label of the results, or there is no complete curve to draw.
    """
    numeric = [axis.name for axis in experiment.axes if axis.numeric and axis.name != TRIALS]
    for axis, label in at.items():
        if axis not in numeric:
            raise InputError(f"at: {axis!r} is not an axis that can be held; use one of {', '.join(numeric)}")
        if label not in ds[axis].values.tolist():
            raise InputError(f"at: {axis} = {label} is not in the store; it has {ds[axis].values.tolist()}")
    curves = median_curves(ds, experiment.main)
    out = Path(out)
    written: list[Path] = []
    for axis in numeric:
        if curves.sizes[axis] > 1 and axis not in at:
            held = _held_labels(curves, experiment, axis, [other for other in numeric if other != axis], at)
            if held is not None:
                written.append(_draw(curves.sel(held), experiment, axis, held, out))
    if not written:
        raise InputError("plot: no curve has two complete medians; finish the sweep, or give an axis a second label")
    return written


def figures_folder(store: str) -> Path:
    """Beside a store on disk; where the results of the working directory are for one elsewhere."""
    path = Path("results", store.rstrip("/").rpartition("/")[2]) if "://" in store else Path(store)
    return path.with_name(path.name.removesuffix(".zarr") + ".figures")


def draw_results(store: str, experiment: Experiment) -> tuple[list[Path], str]:
    """Draw the curves of a store into its folder of figures: the PNG files, or none and the reason."""
    try:
        return plot_curves(open_results(store), experiment, figures_folder(store), {}), ""
    except (EpsweepError, OSError, ValueError) as error:  # cells matter more
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
        colour = _COLOURS[position % len(_COLOURS)]
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


def _held_labels(
    curves: xr.Dataset, experiment: Experiment, axis: str, others: list[str], at: Mapping[str, Label]
) -> dict[str, Label] | None:
    """Labels of the other axes with the most medians along an axis, nearest the middle; None if there is no curve."""
    there = curves[experiment.main].notnull()
    along = there.any([dim for dim in there.dims if dim not in (axis, *others)])
    counts = along.sum(axis) + there.sum([dim for dim in there.dims if dim not in others]) / (there.size + 1)
    counts = counts.sel({other: [label] for other, label in at.items() if other in others}).transpose(*others)
    best: tuple[float, float] | None = None
    held: dict[str, Label] | None = None
    for index in product(*(range(counts.sizes[other]) for other in others)):
        off_middle = sum(abs(2 * i + 1 - counts.sizes[other]) for i, other in zip(index, others, strict=True))
        score = (float(counts.values[index]), -off_middle)
        if score[0] >= 2 and (best is None or score > best):
            best = score
            held = {other: counts[other].values[i].item() for i, other in zip(index, others, strict=True)}
    return held


def _draw(curves: xr.Dataset, experiment: Experiment, axis: str, held: Mapping[str, Label], out: Path) -> Path:
    names = [name.name for name in experiment.axes if not name.numeric]
    *panel_axes, line_axis = names
    panels = [labels for labels in _combinations(curves, panel_axes) if _has_curve(curves.sel(labels), experiment)]
    columns = min(len(panels), curves.sizes[panel_axes[-1]] if len(panel_axes) > 1 else 3)
    rows = -(-len(panels[:_MOST_PANELS]) // columns)
    with mpl.rc_context({"font.size": 9, "axes.titlesize": 9, "svg.fonttype": "none", "svg.hashsalt": "epsweep"}):
        figure = Figure(figsize=(columns * _PANEL_INCHES[0], rows * _PANEL_INCHES[1] + 0.9), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for panel, labels in zip(grid.flat, panels, strict=False):
            _draw_panel(panel, curves.sel(labels), experiment, axis, line_axis)
            panel.set_title(", ".join(str(label) for label in labels.values()).replace("$", r"\$"))
        for panel in grid.flat[len(panels) :]:
            panel.set_axis_off()
        _label_axes(grid, curves[axis].values.tolist(), axis, experiment)
        counts = curves["trials"].where(curves[experiment.main].notnull())
        fewest, most = int(counts.min()), int(counts.max())
        trials = str(most) if fewest == most else f"{fewest} to {most}"
        fixed = ", ".join(f"{name} = {label}" for name, label in held.items())
        dropped = f" (first {_MOST_PANELS} of {len(panels)} panels)" if len(panels) > _MOST_PANELS else ""
        figure.suptitle(f"median and range of {trials} trials at {fixed}{dropped}", fontsize=10)
        drawn = [panel.get_legend_handles_labels() for panel in grid.flat]
        legend = {text: handle for handles, texts in drawn for handle, text in zip(handles, texts, strict=True)}
        figure.legend(
            legend.values(), legend, loc="outside lower center", ncols=max(1, min(len(legend), 3 * columns // 2))
        )
        out.mkdir(parents=True, exist_ok=True)
        path = out / f"{experiment.main}-against-{axis}.png"
        figure.savefig(path, dpi=160)
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    return path


def _combinations(curves: xr.Dataset, axes: list[str]) -> Iterator[dict[str, Any]]:
    for labels in product(*(curves[axis].values.tolist() for axis in axes)):
        yield dict(zip(axes, labels, strict=True))


def _has_curve(curves: xr.Dataset, experiment: Experiment) -> bool:
    return bool(curves[experiment.main].notnull().any())


def _draw_panel(panel: Axes, curves: xr.Dataset, experiment: Experiment, axis: str, line_axis: str) -> None:
    main = experiment.main
    curves = curves.isel({axis: curves[axis].values > 0})  # on a logarithmic axis
    x = curves[axis].values
    for position, label in enumerate(curves[line_axis].values.tolist()):
        line = curves.sel({line_axis: label})
        colour, marker = _COLOURS[position % len(_COLOURS)], _MARKERS[position % len(_MARKERS)]
        there = line[main].notnull().values
        panel.plot(x[there], line[main].values[there], color=colour, marker=marker, markersize=3.5, label=label)
        low, high = (line[f"{main}_{suffix}"].values[there] for suffix in ("min", "max"))
        panel.fill_between(x[there], low, high, color=colour, alpha=0.2, linewidth=0)
        if "guarantee" in line and (line["guarantee"] > 0).any():
            promised = line["guarantee"].where(line["guarantee"] > 0).values
            panel.plot(x, promised, color=colour, linestyle="--", linewidth=0.8, label=f"{label}, promised")
    if "lower_bound" in curves:
        bound, best = curves["lower_bound"].max(line_axis), curves[main].min(line_axis)
        there = (bound > 0).values
        panel.plot(
            x[there], bound.values[there], color="0.45", linestyle=":", marker=".", markersize=3, label="lower bound"
        )
        panel.fill_between(
            x[there], bound.values[there], best.values[there], color="0.87", zorder=0, label="the least ε lies here"
        )
    panel.set_xscale("log")
    panel.set_yscale("log")
    panel.grid(which="major", color="0.88", linewidth=0.6)


def _label_axes(grid: Any, ticks: list[int], axis: str, experiment: Experiment) -> None:
    descriptions = {each.name: each.description for each in experiment.axes}
    for panel in grid[-1]:
        panel.set_xlabel(f"{descriptions[axis]} {axis}")
    for panel in grid[:, 0]:
        panel.set_ylabel("relative error ε" if experiment.main == "epsilon" else experiment.main)
    for panel in grid.flat:
        if len(ticks) <= _MOST_TICKS:
            panel.xaxis.set_major_locator(FixedLocator(ticks))
            panel.xaxis.set_minor_locator(NullLocator())
        panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        panel.xaxis.set_minor_formatter(NullFormatter())
        low, high = panel.get_ylim()
        if low > 0 and high / low < 100:
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            panel.yaxis.set_minor_formatter(NullFormatter())
