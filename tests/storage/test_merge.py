"""Merging: nothing that is done is lost, nothing is taken twice, differences are named."""

import json

import numpy as np
import pytest

from pipeline.errors import StoreError
from pipeline.experiment import Outcome
from storage import Status, Writer, merge, open_results, sweep_status
from tests.storage.test_results import assert_holds, fill, sweep, synthetic


def failing(case) -> Outcome:
    return Outcome(None, f"ValueError: not at m = {case['m']}")


def write_some(path, spec, wanted, outcome=synthetic) -> None:
    cells = np.argwhere(spec.wanted & wanted)
    with Writer.open(path, spec) as writer:
        writer.write(cells, [outcome(spec.case(cell)) for cell in cells])


@pytest.fixture
def stores(tmp_path):
    return tmp_path / "into.zarr", tmp_path / "other.zarr"


def test_labels_are_united_and_each_cell_keeps_its_labels(stores):
    into, other = stores
    fill(into, sweep(m="[9, 2]", seeds="[0, 3]"))
    fill(other, sweep(m="[1, 2, 5]", n="[30, 40]", r="[4, 3]", seeds="[3, 1]", method="[svd]"))
    both, whole = sweep(m="[2]", r="[4]", seeds="[3]"), sweep(m="[1, 2, 5]", n="[30, 40]", r="[3, 4]", seeds="[1, 3]")
    merged = merge(into, other)
    assert (merged.copied, merged.failed, merged.kept, merged.differing) == (24 - 1, 0, 1, 0)
    for spec in (sweep(m="[2, 9]", seeds="[0, 3]"), whole, both):
        assert_holds(into, spec)
    ds = open_results(into)
    assert ds["m"].values.tolist() == [1, 2, 5, 9]
    assert (ds["status"].sel(m=9, r=3) == Status.SKIPPED).all()
    assert merge(into, other).copied == 0
    assert len(json.loads(ds.attrs["sessions"])) == 2 == len(json.loads(open_results(into).attrs["sessions"]))


def test_failures_are_copied_only_where_there_is_nothing(stores):
    into, other = stores
    spec = sweep()
    half = np.indices(spec.wanted.shape)[2] == 0
    write_some(into, spec, half)
    fill(other, spec, failing)
    merged = merge(into, other)
    assert (merged.copied, merged.failed, merged.kept) == (0, 6, 0)
    ds = open_results(into)
    assert (ds["status"].sel(m=2) == Status.DONE).all()
    assert (ds["message"].sel(m=5) == "ValueError: not at m = 5").all()
    assert merge(other, into).copied == 6
    assert (open_results(other)["message"].sel(m=2) == "").all()


def test_values_that_differ_are_kept_counted_and_named_but_not_for_their_times(stores):
    def other_time(case):
        return Outcome({**synthetic(case).values, "seconds": 9.0})

    def other_value(case):
        return Outcome({**synthetic(case).values, "lower_bound": 0.5}) if case["seed"] else synthetic(case)

    into, other = stores
    fill(into, sweep())
    fill(other, sweep(), other_time)
    assert merge(into, other).differing == 0
    fill(third := into.with_name("third.zarr"), sweep(), other_value)
    merged = merge(into, third)
    assert (merged.kept, merged.differing, len(merged.examples)) == (12, 8, 8)
    assert merged.examples[0] == "function=gaussian, sampling=ball-symmetric, m=2, n=40, r=2, method=svd, seed=1"
    assert "12 were done in both, 8 of them with other values, which were not taken" in str(merged)
    assert (open_results(into)["lower_bound"] == 0.0).all()


def test_pending_and_skipped_cells_are_united(stores):
    into, other = stores
    fill(into, sweep(where="r < 4"))
    with Writer.open(other, sweep()):
        pass
    merge(into, other)
    assert (open_results(into)["status"].sel(r=4) == Status.MISSING).all()


def test_interrupted_merge_is_completed_by_repeating_it(stores, monkeypatch):
    into, other = stores
    fill(into, sweep(m="[2]"))
    fill(other, sweep(m="[2, 5]"))
    monkeypatch.setattr("storage.results.CellFile.write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        merge(into, other)
    monkeypatch.undo()
    assert (sweep_status(into, sweep())[0, 0, 1] == Status.MISSING).all()
    assert merge(into, other).copied == 6
    assert_holds(into, sweep())


def test_damaged_cells_of_the_other_are_not_taken_and_of_this_are_replaced(stores):
    into, other = stores
    for path in (into, other, into.with_name("third.zarr")):
        fill(path, sweep())
    for path in (into, other):
        (chunk,) = (each for each in (path / "epsilon" / "c").rglob("0") if each.is_file())
        chunk.write_bytes(b"damage")
        merged = merge(into, other)
        assert merged.copied == (12 if path == into else 0)
        assert merged.damaged == (f"{path}: epsilon, chunk 0/0/0/0/0/0/0: 12 finished cells are missing now",)
        assert_holds(into, sweep())
    assert merge(into, into.with_name("third.zarr")).damaged == ()


@pytest.mark.parametrize(
    ("other", "message"),
    [("{svd: {oversampling: 3}}", r"settings.svd.oversampling = 16, the other store says 3"), (None, "are one store")],
)
def test_stores_that_do_not_belong_together_are_refused(stores, other, message):
    into, second = stores
    fill(into, sweep())
    if other:
        fill(second, sweep(settings_=other))
    with pytest.raises(StoreError, match=message):
        merge(into, second if other else into)


def test_store_that_is_being_written_or_is_not_there_is_refused(stores):
    into, other = stores
    fill(into, sweep())
    with pytest.raises(StoreError, match=r"other.zarr does not exist"):
        merge(into, other)
    with pytest.raises(StoreError, match=r"other.zarr does not exist"):
        merge(other, into)
    fill(other, sweep())
    with Writer.open(into, sweep()), pytest.raises(StoreError, match="is being written by process"):
        merge(into, other)
