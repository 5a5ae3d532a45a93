"""Figures say what they show: panels, lines, axes and what is held."""

import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from flows.chosen import read_choice
from flows.colours import line_places
from flows.figures import draw_results, plot_curves
from pipeline.errors import InputError
from pipeline.experiment import Case, Experiment, Outcome
from pipeline.experiments import EXPERIMENTS
from pipeline.grid import parse_sweep
from pipeline.theory import identity_error
from storage import Status, Writer, median_curves, open_results

ROOT = Path(__file__).parents[2]
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


def fill(path: Path, text: str, compute: Callable[..., Outcome] = outcome) -> Path:
    """Make the store of a sweep with invented outcomes."""
    sweep = parse_sweep(text)
    with Writer.open(path, sweep) as writer:
        cells = np.argwhere(sweep.wanted)
        writer.write(cells, [compute(sweep.case(cell)) for cell in cells])
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("figures") / "s.zarr", SPEC)


def declaring(ds: xr.Dataset, *figures: str) -> xr.Dataset:
    """Results whose specification declares figures."""
    return ds.assign_attrs(spec=ds.attrs["spec"] + f"figures: [{', '.join(figures)}]\n")


@pytest.fixture
def draw(tmp_path, monkeypatch) -> Iterator[Callable[..., dict[str, Figure]]]:
    """Draw figures, by name, without writing them."""
    drawn: dict[str, Figure] = {}
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: drawn.update({Path(path).stem: self}))

    def go(ds: xr.Dataset, **at: float) -> dict[str, Figure]:
        drawn.clear()
        plot_curves(ds, APPROXIMATION, tmp_path, at)
        return dict(drawn)

    return go


def panels(figure: Figure) -> dict[str, object]:
    """Panels by their titles."""
    return {panel.get_title(): panel for panel in figure.axes if panel.axison}


def legend(figure: Figure) -> list[str]:
    (found,) = figure.legends
    return [" ".join(text.get_text().split()) for text in found.get_texts()]


def line(panel, label: str):
    """The line of a panel that has a label."""
    (found,) = (each for each in panel.lines if each.get_label() == label)
    return found


def texts(path) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", path.with_suffix(".svg").read_text())


def test_one_figure_an_axis_with_a_panel_a_function_and_sampling_and_a_line_a_method(store, tmp_path):
    written = plot_curves(open_results(store), APPROXIMATION, tmp_path, {})
    assert [path.name for path in written] == [f"epsilon-against-{axis}.png" for axis in "mnr"]
    for path, axis in zip(written, ("latent dimension m", "size n", "rank of the approximation r"), strict=True):
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


