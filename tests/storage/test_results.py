"""The store: opened by plain xarray, grown without loss, one identity, one writer."""

import csv
import itertools
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import StoreError
from pipeline.experiment import Outcome
from pipeline.experiments import EXPERIMENTS
from pipeline.grid import parse_sweep
from storage import Status, Writer, export, merge, open_results, pending, sweep_status
from storage.document import mend_copies, read_document, write_document, write_labels
from storage.location import locate
from storage.results import store_experiment
from storage.schema import chunk_shape

APPROXIMATION = EXPERIMENTS["approximation"]


def sweep(*, settings_: str = "{}", **changes: str):
    block = {
        "function": "[gaussian]",
        "sampling": "[ball-symmetric]",
        "m": "[2, 5]",
        "n": "[40]",
        "r": "[2, 4]",
        "method": "[svd]",
        "seeds": "3",
    } | changes
    lines = ", ".join(f"{key}: {value}" for key, value in block.items())
    return parse_sweep(f"name: test\nsettings: {settings_}\ngrid:\n  - {{{lines}}}\n")


def synthetic(case) -> Outcome:
    """An outcome that tells which case it belongs to."""
    value = case["m"] * 1e6 + case["n"] * 1e3 + case["r"] + case["seed"] / 10 + len(case["method"]) / 100
    return Outcome({"epsilon": value, "lower_bound": 0.0, "max_norm": 1.0, "iterations": case["r"], "seconds": 0.0})


def fill(path, spec, outcome=synthetic, *, retry_failed=False) -> int:
    """Write an outcome to every pending cell; returns how many there were."""
    with Writer.open(path, spec) as writer:
        cells = np.argwhere(pending(spec, sweep_status(path, spec), retry_failed=retry_failed))
        if len(cells):
            writer.write(cells, [outcome(spec.case(cell)) for cell in cells])
    return len(cells)


def assert_holds(path, spec) -> None:
    """Every wanted cell holds the value of its own case."""
    ds = open_results(path)
    for cell in np.argwhere(spec.wanted):
        case = spec.case(cell)
        found = ds.sel(dict(case.labels))
        assert found["status"] == Status.DONE
        assert found["epsilon"] == synthetic(case).values["epsilon"]
        assert found["iterations"] == case["r"]


def test_plain_xarray_opens_a_store_without_warning(tmp_path):
    fill(tmp_path / "s.zarr", sweep())
    with xr.open_zarr(tmp_path / "s.zarr") as ds:  # warnings are errors here
        assert dict(ds.sizes) == {"function": 1, "sampling": 1, "m": 2, "n": 1, "r": 2, "method": 1, "seed": 3}
        assert ds["status"].attrs["flag_meanings"] == "missing done failed skipped"
        assert ds["status"].attrs["flag_values"] == [0, 1, 2, 3]
        assert all(ds[name].attrs["long_name"] for name in ds.variables)
        assert ds["seconds"].attrs["units"] == "s"
        (session,) = json.loads(ds.attrs["sessions"])
        assert {"started", "ended", "host", "python", "libraries", "epsweep", "spec"} <= session.keys()


def test_growing_every_axis_keeps_what_is_there_and_asks_for_the_rest(tmp_path):
    path = tmp_path / "s.zarr"
    small = sweep()
    assert fill(path, small) == 12
    large = sweep(
        function="[cauchy, gaussian, quartic_gaussian]",
        sampling="[sphere-independent, ball-symmetric]",
        m="[1, 2, 5, 300]",
        n="[30, 40, 50]",
        r="[2, 3, 4]",
        method="[ap, svd]",
        seeds="[5, 0, 1, 2]",
    )
    assert fill(path, large) == large.wanted.sum() - 12
    assert_holds(path, large)
    ds = open_results(path)
    assert ds["m"].values.tolist() == [1, 2, 5, 300]
    assert ds["seed"].values.tolist() == [0, 1, 2, 5]
    assert fill(path, small) == 0


