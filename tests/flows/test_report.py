"""The report is a page that works: in a browser, alone, by keyboard, at any width, whatever the labels are."""

import itertools
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from playwright.sync_api import Browser, Page, sync_playwright

import flows.report.embedded as embedded
from flows.cli import main
from flows.colours import COLOURS, line_places
from flows.report import Finding, report_page, write_report
from pipeline.experiment import Experiment, Outcome
from pipeline.experiments import EXPERIMENTS
from pipeline.grid import parse_sweep
from storage import Status, Writer, median_curves, open_results
from storage.schema import identity

APPROXIMATION = EXPERIMENTS["approximation"]
SPEC = """
name: pages
grid:
  - function: [gaussian, cauchy]
    sampling: [ball-symmetric, sphere-independent]
    m: [2, 20, 200]
    n: [100, 1000]
    r: [5, 10]
    method: [svd, ap]
    seeds: 5
"""
FIGURES = """
figures:
  - {name: times, x: n, y: seconds, lines: r, at: {m: 20}, x_scale: linear, y_scale: linear}
  - {name: errors, x: m, lines: sampling, at: {n: 1000, r: 10}, y_least: 0.001}
  - {name: diagonal, x: n, where: 5 * m == n}
"""
HOSTILE = "</script><img src=x onerror=window.hacked=1>"


def outcome(case) -> Outcome:
    error = (1 if case["method"] == "svd" else 0.3) * (case["r"] * case["n"]) ** -0.5
    error *= (1 + case["seed"] / 50) * case["m"] ** 0.1 * (2 if case["function"] == "cauchy" else 1)
    error *= 3 if case["sampling"] == "ball-symmetric" else 1
    bound = (case["r"] * case["n"]) ** -0.5 / 9
    return Outcome({"epsilon": error, "lower_bound": bound, "max_norm": 1, "iterations": 7, "seconds": 2})


