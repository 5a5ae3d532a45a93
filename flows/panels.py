"""Panels of a figure: lines with their ranges, brackets, what theory says beside them, axes and legend."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, LogLocator, NullFormatter, NullLocator, StrMethodFormatter

from flows.colours import COLOURS, line_places
from pipeline.experiment import Experiment, Label, Theory
from pipeline.figure import Figure as Declared

_PANEL_INCHES = (3.6, 2.9)
_SINGLE_INCHES = (4.8, 3.8)
_TITLE_CHARACTERS = 56  # a panel
_PANEL_CHARACTERS = 44
_LEGEND_CHARACTERS = 34
_MOST_BELOW = 6
_MARGIN = 0.05  # of the length of an axis
_NEAR = 10.0  # times the largest value that is measured: theory that begins below is in sight up to there
_MOST_PANELS = 24
_MOST_COLUMNS = 4
_MOST_TICKS = 8
_MOST_CHARACTERS = 44  # along an axis
_DASHES = ["--", (0, (9, 2)), (0, (5, 1, 1, 1, 1, 1))]
_MARKERS = "osD^vP*X"
_BACKENDS = {"png": "agg", "svg": "svg", "pdf": "pdf"}


def draw_panels(
    curves: xr.Dataset,
    experiment: Experiment,
    figure: Declared,
    held: Mapping[str, Label],
    settings: Mapping[str, Any],
    caption: Sequence[str],
    paths: Sequence[Path],
) -> None:
    """Draw a panel for each combination of labels that has a value, into files of the formats that their names end in.

    To be called within `own_matplotlib`.

    Parameters
    ----------
    curves : xarray.Dataset
        As `storage.median_curves` returns them, with the axes of the figure as dimensions and those that follow them
        as coordinates.
    experiment : Experiment
    figure : Figure
        Complete.
    held : mapping of str to label
        Of the other axes.
    settings : mapping
        Groups of settings of the store.
    caption : sequence of str
        Paragraphs above the panels.
    paths : sequence of Path
    """
    assert figure.panels is not None  # noqa: S101
    varied = [axis for axis in figure.panels if curves.sizes[axis] > 1]
    labels = [
        dict(zip(figure.panels, each, strict=True)) for each in product(*(curves[a].values for a in figure.panels))
    ]
    panels = [each for each in labels if bool(curves[figure.y].sel(each).notnull().any())]
    columns = curves.sizes[varied[-1]] if len(varied) > 1 and curves.sizes[varied[-1]] <= _MOST_COLUMNS else 3
    columns = min(len(panels), columns)
    rows = -(-len(panels[:_MOST_PANELS]) // columns)
    drawing = Figure(layout="constrained")
    grid = drawing.subplots(rows, columns, squeeze=False, sharex=True, sharey=figure.y_share)
    shown = list(zip(grid.flat, panels, strict=False))
    for panel, each in shown:
        _draw_panel(panel, curves.sel(each), experiment, figure)
    ranges = [panel.get_ylim() for panel, _ in shown]  # what the measurements need; theory may lie far outside
    for panel, each in shown:
        _draw_guides(panel, curves.sel(each), experiment, figure, {**each, **held}, settings)
        named = [f"{axis} = {label}" if _is_number(label) else str(label) for axis, label in each.items()]
        panel.set_title(_plain(textwrap.fill(", ".join(named), _PANEL_CHARACTERS)))
    _set_ranges(shown, ranges, curves, figure)
    for panel in grid.flat[len(panels) :]:
        panel.set_axis_off()
    _label_axes(grid, curves[figure.x].values.tolist(), experiment, figure)
    bounds = [bound.label for bound in _bounds(experiment, figure, settings)]
    drawn = {line.get_label() for panel in grid.flat for line in panel.lines}
    notes = [f"not drawn: {label}, which does not bound these points" for label in bounds if label not in drawn]
    if len(panels) > _MOST_PANELS:
        notes.append(f"(first {_MOST_PANELS} of {len(panels)} panels)")
    lines = [line for each in (*caption, *notes) for line in textwrap.wrap(each, _TITLE_CHARACTERS * columns)]
    width, height = _PANEL_INCHES if len(panels) > 1 else _SINGLE_INCHES
    beside, below = _draw_legend(drawing, grid, columns * width)
    drawing.set_size_inches(columns * width + beside, rows * height + below + 0.2 * len(lines))
    title = "\n".join(map(_plain, lines))
    drawing.suptitle(title, fontsize=10, x=columns * width / 2 / (columns * width + beside))
    for path in paths:
        dates = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
        drawing.savefig(path, dpi=160, metadata=dates[path.suffix[1:]], backend=_BACKENDS[path.suffix[1:]])


def _set_ranges(
    shown: Sequence[tuple[Axes, Mapping[str, Label]]],
    ranges: Sequence[tuple[float, float]],
    curves: xr.Dataset,
    figure: Declared,
) -> None:
    """Vertical ranges, one for all panels or each its own: of what is measured, and theory that is near."""
    for i, (panel, labels) in enumerate(shown):
        low, high = ranges[i]
        if figure.y_least is not None:
            most = float((curves if figure.y_share else curves.sel(labels))[f"{figure.y}_max"].max())
            most = max(most, 2 * figure.y_least)
            low, high = figure.y_least, most * (most / figure.y_least) ** _MARGIN
        if figure.y_scale == "log":
            high = _room_above([each for each, _ in shown] if figure.y_share else [panel], low, high)
        panel.set_ylim(low, high)


def _room_above(panels: Sequence[Axes], low: float, high: float) -> float:
    """Top of the logarithmic axes: as high as the lines of theory that begin near what is measured."""
    lines = [np.asarray(line.get_ydata(), dtype=np.float64) for panel in panels for line in panel.lines]
    seen = [line[np.isfinite(line)] for line in lines]
    near = [float(values.max()) for values in seen if len(values) and values.min() < _NEAR * high]
    top = max(near, default=high)
    return float(max(high, min(top * (high / low) ** _MARGIN, _NEAR * high)))


def _bounds(experiment: Experiment, figure: Declared, settings: Mapping[str, Any]) -> list[Theory]:
    """Declared bounds that are about what was measured."""
    return [bound for bound in experiment.theory if bound.name in figure.theory and bound.applies(settings)]


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
    texts = [text + ", outside the range shown" * (text in hidden) for text in legend]
    texts = [textwrap.fill(text, _LEGEND_CHARACTERS) for text in texts]
    handles = list(legend.values())
    if len(handles) > _MOST_BELOW:
        box = drawing.legend(handles, texts, loc="outside right upper").get_window_extent()
        return box.width / drawing.dpi, 0.0
    for columns in range(len(handles), 0, -1):
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


def _draw_panel(panel: Axes, curves: xr.Dataset, experiment: Experiment, figure: Declared) -> None:
    x, y = curves[figure.x].values, figure.y
    centre = y if figure.statistic == "median" else f"{y}_max"
    labels = curves[figure.lines].values.tolist()
    for place, label in zip(line_places(figure.lines, labels), labels, strict=True):
        line = curves.sel({figure.lines: label})
        there = line[y].notnull().values
        if not there.any():
            continue
        colour, marker = COLOURS[place % len(COLOURS)], _MARKERS[place % len(_MARKERS)]
        text = f"{figure.lines} = {label:.3g}" if isinstance(label, float) else f"{figure.lines} = {label}"
        (drawn,) = panel.plot(x[there], line[centre].values[there], color=colour, marker=marker, markersize=3.5)
        drawn.set_linestyle("-" if place < len(COLOURS) else "--")
        drawn.set_label(text if _is_number(label) else _plain(str(label)))
        if figure.statistic == "median":
            low, high = (line[f"{y}_{suffix}"].values[there] for suffix in ("min", "max"))
            panel.fill_between(x[there], low, high, color=colour, alpha=0.2, linewidth=0)
        if y == experiment.main and "guarantee" in line and (line["guarantee"] > 0).any():
            promised = line["guarantee"].where(line["guarantee"] > 0).values
            panel.plot(
                x, promised, color=colour, linestyle="--", linewidth=0.8, label=f"{_plain(str(label))}, promised"
            )
    _draw_beside(panel, curves, experiment, figure)
    bracketed = "lower_bound" in curves and y == experiment.main and figure.statistic == "median"
    if bracketed and figure.lines == "method":
        _draw_bracket(panel, curves, figure)
    panel.set_xscale(figure.x_scale)
    panel.set_yscale(figure.y_scale)
    panel.grid(which="major", color="0.88", linewidth=0.6)


def _draw_beside(panel: Axes, curves: xr.Dataset, experiment: Experiment, figure: Declared) -> None:
    """Medians of other quantities in the colours of the lines."""
    places = line_places(figure.lines, curves[figure.lines].values.tolist())
    for name, dash in zip(figure.beside, _DASHES * len(figure.beside), strict=False):
        label = f"median of {experiment.quantity(name).axis_label}"
        for place, values in zip(places, curves[name].transpose(figure.lines, figure.x).values, strict=True):
            if np.isfinite(values).any():
                colour = COLOURS[place % len(COLOURS)]
                panel.plot(curves[figure.x].values, values, color=colour, linestyle=dash, linewidth=1.2, label=label)


def _draw_bracket(panel: Axes, curves: xr.Dataset, figure: Declared) -> None:
    """The certified lower bound, and what lies between it and the best method."""
    x = curves[figure.x].values
    bound, best = curves["lower_bound"].max(figure.lines), curves[figure.y].min(figure.lines)
    there = (bound > 0).values
    if not there.any():  # every rank is enough
        return
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
    bounds = _bounds(experiment, figure, settings)
    for bound, style in zip(bounds, _DASHES * len(bounds), strict=False):
        said = [
            _said(bound, curves.sel({figure.lines: label}), labels | {figure.lines: label}, figure.x) for label in lines
        ]
        same = all(np.array_equal(said[0], each, equal_nan=True) for each in said)
        for place, values in zip(line_places(figure.lines, lines), said[:1] if same else said, strict=False):
            if np.isnan(values).all():
                continue
            colour = "0.2" if same else COLOURS[place % len(COLOURS)]
            panel.plot(x, values, color=colour, linestyle=style, linewidth=1.0, label=bound.label)
    measured = curves[figure.y if figure.statistic == "median" else f"{figure.y}_max"]
    if figure.slope is not None:
        last = measured.dropna(figure.lines, how="all").isel({figure.lines: -1})
        there = last.notnull().values
        middle = np.flatnonzero(there)[there.sum() // 2]
        guide = last.values[middle] * (x / x[middle]) ** figure.slope
        panel.plot(x, guide, color="0.2", linewidth=1.0, linestyle="-.", label=f"slope {figure.slope:g}")


def _said(bound: Theory, line: xr.Dataset, labels: Mapping[str, Any], axis: str) -> np.ndarray[Any, Any]:
    """Values of a bound along an axis; NaN where an axis that follows it has no label."""
    columns = {name: np.full(line.sizes[axis], label) for name, label in labels.items()} | {axis: line[axis].values}
    there = np.ones(line.sizes[axis], dtype=bool)
    for name in (str(each) for each in line.coords if str(each) not in columns):
        follows = line[name].values
        there &= ~np.isnan(follows)
        columns[name] = follows
    values = np.full(len(there), np.nan)
    values[there] = bound.values({name: column[there] for name, column in columns.items()})
    return values


def _label_axes(grid: Any, ticks: Sequence[float], experiment: Experiment, figure: Declared) -> None:
    description = next(each.description for each in experiment.axes if each.name == figure.x)
    for column in grid.T:
        lowest = [panel for panel in column if panel.axison][-1]
        lowest.set_xlabel(f"{description} {figure.x}" if len(figure.x) == 1 else f"{description} ({figure.x})")
        lowest.tick_params(axis="x", which="both", labelbottom=True)
    for panel in grid[:, 0]:
        panel.set_ylabel(_plain(textwrap.fill(experiment.quantity(figure.y).axis_label, _PANEL_CHARACTERS)))
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