def test_declared_figures_are_drawn_in_place_of_the_automatic_ones(store, tmp_path):
    ds = declaring(open_results(store), "{name: second, x: m}", "{name: first, x: r, y: lower_bound}")
    written = plot_curves(ds, APPROXIMATION, tmp_path, {})
    assert [path.name for path in written] == ["second.png", "first.png"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first.png", "first.svg", "second.png", "second.svg"]
    assert "latent dimension m" in texts(written[0])
    assert {"rank of the approximation r", "certified lower bound of ε"} <= set(texts(written[1]))


def test_labels_asked_for_bring_the_automatic_figures_back(store, draw):
    ds = declaring(open_results(store), "{name: mine, x: m}")
    assert list(draw(ds)) == ["mine"]
    assert list(draw(ds, r=10)) == ["epsilon-against-m", "epsilon-against-n"]


def test_numbers_can_be_lines_and_panels(store, draw):
    ds = declaring(
        open_results(store),
        "{name: lines, x: r, lines: n}",
        "{name: panels, x: r, panels: [m, function], at: {sampling: ball-symmetric}}",
    )
    drawn = draw(ds)
    assert legend(drawn["lines"]) == ["n = 100", "n = 1000"]
    assert list(panels(drawn["lines"])) == [
        f"{function}, {sampling}, {method}"
        for function in ("gaussian", "cauchy")
        for sampling in ("ball-symmetric", "sphere-independent")
        for method in ("svd", "ap")
    ]
    expected = [f"m = {m}, {function}" for m in (2, 20, 200, 2000) for function in ("gaussian", "cauchy")]
    assert list(panels(drawn["panels"])) == expected


def test_lines_are_the_medians_with_a_band_or_the_maxima_without(store, draw):
    ds = open_results(store)
    common = "x: r, lines: n, panels: [method, function], at: {m: 20, sampling: ball-symmetric}"
    drawn = draw(declaring(ds, f"{{name: median, {common}}}", f"{{name: max, {common}, statistic: max}}"))
    curves = median_curves(ds).sel({"m": 20, "sampling": "ball-symmetric", "method": "ap", "function": "cauchy"})
    for name, quantity in {"median": "epsilon", "max": "epsilon_max"}.items():
        panel = panels(drawn[name])["ap, cauchy"]
        for n in (100, 1000):
            values = curves[quantity].sel(n=n).dropna("r")
            shown = line(panel, f"n = {n}")
            assert shown.get_xdata().tolist() == values["r"].values.tolist()
            assert shown.get_ydata().tolist() == values.values.tolist()
    assert len(panels(drawn["median"])["ap, cauchy"].collections) == 2
    assert len(panels(drawn["max"])["ap, cauchy"].collections) == 0
    assert drawn["median"].get_suptitle().startswith("median and range of 5 trials at ")
    assert drawn["max"].get_suptitle().startswith("maximum of 5 trials at ")


def test_maxima_stand_without_the_bracket_of_medians(store, draw):
    drawn = draw(declaring(open_results(store), "{name: a, x: r}", "{name: b, x: r, statistic: max}"))
    assert legend(drawn["a"]) == ["svd", "ap", "lower bound", "the best possible lies here"]
    assert legend(drawn["b"]) == ["svd", "ap"]


def test_scales_are_as_declared(store, draw):
    ds = declaring(open_results(store), "{name: a, x: r}", "{name: b, x: r, x_scale: linear, y_scale: linear}")
    for name, scale in {"a": "log", "b": "linear"}.items():
        for panel in panels(draw(ds)[name]).values():
            assert (panel.get_xscale(), panel.get_yscale()) == (scale, scale)


def test_least_value_shown_is_as_declared_and_the_largest_is_seen(store, draw):
    ds = open_results(store)
    (panel, *_) = panels(draw(declaring(ds, "{name: a, x: r, y_least: 1e-3}"))["a"]).values()
    low, high = panel.get_ylim()
    assert low == 1e-3
    largest = float(ds["epsilon"].max())
    assert largest < high < 2 * largest


def test_theory_and_slope_stand_in_the_legend_and_stretch_nothing(store, draw):
    ds = open_results(store).assign_coords(r=[200, 400, 1000])
    ds = ds.assign(epsilon=ds["epsilon"] / 1e3, lower_bound=ds["lower_bound"] / 1e3)
    drawn = draw(declaring(ds, "{name: a, x: r}", "{name: b, x: r, theory: [embedding], slope: -2}"))
    more = legend(drawn["b"])[len(legend(drawn["a"])) :]
    assert more == ["√(9 log(3n²)/r) (Budzinskiy, Theorem 1.3), outside the range shown", "slope -2"]
    for title, panel in panels(drawn["b"]).items():
        assert panel.get_ylim() == panels(drawn["a"])[title].get_ylim()
        assert panel.get_xlim() == panels(drawn["a"])[title].get_xlim()
        bound = APPROXIMATION.theory[0]
        lines = [each for each in panel.lines if each.get_label() == bound.label]
        assert bool(lines) == title.endswith("symmetric")  # only there max|F| = 1
        for shown in lines:
            np.testing.assert_allclose(shown.get_ydata(), np.sqrt(9 * np.log(3e6) / np.array([200, 400, 1000])))


def test_limit_for_many_dimensions_is_drawn_for_symmetric_draws_and_legend_names_what_says_nothing(store, draw):
    drawn = draw(
        declaring(open_results(store), "{name: a, x: m, at: {n: 100, r: 10}, theory: [embedding, identity_limit]}")
    )
    embedding, limit = (bound.label for bound in APPROXIMATION.theory)
    assert legend(drawn["a"])[-1] == limit
    said = " ".join(drawn["a"].get_suptitle().split())
    assert f"not drawn: {embedding}, which does not bound these points" in said  # 9 log(3e4) > 10
    for title, panel in panels(drawn["a"]).items():
        lines = [each for each in panel.lines if each.get_label() == limit]
        assert len(lines) == title.endswith("symmetric")
        for shown in lines:
            beside = np.exp(-2) if "gaussian" in title else 1 / 3
            expected = (1 - beside) * identity_error(100, 11)
            np.testing.assert_allclose(shown.get_ydata(), np.full(4, expected), rtol=1e-12)


def test_theory_that_is_seen_is_not_called_out_of_sight(store, draw):
    ds = open_results(store).assign_coords(r=[200, 400, 1000])
    low = ds.assign(epsilon=ds["epsilon"] / 1e3, lower_bound=ds["lower_bound"] / 1e3)
    drawn = draw(declaring(low, "{name: a, x: r, y_scale: linear, theory: [embedding], y_least: 1e-9}"))
    assert "outside the range shown" in legend(drawn["a"])[-1]
    near = ds.assign(epsilon=ds["epsilon"] / ds["epsilon"].max() / 5)  # below all of it
    drawn = draw(declaring(near, "{name: a, x: r, theory: [embedding]}"))
    assert "outside the range shown" not in legend(drawn["a"])[-1]
    assert next(iter(panels(drawn["a"]).values())).get_ylim()[1] > np.sqrt(9 * np.log(3e6) / 200)


def test_slope_goes_through_the_middle_of_the_last_line_that_is_there(store, draw):
    ds = open_results(store)
    unfinished = ds.assign(status=ds["status"].where(ds["method"] == "svd", 0))
    for results, method in ((ds, "ap"), (unfinished, "svd")):
        drawn = draw(declaring(results, "{name: a, x: r, slope: -0.5}"))
        for panel in panels(drawn["a"]).values():
            guide, last = line(panel, "slope -0.5").get_ydata(), line(panel, method).get_ydata()
            np.testing.assert_allclose(guide, last, rtol=1e-12)  # the errors fall by that power


def test_labels_without_a_value_take_no_room(store, draw):
    ds = open_results(store)
    drawn = draw(declaring(ds, "{name: a, x: r, at: {n: 100}, slope: -0.5, theory: [embedding]}"))  # r < 50 there
    for panel in panels(drawn["a"]).values():
        assert all(max(each.get_xdata()) <= 10 for each in panel.lines)
        assert panel.get_xlim()[1] < 20


def test_declared_labels_must_be_in_the_store(store, draw):
    with pytest.raises(InputError, match=r"figure a: at: r = 7 is not in the store; it has \[5, 10, 50\]"):
        draw(declaring(open_results(store), "{name: a, x: m, at: {r: 7}}"))


def test_captions_say_trials_held_labels_and_settings_that_are_not_the_default(tmp_path, draw):
    text = SPEC + "settings: {certificate: {bound: tail}, ap: {tolerance: 0.02, initial: random}}\n"
    ds = open_results(fill(tmp_path / "s.zarr", text))
    few = ds.assign(status=ds["status"].where((ds["seed"] < 3) | (ds["r"] > 5), Status.SKIPPED))
    for results, trials in ((ds, "5"), (few, "3 to 5")):
        drawn = draw(declaring(results, "{name: a, x: r, at: {m: 200, n: 1000}}"))
        caption = " ".join(drawn["a"].get_suptitle().split())
        start = f"median and range of {trials} trials at m = 200, n = 1000 "
        assert caption.startswith(start)
        assert sorted(caption.removeprefix(start).split(", ")) == ["ap.tolerance = 0.02", "certificate.bound = tail"]


def test_lowest_panel_of_every_column_has_its_axis_labelled(store, draw):
    ds = open_results(store).sel({"function": ["gaussian"], "m": [2, 20], "sampling": ["ball-symmetric"]})
    drawn = draw(declaring(ds, "{name: a, x: r, lines: sampling, panels: [function, method, m]}"))
    assert len(panels(drawn["a"])) == 4
    drawn = draw(declaring(ds, "{name: a, x: n, lines: sampling, panels: [function, method, r], at: {m: 2}}"))
    found = list(panels(drawn["a"]).values())
    columns = {panel.get_subplotspec().colspan.start for panel in found}
    labelled = [panel for panel in found if panel.get_xlabel() == "size n"]
    assert {panel.get_subplotspec().colspan.start for panel in labelled} == columns
    assert all(panel.xaxis.get_tick_params()["labelbottom"] for panel in labelled)


Box = tuple[str, float, float, float, float]


def boxes(path: Path) -> tuple[list[Box], float, float]:
    """Plain texts of an SVG file with left, right, top and bottom, and its width and height, in points."""
    root = ET.fromstring(path.with_suffix(".svg").read_text())
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    found = []
    for text in root.iter("{http://www.w3.org/2000/svg}text"):
        style = text.get("style", "")
        if not (text.text or "").strip():
            continue  # a power of ten, in pieces
        font = FontProperties(family="DejaVu Sans", size=float(re.search(r"font-size: ([\d.]+)px", style)[1]))
        box = TextPath((0, 0), text.text.replace("$", r"\$"), prop=font).get_extents()
        numbers = [float(number) for number in re.findall(r"-?[\d.]+", text.get("transform", ""))]
        before = {"middle": 0.5, "end": 1.0}.get(re.sub(r".*text-anchor: ", "", style), 0.0) * box.width
        x, y = numbers[-2:]
        if len(numbers) == 3 and numbers[0] == -90:
            found.append((text.text, x - box.height, x, y + before - box.width, y + before))
        else:
            found.append((text.text, x - before, x - before + box.width, y - box.height, y))
    return found, width, height


def assert_readable(path: Path) -> None:
    """Texts are inside the view box and do not overlap, and no ink touches the border of the PNG file."""
    found, width, height = boxes(path)
    assert len(found) > 5
    for text, left, right, top, bottom in found:
        assert min(left, width - right, top, height - bottom) > -1, text
    for one, other in combinations(found, 2):
        across = min(one[2], other[2]) - max(one[1], other[1])
        down = min(one[4], other[4]) - max(one[3], other[3])
        assert min(across, down) < 0.5, (one, other)
    ink = matplotlib.image.imread(path)[..., :3] < 1
    for border in (ink[0], ink[-1], ink[:, 0], ink[:, -1]):
        assert not border.any()


def place(path: Path, start: str) -> Box:
    """The last text that begins so."""
    return [box for box in boxes(path)[0] if box[0].startswith(start)][-1]


CROWDED = """
name: crowded
settings: {ap: {tolerance: 0.02, max_projections: 19999, stagnation: 0.002}, certificate: {bound: tail}}
grid:
  - function: [{name: gaussian, scale: 0.333333}]
    sampling: [ball-symmetric]
    m: {from: 1, to: 1000, count: 10, scale: log}
    n: [1000, 1010, 1020, 1030, 1040, 20000]
    r: [5, 10, 50]
    method: [svd, ap]
    seeds: 2
"""
ONE = "at: {function: cauchy, sampling: ball-symmetric}, panels: []"


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("crowded") / "s.zarr", CROWDED)


