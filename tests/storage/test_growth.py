"""Growth: axes of numbers are in order on disk, for plain xarray as well, and no kill or reader loses anything."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

import storage.schema
from pipeline.errors import StoreError
from storage import Status, damaged_cells, merge, open_results
from storage.document import read_document, write_document, write_labels
from storage.location import locate
from tests.storage.test_results import assert_holds, fill, rank_sweep, sweep, synthetic, synthetic_rank

FIRST, SECOND = sweep(m="[5, 9]", seeds="[1, 4]"), sweep(m="[2, 5, 7]", r="[1, 4]", seeds="[0, 4]")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr("storage.schema._CHUNK_CELLS", 32)


def assert_in_order(path) -> None:
    """Plain xarray takes slices of every axis of numbers."""
    with xr.open_zarr(path) as ds:  # warnings are errors here
        for axis in ("m", "n", "r", "seed"):
            values = ds[axis].values
            assert values.tolist() == sorted(values.tolist())
            assert len(ds["status"].sel({axis: slice(values[0], values[-1])})[axis]) == len(values)
        assert (ds["epsilon"].notnull() | (ds["status"] != Status.DONE)).all()  # values come first


def test_plain_xarray_slices_a_store_that_grew_between_its_labels(tmp_path):
    path = tmp_path / "s.zarr"
    fill(path, sweep(m="[5, 10]"))
    fill(path, sweep(m="[2, 7]"))
    with xr.open_zarr(path) as ds:
        assert ds["epsilon"].sel(m=slice(2, 10))["m"].values.tolist() == [2, 5, 7, 10]
    with xr.open_zarr(path, consolidated=False) as ds:
        assert ds["m"].values.tolist() == [2, 5, 7, 10]
    assert_holds(path, sweep(m="[2, 5, 7, 10]"))


def test_growth_at_the_end_rewrites_no_value(tmp_path):
    path = tmp_path / "s.zarr"
    fill(path, sweep(m="[2, 5]"))
    before = {file: file.stat().st_mtime_ns for file in (path / "epsilon").rglob("[0-9]")}
    assert fill(path, sweep(m="[6, 9]", function="[cauchy]")) == 12
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert_in_order(path)


steps = st.lists(
    st.tuples(*(st.sets(st.integers(1, 9), min_size=1, max_size=3) for _ in range(3))), min_size=2, max_size=3
)


@settings(max_examples=3, derandomize=True, deadline=None)
@given(steps=steps)
def test_any_growth_holds_what_a_dictionary_would(tmp_path_factory, steps):
    """The model: a value by labels for each cell that a spec asked for; nothing else is done."""
    storage.schema._CHUNK_CELLS = 128  # the fixture restores it
    path, model = tmp_path_factory.mktemp("grow") / "s.zarr", {}
    for m, r, seeds in steps:
        spec = sweep(m=str(list(m)), r=str(list(r)), seeds=str(list(seeds)), where="r <= m or seed == 1")
        fill(path, spec)
        cases = [spec.case(cell) for cell in np.argwhere(spec.wanted)]
        model |= {case.labels: synthetic(case).values["epsilon"] for case in cases}
        assert_in_order(path)
    ds = xr.open_zarr(path).load()
    done = np.argwhere((ds["status"] == Status.DONE).values)
    labels = [ds[axis].values.tolist() for axis in ds["status"].dims]
    names = [str(axis) for axis in ds["status"].dims]
    found = {
        tuple(zip(names, (values[i] for values, i in zip(labels, cell, strict=True)), strict=True)): float(
            ds["epsilon"].values[tuple(cell)]
        )
        for cell in done
    }
    assert found == model
    assert damaged_cells(path) == []


def test_growth_killed_before_any_of_its_writes_has_lost_nothing(tmp_path, monkeypatch):
    rename, number = Path.replace, 0
    while True:
        path = tmp_path / f"{number}.zarr"
        fill(path, FIRST)
        left = number

        def dying(source: Path, target: Path) -> Path:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            return rename(source, target)

        monkeypatch.setattr(Path, "replace", dying)
        try:
            fill(path, SECOND)
            killed = False
        except KeyboardInterrupt:
            killed = True
        monkeypatch.setattr(Path, "replace", rename)
        assert_holds(path, FIRST)
        assert_in_order(path)
        fill(path, SECOND)
        for spec in (FIRST, SECOND):
            assert_holds(path, spec)
        assert_in_order(path)
        assert damaged_cells(path) == []
        if not killed:
            break
        number += 23
    assert number > 23


def test_reader_that_holds_the_old_root_sees_no_damage_and_is_told_when_it_is_gone(tmp_path):
    path = tmp_path / "s.zarr"
    fill(path, FIRST)
    early, plain, late, unread = open_results(path), xr.open_zarr(path), open_results(path), open_results(path)
    late["status"].load()
    fill(path, SECOND)
    assert (early["status"] == Status.DONE).all()
    assert early["epsilon"].notnull().all()
    assert plain["epsilon"].notnull().all()
    fill(path, SECOND)  # the next opening for writing
    for gone in (unread["status"], late["epsilon"]):
        with pytest.raises(StoreError, match=r"s.zarr has been put in another order .*; open it again"):
            gone.load()
    assert_holds(path, FIRST)


def test_store_of_0_8_with_numbers_as_they_came_is_put_in_order_at_the_next_opening(tmp_path):
    path, labels = tmp_path / "s.zarr", [9, 2, 5]
    fill(path, sweep(m="[2, 5, 9]"))
    location = locate(path)
    document = read_document(location)
    old = document.with_labels({**document.labels, "m": labels}).with_attributes({"epsweep_format": 2})
    write_labels(document.arrays(location), {"m": labels})
    write_document(location, old)
    assert open_results(path)["m"].values.tolist() == [2, 5, 9]
    before = open_results(path)["epsilon"].load()
    assert fill(path, sweep(m="[5]")) == 0
    assert_in_order(path)
    xr.testing.assert_identical(open_results(path)["epsilon"].load(), before)


def test_merge_leaves_the_axes_in_order(tmp_path):
    fill(tmp_path / "into.zarr", FIRST)
    fill(tmp_path / "other.zarr", SECOND)
    merge(tmp_path / "into.zarr", tmp_path / "other.zarr")
    assert_in_order(tmp_path / "into.zarr")
    for spec in (FIRST, SECOND):
        assert_holds(tmp_path / "into.zarr", spec)


def test_damage_is_left_behind_by_a_growth_and_messages_move_with_their_cells(tmp_path):
    path = tmp_path / "s.zarr"
    fill(path, rank_sweep("[0.1]"), synthetic_rank)
    chunk = next(file for file in (path / "error" / "c").rglob("[0-9]") if file.is_file())
    chunk.write_bytes(b"damage")
    lost = sum(each.cells for each in damaged_cells(path))
    assert fill(path, rank_sweep("[0.01, 0.1]"), synthetic_rank) == 4 + lost
    assert damaged_cells(path) == []
    assert open_results(path)["tolerance"].values.tolist() == [0.01, 0.1]
