"""Figures: curves of a sweep, as its specification declares them, against each axis, or as they are chosen."""

import errno
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from flows.chosen import chosen_figures, select
from flows.convergence import plot_convergence
from flows.own_matplotlib import own_matplotlib
from pipeline.errors import InputError, one_line
from pipeline.experiment import Experiment, Label
from pipeline.figure import Figure
from pipeline.grid import CODE
from storage import open_results

__all__ = ["FORMATS", "draw_results", "figures_folder", "plot_convergence", "plot_curves"]

FORMATS = ("png", "svg", "pdf")
_SETTINGS = {"font.size": 9, "axes.titlesize": 9, "svg.fonttype": "none", "svg.hashsalt": "epsweep"}


def plot_curves(
    ds: xr.Dataset,
    experiment: Experiment,
    out: str | Path,
    at: Mapping[str, Label],
    choice: Mapping[str, Any] | None = None,
    formats: Sequence[str] = FORMATS[:2],
) -> list[Path]:
    """Draw the figures that the specification of a sweep declares.

    Where it declares none, or axes or labels are chosen: the main quantity, or the first that varies along it, against
    every axis of numbers that has more than one label, one panel a combination of names (function and sampling), one
    line a method with the range of its trials as a band. Axes that are not drawn are held at the labels asked for, or
    at the middle of those with most values.

    Parameters
    ----------
    ds : xarray.Dataset
        Results, as `open_results` returns them.
    experiment : Experiment
    out : str or Path
        Folder for the files; created if it does not exist.
    at : mapping of str to label
        Labels at which axes are held.
    choice : mapping of str to object, optional
        Other fields of `pipeline.figure.Figure`, such as ``{"x": "r", "only": {"function": ["gaussian"]}}``.
    formats : sequence of str
        Some of png, svg and pdf.

    Returns
    -------
    list of Path
        The files of the first format.

    Raises
    ------
    InputError
        If a label is not in the results, or there is no complete curve to draw.
    """
    figures = chosen_figures(ds, experiment, {**(choice or {}), **({"at": dict(at)} if at else {})})
    written = [path for figure in figures if (path := _draw(ds, experiment, figure, Path(out), formats))]
    if not written:
        raise InputError("plot: no curve has two complete medians; finish the sweep, or give an axis a second label")
    return written


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
    except Exception as error:  # cells matter more, whatever a library that draws may raise
        return [], one_line(error) or type(error).__name__


def _draw(ds: xr.Dataset, experiment: Experiment, figure: Figure, out: Path, formats: Sequence[str]) -> Path | None:
    """Draw one figure into a file of each format; None where there is no curve."""
    curves, held, unfinished = select(ds, experiment, figure)
    if not curves.sizes[figure.x]:
        return None
    settings = json.loads(ds.attrs.get("settings", "{}"))
    caption = _caption(curves, experiment, figure, held, settings)
    caption += [f"no finished cells: {'; '.join(unfinished)}"] if unfinished else []
    out.mkdir(parents=True, exist_ok=True)
    paths = [out / f"{figure.name}.{each}" for each in formats]
    with own_matplotlib(_SETTINGS):
        from flows.panels import draw_panels

        draw_panels(curves, experiment, figure, held, settings, caption, paths)
    return paths[0]


def _caption(
    curves: xr.Dataset, experiment: Experiment, figure: Figure, held: Mapping[str, Label], settings: Mapping[str, Any]
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
    quantity = experiment.quantity(figure.y)
    meaning = f"{figure.y}: {quantity.comment}" if quantity.comment and not quantity.label else ""
    return [text, meaning, ", ".join(other)]