@pytest.mark.parametrize(
    "figure",
    [
        "{name: a, x: n, lines: m, panels: [function, sampling, method]}",
        "{name: a, x: n, lines: m, panels: [function, sampling, method], theory: [embedding], slope: 0.25}",
        "{name: a, x: n, theory: [embedding], slope: 0.25}",
        f"{{name: a, x: n, theory: [embedding], slope: 0.25, {ONE}}}",
        f"{{name: a, x: n, {ONE}}}",
    ],
)
def test_short_legends_stand_below_and_everything_can_be_read(store, tmp_path, figure):
    (path,) = plot_curves(declaring(open_results(store), figure), APPROXIMATION, tmp_path, {})
    assert_readable(path)
    label = "m = 20" if "lines: m" in figure else "svd"
    assert place(path, label)[3] > place(path, "size n")[4]


@pytest.mark.parametrize(
    ("x", "panels"), [("n", "[function, sampling, method, r]"), ("n, x_scale: linear", "[function, sampling, method]")]
)
def test_long_legends_stand_beside_and_everything_can_be_read(crowded, tmp_path, panels, x):
    figure = f"{{name: a, x: {x}, lines: m, panels: {panels}, theory: [embedding], slope: 0.25}}"
    (path,) = plot_curves(declaring(open_results(crowded), figure), APPROXIMATION, tmp_path, {})
    assert_readable(path)
    assert place(path, "m = 10")[1] > place(path, "size n")[2]