@settings(max_examples=15, derandomize=True, deadline=None)
@given(steps=st.lists(st.tuples(*(st.sets(st.integers(1, 9), min_size=1, max_size=4) for _ in range(3))), max_size=4))
def test_any_sequence_of_specs_leaves_each_value_at_its_labels(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("grow") / "s.zarr"
    for m, n, seeds in steps:
        spec = sweep(m=str(list(m)), n=str([10 * x for x in n]), seeds=str(list(seeds)))
        fill(path, spec)
        assert_holds(path, spec)


def test_cells_outside_a_sweep_are_skipped_until_a_spec_wants_them(tmp_path):
    path = tmp_path / "s.zarr"
    assert fill(path, sweep(where="r < 4 or m == 5")) == 9
    ds = open_results(path)
    assert (ds["status"].sel(m=2, r=4) == Status.SKIPPED).all()
    assert (ds["status"] == Status.DONE).sum() == 9
    assert fill(path, sweep()) == 3
    assert (open_results(path)["status"] == Status.DONE).all()


def test_pending_cells_of_an_earlier_spec_stay_pending_when_another_grows_the_store(tmp_path):
    path = tmp_path / "s.zarr"
    with Writer.open(path, sweep()):
        pass
    fill(path, sweep(m="[9]"))
    status = open_results(path)["status"]
    assert (status.sel(m=[2, 5]) == Status.MISSING).all()
    assert (status.sel(m=9) == Status.DONE).all()


def grow_unpublished(path, labels) -> None:
    """Grow a store as far as a kill just before its last write leaves it."""
    location = locate(path)
    document = read_document(location).with_labels(labels)
    write_labels(document.arrays(location), labels)
    mend_copies(location, document)


def test_growth_that_was_killed_before_publishing_is_undone_or_repeated(tmp_path):
    path = tmp_path / "s.zarr"
    fill(path, sweep())
    labels = {axis: list(values) for axis, values in sweep().labels.items()}
    grow_unpublished(path, labels | {"m": [2, 5, 7, 8]})
    (path / "status" / "zarr.0123.partial").touch()
    with xr.open_zarr(path) as ds:
        assert ds["m"].values.tolist() == [2, 5]
    assert fill(path, sweep()) == 0
    assert_holds(path, sweep())
    assert not list(path.rglob("*.partial"))
    with xr.open_zarr(path, consolidated=False) as ds:
        assert ds["m"].values.tolist() == [2, 5]
    grow_unpublished(path, labels | {"m": [2, 5, 7, 8]})
    assert fill(path, sweep(m="[2, 5, 6]")) == 6
    assert_holds(path, sweep(m="[2, 5, 6]"))
    grow_unpublished(path, labels | {"m": [2, 5, 6, 7]})
    assert fill(path, sweep(m="[2, 5, 6, 9]")) == 6
    assert_holds(path, sweep(m="[2, 5, 6, 9]"))
    assert open_results(path)["m"].values.tolist() == [2, 5, 6, 9]


def test_lock_is_the_same_however_the_store_is_spelt(tmp_path):
    fill(tmp_path / "s.zarr", sweep())
    (tmp_path / "link.zarr").symlink_to(tmp_path / "s.zarr")
    refused = pytest.raises(StoreError, match="is being written by process")
    with Writer.open(tmp_path / "s.zarr", sweep()), refused, Writer.open(tmp_path / "link.zarr", sweep()):
        pass


def test_store_appears_whole_or_not_at_all(tmp_path, monkeypatch):
    monkeypatch.setattr(Path, "rename", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt), Writer.open(tmp_path / "s.zarr", sweep()):
        pass
    assert not (tmp_path / "s.zarr").exists()
    monkeypatch.undo()
    assert fill(tmp_path / "s.zarr", sweep()) == 12


def test_failed_cells_keep_their_message_until_a_retry_succeeds(tmp_path):
    path = tmp_path / "s.zarr"

    def failing(case):
        return synthetic(case) if case["m"] == 2 else Outcome(None, f"ValueError: no m = {case['m']}, ε too large")

    fill(path, sweep(), failing)
    ds = open_results(path)
    assert (ds["status"].sel(m=5) == Status.FAILED).all()
    assert (ds["message"].sel(m=5) == "ValueError: no m = 5, ε too large").all()
    assert ds["epsilon"].sel(m=5).isnull().all()
    assert fill(path, sweep()) == 0
    assert fill(path, sweep(), retry_failed=True) == 6
    assert (open_results(path)["message"] == "").all()
    assert_holds(path, sweep())


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ("{svd: {oversampling: 3}}", "settings.svd.oversampling = 16, this spec says 3"),
        ("{svd: {driver: lapack}}", "settings.svd.driver = 'auto', this spec says 'lapack'"),
    ],
)
def test_other_settings_are_refused(tmp_path, other, message):
    fill(tmp_path / "s.zarr", sweep())
    with pytest.raises(StoreError, match=message), Writer.open(tmp_path / "s.zarr", sweep(settings_=other)):
        pass