def fill(path: Path, text: str, compute: Callable[..., Outcome | None] = outcome, **options: object) -> Path:
    """Make the store of a sweep; cells of which nothing is computed stay missing."""
    sweep = parse_sweep(text, **options)
    with Writer.open(path, sweep) as writer:
        found = [(cell, compute(sweep.case(cell))) for cell in np.argwhere(sweep.wanted)]
        there = [(cell, each) for cell, each in found if each is not None]
        if there:
            writer.write(np.array([cell for cell, _ in there]), [each for _, each in there])
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Debian's Chromium; it is gone after this file, with the event loop that drives it."""
    with sync_playwright() as playwright:
        program = shutil.which("chromium")
        assert program, "chromium is missing; run tests/install-servers"
        running = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def visit(browser) -> Iterator[Callable[[Path], Page]]:
    """Open a page; in the end nothing went wrong in it, and it asked for nothing but itself."""
    wrong: list[str] = []
    asked: list[str] = []
    opened: list[Path] = []
    pages: list[Page] = []

    def go(path: Path, width: int = 1000) -> Page:
        page = browser.new_page(viewport={"width": width, "height": 900})
        page.on("console", lambda message: wrong.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(path.as_uri())
        opened.append(path)
        pages.append(page)
        return page

    yield go
    for page in pages:
        page.close()
    assert wrong == []
    assert asked == [path.as_uri() for path in opened]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return fill(tmp_path_factory.mktemp("report") / "pages.zarr", SPEC)


@pytest.fixture(scope="module")
def written(store, tmp_path_factory) -> Path:
    return write_report(store, tmp_path_factory.mktemp("pages"))


def medians(page: Page) -> dict[str, list[tuple[float, float]]]:
    """The lines that are drawn."""
    lines = page.evaluate(
        "document.getElementById('plot').data.filter(t => t.meta === 'line').map(t => [t.name, t.x, t.y])"
    )
    return {name: list(zip(x, y, strict=True)) for name, x, y in lines}


def picture(page: Page) -> str:
    """All that is drawn, and on which scales."""
    return page.evaluate(
        "(({data, layout}) => JSON.stringify([data, layout.xaxis.type, layout.yaxis.type, layout.xaxis.title.text]))"
        "(document.getElementById('plot'))"
    )


def test_page_says_what_the_store_holds(written, visit):
    page = visit(written)
    text = page.inner_text("main")
    for part in (
        "latent dimension",
        "2, 20, 200",
        "computed and stored",
        "numpy 2",
        "BSD-3-Clause",
        "When big data actually are low-rank",
        "Why are big data matrices approximately low rank?",
        "epsweep run pages.yaml --store pages.zarr",
        "max_projections = 20000",
    ):
        assert part in text
    assert page.inner_text("pre.spec").strip() == SPEC.strip()
    assert "480 of 480 cells done, 1 run, 960 s of computing" in page.inner_text("header")
    assert not page.is_visible("#cost table")
    page.click("#cost summary")
    assert "ap	100	120	240.00	25.0 %" in page.inner_text("#cost table")
    assert page.locator("section h2", has_text="Fits").count() == 0


def test_curves_are_the_medians_of_the_store(store, written, visit):
    page = visit(written)
    held = {"function": "gaussian", "sampling": "ball-symmetric", "n": 100, "r": 5}
    curves = median_curves(open_results(store)).sel(held)
    assert f"{', '.join(f'{axis} = {label}' for axis, label in held.items())}." in page.inner_text("#caption")
    drawn = medians(page)
    assert list(drawn) == ["svd", "ap"]
    for method, points in drawn.items():
        expected = curves["epsilon"].sel({"method": method})
        assert [x for x, _ in points] == [2, 20, 200]
        np.testing.assert_allclose([y for _, y in points], expected, rtol=1e-5)
    page.click("summary")
    row = page.locator("#table tbody tr").first.locator("td").all_inner_texts()
    assert row[:2] == ["svd", "2"]
    assert row[5:7] == ["5", f"{curves['lower_bound'].values[0, 0]:.6g}"]
    np.testing.assert_allclose(
        [float(value) for value in row[2:5]],
        [curves[f"epsilon{suffix}"].sel({"method": "svd"}).values[0] for suffix in ("", "_min", "_max")],
        rtol=1e-5,
    )


def test_each_control_changes_what_is_drawn(written, visit):
    page = visit(written)
    for control, label in {
        "at-function": "cauchy",
        "at-sampling": "sphere-independent",
        "at-n": "1000",
        "at-r": "10",
        "xscale": "linear",
        "yscale": "linear",
        "bound": None,
        "line-0": None,
        "lines": "function",
        "x": "n",
        "quantity": "seconds",
    }.items():
        before = picture(page)
        if label is None:
            page.uncheck(f"#{control}")
        else:
            page.select_option(f"#{control}", label=label)
        assert picture(page) != before, control
        if control.startswith("at-"):
            assert f"{control.removeprefix('at-')} = {label}" in page.inner_text("#caption")
    assert "trials of seconds, computing time" in page.inner_text("#caption")
    assert page.is_disabled("#bound")  # of the error, not of the time


def test_theory_is_drawn_where_it_says_something_and_shows_all_that_is_measured(tmp_path, visit):
    ranks = [50, 200, 500]
    text = f"""
name: theory
grid:
  - {{function: [gaussian], sampling: [ball-symmetric], m: [20], n: [1000], r: {ranks}, method: [svd, ap], seeds: 2}}
"""
    page = visit(write_report(fill(tmp_path / "s.zarr", text), tmp_path))
    lines = "document.getElementById('plot').data.filter(t => t.meta === 'theory').map(t => [t.name, t.x, t.y])"
    drawn = {name.replace("<br>", " "): (x, y) for name, x, y in page.evaluate(lines)}
    columns = {"function": "gaussian", "sampling": "ball-symmetric", "m": 20, "n": 1000, "method": "svd"}
    columns = {axis: np.full(3, label) for axis, label in columns.items()} | {"r": np.array(ranks)}
    expected = {bound.label: bound.values(columns) for bound in APPROXIMATION.theory}
    expected = {label: values for label, values in expected.items() if np.isfinite(values).any()}
    assert expected
    assert {name.removesuffix(", outside the range shown") for name in drawn} == set(expected)
    for name, (x, y) in drawn.items():
        values = expected[name.removesuffix(", outside the range shown")]
        np.testing.assert_allclose(y, values[np.isfinite(values)], rtol=1e-5)
        assert x == [rank for rank, value in zip(ranks, values, strict=True) if np.isfinite(value)]
    low, high = page.evaluate("document.getElementById('plot').layout.yaxis.range")
    measured = [value for line in medians(page).values() for _, value in line]
    assert low < np.log10(min(measured)) < np.log10(max(measured)) < high < 1
    head = page.locator("#table thead th").all_text_contents()
    assert head[7:] == [bound.label for bound in APPROXIMATION.theory if bound.label in expected]
    page.uncheck("#theory")
    assert page.evaluate(lines) == []
    page.select_option("#quantity", label="seconds")
    assert page.is_disabled("#theory")


@pytest.fixture(scope="module")
def declaring(tmp_path_factory) -> Path:
    """Store of a sweep that declares figures."""
    return fill(tmp_path_factory.mktemp("figures") / "s.zarr", SPEC + FIGURES)


def chosen(page: Page) -> dict[str, str]:
    """What the controls say."""
    return page.evaluate(
        "Object.fromEntries([...document.querySelectorAll('select')].map(s => [s.id, s.selectedOptions[0].text]))"
    )


def test_declared_figures_can_be_chosen_and_the_page_opens_on_the_first(declaring, tmp_path, visit):
    page = visit(write_report(declaring, tmp_path))
    assert page.locator("#figure option").all_inner_texts() == ["times", "errors", "diagonal", "own choice"]
    assert chosen(page) == {
        "figure": "times", "quantity": "seconds", "statistic": "median and range", "x": "n",
        "xscale": "linear", "yscale": "linear", "lines": "r",
        "at-function": "gaussian", "at-sampling": "ball-symmetric", "at-m": "20", "at-method": "svd",
    }  # fmt: skip
    assert medians(page) == {f"r = {r}": [(100, 2), (1000, 2)] for r in (5, 10)}
    page.focus("#figure")
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.id") == "figure"
    held = {"function": "gaussian", "n": 1000, "r": 10, "method": "svd"}
    assert chosen(page) == {
        "figure": "errors", "quantity": "epsilon", "statistic": "median and range", "x": "m",
        "xscale": "logarithmic", "yscale": "logarithmic",
        "lines": "sampling", **{f"at-{axis}": str(label) for axis, label in held.items()},
    }  # fmt: skip
    curves = median_curves(open_results(declaring)).sel(held)
    for sampling, points in medians(page).items():
        np.testing.assert_allclose([y for _, y in points], curves["epsilon"].sel({"sampling": sampling}), rtol=1e-5)
    assert page.evaluate("document.getElementById('plot').layout.yaxis.range[0]") == pytest.approx(-3)


def test_figure_along_a_diagonal_is_drawn_and_left(declaring, tmp_path, visit):
    page = visit(write_report(declaring, tmp_path))
    page.select_option("#figure", label="diagonal")
    assert chosen(page)["figure"] == "diagonal"
    assert "at-m" not in chosen(page)
    assert "where 5 * m == n" in page.inner_text("#caption")
    at = {axis: chosen(page)[f"at-{axis}"] for axis in ("function", "sampling")} | {"r": int(chosen(page)["at-r"])}
    curves = median_curves(open_results(declaring)).sel(at)["epsilon"]
    expected = {
        method: [(n, curves.sel({"method": method, "n": n, "m": n // 5})) for n in (100, 1000)]
        for method in ("svd", "ap")
    }
    assert list(medians(page)) == ["svd", "ap"]
    for method, points in medians(page).items():
        np.testing.assert_allclose(points, expected[method], rtol=1e-5)
    page.select_option("#at-r", index=1)  # a choice of one's own, of which m has one label
    assert chosen(page)["figure"] == "own choice"
    at["m"] = int(chosen(page)["at-m"])
    curves = median_curves(open_results(declaring)).sel(at | {"r": 10})["epsilon"]
    for method, points in medians(page).items():
        expected = curves.sel({"method": method})
        np.testing.assert_allclose(points, np.column_stack([expected["n"], expected]), rtol=1e-5)


def test_declared_maximum_is_drawn_without_range_and_bound_and_what_is_beside_it_in_the_colours_of_the_lines(
    tmp_path, visit
):
    figures = """
figures:
  - {name: largest, x: n, lines: r, statistic: max, beside: [seconds], at: {m: 20, method: svd}}
"""
    store = fill(tmp_path / "s.zarr", SPEC + figures)
    page = visit(write_report(store, tmp_path))
    assert chosen(page)["statistic"] == "maximum"
    kinds = set(page.evaluate("document.getElementById('plot').data.map(t => t.meta)"))
    assert kinds - {"theory"} == {"line", "beside"}
    assert page.is_disabled("#bound")
    held = {"function": "gaussian", "sampling": "ball-symmetric", "m": 20, "method": "svd"}
    curves = median_curves(open_results(store)).sel(held)
    for name, points in medians(page).items():
        largest = curves["epsilon_max"].sel({"r": int(name.removeprefix("r = "))}).dropna("n")
        np.testing.assert_allclose(points, np.column_stack([largest["n"], largest]), rtol=1e-5)
    drawn = page.evaluate("document.getElementById('plot').data.map(t => [t.meta, t.name, t.line.color])")
    assert {name for kind, name, _ in drawn if kind == "beside"} == {"median of computing time (s)"}
    assert page.inner_text("#caption").startswith("Maximum of 5 trials of epsilon")
    page.select_option("#statistic", label="median and range")
    assert not page.is_disabled("#bound")
    assert page.inner_text("#caption").startswith("Median (line) and range (band) of 5 trials of epsilon")
    page.select_option("#quantity", label="max_norm")
    assert "beside" not in page.evaluate("document.getElementById('plot').data.map(t => t.meta)")


@pytest.mark.parametrize("control", ["line-0", "bound"])
def test_figure_of_which_something_is_hidden_is_still_itself(declaring, tmp_path, visit, control):
    page = visit(write_report(declaring, tmp_path))
    page.select_option("#figure", label="errors")
    page.uncheck(f"#{control}")
    assert chosen(page)["figure"] == "errors"
    assert page.evaluate("document.getElementById('plot').layout.yaxis.range[0]") == pytest.approx(-3)


@pytest.mark.parametrize("control", ["quantity", "statistic", "x", "yscale", "lines", "at-function"])
def test_figure_that_is_changed_is_ones_own(declaring, tmp_path, visit, control):
    page = visit(write_report(declaring, tmp_path))
    page.select_option("#figure", label="errors")
    page.select_option(f"#{control}", index=1)
    assert chosen(page)["figure"] == "own choice"
    page.select_option("#figure", label="errors")
    assert list(medians(page)) == ["ball-symmetric", "sphere-independent"]


@pytest.mark.parametrize(
    ("declared", "names"),
    [
        ("", []),
        ("figures: [{name: a, x: nowhere}]", []),
        ("figures: [{name: a", []),
        ("figures: [{name: a, x: n, at: {m: 77}}, {name: b, x: n, at: {m: 3}}]", ["b", "own choice"]),
        ("figures: [{name: a, x: n, y: guarantee, at: {m: 3}}, {name: b, x: n}]", ["b", "own choice"]),
        ("figures: [{name: a, x: n, at: {r: 1}}, {name: b, x: n}]", ["b", "own choice"]),
    ],
    ids=["none", "unknown axis", "not YAML", "label that is gone", "quantity that is empty", "no curve"],
)
def test_figures_that_cannot_be_shown_are_left_out(tmp_path, visit, declared, names):
    ds = results(APPROXIMATION)
    ds["guarantee"] = ds["guarantee"] * np.nan
    ds["status"][{"r": 0}] = Status.MISSING
    path = tmp_path / "any.html"
    path.write_text(report_page("any.zarr", ds.assign_attrs(spec=declared), APPROXIMATION), encoding="utf-8")
    page = visit(path)
    assert page.locator("#figure option").all_inner_texts() == names
    assert medians(page)


def test_all_lines_of_a_figure_are_drawn_and_eight_without(tmp_path, visit):
    text = """
name: many
grid:
  - {function: [gaussian], sampling: [ball-symmetric], m: [2, 20], n: [100], r: {from: 1, to: 10, count: 10},
     method: [svd, ap], seeds: 1}
figures:
  - {name: ranks, x: m, lines: r}
"""
    page = visit(write_report(fill(tmp_path / "s.zarr", text), tmp_path), 400)
    assert list(medians(page)) == [f"r = {r}" for r in range(1, 11)]
    assert page.evaluate("(({scrollHeight, clientHeight}) => scrollHeight <= clientHeight)(which)")
    page.select_option("#lines", label="method")
    assert page.locator("#plot .main-svg").first.bounding_box()["height"] == page.evaluate("plot.clientHeight")
    page.select_option("#lines", label="r")
    assert list(medians(page)) == [f"r = {r}" for r in range(1, 9)]


def test_method_has_the_colour_that_it_has_in_figures(tmp_path, visit):
    methods = ["svd", "minimax"]
    store = fill(tmp_path / "s.zarr", SPEC.replace("[svd, ap]", f"[{', '.join(methods)}]"))
    page = visit(write_report(store, tmp_path))
    lines = page.evaluate(
        "document.getElementById('plot').data.filter(t => t.meta === 'line')"
        ".map(t => [t.name, t.line.color, t.marker.symbol])"
    )
    places = line_places("method", methods)
    assert places == [0, 2]
    symbols = ["circle", "square", "diamond"]
    assert lines == [[name, COLOURS[i], symbols[i]] for name, i in zip(methods, places, strict=True)]


@pytest.mark.parametrize(
    ("values", "scale"),
    [([1, 2, 3], "log"), ([0, 1, 50], "linear"), ([0, 1, 500], "log"), ([-1, 1, 500], "linear"), ([0, 0, 0], "linear")],
)
def test_vertical_scale_is_logarithmic_where_values_ask_for_it(tmp_path, visit, values, scale):
    seconds = dict(zip([2, 20, 200], values, strict=True))

    def compute(case):
        return Outcome({**outcome(case).values, "seconds": seconds[case["m"]]})

    page = visit(write_report(fill(tmp_path / "s.zarr", SPEC, compute), tmp_path))
    page.select_option("#quantity", label="seconds")
    assert page.locator("#yscale").input_value() == scale
    drawn = [value for value in values if value > 0 or scale == "linear"]
    assert [y for _, y in medians(page)["svd"]] == drawn
    assert ("2 points that are not positive have no place" in page.inner_text("#caption")) == (len(drawn) < 3)


def test_median_is_drawn_though_a_trial_is_zero(tmp_path, visit):
    def compute(case):
        return Outcome({**outcome(case).values, "seconds": case["seed"] * case["m"]})

    page = visit(write_report(fill(tmp_path / "s.zarr", SPEC, compute), tmp_path))
    page.select_option("#quantity", label="seconds")
    assert page.locator("#yscale").input_value() == "log"
    assert medians(page)["svd"] == [(2, 4), (20, 40), (200, 400)]
    band, foot = page.evaluate(
        "(({data, layout}) => [data.find(t => t.meta === 'range').y, layout.yaxis.range[0]])"
        "(document.getElementById('plot'))"
    )
    np.testing.assert_allclose(band[:3], 10**foot)


@pytest.mark.parametrize("power", [0.5, 0.7, 1.5, 6])
def test_logarithmic_ticks_do_not_overlap(tmp_path, visit, power):
    text = """
name: ticks
grid:
  - {function: [gaussian], sampling: [ball-symmetric], m: [2], n: {from: 20, to: 2000, count: 12, scale: log}, r: [5],
     method: [svd], seeds: 1}
"""

    def compute(case):
        return Outcome({**outcome(case).values, "epsilon": case["n"] ** -power, "lower_bound": 0})

    page = visit(write_report(fill(tmp_path / "s.zarr", text, compute), tmp_path), 1600)
    for axis, (start, length) in {"x": ("left", "width"), "y": ("top", "height")}.items():
        boxes = page.eval_on_selector_all(
            f".{axis}tick text",
            f"all => all.map(t => t.getBoundingClientRect()).map(b => [b.{start}, b.{start} + b.{length}])",
        )
        assert len(boxes) >= 2
        assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(sorted(boxes)))


def test_any_axis_can_be_lines_or_horizontal(written, visit):
    page = visit(written)
    page.select_option("#lines", label="r")
    assert list(medians(page)) == ["r = 5", "r = 10"]
    page.select_option("#x", label="r")  # which takes it from the lines
    assert list(medians(page)) == ["svd", "ap"]
    assert [x for x, _ in medians(page)["ap"]] == [5, 10]
    page.select_option("#at-function", label="cauchy")
    page.select_option("#x", label="n")  # a function that was chosen stays
    assert "function = cauchy" in page.inner_text("#caption")


def test_hover_shows_every_seed_and_the_bracket(written, visit):
    page = visit(written)
    point = page.locator("#plot .scatterlayer .point").nth(1)
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.wait_for_selector(".hovertext")
    lines = page.locator(".hovertext tspan.line").all_text_contents()
    assert lines[0] == "svd, m = 20"
    values = [3 * (1 + seed / 50) * 500**-0.5 * 20**0.1 for seed in range(5)]
    bound = 500**-0.5 / 9
    assert lines[2] == f"bracket [{bound:.6g}, {values[2]:.6g}]"
    assert lines[3:] == [f"seed {i}: {value:.6g}  in [{bound:.6g}, {value:.6g}]" for i, value in enumerate(values)]


def test_keyboard_alone_is_enough(written, visit):
    page = visit(written)
    reached = []
    while reached[-1:] != ["line-1"] and len(reached) < 60:
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id"))
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        if reached[-1] == "x":
            before = picture(page)
            page.keyboard.press("ArrowDown")
            page.wait_for_function("document.getElementById('plot').layout.xaxis.title.text.endsWith(' n')")
            assert picture(page) != before
            assert page.evaluate("document.activeElement.id") == "x"
    assert [each for each in reached if each] == [
        "figure", "quantity", "statistic", "x", "xscale", "yscale", "bound", "theory", "lines", "line-0", "line-1",
    ]  # fmt: skip
    page.keyboard.press("Space")
    assert list(medians(page)) == ["svd"]


def test_page_is_described_for_those_who_do_not_see_it(written, visit):
    page = visit(written)
    levels = page.eval_on_selector_all("h1, h2, h3, h4", "all => all.map(each => Number(each.tagName[1]))")
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(below <= above + 1 for above, below in itertools.pairwise(levels))
    assert page.eval_on_selector_all("select, input", "all => all.every(each => each.labels.length === 1)")
    assert page.get_attribute("#plot", "aria-label").startswith("epsilon against m, 2 lines, from ")
    assert page.get_attribute("html", "lang") == "en"


@pytest.mark.parametrize("width", [320, 400, 1600])
def test_nothing_is_wider_than_the_window(written, visit, width):
    page = visit(written, width)
    page.click("summary")
    assert page.evaluate("document.scrollingElement.scrollWidth <= innerWidth")
    plot = page.locator("#plot .main-svg").first.bounding_box()
    assert plot["x"] >= 0
    assert 0.6 * min(width, 1000) < plot["width"] < width


def test_figure_can_be_saved(written, browser):
    page = browser.new_page(accept_downloads=True)
    page.goto(written.as_uri())
    with page.expect_download() as download:
        page.click("#save")
    assert download.value.suggested_filename == "epsilon-against-m.svg"
    assert "latent dimension m" in Path(download.value.path()).read_text()
    page.close()


def test_hostile_labels_and_messages_are_text(tmp_path, visit):
    folder, _, name = f"{HOSTILE}.npy".partition("/")
    (tmp_path / folder).mkdir()
    np.save(tmp_path / folder / name, np.eye(12))
    text = f"""
name: hostile  # {HOSTILE} <!-- <script> &amp;
grid:
  - {{function: {{file: "{HOSTILE}.npy"}}, r: [2, 3], method: [svd, ap], seeds: 3}}
"""

    def compute(case):
        return Outcome(None, f"ValueError: {HOSTILE}") if case["r"] == 3 and case["method"] == "ap" else outcome(case)

    page = visit(write_report(fill(tmp_path / "s.zarr", text, compute, folder=tmp_path), tmp_path))
    page.wait_for_selector("#plot .main-svg")
    page.select_option("#lines", label="method")
    assert page.evaluate("window.hacked") is None
    assert page.locator("img").count() == 0
    assert page.locator("script").count() == 3
    assert page.inner_text("pre.spec").strip() == text.strip()
    assert f"ValueError: {HOSTILE}" in page.inner_text("#status")
    assert f"{HOSTILE}.npy" in page.inner_text("#caption")
    assert f"{HOSTILE}.npy" in page.inner_text("#provenance")


@pytest.mark.parametrize(("ranks", "place"), [("[2, 3]", ".legendtext"), ("[2]", ".xtick text")])
def test_labels_are_not_markup_in_the_figure(tmp_path, visit, ranks, place):
    names = ["<b>bold<b>.npy", "<i>&lt;.npy"]
    for name in names:
        np.save(tmp_path / name, np.eye(12))
    blocks = [f'  - {{function: {{file: "{name}"}}, r: {ranks}, method: [svd], seeds: 1}}' for name in names]
    store = fill(tmp_path / "s.zarr", "\n".join(["name: markup", "grid:", *blocks]), folder=tmp_path)
    page = visit(write_report(store, tmp_path))
    if place == ".legendtext":
        page.select_option("#lines", label="function")
        page.select_option("#yscale", label="linear")  # at m = 0 the values of these tests are 0
    assert page.locator(f"#plot {place}").all_text_contents()[:2] == names


def test_same_store_gives_the_same_bytes(store, written, tmp_path):
    assert write_report(store, tmp_path / "again").read_bytes() == written.read_bytes()


def test_page_is_replaced_whole_or_not_at_all(store, tmp_path, monkeypatch):
    page = tmp_path / "pages.html"
    page.write_text("the page of yesterday")
    with monkeypatch.context() as patch:

        def full(self, content):
            self.touch()
            raise OSError(28, "No space left on device")

        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space left"):
            write_report(store, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["pages.html"]
    assert page.read_text() == "the page of yesterday"
    write_report(store, tmp_path)
    assert page.read_text().startswith("<!DOCTYPE html>")


def test_store_of_which_nothing_is_done_says_so(tmp_path, visit):
    page = visit(write_report(fill(tmp_path / "none.zarr", SPEC, lambda case: None), tmp_path))
    assert "Nothing is done yet" in page.inner_text("#curves")
    assert "0 of 480 cells done, 1 run" in page.inner_text("header")
    assert page.locator("#plot, #controls, #cost").count() == 0


def test_unfinished_trials_are_not_drawn(tmp_path, visit):
    def compute(case):
        return None if case["m"] == 20 and case["seed"] == 3 and case["method"] == "ap" else outcome(case)

    page = visit(write_report(fill(tmp_path / "s.zarr", SPEC, compute), tmp_path))
    assert [x for x, _ in medians(page)["ap"]] == [2, 200]
    assert [x for x, _ in medians(page)["svd"]] == [2, 20, 200]
    assert "1 points of these lines are not complete" in page.inner_text("#caption")


def test_failures_are_told_by_message_and_those_past_the_first_counted(tmp_path, visit):
    def compute(case):
        if case["m"] == 20:
            return Outcome(None, "ValueError: no m = 20 here (mine.py, line 3)")
        text = f"OSError: {case['n']}, {case['r']}, {case['seed']}"  # 20 texts, each of 8 cells
        return Outcome(None, text) if case["m"] == 2 else outcome(case)

    page = visit(write_report(fill(tmp_path / "s.zarr", SPEC, compute), tmp_path))
    text = page.inner_text("#status")
    assert text.count("ValueError: no m = 20 here (mine.py, line 3)") == 1
    assert text.count("OSError: ") == 19
    assert "8 more failed: epsweep export s.zarr cells.csv" in text
    assert "function=gaussian, sampling=ball-symmetric, m=20, n=100, r=5, method=svd, seed=0" in text


def test_large_stores_give_statistics_and_say_so(store, written, tmp_path, visit, monkeypatch):
    monkeypatch.setattr(embedded, "MOST_CELLS", 100)
    small = visit(write_report(store, tmp_path))
    assert "The store has 480 finished cells, more than 100" in small.inner_text("#curves")
    assert medians(small) == medians(visit(written))
    assert "range" in small.evaluate("document.getElementById('plot').data[1].hovertext[0]")
    monkeypatch.setattr(embedded, "_MOST_VALUES", 2 * 96 * 3)
    page = visit(write_report(store, tmp_path / "fewer"))
    assert "Left out of this page for its size: max_norm, iterations" in page.inner_text("#curves")
    monkeypatch.setattr(embedded, "_MOST_VALUES", 96)
    assert "too many finished cells for a page" in visit(write_report(store, tmp_path / "none")).inner_text("#curves")


def results(experiment: Experiment) -> xr.Dataset:
    """Results of an experiment as it may be, with labels that it never checked."""
    kinds = {str: ["a", "b"], int: [1, 2, 3], float: [0.25, 0.5, 1e-3]}
    labels = {axis.name: kinds[axis.kind] for axis in experiment.axes}
    shape = [len(each) for each in labels.values()]
    values = np.random.default_rng(0).uniform(0.1, 1, shape)
    variables = {
        quantity.name: (list(labels), (values * 9).astype(quantity.dtype)) for quantity in experiment.quantities
    }
    status = (list(labels), np.full(shape, Status.DONE, dtype=np.int8))
    attributes = {
        "title": f"{experiment.summary}: any",
        "sessions": json.dumps([{"started": "2026-01-01T00:00:00+00:00", "spec": "name: any"}]),
        **identity(experiment, {"svd": {"driver": "auto"}}),
    }
    ds = xr.Dataset({**variables, "status": status}, labels, attributes)
    return ds.sortby([axis.name for axis in experiment.axes if axis.kind is not str])


FRACTIONS = replace(
    APPROXIMATION,
    name="fractions",
    axes=tuple(replace(axis, kind=float) if axis.name == "m" else axis for axis in APPROXIMATION.axes),
    quantities=tuple(each for each in APPROXIMATION.quantities if each.name not in ("lower_bound", "guarantee")),
)
FEW = replace(
    APPROXIMATION,
    name="few",
    axes=tuple(axis for axis in APPROXIMATION.axes if axis.name in ("function", "n")),
    quantities=APPROXIMATION.quantities[:1],
    theory=(),
)


@pytest.mark.parametrize("experiment", [*EXPERIMENTS.values(), FRACTIONS, FEW], ids=lambda each: each.name)
def test_page_shows_any_experiment(experiment, tmp_path, visit):
    path = tmp_path / "any.html"
    path.write_text(report_page("any.zarr", results(experiment), experiment), encoding="utf-8")
    page = visit(path)
    quantities = page.locator("#quantity option").all_inner_texts()
    assert quantities[0] == experiment.main
    assert set(quantities) == {each.name for each in experiment.quantities}
    numeric = [axis for axis in experiment.axes if axis.kind is not str and axis.name != "seed"]
    for axis in numeric:
        page.select_option("#x", label=axis.name)
        labels = [0.001, 0.25, 0.5] if axis.kind is float else [1, 2, 3]
        assert medians(page)
        for points in medians(page).values():
            assert [x for x, _ in points] == labels


def test_findings_stand_in_sections_of_their_own(store, tmp_path, visit):
    page = tmp_path / "found.html"
    found = [
        Finding("Fits", "slope in r", -0.503, (-0.52, -0.49), "-1/2 (<b>001</b>, section 7)", "gaussian", 0.95),
        Finding("Theory", "rank at 0.1", float("nan"), None, "30002", "n = 10^7"),
        Finding("Fits", "slope in n", 0.1, None, "slow growth", "cauchy"),
    ]
    page.write_text(report_page("s.zarr", open_results(store), APPROXIMATION, found), encoding="utf-8")
    opened = visit(page)
    assert [title for title in opened.locator("h2").all_inner_texts() if title in ("Fits", "Theory")] == [
        "Fits",
        "Theory",
    ]
    assert opened.locator("#findings-1 tbody tr:visible").count() == 0
    for summary in opened.locator("section[id^=findings] summary").all():
        summary.click()
    assert "95 % confidence interval" in opened.locator("#findings-1 th").all_inner_texts()
    rows = [row.locator("td").all_inner_texts() for row in opened.locator("#findings-1 tbody tr").all()]
    assert rows == [
        ["slope in r", "gaussian", "-1/2 (<b>001</b>, section 7)", "-0.503", "[-0.52, -0.49]"],
        ["slope in n", "cauchy", "slow growth", "0.1", "–"],
    ]
    assert opened.locator("#findings-2 tbody td").all_inner_texts()[-2:] == ["–", "–"]


def test_findings_are_grouped_by_kind_and_folded(store, tmp_path, visit):
    found = [Finding("Fits", f"fit {i % 2}", i, None, "1", f"curve {i}") for i in range(45)]
    path = tmp_path / "found.html"
    path.write_text(report_page("s.zarr", open_results(store), APPROXIMATION, found), encoding="utf-8")
    page = visit(path)
    assert page.locator("h2").all_inner_texts()[:3] == ["Curves", "What was swept", "Fits"]
    summaries = ["fit 0: 0 to 44 (23 curves); expected: 1", "fit 1: 1 to 43 (22 curves); expected: 1"]
    assert page.locator("#findings-1 summary").all_inner_texts() == summaries
    assert page.locator("#findings-1 tbody tr:visible").count() == 0
    page.locator("#findings-1 summary").last.focus()
    page.keyboard.press("Enter")
    names = [row.locator("td").nth(1).inner_text() for row in page.locator("#findings-1 tbody tr:visible").all()]
    assert names == [f"curve {i}" for i in range(1, 45, 2)]


def test_tables_scroll_and_keep_words_whole(store, tmp_path, visit):
    where = "function = gaussian, sampling = ball-symmetric, m = 1000, tolerance = 0.0001, method = minimax"
    found = [
        Finding("Fits", "power of n in rank", 1, (0.5, 1.5), "towards zero (Udell and Townsend)", where, 0.95),
        Finding("Fits", "digest", 1, None, "", "0123456789abcdef" * 4),
    ]
    path = tmp_path / "found.html"
    path.write_text(report_page("s.zarr", open_results(store), APPROXIMATION, found), encoding="utf-8")
    page = visit(path, 400)
    for summary in page.locator("#findings-1 summary").all():
        summary.click()
    broken = page.evaluate("""[...document.querySelectorAll('td, th')].flatMap(cell => {
        const text = cell.firstChild;
        return [...(text?.data ?? '').matchAll(/\\p{L}{2,25}(?![\\p{L}\\d])/gu)].filter(({ index, 0: word }) => {
            const range = document.createRange();
            range.setStart(text, index);
            range.setEnd(text, index + word.length);
            return range.getClientRects().length > 1;
        }).map(([word]) => word);
    })""")
    assert broken == []
    assert page.locator("#findings-1 td", has_text="0123456789abcdef").bounding_box()["width"] < 400
    page.evaluate("document.querySelector('#findings-1 .scroll').scrollLeft = 9999")
    interval = page.locator("#findings-1 td", has_text="[0.5, 1.5]").bounding_box()
    assert 0 < interval["x"] < interval["x"] + interval["width"] <= 400


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.zarr", "--out", "d"], "nowhere.zarr does not exist"),
        (["folder", "--out", "d"], "folder is not a result store"),
        (["pages.zarr"], "Missing option '--out'"),
        (["pages.zarr", "--out", "file"], "out: file cannot be written (File exists); name another place"),
        (["pages.zarr", "--out", "/proc/none"], "out: /proc/none cannot be written"),
    ],
)
def test_bad_input_is_one_line(store, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pages.zarr").symlink_to(store)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as exit_:
        main(["report", *arguments])
    line = capsys.readouterr().err
    assert exit_.value.code == 2
    assert line.startswith("epsweep: ")
    assert line.count("\n") == 1
    assert message in line


def test_command_names_the_page_it_wrote(store, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(store.parent)
    main(["report", "pages.zarr", "--out", str(tmp_path / "new" / "folder")])
    assert capsys.readouterr().out == f"{tmp_path}/new/folder/pages.html\n"
    main(["report", "--help"])
    assert "epsweep report results/quickstart.zarr --out report" in capsys.readouterr().out
