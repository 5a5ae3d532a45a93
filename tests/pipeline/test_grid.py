"""Specifications: the labels they mean and the cells they want."""

import itertools
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.grid import Sweep, load_sweep, parse_sweep

BLOCK = {
    "function": ["gaussian"],
    "sampling": ["ball-symmetric"],
    "m": [2],
    "n": [40],
    "r": [2, 4],
    "method": ["svd"],
    "seeds": 3,
}
AXES = ["function", "sampling", "m", "n", "r", "method", "seed"]


def spec(*blocks: dict[str, object], **top: object) -> str:
    """A specification whose blocks are the basic one with changes."""
    document = {"name": "tiny", "experiment": "approximation", **top}
    return yaml.safe_dump({**document, "grid": [{**BLOCK, **block} for block in blocks or [{}]]})


def cells(sweep: Sweep) -> set[tuple[object, ...]]:
    """Labels of the wanted cells."""
    return {tuple(sweep.case(cell)[axis] for axis in AXES) for cell in np.argwhere(sweep.wanted)}


def product(**changes: object) -> set[tuple[object, ...]]:
    """The cells of one block, by the book."""
    block = {**BLOCK, **changes}
    seeds = block.pop("seeds")
    block["seed"] = range(seeds) if isinstance(seeds, int) else seeds
    return set(itertools.product(*(block[axis] for axis in AXES)))


# --- oracle: the product of the lists


def test_one_block_wants_the_product_of_its_lists():
    lists = {"function": ["gaussian", "cauchy"], "m": [3, 1, 2], "method": ["ap", "svd"], "r": [1, 40], "seeds": [7, 0]}
    sweep = parse_sweep(spec(lists))
    assert cells(sweep) == product(**lists)
    assert sweep.wanted.all()
    assert sweep.wanted.shape == (2, 1, 3, 1, 2, 2, 2)


def test_integer_labels_are_sorted_and_names_keep_their_order():
    sweep = parse_sweep(spec({"m": [10, 2, 5], "function": ["gaussian", "cauchy"], "seeds": [3, 1]}))
    assert list(sweep.labels) == AXES
    assert sweep.labels["m"] == (2, 5, 10)
    assert sweep.labels["function"] == ("gaussian", "cauchy")
    assert sweep.labels["seed"] == (1, 3)


def test_seeds_are_a_count_or_a_list():
    assert parse_sweep(spec({"seeds": 4})).labels["seed"] == (0, 1, 2, 3)
    assert parse_sweep(spec({"seeds": [0, 1, 2, 3]})).labels["seed"] == (0, 1, 2, 3)
    assert parse_sweep(spec({"seeds": [9]})).labels["seed"] == (9,)


@pytest.mark.parametrize(
    ("where", "holds"),
    [
        ("r <= n / 4", lambda c: c["r"] <= c["n"] / 4),
        ("method == 'svd' or r < 4", lambda c: c["method"] == "svd" or c["r"] < 4),
        ("seed in (0, 2) and not m == 5", lambda c: c["seed"] in (0, 2) and c["m"] != 5),
        ("n == 40", lambda c: c["n"] == 40),
        ("True", lambda c: True),
    ],
)
def test_where_leaves_the_cells_for_which_it_holds(where, holds):
    lists = {"m": [2, 5], "n": [8, 40], "r": [2, 4, 8], "method": ["svd", "ap"]}
    sweep = parse_sweep(spec({**lists, "where": where}))
    expected = {cell for cell in product(**lists) if holds(dict(zip(AXES, cell, strict=True)))}
    assert cells(sweep) == expected
    assert len(expected) == sweep.wanted.sum()


def test_null_where_leaves_everything():
    assert cells(parse_sweep(spec({"where": None}))) == product()


def test_where_makes_room_for_ranks_above_the_size():
    sweep = parse_sweep(spec({"n": [10, 40], "r": [5, 20], "where": "r <= n"}))
    assert cells(sweep) == product(n=[10, 40], r=[5, 20]) - product(n=[10], r=[20])


# --- several blocks


