"""A user's own experiment: made of a function of a matrix, named in a specification, found again in its store."""

import sys

import numpy as np
import pytest

from flows.figures import plot_curves
from flows.findings import findings
from flows.report import report_page
from pipeline.errors import InputError, StoreError
from pipeline.experiment import Experiment
from pipeline.experiments import ALLOW_CODE, get_experiment
from pipeline.experiments.generated import RANK, matrix_experiment
from pipeline.grid import parse_sweep
from pipeline.matrix import function_matrix
from storage import Status, Writer, median_curves, open_results, store_experiment, sweep_status
from storage.description import DESCRIPTION
from storage.document import read_document
from storage.location import ROOT, locate
from storage.schema import MAIN_QUANTITY

MODULE = """
import numpy as np
from pipeline.experiments.generated import RANK, matrix_experiment

def tail(matrix, case):
    values = np.linalg.svd(matrix, compute_uv=False)
    return {"tail": float(np.sqrt((values[case["r"]:] ** 2).sum())), "size": case["n"]}

TAIL = matrix_experiment("tails", {"tail": "Frobenius norm beyond r", "size": "rows"}, tail, [RANK])
NOTHING = 3
"""
SPEC = """
name: own
experiment: "own_tails:TAIL"
grid:
  - {function: [gaussian], sampling: [ball-independent], m: [3], n: [30], r: [1, 4], seeds: 2}
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "own_tails.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("own_tails", None)


def test_its_values_are_those_of_the_function(module, tmp_path):
    sweep = parse_sweep(SPEC, allow_code=True)
    cells = np.argwhere(sweep.wanted)
    outcomes = list(sweep.experiment.run([sweep.case(cell) for cell in cells], sweep.settings))
    for cell, outcome in zip(cells, outcomes, strict=True):
        case = sweep.case(cell)
        matrix = function_matrix("gaussian", "ball-independent", 3, 30, case["seed"]).to_numpy()
        values = np.linalg.svd(matrix, compute_uv=False)
        assert outcome.values["tail"] == pytest.approx(np.linalg.norm(values[case["r"] :]), rel=1e-12)
        assert outcome.values["size"] == 30


def test_its_store_is_read_and_drawn_without_its_code(module, tmp_path, monkeypatch):
    store = tmp_path / "own.zarr"
    sweep = parse_sweep(SPEC, allow_code=True)
    cells = np.argwhere(sweep.wanted)
    with Writer.open(store, sweep) as writer:
        writer.write(cells, list(sweep.experiment.run([sweep.case(cell) for cell in cells], sweep.settings)))
    monkeypatch.delenv(ALLOW_CODE, raising=False)
    ds = open_results(store)
    assert ds.attrs["experiment"] == "own_tails:TAIL"
    assert (median_curves(ds, "tail")["tail"] > 0).all()
    assert median_curves(ds).equals(median_curves(ds, ds.attrs["main_quantity"]))
    sys.modules.pop("own_tails")
    (tmp_path / "own_tails.py").unlink()
    found = store_experiment(store)
    assert "own_tails" not in sys.modules
    assert (found.main, found.summary, found.revision) == ("tail", "tails", sweep.experiment.revision)
    assert found.quantities == sweep.experiment.quantities
    axes = [(axis.name, axis.kind, axis.key, axis.description) for axis in sweep.experiment.axes]
    assert [(axis.name, axis.kind, axis.key, axis.description) for axis in found.axes] == axes
    assert [path.name for path in plot_curves(ds, found, tmp_path / "figures", {})] == ["tail-against-r.png"]
    assert "Frobenius norm beyond r" in report_page("own.zarr", ds, found, findings(ds, found))
    monkeypatch.setenv(ALLOW_CODE, "1")  # which cannot be imported any more
    assert store_experiment(store).main == "tail"


def test_store_of_a_version_that_did_not_describe_it_is_read_as_far_as_its_arrays_tell(module, tmp_path, monkeypatch):
    store = tmp_path / "own.zarr"
    figures = "figures:\n  - {name: by-rank, x: r, y: tail}\n"
    sweep = parse_sweep(SPEC + figures, allow_code=True)
    cells = np.argwhere(sweep.wanted)
    with Writer.open(store, sweep) as writer:
        writer.write(cells, list(sweep.experiment.run([sweep.case(cell) for cell in cells], sweep.settings)))
    location = locate(store)
    document = read_document(location)
    del document.attributes[DESCRIPTION], document.attributes[MAIN_QUANTITY]
    location.write({ROOT: document.dump()})
    monkeypatch.delenv(ALLOW_CODE, raising=False)
    found, ds = store_experiment(store), open_results(store)
    assert (found.main, found.summary) == ("tail", "tails")
    assert [(axis.name, axis.kind) for axis in found.axes] == [(axis.name, axis.kind) for axis in sweep.experiment.axes]
    names = [(each.name, each.long_name, each.units, each.dtype) for each in found.quantities]
    assert set(names) == {(each.name, each.long_name, each.units, each.dtype) for each in sweep.experiment.quantities}
    assert names[-1][0] == "seconds"
    assert [path.name for path in plot_curves(ds, found, tmp_path / "figures", {})] == ["by-rank.png"]


def test_theory_of_its_own_that_a_figure_declares_is_left_out_without_its_code(module, tmp_path, monkeypatch):
    (tmp_path / "own_tails.py").write_text(
        MODULE
        + "\nfrom dataclasses import replace\nfrom pipeline.experiment import Theory\n"
        + "TAIL = replace(TAIL, theory=(Theory('one', 'one', 'tail', lambda columns: np.ones(len(columns['r']))),))\n"
    )
    sweep = parse_sweep(SPEC + "figures:\n  - {name: by-rank, x: r, theory: [one]}\n", allow_code=True)
    cells = np.argwhere(sweep.wanted)
    with Writer.open(tmp_path / "own.zarr", sweep) as writer:
        writer.write(cells, list(sweep.experiment.run([sweep.case(cell) for cell in cells], sweep.settings)))
    monkeypatch.delenv(ALLOW_CODE, raising=False)
    ds, found = open_results(tmp_path / "own.zarr"), store_experiment(tmp_path / "own.zarr")
    (path,) = plot_curves(ds, found, tmp_path / "figures", {})
    assert "says nothing" not in path.with_suffix(".svg").read_text()
    assert not [each for each in findings(ds, found) if each.section == "Theory"]


def test_experiment_that_has_changed_is_refused_for_its_store(module, tmp_path):
    sweep = parse_sweep(SPEC, allow_code=True)
    cells = np.argwhere(sweep.wanted)
    with Writer.open(tmp_path / "own.zarr", sweep) as writer:
        writer.write(cells, list(sweep.experiment.run([sweep.case(cell) for cell in cells], sweep.settings)))
    (tmp_path / "own_tails.py").write_text(MODULE.replace("** 2", "** 4"))
    sys.modules.pop("own_tails")
    changed = parse_sweep(SPEC.replace("m: [3]", "m: [3, 4]"), allow_code=True)
    with pytest.raises(StoreError, match=r"other code of own_tails:TAIL than .* or --accept-code"):
        sweep_status(tmp_path / "own.zarr", changed)
    assert (sweep_status(tmp_path / "own.zarr", changed, accept_code=True) == Status.DONE).sum() == 4


def test_axes_or_quantities_that_have_changed_need_another_store_even_if_code_is_accepted(module, tmp_path):
    sweep = parse_sweep(SPEC, allow_code=True)
    with Writer.open(tmp_path / "own.zarr", sweep):
        pass
    for old, new in (("[RANK]", "[]"), ('"size"', '"height"')):
        (tmp_path / "own_tails.py").write_text(MODULE.replace(old, new))
        sys.modules.pop("own_tails")
        spec = SPEC.replace("r: [1, 4], ", "") if old == "[RANK]" else SPEC
        with pytest.raises(StoreError, match=r"unlike own_tails:TAIL as it is now; use another --store"):
            sweep_status(tmp_path / "own.zarr", parse_sweep(spec, allow_code=True), accept_code=True)


def test_the_matrix_cannot_be_written_to():
    def spoil(matrix, case):
        matrix[0, 0] = 1.0
        return {"value": 1.0}

    experiment = matrix_experiment("spoils", {"value": "one"}, spoil)
    sweep = parse_sweep(SPEC.replace('"own_tails:TAIL"', "approximation").replace("seeds", "method: [svd], seeds"))
    (outcome, *_) = experiment.run([sweep.case(np.argwhere(sweep.wanted)[0])], experiment.settings())
    assert outcome.values is None
    assert "read-only" in outcome.message


@pytest.mark.parametrize(
    ("name", "allowed", "told"),
    [
        ("approximations", True, "use one of approximation, .*or your own as module:NAME"),
        (3, True, "3 is not known"),
        ("own_tails:TAIL", False, "code of your own"),
        ("own_tails:MISSING", True, "no attribute 'MISSING'"),
        ("own_tails:NOTHING", True, "is a int; make it with matrix_experiment"),
        ("no_such_module:TAIL", True, "put no_such_module.py beside the spec"),
    ],
)
def test_what_is_no_experiment_is_refused_in_one_line(module, name, allowed, told):
    with pytest.raises(InputError, match=told) as caught:
        get_experiment(name, allow_code=allowed)
    assert str(caught.value).startswith("experiment: ")
    assert "\n" not in str(caught.value)


def test_an_experiment_measures_something():
    with pytest.raises(InputError, match="quantities: there is none"):
        matrix_experiment("nothing", {}, lambda matrix, case: {})


def test_axes_beside_the_usual_ones_come_before_the_trial():
    found = matrix_experiment("tails", {"tail": "tail"}, lambda matrix, case: {"tail": 1.0}, [RANK])
    assert isinstance(found, Experiment)
    assert [axis.name for axis in found.axes] == ["function", "sampling", "m", "n", "r", "seed"]


@pytest.mark.parametrize("returned", [None, "abc", np.ones(3), 1j, float("nan")])
def test_what_is_no_number_fails_its_cell_alone(returned):
    experiment = matrix_experiment(
        "bad", {"value": "value"}, lambda matrix, case: {"value": returned if case["seed"] else 1.0}
    )
    sweep = parse_sweep(SPEC.replace('"own_tails:TAIL"', "approximation").replace("seeds", "method: [svd], seeds"))
    cases = [sweep.case(cell) for cell in np.argwhere(sweep.wanted)[:2]]
    good, bad = experiment.run(cases, experiment.settings())
    assert good.values["value"] == 1.0
    assert bad.values is None
    assert "\n" not in bad.message


def test_a_value_that_is_left_out_fails_its_cell():
    experiment = matrix_experiment("bad", {"value": "value", "other": "other"}, lambda matrix, case: {"value": 1.0})
    sweep = parse_sweep(SPEC.replace('"own_tails:TAIL"', "approximation").replace("seeds", "method: [svd], seeds"))
    (outcome, *_) = experiment.run([sweep.case(np.argwhere(sweep.wanted)[0])], experiment.settings())
    assert outcome.message == "other is missing among the values; return every quantity"


@pytest.mark.parametrize("name", ["seconds", "status", "message", "n", "", "a/b", "a b"])
def test_names_that_cannot_be_arrays_of_their_own_are_refused(name):
    with pytest.raises(InputError, match=r"name: .* will not do"):
        matrix_experiment("bad", {name: "value"}, lambda matrix, case: {name: 1.0})


def test_an_axis_that_is_there_already_is_refused():
    with pytest.raises(InputError, match="'r' will not do"):
        matrix_experiment("bad", {"value": "value"}, lambda matrix, case: {"value": 1.0}, [RANK, RANK])


@pytest.mark.parametrize("seconds", [lambda n: "long", lambda n: 1 / 0, lambda n: np.ones(7)])
def test_a_prediction_that_is_none_is_refused_and_a_constant_is_taken(seconds):
    columns = {"function": np.array(["gaussian"] * 2), "n": np.array([10, 20]), "m": np.array([1, 1])}
    wrong = matrix_experiment("bad", {"value": "value"}, lambda matrix, case: {"value": 1.0}, seconds=seconds)
    with pytest.raises(InputError, match=r"seconds: .*map an array of n"):
        wrong.evaluate_cost(columns, wrong.settings())
    right = matrix_experiment("good", {"value": "value"}, lambda matrix, case: {"value": 1.0}, seconds=lambda n: 2.0)
    assert right.evaluate_cost(columns, right.settings()).seconds.shape == (2,)
