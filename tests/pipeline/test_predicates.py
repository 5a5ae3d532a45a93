"""The language of `where`: the same truth as Python's, and nothing but comparisons of the axes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.predicates import Predicate

KINDS = {"method": str, "m": int, "n": int, "r": int, "seed": int}
LABELS = {
    "method": np.array(["svd", "ap"]),
    "m": np.array([1, 2, 7]),
    "n": np.array([5, 20, 300]),
    "r": np.array([1, 3, 20]),
    "seed": np.array([0, 4]),
}
GRID = dict(zip(LABELS, np.ix_(*LABELS.values()), strict=True))
SHAPE = tuple(map(len, LABELS.values()))
NAMES = {"sqrt": math.sqrt, "log": math.log, "abs": abs, "min": min, "max": max, "__builtins__": {}}


def evaluated(text: str) -> np.ndarray:
    """The predicate on the whole grid."""
    return np.broadcast_to(Predicate(text, KINDS)(GRID), SHAPE)


def by_python(text: str) -> np.ndarray:
    """Python's own evaluation, one combination of labels at a time."""
    code = compile(text, "where", "eval")
    truth = np.empty(SHAPE, dtype=bool)
    for cell in np.ndindex(*SHAPE):
        labels = {axis: values[i].item() for (axis, values), i in zip(LABELS.items(), cell, strict=True)}
        truth[cell] = eval(code, NAMES, {a: v if isinstance(v, str) else float(v) for a, v in labels.items()})
    return truth


# --- oracle: Python

axes = st.sampled_from(["m", "n", "r", "seed"])
constants = st.integers(0, 20).map(str) | st.sampled_from(["0.5", "2.25", "1e3", "1_0"])