def test_blocks_are_united_and_their_overlap_is_counted_once():
    first, second = {"m": [2, 3], "r": [1, 2]}, {"m": [3, 9], "r": [2, 5], "method": ["ap", "svd"]}
    sweep = parse_sweep(spec(first, second))
    expected = product(**first) | product(**second)
    assert cells(sweep) == expected
    assert sweep.wanted.sum() == len(expected) < len(product(**first)) + len(product(**second))
    assert sweep.labels["m"] == (2, 3, 9)


def test_where_of_one_block_does_not_touch_another():
    sweep = parse_sweep(spec({"m": [2, 3], "where": "m == 3"}, {"m": [2], "r": [9]}))
    assert cells(sweep) == product(m=[3]) | product(m=[2], r=[9])


def test_a_block_given_twice_changes_nothing():
    assert cells(parse_sweep(spec({}, {}))) == cells(parse_sweep(spec({})))


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    blocks=st.lists(
        st.fixed_dictionaries(
            {
                "m": st.lists(st.integers(1, 6), min_size=1, max_size=3, unique=True),
                "r": st.lists(st.integers(1, 6), min_size=1, max_size=3, unique=True),
                "method": st.permutations(["svd", "ap"]).flatmap(lambda two: st.sampled_from([two, two[:1]])),
                "seeds": st.integers(1, 3) | st.lists(st.integers(0, 4), min_size=1, max_size=2, unique=True),
            }
        ),
        min_size=1,
        max_size=4,
    )
)
def test_any_blocks_want_the_union_of_their_products_in_any_order(blocks):
    expected = set().union(*(product(**block) for block in blocks))
    assert cells(parse_sweep(spec(*blocks))) == expected
    assert cells(parse_sweep(spec(*reversed(blocks)))) == expected


# --- ranges


@settings(derandomize=True, deadline=None, max_examples=150)
@given(ends=st.lists(st.integers(1, 5000), min_size=2, max_size=2, unique=True).map(sorted), data=st.data())
@pytest.mark.parametrize("scale", ["linear", "log"])
def test_range_runs_evenly_from_end_to_end(scale, ends, data):
    start, stop = ends
    count = data.draw(st.integers(2, min(stop - start + 1, 40)))
    labels = parse_sweep(spec({"m": {"from": start, "to": stop, "count": count, "scale": scale}})).labels["m"]
    steps = [k / (count - 1) for k in range(count)]
    if scale == "linear":
        exact = [start + (stop - start) * step for step in steps]
        assert len(labels) == count
    else:
        exact = [start * (stop / start) ** step for step in steps]
        assert 2 <= len(labels) <= count
    assert (labels[0], labels[-1]) == (start, stop)
    assert all(low < high for low, high in itertools.pairwise(labels))
    for value in exact:
        assert min(abs(label - value) for label in labels) <= 0.5 + 1e-6


def test_ranges_give_the_expected_labels():
    def labels(**given_range: object) -> tuple[object, ...]:
        return parse_sweep(spec({"m": given_range})).labels["m"]

    assert labels(**{"from": 2, "to": 10, "count": 5}) == (2, 4, 6, 8, 10)
    assert labels(**{"from": 1, "to": 1000, "count": 4, "scale": "log"}) == (1, 10, 100, 1000)
    assert labels(**{"from": 1, "to": 5, "count": 5, "scale": "log"}) == (1, 2, 3, 5)
    assert parse_sweep(spec({"seeds": {"from": 0, "to": 4, "count": 3}})).labels["seed"] == (0, 2, 4)


# --- axes of numbers


def tolerances(value: object, **block: object) -> tuple[object, ...]:
    """Labels on an axis of numbers that need not be integers."""
    return parse_sweep(ranks({"tolerance": value, **block})).labels["tolerance"]


def ranks(*blocks: dict[str, object]) -> str:
    """A specification of ε-ranks whose blocks are a basic one with changes."""
    basic = {**{key: value for key, value in BLOCK.items() if key != "r"}, "tolerance": [0.01]}
    return yaml.safe_dump(
        {"name": "ranks", "experiment": "epsilon_rank", "grid": [{**basic, **block} for block in blocks]}
    )


def test_numbers_are_sorted_and_integers_stand_for_them():
    found = tolerances([0.01, 3, 1e-4, 1, 10**12, 5e-324])
    assert found == (5e-324, 1e-4, 0.01, 1.0, 3.0, 1e12)
    assert {type(label) for label in found} == {float}


