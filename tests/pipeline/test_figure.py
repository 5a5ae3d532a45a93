"""Figures of a specification: what may be left out is completed, what is wrong is refused in one line."""

import pytest

from pipeline.errors import InputError
from pipeline.experiments import EXPERIMENTS
from pipeline.figure import Figure
from pipeline.grid import declared_figures, parse_sweep
from tests.support import BLOCK

APPROXIMATION = EXPERIMENTS["approximation"]
NAMES = ["function", "sampling", "method"]


def spec(figures: str) -> str:
    """YAML text with a section of figures."""
    return (
        f"name: t\nfigures: {figures}\ngrid:\n  - {{{', '.join(f'{key}: {value}' for key, value in BLOCK.items())}}}\n"
    )


def one(**fields: str) -> str:
    """A list of one figure."""
    entries = {"name": "a", "x": "r"} | fields
    return f"[{{{', '.join(f'{key}: {value}' for key, value in entries.items() if value)}}}]"


def refused(figures: str) -> str:
    with pytest.raises(InputError) as caught:
        parse_sweep(spec(figures))
    return str(caught.value)


def test_what_is_left_out_is_completed():
    (figure,) = parse_sweep(spec(one())).figures
    assert figure == Figure(
        name="a",
        x="r",
        y="epsilon",
        beside=[],
        lines="method",
        panels=["function", "sampling"],
        at={},
        where="",
        statistic="median",
        x_scale="log",
        y_scale="log",
        y_least=None,
        slope=None,
        theory=[],
    )


@pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_every_experiment_completes_a_figure_of_an_axis_alone(experiment):
    for axis in (axis.name for axis in experiment.axes if axis.numeric and axis.name != "seed"):
        figure = Figure(name="a", x=axis).complete(experiment)
        assert figure.y == experiment.main
        assert {figure.lines, *figure.panels} == {axis.name for axis in experiment.axes if not axis.numeric}
        assert figure.complete(experiment) == figure  # nothing more to say


@pytest.mark.parametrize(
    ("fields", "lines", "panels"),
    [
        ({"panels": "[method, sampling]"}, "function", ["method", "sampling"]),
        ({"lines": "function"}, "function", ["sampling", "method"]),
        ({"lines": "n"}, "n", NAMES),
        ({"at": "{method: svd}"}, "sampling", ["function"]),
        ({"at": "{method: svd, n: 40}", "lines": "m"}, "m", ["function", "sampling"]),
        ({"panels": "[n]", "lines": "method", "at": "{function: gaussian, sampling: ball-symmetric}"}, "method", ["n"]),
        ({"panels": "null"}, "method", ["function", "sampling"]),
    ],
)
def test_lines_and_panels_are_the_axes_of_names_that_are_free(fields, lines, panels):
    (figure,) = parse_sweep(spec(one(**fields))).figures
    assert (figure.lines, figure.panels) == (lines, panels)


def test_everything_that_is_said_is_kept():
    text = (
        "[{name: a.b-c_1, x: m, y: lower_bound, lines: r, panels: [function, method, n], at: {sampling: ball-symmetric}"
        ", beside: [max_norm], where: r <= n / 2, statistic: max, x_scale: linear, y_scale: linear, y_least: 1e-3"
        ", slope: -1, only: {m: [2]}, y_share: false}]"
    )
    (figure,) = parse_sweep(spec(text)).figures
    assert figure.model_dump() == {
        "name": "a.b-c_1",
        "x": "m",
        "y": "lower_bound",
        "beside": ["max_norm"],
        "lines": "r",
        "panels": ["function", "method", "n"],
        "at": {"sampling": "ball-symmetric"},
        "only": {"m": [2]},
        "y_share": False,
        "where": "r <= n / 2",
        "statistic": "max",
        "x_scale": "linear",
        "y_scale": "linear",
        "y_least": 0.001,
        "slope": -1.0,
        "theory": [],
    }


