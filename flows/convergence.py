"""Errors by iteration of approximations of one matrix."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flows.colours import COLOURS
from flows.own_matplotlib import own_matplotlib
from pipeline.approximation import Approximation
from pipeline.errors import InputError


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
    path = Path(out)
    with own_matplotlib({}):
        _draw(found, path)
    return path


def _draw(found: Mapping[str, Approximation], path: Path) -> None:
    from matplotlib.figure import Figure

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
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160, format="png", backend="agg")