def test_settings_of_a_method_that_the_store_does_not_hold_may_still_be_chosen(tmp_path):
    path = tmp_path / "s.zarr"
    fill(path, sweep())
    loose = "{ap: {tolerance: 0.1}}"
    fill(path, sweep(settings_=loose))
    fill(path, sweep(settings_=loose, method="[ap]"))
    with pytest.raises(StoreError, match=r"settings.ap.tolerance = 0.1, this spec says 0.01"):
        sweep_status(path, sweep(method="[ap]"))


def test_second_writer_is_refused_with_the_name_of_the_first(tmp_path):
    path = tmp_path / "s.zarr"
    refused = pytest.raises(StoreError, match=r"is being written by process \d+ of .* on .* since")
    with Writer.open(path, sweep()), refused, Writer.open(path, sweep()):
        pass
    fill(path, sweep())


def test_writer_reports_a_disk_that_refuses(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with Writer.open(tmp_path / "s.zarr", sweep()) as writer:
        monkeypatch.setattr(Path, "replace", full)
        with pytest.raises(StoreError, match=r"cannot be written \(No space left on device\); finished cells are safe"):
            writer.write(np.array([[0] * 7]), [synthetic(sweep().case([0] * 7))])
        monkeypatch.undo()
    assert fill(tmp_path / "s.zarr", sweep()) == 12
    assert_holds(tmp_path / "s.zarr", sweep())


@pytest.mark.parametrize("kind", ["nothing", "folder", "file", "foreign zarr", "later experiment"])
def test_what_is_no_store_is_named(tmp_path, kind):
    path = tmp_path / "x"
    if kind == "folder":
        path.mkdir()
    elif kind == "file":
        path.write_text("no store")
    elif kind == "foreign zarr":
        xr.Dataset({"a": ("x", [1.0])}).to_zarr(path, zarr_format=3, consolidated=False)
    elif kind == "later experiment":
        fill(path, sweep())
        location = locate(path)
        write_document(location, read_document(location).with_attributes({"experiment": "magic"}))
    with pytest.raises(StoreError, match=str(path)):
        store_experiment(path)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(lengths=st.tuples(*(st.integers(1, 60) for _ in APPROXIMATION.axes)))
def test_chunks_hold_thousands_of_cells_and_waste_little(lengths):
    chunk = chunk_shape(APPROXIMATION, lengths)
    assert math.prod(chunk) == 8192
    cells = math.prod(lengths)
    chunks = math.prod(math.ceil(length / size) for length, size in zip(lengths, chunk, strict=True))
    assert chunks <= max(4, 8 * cells / 8192)


def test_chunk_lost_under_the_writer_stops_it_and_the_next_run_mends_it(tmp_path):
    path, spec = tmp_path / "s.zarr", sweep()
    cells = np.argwhere(spec.wanted)
    outcomes = [synthetic(spec.case(cell)) for cell in cells]
    with Writer.open(path, spec) as writer:
        writer.write(cells[:6], outcomes[:6])
        shutil.rmtree(path / "epsilon" / "c")
        with pytest.raises(StoreError, match="was lost"):
            writer.write(cells[6:], outcomes[6:])
    assert fill(path, spec) == 12
    assert_holds(path, spec)


# --- axes of numbers that need not be integers


def rank_sweep(tolerance: str = "[0.1, 1e-3]", *, settings_: str = "{}", **changes: str):
    """A sweep of ε-ranks, some of a function with a parameter."""
    block = {
        "function": "[gaussian, {name: gaussian, scale: 0.5}]",
        "sampling": "[ball-symmetric]",
        "m": "[2]",
        "n": "[20]",
        "tolerance": tolerance,
        "method": "[svd]",
        "seeds": "2",
    } | changes
    lines = ", ".join(f"{key}: {value}" for key, value in block.items())
    return parse_sweep(f"name: ranks\nexperiment: epsilon_rank\nsettings: {settings_}\ngrid:\n  - {{{lines}}}\n")


def synthetic_rank(case) -> Outcome:
    """An outcome that tells which case it belongs to."""
    value = case["tolerance"] + case["seed"] + 100 * len(case["function"])
    rank = {"rank": 1000 * case["seed"] + len(case["function"]), "lower_bound": 1, "iterations": 0}
    return Outcome(rank | {"error": value, "max_norm": 1.0, "seconds": 0.0})


def assert_holds_ranks(path, spec) -> None:
    """Every wanted cell holds the value of its own case."""
    ds = open_results(path)
    for cell in np.argwhere(spec.wanted):
        case = spec.case(cell)
        found = ds.sel(dict(case.labels))
        assert found["status"] == Status.DONE
        for name, value in synthetic_rank(case).values.items():
            assert found[name] == value


HARD = "[0.1, 0.30000000000000004, 1e-17, 5e-324, 1.7e308, 1, 123456789.12345679]"  # whose digits a writer may lose


def test_numbers_of_an_axis_are_stored_to_the_last_bit_and_read_by_plain_xarray(tmp_path):
    path, spec = tmp_path / "s.zarr", rank_sweep(HARD)
    assert fill(path, spec, synthetic_rank) == 28
    assert_holds_ranks(path, spec)
    with xr.open_zarr(path) as ds:
        assert ds["tolerance"].dtype == np.float64
        assert ds["tolerance"].attrs["long_name"] == "largest error of an entry"
        assert tuple(ds["tolerance"].values.tolist()) == spec.labels["tolerance"]
        assert ds["function"].values.tolist() == ["gaussian", "gaussian(scale=0.5)"]
        assert (ds["error"].sel({"tolerance": 0.30000000000000004, "seed": 0, "function": "gaussian"}) == 800.3).all()
        assert ds["rank"].dtype == np.int32
    assert read_document(locate(path)).labels["tolerance"] == list(spec.labels["tolerance"])
    assert fill(path, spec, synthetic_rank) == 0
    assert (sweep_status(path, spec) == Status.DONE).all()


def test_store_grows_by_numbers_between_and_beyond_and_is_sorted_on_disk(tmp_path):
    path = tmp_path / "s.zarr"
    assert fill(path, rank_sweep(), synthetic_rank) == 8
    larger = rank_sweep("[1e-4, 0.1, 0.01, 1e-3, 0.5]", function="['gaussian(scale=0.5)', cauchy, gaussian]")
    assert fill(path, larger, synthetic_rank) == 30 - 8
    for spec in (rank_sweep(), larger):
        assert_holds_ranks(path, spec)
        assert fill(path, spec, synthetic_rank) == 0
    with xr.open_zarr(path) as ds:
        assert ds["tolerance"].values.tolist() == [1e-4, 1e-3, 0.01, 0.1, 0.5]
        assert ds["function"].values.tolist() == ["gaussian", "gaussian(scale=0.5)", "cauchy"]
        by_label = ds["error"].sel({"tolerance": 0.01, "function": "cauchy", "seed": 1})
        assert (by_label == synthetic_rank({"tolerance": 0.01, "seed": 1, "function": "cauchy"}).values["error"]).all()
    assert open_results(path)["tolerance"].values.tolist() == [1e-4, 1e-3, 0.01, 0.1, 0.5]


def test_number_that_is_written_in_another_way_is_the_same_cell(tmp_path):
    path = tmp_path / "s.zarr"
    fill(path, rank_sweep("[1e-3, 1, 0.1]"), synthetic_rank)
    same = rank_sweep("[1.0, 0.001, 100e-3]", function="[{name: gaussian, scale: 1.0}, 'gaussian(scale=0.5)']")
    assert fill(path, same, synthetic_rank) == 0
    ranged = rank_sweep("{from: 0.001, to: 1, count: 4, scale: log}")
    assert fill(path, ranged, synthetic_rank) == 4
    assert len(open_results(path)["tolerance"]) == 4


@settings(max_examples=15, derandomize=True, deadline=None)
@given(
    steps=st.lists(st.sets(st.floats(1e-300, 1e300), min_size=1, max_size=4), min_size=1, max_size=4),
)
def test_any_numbers_in_any_order_leave_each_value_at_its_labels(tmp_path_factory, steps):
    path = tmp_path_factory.mktemp("grow") / "s.zarr"
    for numbers in steps:
        spec = rank_sweep(str(list(numbers)))
        fill(path, spec, synthetic_rank)
    for numbers in steps:
        assert_holds_ranks(path, rank_sweep(str(list(numbers))))
    labels = open_results(path)["tolerance"].values.tolist()
    assert labels == sorted(set().union(*steps))


def test_interrupted_fill_of_numbers_is_resumed_where_it_was(tmp_path):
    path, spec = (
        tmp_path / "s.zarr",
        rank_sweep("[0.1, 0.2, 0.30000000000000004]", where="tolerance < 0.15 or seed == 0"),
    )
    cells = np.argwhere(spec.wanted)
    assert len(cells) == 8

    def some(path):
        with Writer.open(path, spec) as writer:
            writer.write(cells[:3], [synthetic_rank(spec.case(cell)) for cell in cells[:3]])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        some(path)
    assert fill(path, spec, synthetic_rank) == 5
    assert_holds_ranks(path, spec)
    assert (open_results(path)["status"].sel({"tolerance": 0.2, "seed": 1}) == Status.SKIPPED).all()


def test_stores_of_different_numbers_are_merged(tmp_path):
    into, other = tmp_path / "into.zarr", tmp_path / "other.zarr"
    fill(into, rank_sweep("[0.1, 1e-3]"), synthetic_rank)
    fill(other, rank_sweep("[1e-4, 0.30000000000000004, 0.1]", function="[cauchy, gaussian]"), synthetic_rank)
    merged = merge(into, other)
    assert (merged.copied, merged.failed, merged.kept, merged.differing) == (10, 0, 2, 0)
    for spec in (rank_sweep("[0.1, 1e-3]"), rank_sweep("[1e-4, 0.30000000000000004]", function="[cauchy]")):
        assert_holds_ranks(into, spec)
    assert open_results(into)["tolerance"].values.tolist() == [1e-4, 1e-3, 0.1, 0.30000000000000004]
    fill(
        tmp_path / "third.zarr", rank_sweep("[0.1]"), lambda case: Outcome(dict(synthetic_rank(case).values, error=7.0))
    )
    assert merge(into, tmp_path / "third.zarr").examples[0] == (
        "function=gaussian, sampling=ball-symmetric, m=2, n=20, tolerance=0.1, method=svd, seed=0"
    )


@pytest.mark.parametrize("ending", ["csv", "parquet", "nc", "zarr"])
def test_numbers_are_exported_to_the_last_bit(tmp_path, ending):
    path, spec, target = tmp_path / "s.zarr", rank_sweep(HARD), tmp_path / f"copy.{ending}"
    fill(path, spec, synthetic_rank)
    assert export(open_results(path), target) == 28
    if ending == "csv":
        rows = list(csv.DictReader(target.read_text().splitlines()))
        keys = ((row["function"], float(row["tolerance"]), int(row["seed"])) for row in rows)
        found = dict(zip(keys, (float(row["error"]) for row in rows), strict=True))
    elif ending == "parquet":
        frame = pd.read_parquet(target)
        keys = zip(frame["function"], frame["tolerance"], frame["seed"], strict=True)
        found = dict(zip(keys, frame["error"], strict=True))
    else:
        with xr.open_dataset(target) if ending == "nc" else xr.open_zarr(target) as ds:
            labels = ds["function"].values.tolist(), ds["tolerance"].values.tolist(), ds["seed"].values.tolist()
            chosen = ds["error"].squeeze(drop=True).transpose("function", "tolerance", "seed").values.ravel()
            found = dict(zip(itertools.product(*labels), chosen.tolist(), strict=True))
    cases = [spec.case(cell) for cell in np.argwhere(spec.wanted)]
    assert found == {
        (case["function"], case["tolerance"], case["seed"]): synthetic_rank(case).values["error"] for case in cases
    }


def test_absolute_and_relative_tolerances_do_not_share_a_store(tmp_path):
    fill(tmp_path / "s.zarr", rank_sweep(), synthetic_rank)
    relative = rank_sweep(settings_="{tolerance: {scale: relative}}")
    told = r"settings.tolerance.scale = 'absolute', this spec says 'relative'"
    with pytest.raises(StoreError, match=told), Writer.open(tmp_path / "s.zarr", relative):
        pass


def test_stores_of_different_experiments_are_kept_apart(tmp_path):
    fill(tmp_path / "s.zarr", sweep())
    fill(tmp_path / "ranks.zarr", rank_sweep(), synthetic_rank)
    with pytest.raises(StoreError, match=r"has experiment 'approximation', this spec 'epsilon_rank'"):
        sweep_status(tmp_path / "s.zarr", rank_sweep())
    with pytest.raises(StoreError, match=r"has experiment 'approximation', the other store 'epsilon_rank'"):
        merge(tmp_path / "s.zarr", tmp_path / "ranks.zarr")
    assert store_experiment(tmp_path / "ranks.zarr").name == "epsilon_rank"


@pytest.mark.parametrize("name", ["epsilon_rank", "spectrum"])
def test_computed_values_come_back_from_the_store_as_they_were(tmp_path, name):
    """The experiment itself, with a failed cell among the others."""
    axis = "k: [1, 3, 20]" if name == "spectrum" else "tolerance: [0.1, 1e-3, 1e-300], method: [svd]"
    text = f"name: t\nexperiment: {name}\ngrid:\n  - {{function: [{{name: gaussian, scale: 2}}, white_noise], "
    spec = parse_sweep(f"{text}sampling: [gaussian-independent], m: [2], n: [20], {axis}, seeds: 2}}\n")
    cells = np.argwhere(spec.wanted)
    outcomes = list(spec.experiment.run([spec.case(cell) for cell in cells], spec.settings))
    with Writer.open(tmp_path / "s.zarr", spec) as writer:
        writer.write(cells, outcomes)
    ds = open_results(tmp_path / "s.zarr")
    assert (ds["status"] == Status.FAILED).sum() == (4 if name == "epsilon_rank" else 0)
    for cell, outcome in zip(cells, outcomes, strict=True):
        found = ds.sel(dict(spec.case(cell).labels))
        assert found["message"] == outcome.message
        for quantity in spec.experiment.quantities:
            if outcome.values is not None:
                assert found[quantity.name] == outcome.values[quantity.name]
            else:
                assert found[quantity.name] == -1 or found[quantity.name].isnull()


@pytest.mark.parametrize("bucket", ["[abc", "bu\u2100cket", "buc\nket", "bucket:80", ""])
def test_bucket_of_a_name_that_no_url_can_have_is_refused_in_one_line(bucket):
    with pytest.raises(StoreError, match=r"^store: '.*' is not the name of a bucket; give s3://bucket/key$"):
        open_results(f"s3://{bucket}/x.zarr")
