"""Figures say what they show: panels, lines, axes and what is held."""

import re

import matplotlib.image
import numpy as np
import pytest

from flows.figures import plot_curves
from pipeline.errors import InputError
from pipeline.experiment import Outcome
from pipeline.experiments import EXPERIMENTS
from pipeline.grid import parse_sweep
from storage import Writer, open_results

APPROXIMATION = EXPERIMENTS["approximation"]
SPEC = """
name: figures
grid:
  - function: [gaussian, cauchy]
    sampling: [ball-symmetric, sphere-independent]
    m: [2, 20, 200, 2000]
    n: [100, 1000]
    r: [5, 10, 50]
    method: [svd, ap]
    seeds: 5
    where: r < 50 or n > 100
"""


def outcome(case) -> Outcome:
    error = (1 if case["method"] == "svd" else 0.3) * case["r"] ** -0.5 * (1 + case["seed"] / 50)
    return Outcome({"epsilon": error, "lower_bound": error / 9, "max_norm": 1, "iterations": 1, "seconds": 1})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("figures") / "s.zarr"
    sweep = parse_sweep(SPEC)
    with Writer.open(path, sweep) as writer:
        cells = np.argwhere(sweep.wanted)
        writer.write(cells, [outcome(sweep.case(cell)) for cell in cells])
    return path


def texts(path) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", path.with_suffix(".svg").read_text())


def test_one_figure_an_axis_with_a_panel_a_function_and_sampling_and_a_line_a_method(store, tmp_path):
    written = plot_curves(open_results(store), APPROXIMATION, tmp_path, {})
    assert [path.name for path in written] == [f"epsilon-against-{axis}.png" for axis in "mnr"]
    for path, axis in zip(written, ("latent dimension m", "matrix size n", "rank of the approximation r"), strict=True):
        shown = texts(path)
        for function in ("gaussian", "cauchy"):
            for sampling in ("ball-symmetric", "sphere-independent"):
                assert f"{function}, {sampling}" in shown
        assert {"svd", "ap", "lower bound", "the best possible lies here", axis, "relative error ε"} <= set(shown)
        assert matplotlib.image.imread(path).std() > 0.05  # something is drawn


def test_other_axes_are_held_where_asked_or_in_the_middle(store, tmp_path):
    held = [
        text for path in plot_curves(open_results(store), APPROXIMATION, tmp_path, {"r": 50}) for text in texts(path)
    ]
    assert "median and range of 5 trials at n = 1000, r = 50" in held
    (_, _, against_r) = plot_curves(open_results(store), APPROXIMATION, tmp_path, {})
    assert any(
        re.fullmatch(r"median and range of 5 trials at m = (20|200), n = 1000", text) for text in texts(against_r)
    )


@pytest.mark.parametrize(
    ("at", "message"),
    [({"q": 3}, "'q' is not an axis that can be held"), ({"r": 7}, r"r = 7 is not in the store; it has \[5, 10, 50\]")],
)
def test_held_labels_must_exist(store, tmp_path, at, message):
    with pytest.raises(InputError, match=message):
        plot_curves(open_results(store), APPROXIMATION, tmp_path, at)


def test_unfinished_trials_give_no_curve(store, tmp_path):
    ds = open_results(store)
    ds = ds.assign(status=ds["status"].where(ds["seed"] > 0, 0))
    with pytest.raises(InputError, match="no curve has two complete medians"):
        plot_curves(ds, APPROXIMATION, tmp_path, {})