@pytest.mark.parametrize("axis", ["m", "n", "r"])
@pytest.mark.parametrize("scale", ["log", "linear"])
def test_labels_of_ticks_do_not_overlap(crowded, tmp_path, axis, scale):
    ds = declaring(open_results(crowded), f"{{name: a, x: {axis}, x_scale: {scale}}}")
    (path,) = plot_curves(ds, APPROXIMATION, tmp_path, {})
    assert_readable(path)
    numbers = [box for box in boxes(path)[0] if box[0].isdecimal()]
    assert len(numbers) >= 2


def test_tolerances_stand_below_their_axis_without_overlap(tmp_path):
    experiment = EXPERIMENTS["epsilon_rank"]
    text = invented(experiment).replace(
        "tolerance: [0.1, 0.2]", "tolerance: {from: 1e-4, to: 0.03, count: 8, scale: log}"
    )
    ds = open_results(fill(tmp_path / "s.zarr", text, lambda case: made_up(experiment, case)))
    paths = plot_curves(ds, experiment, tmp_path, {})
    for path in paths:
        assert_readable(path)
    assert "largest error of an entry (tolerance)" in texts(paths[-1])


LABELS = {
    "function": "[gaussian]",
    "sampling": "[ball-independent]",
    "method": "[svd, ap]",
    "tolerance": "[0.1, 0.2]",
    "seeds": "3",
}