@pytest.mark.parametrize(
    "written", ["1e-4", "1.e-4", "0.0001", "1E-4", "1.0e-4", "+1e-4", ".0001", "1.0e-04", "0.1e-3", "10e-5"]
)
def test_numbers_may_be_written_in_any_way(written):
    text = ranks({"tolerance": [7777]}).replace("7777", written)
    assert written in text
    assert parse_sweep(text).labels["tolerance"] == (0.0001,)


def test_numbers_of_several_blocks_are_united():
    sweep = parse_sweep(ranks({"tolerance": [0.1, 1]}, {"tolerance": [1.0, 1e-3], "m": [2, 3]}))
    assert sweep.labels["tolerance"] == (1e-3, 0.1, 1.0)
    assert sweep.wanted.sum() == 3 * (2 + 4 - 1)


@pytest.mark.parametrize(
    ("where", "left"),
    [
        ("tolerance < 0.01", [1e-4, 1e-3]),
        ("tolerance <= 0.01", [1e-4, 1e-3, 0.01]),
        ("tolerance in (0.001, 1)", [1e-3, 1.0]),
        ("tolerance == 1e-4 or tolerance > 0.5", [1e-4, 1.0]),
        ("log(tolerance) > -5 and n == 40", [0.01, 1.0]),
        ("n * tolerance >= m", [1.0]),
    ],
)
def test_where_compares_numbers(where, left):
    sweep = parse_sweep(ranks({"tolerance": [1e-4, 1e-3, 0.01, 1], "where": where}))
    columns = sweep.columns(np.argwhere(sweep.wanted))
    assert sorted(set(columns["tolerance"].tolist())) == left


def test_ranges_of_numbers_give_the_expected_labels():
    def labels(**given_range: object) -> tuple[object, ...]:
        return tolerances(given_range)

    assert labels(**{"from": 0.1, "to": 0.5, "count": 5}) == (0.1, 0.2, 0.3, 0.4, 0.5)
    assert labels(**{"from": 1e-3, "to": 1, "count": 4, "scale": "log"}) == (0.001, 0.01, 0.1, 1.0)
    assert labels(**{"from": 1, "to": 2, "count": 3}) == (1.0, 1.5, 2.0)
    found = labels(**{"from": 1e-4, "to": 0.03, "count": 5, "scale": "log"})
    assert found == (0.0001, 0.000416179, 0.00173205, 0.00720843, 0.03)


POSITIVE = st.floats(1e-12, 1e12)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(ends=st.tuples(POSITIVE, POSITIVE).filter(lambda two: two[0] != two[1]).map(sorted), count=st.integers(2, 30))
@pytest.mark.parametrize("scale", ["linear", "log"])
def test_range_of_numbers_runs_evenly_from_end_to_end(scale, ends, count):
    start, stop = ends
    labels = tolerances({"from": start, "to": stop, "count": count, "scale": scale})
    assert (labels[0], labels[-1]) == (start, stop)
    assert 2 <= len(labels) <= count
    assert all(low < high for low, high in itertools.pairwise(labels))
    for step in (k / (count - 1) for k in range(count)):
        exact = start + (stop - start) * step if scale == "linear" else start * (stop / start) ** step
        assert min(abs(label - exact) for label in labels) <= 1e-5 * exact
    for label in labels[1:-1]:
        assert float(f"{label:.6g}") == label


@pytest.mark.parametrize("ends", [(1.0000001, 1.0000002), (0.1234564, 0.1234566), (1.0, 1.000001), (1.0, 1.0000015)])
@pytest.mark.parametrize("scale", ["linear", "log"])
def test_range_of_numbers_whose_ends_have_more_digits_stays_between_them(ends, scale):
    labels = tolerances({"from": ends[0], "to": ends[1], "count": 5, "scale": scale})
    assert (labels[0], labels[-1]) == ends
    assert list(labels) == sorted(set(labels))


# --- functions with parameters


def functions(value: object, **options: bool) -> tuple[object, ...]:
    return parse_sweep(spec({"function": value}), **options).labels["function"]


