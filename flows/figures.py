"""Figures: curves of a sweep, as its specification declares them or against each axis, and errors by iteration."""

import json
import textwrap
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator, StrMethodFormatter

from pipeline.approximation import Approximation
from pipeline.errors import EpsweepError, InputError, one_line
from pipeline.experiment import Experiment, Label, Quantity
from pipeline.figure import Figure as Declared
from pipeline.grid import declared_figures
from storage import open_results
from storage.curves import TRIALS, median_curves

_PANEL_INCHES = (3.6, 2.9)
_SINGLE_INCHES = (4.8, 3.8)
_TITLE_CHARACTERS = 56  # a panel
_PANEL_CHARACTERS = 44
_LEGEND_CHARACTERS = 34
_MOST_BELOW = 6
_MARGIN = 0.05  # of the length of an axis
_MOST_PANELS = 24
_MOST_COLUMNS = 4
_MOST_TICKS = 8
_MOST_CHARACTERS = 44  # along an axis
_DASHES = ["--", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1))]
_MARKERS = "osD^vP*X"
# Okabe and Ito's colours, which most colour-blind readers can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")


def plot_curves(ds: xr.Dataset, experiment: Experiment, out: str | Path, at: Mapping[str, Label]) -> list[Path]:
    """Draw the figures that the specification of a sweep declares.

    Where it declares none, or labels are asked for: the main quantity against every axis of numbers that has more than
    one label, one panel a combination of names (function and sampling), one line a method with the range of its trials
    as a band. Axes that are not drawn are held at the labels asked for, or at the middle of those with most values.

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
    main = _quantity(experiment, experiment.main)
    figures = figures or tuple(
        Declared(name=f"{experiment.main}-against-{axis}", x=axis, at=dict(at)).complete(experiment)
        for axis in numeric
        if ds.sizes[axis] > 1 and axis not in (*at, *main.along)
    )
    written = [path for figure in figures if (path := _draw(ds, experiment, figure, Path(out)))]
    if not written:
        raise InputError("plot: no curve has two complete medians; finish the sweep, or give an axis a second label")
    return written


def _require_label(ds: xr.Dataset, axis: str, label: Label, field: str) -> None:
    if label not in (have := ds[axis].values.tolist()):
        raise InputError(f"{field}: {axis} = {label} is not in the store; it has {have}")


def _quantity(experiment: Experiment, name: str) -> Quantity:
    return next(quantity for quantity in experiment.quantities if quantity.name == name)


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


def _draw(ds: xr.Dataset, experiment: Experiment, figure: Declared, out: Path) -> Path | None:
    """Draw one figure into PNG and SVG files; None where there is no curve."""
    for axis, label in figure.at.items():
        _require_label(ds, axis, label, f"figure {figure.name}: at")
    curves = median_curves(ds.sel({axis: [label] for axis, label in figure.at.items()}), figure.y)
    held = _held_labels(curves, experiment, figure)
    if held is None:
        return None
    curves = _measured(curves.sel(held), figure)
    settings = json.loads(ds.attrs.get("settings", "{}"))
    assert figure.panels is not None  # noqa: S101
    varied = [axis for axis in figure.panels if curves.sizes[axis] > 1]
    labels = [
        dict(zip(figure.panels, each, strict=True)) for each in product(*(curves[a].values for a in figure.panels))
    ]
    panels = [each for each in labels if bool(curves[figure.y].sel(each).notnull().any())]
    columns = curves.sizes[varied[-1]] if len(varied) > 1 and curves.sizes[varied[-1]] <= _MOST_COLUMNS else 3
    columns = min(len(panels), columns)
    rows = -(-len(panels[:_MOST_PANELS]) // columns)
    title = _caption(ds, curves, experiment, figure, held, columns)
    if len(panels) > _MOST_PANELS:
        title += f"\n(first {_MOST_PANELS} of {len(panels)} panels)"
    with mpl.rc_context({"font.size": 9, "axes.titlesize": 9, "svg.fonttype": "none", "svg.hashsalt": "epsweep"}):
        drawing = Figure(layout="constrained")
        grid = drawing.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for panel, each in zip(grid.flat, panels, strict=False):
            _draw_panel(panel, curves.sel(each), experiment, figure)
        low, high = grid[0, 0].get_ylim()  # what the measurements need; theory may lie outside
        if figure.y_least is not None:
            most = float(curves[f"{figure.y}_max"].max())
            low, high = figure.y_least, most * (most / figure.y_least) ** _MARGIN
        for panel, each in zip(grid.flat, panels, strict=False):
            _draw_guides(panel, curves.sel(each), experiment, figure, each | held, settings)
            panel.set_ylim(low, high)
            named = [f"{axis} = {label}" if _is_number(label) else str(label) for axis, label in each.items()]
            panel.set_title(textwrap.fill(", ".join(named), _PANEL_CHARACTERS).replace("$", r"\$"))
        for panel in grid.flat[len(panels) :]:
            panel.set_axis_off()
        _label_axes(grid, curves[figure.x].values.tolist(), experiment, figure)
        width, height = _PANEL_INCHES if len(panels) > 1 else _SINGLE_INCHES
        beside, below = _draw_legend(drawing, grid, columns * width)
        drawing.set_size_inches(columns * width + beside, rows * height + below + 0.2 * (1 + title.count("\n")))
        drawing.suptitle(title, fontsize=10, x=columns * width / 2 / (columns * width + beside))
        out.mkdir(parents=True, exist_ok=True)
        path = out / f"{figure.name}.png"
        drawing.savefig(path, dpi=160)
        drawing.savefig(path.with_suffix(".svg"), metadata={"Date": None})
    return path


def _draw_legend(drawing: Figure, grid: Any, width: float) -> tuple[float, float]:
    """One legend for all panels, below them or, if it is long, beside; inches that it needs there.

    Below it has as many columns as fit into the width of the panels, in inches.
    """
    drawn = [panel.get_legend_handles_labels() for panel in grid.flat]
    if not any(texts for _, texts in drawn):
        return 0.0, 0.0
    legend = {text: handle for handles, texts in drawn for handle, text in zip(handles, texts, strict=True)}
    seen = {line.get_label() for panel in grid.flat for line in panel.lines if _in_sight(line, panel)}
    hidden = {line.get_label() for panel in grid.flat for line in panel.lines} - seen
    texts = [textwrap.fill(text + ", out of sight" * (text in hidden), _LEGEND_CHARACTERS) for text in legend]
    handles = list(legend.values())
    if len(legend) > _MOST_BELOW:
        box = drawing.legend(handles, texts, loc="outside right upper").get_window_extent()
        return box.width / drawing.dpi, 0.0
    for columns in range(len(legend), 0, -1):
        below = drawing.legend(handles, texts, loc="outside lower center", ncols=columns)
        box = below.get_window_extent()
        if columns == 1 or box.width < width * drawing.dpi:
            break
        below.remove()
    return 0.0, box.height / drawing.dpi


def _in_sight(line: Line2D, panel: Axes) -> bool:
    """Whether a part of a line is within the limits of its panel."""
    values = np.asarray(line.get_ydata(), dtype=np.float64)
    low, high = panel.get_ylim()
    return bool((values <= high).any() and (values >= low).any())


def _plain(label: str) -> str:
    """A label as it is to be read: without formulas, and in legends, which leave out those that begin with '_'."""
    return ("\u200b" if label.startswith("_") else "") + label.replace("$", r"\$")


def _is_number(label: object) -> bool:
    return not isinstance(label, str)


def _held_labels(curves: xr.Dataset, experiment: Experiment, figure: Declared) -> dict[str, Label] | None:
    """Labels of axes that are not drawn: those with most values along x, nearest the middle; None without a curve."""
    drawn = (figure.x, figure.lines, *(figure.panels or ()))
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
    ds: xr.Dataset,
    curves: xr.Dataset,
    experiment: Experiment,
    figure: Declared,
    held: Mapping[str, Label],
    columns: int,
) -> str:
    """What is shown: statistic, number of trials, what is held, and the settings that are not the default."""
    counts = curves["trials"].where(curves[figure.y].notnull())
    fewest, most = int(counts.min()), int(counts.max())
    trials = str(most) if fewest == most else f"{fewest} to {most}"
    shown = "median and range" if figure.statistic == "median" else "maximum"
    said = {axis: label for axis, label in held.items() if axis not in _quantity(experiment, figure.y).along}
    fixed = ", ".join(f"{axis} = {f'{label:g}' if isinstance(label, float) else label}" for axis, label in said.items())
    text = f"{shown} of {trials} trials" + (f" at {fixed}" if fixed else "")
    groups = json.loads(ds.attrs.get("settings", "{}"))
    defaults = experiment.settings().model_dump()
    other = [
        f"{group}.{key} = {value}"
        for group, values in groups.items()
        for key, value in values.items()
        if key != "sha256" and value != defaults.get(group, {}).get(key)
    ]
    lines = textwrap.wrap(text, _TITLE_CHARACTERS * columns) + textwrap.wrap(
        ", ".join(other), _TITLE_CHARACTERS * columns
    )
    return "\n".join(lines).replace("$", r"\$")


def _draw_panel(panel: Axes, curves: xr.Dataset, experiment: Experiment, figure: Declared) -> None:
    x, y = curves[figure.x].values, figure.y
    centre = y if figure.statistic == "median" else f"{y}_max"
    for position, label in enumerate(curves[figure.lines].values.tolist()):
        line = curves.sel({figure.lines: label})
        there = line[y].notnull().values
        if not there.any():
            continue
        colour, marker = _COLOURS[position % len(_COLOURS)], _MARKERS[position % len(_MARKERS)]
        text = f"{figure.lines} = {label:.3g}" if isinstance(label, float) else f"{figure.lines} = {label}"
        (drawn,) = panel.plot(x[there], line[centre].values[there], color=colour, marker=marker, markersize=3.5)
        drawn.set_linestyle("-" if position < len(_COLOURS) else "--")
        drawn.set_label(text if _is_number(label) else _plain(str(label)))
        if figure.statistic == "median":
            low, high = (line[f"{y}_{suffix}"].values[there] for suffix in ("min", "max"))
            panel.fill_between(x[there], low, high, color=colour, alpha=0.2, linewidth=0)
        if y == experiment.main and "guarantee" in line and (line["guarantee"] > 0).any():
            promised = line["guarantee"].where(line["guarantee"] > 0).values
            panel.plot(
                x, promised, color=colour, linestyle="--", linewidth=0.8, label=f"{_plain(str(label))}, promised"
            )
    bracketed = "lower_bound" in curves and y == experiment.main and figure.statistic == "median"
    if bracketed and figure.lines == "method":
        _draw_bracket(panel, curves, figure)
    panel.set_xscale(figure.x_scale)
    panel.set_yscale(figure.y_scale)
    panel.grid(which="major", color="0.88", linewidth=0.6)


def _draw_bracket(panel: Axes, curves: xr.Dataset, figure: Declared) -> None:
    """The certified lower bound, and what lies between it and the best method."""
    x = curves[figure.x].values
    bound, best = curves["lower_bound"].max(figure.lines), curves[figure.y].min(figure.lines)
    there = (bound > 0).values
    low, high = bound.values[there], best.values[there]
    panel.plot(x[there], low, color="0.45", linestyle=":", marker=".", markersize=3, label="lower bound")
    panel.fill_between(x[there], low, high, color="0.87", zorder=0, label="the best possible lies here")


def _draw_guides(
    panel: Axes,
    curves: xr.Dataset,
    experiment: Experiment,
    figure: Declared,
    labels: dict[str, Any],
    settings: Mapping[str, Any],
) -> None:
    """What theory says, and a guide of given slope."""
    x = curves[figure.x].values
    lines = curves[figure.lines].values.tolist()
    bounds = [bound for bound in experiment.theory if bound.name in figure.theory and bound.applies(settings)]
    for bound, style in zip(bounds, _DASHES * len(bounds), strict=False):
        said = [bound.values(_columns(labels | {figure.lines: label}, figure.x, x)) for label in lines]
        same = all(np.array_equal(said[0], each, equal_nan=True) for each in said)
        for position, values in enumerate(said[:1] if same else said):
            if np.isnan(values).all():
                continue
            colour = "0.2" if same else _COLOURS[position % len(_COLOURS)]
            panel.plot(x, values, color=colour, linestyle=style, linewidth=1.0, label=bound.label)
    measured = curves[figure.y if figure.statistic == "median" else f"{figure.y}_max"]
    if figure.slope is not None:
        last = measured.dropna(figure.lines, how="all").isel({figure.lines: -1})
        there = last.notnull().values
        middle = np.flatnonzero(there)[there.sum() // 2]
        guide = last.values[middle] * (x / x[middle]) ** figure.slope
        panel.plot(x, guide, color="0.2", linewidth=1.0, linestyle="-.", label=f"slope {figure.slope:g}")


def _columns(labels: dict[str, Any], axis: str, x: Any) -> dict[str, Any]:
    """Labels of every axis along one of them."""
    return {name: np.full(len(x), label) for name, label in labels.items()} | {axis: x}


def _label_axes(grid: Any, ticks: Sequence[float], experiment: Experiment, figure: Declared) -> None:
    description = next(each.description for each in experiment.axes if each.name == figure.x)
    for column in grid.T:
        lowest = [panel for panel in column if panel.axison][-1]
        lowest.set_xlabel(f"{description} {figure.x}" if len(figure.x) == 1 else f"{description} ({figure.x})")
        lowest.tick_params(axis="x", which="both", labelbottom=True)
    for panel in grid[:, 0]:
        panel.set_ylabel(_quantity(experiment, figure.y).label or figure.y.replace("_", " "))
    fixed = _have_room(ticks, figure.x_scale)
    for panel in grid.flat:
        if fixed:
            panel.xaxis.set_major_locator(FixedLocator(ticks))
            panel.xaxis.set_minor_locator(NullLocator())
        elif figure.x_scale == "log" and np.ptp(np.log10(panel.get_xlim())) < 2:
            panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        if figure.x_scale == "log":
            panel.xaxis.set_minor_formatter(NullFormatter())
        low, high = panel.get_ylim()
        if figure.y_scale == "log" and low > 0 and high / low < 100:
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            panel.yaxis.set_minor_formatter(NullFormatter())


def _have_room(ticks: Sequence[float], scale: str) -> bool:
    """Whether the labels of all ticks can stand below a panel."""
    if not 2 <= len(ticks) <= _MOST_TICKS or (scale == "log" and ticks[0] <= 0):
        return False
    places = np.log(ticks) if scale == "log" else np.asarray(ticks)
    lengths = np.array([len(f"{tick:g}") for tick in ticks]) + 1
    room = np.diff(places) / np.ptp(places) * _MOST_CHARACTERS
    return bool((room >= (lengths[:-1] + lengths[1:]) / 2).all())