def invented(experiment: Experiment) -> str:
    """A small specification of any experiment."""
    entries = {axis.key: LABELS.get(axis.key, "[2, 3]") for axis in experiment.axes} | {"n": "[40, 60]"}
    block = ", ".join(f"{key}: {entry}" for key, entry in entries.items())
    return f"name: t\nexperiment: {experiment.name}\ngrid:\n  - {{{block}}}\n"


def made_up(experiment: Experiment, case: Case) -> Outcome:
    """Values that grow along all axes of numbers but those along which the quantity is the same."""
    numbers = {axis.name: case[axis.name] for axis in experiment.axes if axis.numeric}
    return Outcome(
        {
            quantity.name: float(np.prod([1 + label for axis, label in numbers.items() if axis not in quantity.along]))
            for quantity in experiment.quantities
        }
    )


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_has_a_figure_against_each_axis_of_what_varies_along_it(name, tmp_path):
    experiment = EXPERIMENTS[name]
    ds = open_results(fill(tmp_path / "s.zarr", invented(experiment), lambda case: made_up(experiment, case)))
    written = plot_curves(ds, experiment, tmp_path, {})
    quantities = [experiment.quantity(experiment.main), *experiment.quantities]
    axes = [axis.name for axis in experiment.axes if axis.numeric and axis.name != "seed"]
    first = {axis: next(each.name for each in quantities if axis not in each.along) for axis in axes}
    expected = [f"{name}-against-{axis}.png" for axis, name in first.items()]
    assert [path.name for path in written] == expected
    for path in written:
        assert_readable(path)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_quantity_of_every_experiment_can_be_declared(name, tmp_path):
    experiment = EXPERIMENTS[name]
    ds = open_results(fill(tmp_path / "s.zarr", invented(experiment), lambda case: made_up(experiment, case)))
    quantities = [quantity.name for quantity in experiment.quantities]
    theory = {
        quantity: [each.name for each in experiment.theory if each.quantity == quantity] for quantity in quantities
    }
    figures = [f"{{name: {each}, x: n, y: {each}, theory: {theory[each]}}}" for each in quantities]
    written = plot_curves(declaring(ds, *figures), experiment, tmp_path, {})
    assert [path.stem for path in written] == quantities


def test_quantity_that_does_not_vary_along_an_axis_is_drawn_at_none_of_its_labels(tmp_path):
    experiment = EXPERIMENTS["spectrum"]
    ds = open_results(fill(tmp_path / "s.zarr", invented(experiment), lambda case: made_up(experiment, case)))
    written = plot_curves(ds, experiment, tmp_path, {})
    assert [path.stem for path in written] == [
        "effective_rank-against-m",
        "effective_rank-against-n",
        "sigma-against-k",
    ]
    captions = [
        text for path in written[:2] for text in texts(path) if text.startswith("median and range of 3 trials at")
    ]
    assert len(captions) == 2
    assert not any("k =" in caption for caption in captions)