AXES = "m, n, r, function, sampling, method"
# figures, start of the message, what else it must say
BAD = {
    "unknown x": (one(x="q"), "figures[0].x: 'q'", "use one of m, n, r"),
    "trials for x": (one(x="seed"), "figures[0].x: 'seed'", "use one of m, n, r"),
    "names for x": (one(x="method"), "figures[0].x: 'method'", "use one of m, n, r"),
    "no x": (one(x=""), "figures[0].x: is missing", "add it"),
    "x twice": (one(x="[r, n]"), "figures[0].x: ['r', 'n']", "string"),
    "unknown lines": (one(lines="q"), "figures[0].lines: 'q'", f"use one of {AXES}"),
    "trials for lines": (one(lines="seed"), "figures[0].lines: 'seed'", f"use one of {AXES}"),
    "unknown panels": (one(panels="[function, q]"), "figures[0].panels: 'q'", f"use one of {AXES}"),
    "panels not a list": (one(panels="function"), "figures[0].panels: 'function'", "list"),
    "unknown at": (one(at="{q: 3}"), "figures[0].at: 'q'", f"use one of {AXES}"),
    "at not a mapping": (one(at="[n]"), "figures[0].at: ['n']", "dictionary"),
    "a list held": (one(at="{n: [40]}"), "figures[0].at.n: [40] is not one label", "write the number or name"),
    "a truth held": (one(at="{n: true}"), "figures[0].at.n: True is not one label", "write the number or name"),
    "nothing drawn of an axis": (one(only="{n: []}"), "figures[0].only.n: [] is empty", "list each label"),
    "a label drawn twice": (one(only="{n: [40, 40]}"), "figures[0].only.n: [40, 40] names a label twice", "once"),
    "only of no axis": (one(only="{q: [3]}"), "figures[0].only: 'q'", f"use one of {AXES}"),
    "only of what is held": (one(at="{n: 40}", only="{n: [40]}"), "figures[0].only: 'n'", "use one of m, r"),
    "where of no axis": (one(where="q < 3"), "figures[0].where: 'q' is not an axis", "write comparisons such as"),
    "where of trials": (one(where="seed < 3"), "figures[0].where: 'seed' is not an axis", "write comparisons such as"),
    "where that is no comparison": (one(where="n + 1"), "figures[0].where: 'n + 1' is not a comparison", "write"),
    "unknown quantity beside": (
        one(beside="[speed]"),
        "figures[0].beside: 'speed'",
        "use one of lower_bound, max_norm",
    ),
    "y beside itself": (one(beside="[epsilon]"), "figures[0].beside: 'epsilon'", "use one of lower_bound, max_norm"),
    "a quantity beside twice": (one(beside="[max_norm, max_norm]"), "figures[0].beside: 'max_norm'", "name it once"),
    "a bound twice": (one(theory="[embedding, embedding]"), "figures[0].theory: 'embedding'", "name it once"),
    "unknown y": (one(y="speed"), "figures[0].y: 'speed'", "use one of epsilon, lower_bound"),
    "unknown theory": (one(theory="[magic]"), "figures[0].theory: 'magic'", "use one of embedding, identity_limit"),
    "theory of another y": (
        one(y="max_norm", theory="[embedding]"),
        "figures[0].theory: 'embedding'",
        "leave it out",
    ),
    "x and lines": (one(lines="r"), "figures[0].lines: 'r' stands in x already", "once"),
    "x and panels": (one(panels="[function, sampling, r]"), "figures[0].panels: 'r' stands in x already", "once"),
    "x and at": (one(at="{r: 2}"), "figures[0].at: 'r' stands in x already", "once"),
    "lines and panels": (
        one(lines="method", panels="[method]"),
        "figures[0].panels: 'method' stands in lines already",
        "once",
    ),
    "lines and at": (one(lines="n", at="{n: 40}"), "figures[0].at: 'n' stands in lines already", "once"),
    "panels and at": (
        one(panels="[function, sampling]", at="{sampling: ball-symmetric}"),
        "figures[0].at: 'sampling' stands in panels already",
        "once",
    ),
    "a panel twice": (
        one(panels="[function, sampling, function]"),
        "figures[0].panels: 'function' stands in panels already",
        "once",
    ),
    "names nowhere": (
        one(panels="[function]"),
        "figures[0].panels: sampling is named nowhere",
        "add it to panels, lines or at",
    ),
    "no panels": (one(panels="[]"), "figures[0].panels: function is named nowhere", "add it to panels, lines or at"),
    "no axis left for lines": (
        one(panels="[method, function, sampling]"),
        "figures[0].lines: panels and at hold every axis of names",
        "name an axis of numbers",
    ),
    "two of one name": ("[{name: a, x: r}, {name: a, x: n}]", "figures: a is the name of two", "name each another way"),
    "name with a blank": (one(name="'a b'"), "figures[0].name: 'a b'", "letters, digits"),
    "name that leads elsewhere": (one(name="../a"), "figures[0].name: '../a'", "letters, digits"),
    "empty name": (one(name="''"), "figures[0].name: ''", "letters, digits"),
    "name that is a number": (one(name="5"), "figures[0].name: 5", "string"),
    "no name": (one(name=""), "figures[0].name: is missing", "add it"),
    "NaN slope": (one(slope=".nan"), "figures[0].slope: nan", "finite"),
    "infinite slope": (one(slope="-.inf"), "figures[0].slope: -inf", "finite"),
    "slope in words": (one(slope="steep"), "figures[0].slope: 'steep'", "number"),
    "y_least of nothing": (one(y_least="0"), "figures[0].y_least: 0", "greater than 0"),
    "NaN y_least": (one(y_least=".nan"), "figures[0].y_least: nan", "finite"),
    "misspelt key": (one(x_sclae="log"), "figures[0].x_sclae: is not a known key", "did you mean x_scale?"),
    "unknown key": (one(colour="red"), "figures[0].colour: is not a known key", "use one of name, x, y, beside, lines"),
    "unknown scale": (one(x_scale="cubic"), "figures[0].x_scale: 'cubic'", "'log' or 'linear'"),
    "unknown statistic": (one(statistic="mean"), "figures[0].statistic: 'mean'", "'median' or 'max'"),
    "a mapping": ("{name: a, x: r}", "figures: {'name': 'a', 'x': 'r'}", "list"),
    "a text": ("words", "figures: 'words'", "list"),
    "nothing": ("", "figures: None", "list"),
    "a number in the list": ("[5]", "figures[0]: 5", "dictionary"),
    "the second": ("[{name: a, x: r}, {name: b, x: q}]", "figures[1].x: 'q'", "use one of m, n, r"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_figures_are_refused_in_one_line_that_names_the_place_the_value_and_the_remedy(case):
    figures, start, remedy = BAD[case]
    message = refused(figures)
    assert message.startswith(start)
    assert remedy in message
    assert message.isprintable()  # one line
    assert len(message) < 300


@pytest.mark.parametrize("case", BAD)
def test_bad_figures_in_the_text_of_a_store_are_refused_alike(case):
    figures, start, remedy = BAD[case]
    with pytest.raises(InputError) as caught:
        declared_figures(spec(figures), APPROXIMATION)
    assert start.replace("figures", "", 1) in str(caught.value)
    assert remedy in str(caught.value)


def test_where_that_leaves_no_cell_is_refused():
    assert refused(one(where="m > n")).startswith("figures[0].where: 'm > n' leaves no cell; loosen it")


def test_where_that_leaves_several_labels_at_one_place_is_refused():
    text = spec(one(x="n", where="r <= n / 2 and m > 0")).replace("r: [2, 4]", "r: [2, 4]")
    with pytest.raises(
        InputError, match=r"figures\[0\].where: .* leaves several labels of [mr] at one place; narrow it"
    ):
        parse_sweep(text)


def test_axes_that_only_where_names_follow_the_others():
    experiment = EXPERIMENTS["spectrum"]
    figure = Figure(name="a", x="n", where="m * m == n and n > 3 and function != 'relu'").complete(experiment)
    assert figure.followers(experiment) == ["m"]
    assert Figure(name="a", x="n", where="m * m == n", at={"m": 3}).complete(experiment).followers(experiment) == []
    assert Figure(name="a", x="n").complete(experiment).followers(experiment) == []


def test_experiment_without_theory_says_so():
    with pytest.raises(InputError, match="theory: 'embedding' is not known here; leave it out, there is none"):
        Figure(name="a", x="r", theory=["embedding"]).complete(EXPERIMENTS["attention"])


def test_declared_figures_are_those_of_the_sweep():
    text = spec("[{name: a, x: r, at: {n: 40}}, {name: b, x: m, lines: r, y_least: 1e-4, theory: [embedding]}]")
    assert declared_figures(text, APPROXIMATION) == parse_sweep(text).figures
    assert [figure.name for figure in parse_sweep(text).figures] == ["a", "b"]


def test_specification_without_figures_declares_none():
    text = spec("[]")
    assert parse_sweep(text).figures == ()
    assert declared_figures(text, APPROXIMATION) == ()
    assert declared_figures(text.replace("figures: []\n", ""), APPROXIMATION) == ()