def test_function_with_parameters_stands_alone_or_among_plain_names():
    wide = {"name": "gaussian", "scale": 2}
    assert functions(wide) == functions([wide]) == ("gaussian(scale=2)",)
    assert functions([wide, "gaussian", {"name": "polynomial", "offset": 0.5, "degree": 3}, "cauchy"]) == (
        "gaussian(scale=2)",
        "gaussian",
        "polynomial(degree=3,offset=0.5)",
        "cauchy",
    )


@pytest.mark.parametrize(
    ("parameters", "label"),
    [
        ({}, "gaussian"),
        ({"scale": 1}, "gaussian"),
        ({"scale": 1.0}, "gaussian"),
        ({"scale": 2.0}, "gaussian(scale=2)"),
        ({"scale": 0.1}, "gaussian(scale=0.1)"),
        ({"scale": 1e-6}, "gaussian(scale=1e-06)"),
        ({"scale": 1000000}, "gaussian(scale=1000000)"),
    ],
)
def test_label_of_parameters_is_the_same_however_they_are_written(parameters, label):
    assert functions({"name": "gaussian", **parameters}) == (label,)
    assert functions([label]) == (label,)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(scale=st.floats(1e-6, 1e6), degree=st.integers(1, 20), offset=st.floats(-1e15, 1e15))
def test_label_of_any_parameters_can_be_written_in_a_list(scale, degree, offset):
    wanted = [{"name": "cauchy", "scale": scale}, {"name": "polynomial", "degree": degree, "offset": offset}]
    assert functions(list(functions(wanted))) == functions(wanted)


def test_where_names_functions_by_their_labels():
    listed = ["gaussian", {"name": "gaussian", "scale": 2}]
    sweep = parse_sweep(spec({"function": listed, "where": "function == 'gaussian(scale=2)' or r == 2"}))
    assert cells(sweep) == product(function=["gaussian(scale=2)"]) | product(function=["gaussian"], r=[2])


def test_users_function_with_parameters_is_a_label_and_is_code(user_module):
    name = user_module("def f(X, Y, *, power=1, shift=0.0):\n    return (X @ Y.T) ** power + shift\n")
    listed = [{"name": f"{name}:f", "shift": -0.5, "power": 3}, f"{name}:f"]
    assert functions(listed, allow_code=True) == (f"{name}:f(power=3,shift=-0.5)", f"{name}:f")
    sys.modules.pop(name)
    with pytest.raises(InputError, match="is code of your own; add --allow-code if you trust it"):
        functions(listed[0])
    assert name not in sys.modules


# --- settings and the rest


def test_settings_count_where_their_method_is_used():
    chosen = {"ap": {"projection": "exact", "tolerance": 0.05}}
    with_ap = parse_sweep(spec({"method": ["ap"]}, settings=chosen)).used_settings
    assert with_ap["ap"]["projection"] == "exact"
    assert with_ap["ap"]["tolerance"] == 0.05
    assert with_ap["ap"]["stagnation"] == 0.001  # a default, filled in
    assert "svd" in with_ap  # the lower bound rests on it
    without = parse_sweep(spec({"method": ["svd"]}, settings=chosen)).used_settings
    assert without == parse_sweep(spec({"method": ["svd"]})).used_settings
    assert set(without) == {"svd", "certificate"}


def test_numbers_in_yaml_11_scientific_notation_serve_as_settings():
    """YAML 1.1 reads 1e-3 as a text; people write it all the same."""
    sweep = parse_sweep(spec({"method": ["ap"]}).replace("name:", "settings: {ap: {tolerance: 1e-3}}\nname:"))
    assert sweep.used_settings["ap"]["tolerance"] == 0.001


def test_experiment_is_approximation_unless_told():
    text = spec({}).replace("experiment: approximation\n", "")
    assert parse_sweep(text).experiment.name == "approximation"


def test_columns_are_the_labels_of_cells():
    sweep = parse_sweep(spec({"m": [5, 2], "method": ["svd", "ap"]}))
    columns = sweep.columns(np.argwhere(sweep.wanted))
    assert set(zip(*(columns[axis].tolist() for axis in AXES), strict=True)) == cells(sweep)