def test_axis_that_only_where_names_follows_the_abscissa(store, draw):
    """The diagonal r = n / 20 of the store, each point with its own rank, theory as well."""
    ds = open_results(store)
    entry = "{name: a, x: n, where: r * 20 == n, at: {function: gaussian}, theory: [embedding]}"
    drawn = draw(declaring(ds, entry))
    for title, panel in panels(drawn["a"]).items():
        for method in ("svd", "ap"):
            found = line(panel, method)
            held = {"function": "gaussian", "sampling": title, "method": method, "m": 2}
            places = [held | {"n": int(n), "r": int(n) // 20} for n in found.get_xdata()]
            expected = [float(ds["epsilon"].sel(place).median()) for place in places]
            np.testing.assert_allclose(found.get_ydata(), expected)
    assert "where r * 20 == n" in drawn["a"].get_suptitle()


def test_ranks_that_are_enough_have_no_bracket(store, draw):
    ds = open_results(store)
    drawn = draw(declaring(ds.assign(lower_bound=ds["lower_bound"] * 0), "{name: a, x: r}"))
    assert all(name not in legend(drawn["a"]) for name in ("lower bound", "the best possible lies here"))


def test_quantity_beside_is_drawn_dashed_in_the_colour_of_its_line(store, draw):
    ds = open_results(store)
    drawn = draw(declaring(ds, "{name: a, x: r, beside: [lower_bound]}"))
    for panel in panels(drawn["a"]).values():
        dashed = [each for each in panel.lines if each.get_label() == "median of certified lower bound of ε"]
        assert [each.get_color() for each in dashed] == [line(panel, name).get_color() for name in ("svd", "ap")]
        assert all(each.get_linestyle() == "--" for each in dashed)


def test_choice_of_axes_labels_statistic_and_format_needs_no_declaration(store, tmp_path):
    """What `plot` is asked for stands for any choice that a figure can declare."""
    ds = declaring(open_results(store), "{name: mine, x: m}")
    only = {"function": ["cauchy"], "r": [5, 50]}
    choice = {"x": "n", "lines": "r", "panels": ["sampling"], "only": only, "statistic": "max"}
    (path,) = plot_curves(ds, APPROXIMATION, tmp_path, {"method": "ap"}, choice, ("svg", "pdf"))
    assert path.name == "epsilon-against-n.svg"
    assert path.with_suffix(".pdf").read_bytes().startswith(b"%PDF")
    shown = set(texts(path))
    assert {"r = 5", "r = 50", "ball-symmetric", "sphere-independent"} <= shown
    assert not {"r = 10", "gaussian", "svd"} & shown
    assert any(text.startswith("maximum of 5 trials at") and "method = ap" in text for text in shown)


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"x": "q"}, "x: 'q' is not known here; use one of m, n, r"),
        ({"x": "r", "lines": "q"}, "lines: 'q' is not known here"),
        ({"x": "r", "statistic": "mean"}, "statistic: 'mean'"),
        ({"x": "r", "only": {"method": ["best"]}}, "only: method = best is not in the store"),
        ({"x": "r", "y": "speed"}, "y: 'speed' is not known here"),
        ({"x": "r", "panels": []}, "panels: function is named nowhere"),
        ({"x": "r", "lines": "r"}, "lines: 'r' stands in x already"),
    ],
)
def test_bad_choice_is_one_line_that_names_option_value_and_remedy(store, tmp_path, choice, message):
    with pytest.raises(InputError) as caught:
        plot_curves(open_results(store), APPROXIMATION, tmp_path, {}, choice)
    assert message in str(caught.value)
    assert str(caught.value).isprintable()


def test_labels_with_commas_and_brackets_are_read_as_they_are_stored(store):
    names = ["gaussian(scale=2)", "polynomial(degree=3,offset=0.5)"]
    ds = open_results(store).assign_coords(function=names)
    for text in (",".join(names), "gaussian(scale=2), polynomial(degree=3, offset=0.5)"):
        assert read_choice(ds, APPROXIMATION, [f"function={text}"], "only") == {"function": names}
    items = [f"function={names[1]}", "r=5,1e1"]
    assert read_choice(ds, APPROXIMATION, items, "at") == {"function": names[1:], "r": [5, 10]}
    for bad in ("function", "function=", "q=1", "r=7", "r=many", "function=polynomial(degree=3)"):
        with pytest.raises(InputError, match="only: "):
            read_choice(ds, APPROXIMATION, [bad], "only")