def larger_numbers(smaller: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return (
        st.tuples(smaller, st.sampled_from("+-*"), smaller).map("({0[0]} {0[1]} {0[2]})".format)
        | st.tuples(smaller, st.sampled_from(["/", "//", "%"]), smaller).map("({0[0]} {0[1]} (1 + abs({0[2]})))".format)
        | st.tuples(st.sampled_from(["min", "max"]), smaller, smaller).map("{0[0]}({0[1]}, {0[2]})".format)
        | smaller.map("-{}".format)
        | smaller.map("abs({})".format)
        | smaller.map("sqrt(abs({}))".format)
        | smaller.map("({}) ** 2".format)
    )


numbers = st.recursive(axes | constants, larger_numbers, max_leaves=4)
operators = st.sampled_from(["<", "<=", ">", ">=", "==", "!="])
texts = st.sampled_from(["method", "'svd'", "'ap'", "'a'", "''"])
comparisons = (
    st.tuples(numbers, operators, numbers).map(" ".join)
    | st.tuples(numbers, operators, numbers, operators, numbers).map(" ".join)
    | st.tuples(numbers, st.sampled_from(["in", "not in"]), st.lists(constants, min_size=1, max_size=3)).map(
        lambda parts: f"{parts[0]} {parts[1]} ({', '.join(parts[2])},)"
    )
    | st.tuples(texts, operators, texts).map(" ".join)
    | st.lists(st.sampled_from(["'svd'", "'ap'", "'qr'"]), min_size=1).map(lambda of: f"method in [{', '.join(of)}]")
    | st.sampled_from(["True", "False"])
)


def larger_conditions(smaller: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return (
        st.lists(smaller, min_size=2, max_size=3).map(lambda parts: f"({' and '.join(parts)})")
        | st.lists(smaller, min_size=2, max_size=3).map(lambda parts: f"({' or '.join(parts)})")
        | smaller.map("(not {})".format)
    )


conditions = st.recursive(comparisons, larger_conditions, max_leaves=5).filter(lambda text: len(text) <= 1000)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(text=conditions)
def test_predicate_says_of_every_combination_what_python_says(text):
    assert np.array_equal(evaluated(text), by_python(text))


@pytest.mark.parametrize(
    "text",
    [
        "r <= n / 4",
        "  r <= n/2 and method != 'svd'  ",
        "not (m == 2 or seed in (4,)) and 1 <= r < n <= 300",
        "r in [1, 20] and m not in (7, 1)",
        "method == 'ap' or r * m % 3 == 0",
        "log(n) > 1.5 and +r > -1",
        "(r < 2) == (m < 2)",
        "2 ** r <= n",
    ],
)
def test_expressions_as_people_write_them(text):
    assert np.array_equal(evaluated(text), by_python(text.strip()))
    assert evaluated(text).sum() > 0


@pytest.mark.parametrize(
    "text", ["r / 0 > 1", "r // 0 < 1", "r % 0 < 1", "log(0 - r) < 1", "sqrt(-r) < 1", "0 / 0 == 0"]
)
def test_arithmetic_without_a_value_neither_warns_nor_raises(text):
    assert evaluated(text).dtype == bool


@pytest.mark.parametrize("text", ["r in (m, 20)", "m in (r, n)", "r not in (m, n)", "method in ('ap', method)"])
def test_membership_among_axes_is_taken_cell_by_cell(text):
    assert np.array_equal(evaluated(text), by_python(text))


@pytest.mark.parametrize(
    ("text", "truth"), [("r / 0 > 1", True), ("10 ** 400 > r", True), ("0 / 0 == 0", False), ("r < 1e999", True)]
)
def test_infinite_values_compare_as_infinity(text, truth):
    assert np.all(evaluated(text) == truth)


@pytest.mark.parametrize("digits", [20, 308, 400, 900])
def test_integer_of_any_length_compares_as_a_number(digits):
    assert evaluated(f"r < {'9' * digits}").all()


def test_names_are_those_of_the_experiment_alone():
    assert np.array_equal(Predicate("rank > 2", {"rank": int})({"rank": np.array([1, 3])}), [False, True])
    with pytest.raises(InputError, match=r"'r' is not an axis; .* of rank$"):
        Predicate("r > 2", {"rank": int})


# --- what is not part of the language

REFUSED = [
    ("__import__('os').system('true') == 0", "__import__"),
    ("open('/etc/passwd') == 1", "open"),
    ("print(r) < 1", "print"),
    ("r.real < 1", "r.real"),
    ("method.upper() == 'SVD'", "method.upper"),
    ("n.__class__ == 1", "__class__"),
    ("r[0] < 1", "r[0]"),
    ("'svd'[0] == 's'", "'svd'[0]"),
    ("(lambda: r)() < 1", "lambda"),
    ("lambda r: r < 1", "lambda"),
    ("[x for x in (1, 2)] == r", "[x for x in (1, 2)]"),
    ("r in [x for x in (1, 2)]", "[x for x in (1, 2)]"),
    ("min(x for x in (1, 2)) < r", "min"),
    ("{1: 2} == r", "{1: 2}"),
    ("r in {1, 2}", "{1, 2}"),
    ("f'{r}' == method", "r"),
    ("b'svd' == method", "svd"),
    ("(1 if r < 2 else 3) < 2", "if"),
    ("(q := r) < 2", ":="),
    ("r & 1 == 1", "&"),
    ("r << 1 > 1", "<<"),
    ("~r < 1", "~r"),
    ("r @ n < 1", "@"),
    ("1j < r", "1j"),
    ("... == r", "..."),
    ("None == r", "None"),
    ("r is n", "n"),
    ("r is not 1", "1"),
    ("q < 2", "'q'"),
    ("sqrt < 2", "sqrt"),
    ("r == 'svd'", "svd"),
    ("method == 5", "5"),
    ("method < 5", "5"),
    ("5 < method", "method"),
    ("r < 1 < method", "method"),
    ("method + method == 'svdsvd'", "method"),
    ("-method == 'svd'", "method"),
    ("abs(method) < 1", "method"),
    ("'5' * 3 == '555'", "'5'"),
    ("method in (1, 2)", "1"),
    ("r in ('svd', 'ap')", "svd"),
    ("r in (1, 'svd')", "svd"),
    ("r in n", "n"),
    ("r in 5", "5"),
    ("r in ()", "()"),
    ("r in method", "method"),
    ("'s' in 'svd'", "svd"),
    ("1 < r in (2, 3)", "(2, 3)"),
    ("r < True", "True"),
    ("not r", "r"),
    ("r and m", "r"),
    ("r < 2 and m", "m"),
    ("r < 2 or 'svd'", "svd"),
    ("r", "r"),
    ("5", "5"),
    ("'svd'", "svd"),
    ("r, m", "r, m"),
    ("min(r) < 2", "min(r)"),
    ("min(r, m, n) < 2", "min(r, m, n)"),
    ("sqrt(r, 2) < 3", "sqrt(r, 2)"),
    ("sqrt() < 3", "sqrt()"),
    ("min(r, x=m) < 2", "min(r, x=m)"),
    ("min(*r) < 2", "min(*r)"),
    ("", "''"),
    ("   ", "cannot be read"),
    ("r <", "r <"),
    ("r = 1", "r = 1"),
    ("r <= n;", "r <= n;"),
    ("import os", "import os"),
    ("r < 1\nm < 2", "r < 1"),
    ("r < 1\0", "r < 1"),
    ("(r < 1", "(r < 1"),
    ("r ≤ n", "≤"),
    ("r <= n && m < 2", "&&"),
]


@pytest.mark.parametrize(("text", "told"), REFUSED, ids=[text.strip()[:40] for text, _ in REFUSED])
def test_what_is_not_of_the_language_is_refused_by_name(text, told):
    with pytest.raises(InputError) as caught:
        Predicate(text, KINDS)
    message = str(caught.value)
    assert told in message
    assert "method, m, n, r, seed" in message
    assert "\n" not in message
    assert len(message) < 600


def test_refused_expression_is_never_executed(tmp_path):
    victim = tmp_path / "victim"
    with pytest.raises(InputError):
        Predicate(f"__import__('pathlib').Path({str(victim)!r}).touch() is None", KINDS)
    assert not victim.exists()


def test_expression_that_is_too_long_is_refused_with_its_length():
    text = "r < 1 or " * 200 + "r < 1"
    with pytest.raises(InputError, match=f"{len(text)} characters are more than the 1000"):
        Predicate(text, KINDS)


@pytest.mark.parametrize("text", ["x" * 900 + " < 2", "r < " + "m + " * 240 + "method", "r + " * 240 + "n", "9" * 950])
def test_long_expression_is_refused_in_a_short_message(text):
    with pytest.raises(InputError) as caught:
        Predicate(text, KINDS)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "nested",
    [
        lambda depth: "-" * depth + "r < 1",
        lambda depth: "not " * (depth // 4) + "r < 1",
        lambda depth: "(" * (depth // 2) + "r < 1" + ")" * (depth // 2),
        lambda depth: "r" + "+r" * (depth // 2) + " < 1",
        lambda depth: "abs(" * (depth // 5) + "r" + ")" * (depth // 5) + " < 1",
        lambda depth: "r < " + "2**" * (depth // 3) + "2",
    ],
    ids=["minus", "not", "parentheses", "sum", "calls", "powers"],
)
def test_any_depth_of_nesting_is_evaluated_or_refused(nested):
    answers = set()
    for depth in range(900, 995, 7):
        try:
            predicate = Predicate(nested(depth), KINDS)
        except InputError:
            answers.add("refused")
        else:
            assert predicate(GRID).dtype == bool
            answers.add("evaluated")
    assert answers