def test_user_function_is_a_label_like_any_other(user_module):
    name = user_module("def f(X, Y):\n    return X @ Y.T\n")
    text = spec({"function": [f"{name}:f", "gaussian"]})
    assert parse_sweep(text, allow_code=True).labels["function"] == (f"{name}:f", "gaussian")


def test_code_of_a_spec_is_not_imported_unless_allowed(user_module):
    name = user_module("raise SystemExit('imported')\n")
    with pytest.raises(InputError, match=rf"'{name}:f' is code of your own; add --allow-code if you trust it"):
        parse_sweep(spec({"function": [f"{name}:f"]}))
    assert name not in sys.modules


def test_flow_style_anchors_merges_and_a_byte_order_mark_are_yaml_too(tmp_path):
    text = """
    name: merged
    grid:
      - &base {function: [gaussian], sampling: [ball-symmetric], m: [2], n: [40], r: [2], method: [svd], seeds: 1}
      - {<<: *base, m: [3], r: [5]}
    """
    assert cells(parse_sweep(text)) == product(r=[2], seeds=1) | product(m=[3], r=[5], seeds=1)
    path = tmp_path / "marked.yaml"
    path.write_text("\ufeff" + spec(), encoding="utf-8")
    assert cells(load_sweep(path)) == product()


def test_file_is_kept_as_it_was_written(tmp_path):
    path = tmp_path / "spec.yaml"
    text = "# μ, a comment\n" + spec()
    path.write_text(text, encoding="utf-8")
    sweep = load_sweep(str(path))
    assert sweep.text == text
    assert sweep.name == "tiny"


@pytest.mark.parametrize(
    ("content", "told"),
    [(None, "cannot be read"), (b"\xff\xfe\x00name", "UTF-8"), (b"x" * 1_000_001, "200000"), (b"name: t", "grid")],
    ids=["missing", "not UTF-8", "too large", "incomplete"],
)
def test_file_that_is_no_specification_is_named(tmp_path, content, told):
    path = tmp_path / "spec.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_sweep(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folder_is_not_a_specification(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        load_sweep(tmp_path)


@pytest.mark.parametrize(
    ("key", "written", "count"),
    [
        ("m", "{from: 1, to: 10, count: 9, scale: log}", 7),
        ("seeds", "{from: 1, to: 8, count: 8, scale: log}", 6),
        ("n", "{from: 40, to: 47, count: 8, scale: log}", 8),
        ("m", "{from: 2, to: 1000, count: 12, scale: log}", 12),
        ("r", "{from: 1, to: 9, count: 9}", 9),
    ],
)
def test_range_of_fewer_labels_than_its_count_is_told(key, written, count):
    sweep = parse_sweep(spec_of(key, written))
    assert len(sweep.labels["seed" if key == "seeds" else key]) == count
    asked = int(written.partition("count: ")[2].partition(",")[0].rstrip("}"))
    told = f"grid[0].{key}: {written} gives {count} labels, not {asked}: some are rounded to the same one; widen "
    assert [note.startswith(told) for note in sweep.notes] == ([] if asked == count else [True])


def test_range_of_real_numbers_that_are_too_close_is_told():
    block = (
        "{function: [gaussian], sampling: [ball-symmetric], m: [2], n: [40], method: [svd], seeds: 1, tolerance: %s}"
    )
    written = block % "{from: 0.1, to: 0.100003, count: 9}"
    sweep = parse_sweep(f"name: t\nexperiment: epsilon_rank\ngrid:\n  - {written}\n")
    assert len(sweep.labels["tolerance"]) == 4
    assert sweep.notes[0].startswith("grid[0].tolerance: {from: 0.1, to: 0.100003, count: 9} gives 4 labels, not 9")


def spec_of(key, written):
    entries = BLOCK | {"n": "[90]", "r": [2], key: written}
    return "name: t\ngrid:\n  - {" + ", ".join(f"{name}: {entry}" for name, entry in entries.items()) + "}\n"


def test_shipped_sweeps_have_the_labels_that_they_count():
    for path in (Path(str(files("flows"))) / "sweeps").glob("*.yaml"):
        assert load_sweep(path).notes == ()