def test_axis_with_one_label_need_not_be_named_and_what_is_not_done_is_noted(store, draw):
    ds = open_results(store).sel(sampling=["ball-symmetric"])
    ds = ds.assign(status=ds["status"].where(ds["method"] != "svd", Status.FAILED))
    drawn = draw(declaring(ds, "{name: a, x: r, panels: [function]}"))["a"]
    assert list(panels(drawn)) == ["gaussian", "cauchy"]
    assert "no finished cells: svd" in drawn.get_suptitle()
    assert "sampling = ball-symmetric" in " ".join(drawn.get_suptitle().split())


def test_panels_have_ranges_of_their_own_where_asked(store, draw):
    ds = open_results(store)
    ds = ds.assign(epsilon=ds["epsilon"] * xr.where(ds["function"] == "cauchy", 1e-4, 1))
    for share in ("true", "false"):
        found = panels(draw(declaring(ds, f"{{name: a, x: r, y_share: {share}}}"))["a"])
        tops = {title: panel.get_ylim()[1] for title, panel in found.items()}
        assert (len({round(top, 9) for top in tops.values()}) == 1) == (share == "true")


@pytest.mark.parametrize(
    ("backend", "rc"),
    [
        ("module://matplotlib_inline.backend_inline", "text.usetex: True\n"),
        ("nosuchbackend", "font.size: 40\nbroken line without colon\nfont.family: none-such\n"),
        ("", "axes.facecolor: red\nlines.linewidth: many\n"),
    ],
)
def test_picture_is_the_same_whatever_backend_and_matplotlibrc(tmp_path, backend, rc):
    """In a process of its own, as Matplotlib reads both when it is imported; nothing is said and pyplot not loaded."""
    script = (
        "import sys, numpy as np\nfrom flows.figures import plot_convergence\nfrom pipeline import approximate\n"
        "plot_convergence({'svd': approximate(np.eye(9), 3, algorithm='svd')}, sys.argv[1])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    ).replace("algorithm", "method")
    (tmp_path / "mine").write_text(rc)
    plain = {key: each for key, each in os.environ.items() if not key.startswith(("MPL", "MATPLOTLIB"))}
    strange = plain | {"MPLBACKEND": backend, "MATPLOTLIBRC": str(tmp_path / "mine"), "MPLCONFIGDIR": "/proc/none"}
    for name, environment in (("plain", plain), ("strange", strange)):
        command = [sys.executable, "-c", script, str(tmp_path / f"{name}.png")]
        done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "plain.png").read_bytes() == (tmp_path / "strange.png").read_bytes()


def test_matplotlibrc_that_cannot_be_read_is_told_by_run_and_doctor_alike(store, tmp_path):
    (tmp_path / "matplotlibrc").write_bytes(b"font.family: \xff\xfe\n")
    script = (
        "import sys\nfrom flows import doctor, figures\nfrom storage import store_experiment\n"
        "figures, reason = figures.draw_results(sys.argv[1], store_experiment(sys.argv[1]))\n"
        "assert not figures and doctor._figures() == f'none ({reason})'\nprint(reason)\n"
    )
    environment = os.environ | {"MATPLOTLIBRC": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", script, str(store)], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Matplotlib cannot be imported (")
    assert done.stdout.endswith("; mend its matplotlibrc or installation\n")


def test_no_exception_of_drawing_ends_a_run(store, monkeypatch):
    def broken(self, *args, **kwargs):
        raise RuntimeError("no fonts")

    monkeypatch.setattr(Figure, "savefig", broken)
    assert draw_results(str(store), APPROXIMATION) == ([], "no fonts")


def test_methods_keep_their_colours_in_every_sweep():
    assert line_places("method", ["minimax", "svd"]) == [2, 0]
    assert line_places("method", ["svd", "mine"]) == [0, 1]
    assert line_places("function", ["svd", "ap"]) == [0, 1]
