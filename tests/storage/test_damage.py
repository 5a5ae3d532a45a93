"""Damaged stores: what is changed or lost is found, named and computed again, and never taken for a value."""

import json
import random
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from pipeline.errors import EpsweepError, StoreError
from pipeline.experiment import Outcome
from pipeline.predicates import Predicate
from pipeline.recall import asked_for
from storage import (
    Status,
    Writer,
    damage_report,
    damaged_cells,
    failures,
    median_curves,
    merge,
    open_results,
    pending,
    sweep_status,
)
from storage.document import read_document, write_document
from storage.location import locate
from storage.schema import FORMAT
from tests.storage.test_results import assert_holds, fill, sweep, synthetic

STORES = 200
SPEC = sweep(m="[2, 5, 6]", where="r < 4 or m > 2")


def partly_failed(case) -> Outcome:
    return synthetic(case) if case["m"] != 6 or case["seed"] else Outcome(None, f"ValueError: never at r = {case['r']}")


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr("storage.schema._CHUNK_CELLS", 8)


@pytest.fixture
def store(tmp_path, small_chunks) -> Path:
    """Several chunks an array, with cells that are done, failed and skipped."""
    fill(tmp_path / "s.zarr", SPEC, partly_failed)
    return tmp_path / "s.zarr"


def contents(path, read=open_results) -> dict[str, list]:
    ds = read(path)
    numbers = {name: np.nan_to_num(ds[name][:], nan=-1.0).tolist() for name in ("epsilon", "lower_bound", "status")}
    return numbers | {"message": np.asarray(ds["message"][:]).tolist()}


def assert_no_wrong_value(path, good: xr.Dataset) -> None:
    """Each cell is as it was, or missing."""
    ds = open_results(path).load()
    same = (ds["status"] == good["status"]).values
    assert (same | (ds["status"].values == Status.MISSING)).all()
    done, failed = (ds["status"].values == state for state in (Status.DONE, Status.FAILED))
    for name in ("epsilon", "lower_bound", "max_norm", "iterations", "seconds"):
        assert (ds[name].values == good[name].values)[done].all(), name
    assert ds["message"].values[failed].tolist() == good["message"].values[failed].tolist()


def spoil(path: Path, chance: random.Random) -> str:
    """Truncate, delete or change one file of a store."""
    file = chance.choice(sorted(each for each in path.rglob("*") if each.is_file()))
    how = chance.choice(["truncate", "delete", "flip"])
    data = bytearray(file.read_bytes())
    if how == "delete":
        file.unlink()
    elif how == "truncate":
        file.write_bytes(data[: chance.randrange(len(data))])
    else:
        data[chance.randrange(len(data))] ^= chance.randrange(1, 256)
        file.write_bytes(data)
    return f"{how} {file.relative_to(path)}"


def test_damage_anywhere_is_recomputed_or_named_and_never_believed(store, tmp_path):
    chance = random.Random(7)
    good, expected = open_results(store).load(), contents(store)
    results: Counter[str] = Counter()
    for number in range(STORES):
        path = tmp_path / f"{number}.zarr"
        shutil.copytree(store, path)
        what = spoil(path, chance)
        outcome = "recomputed"
        try:
            assert_no_wrong_value(path, good)
            status = sweep_status(path, SPEC)
            with Writer.open(path, SPEC) as writer:
                cells = np.argwhere(pending(SPEC, status, retry_failed=False))
                if len(cells):
                    writer.write(cells, [partly_failed(SPEC.case(cell)) for cell in cells])
        except EpsweepError as error:
            outcome = str(error)
        if outcome == "recomputed":
            assert contents(path, zarr.open_group) == expected, what
        else:  # the root document, or the labels of an axis
            assert outcome.startswith(f"store: {path} "), what
            assert what.endswith((" zarr.json", "/c/0")), what
        results["recomputed" if outcome == "recomputed" else "named"] += 1
    assert results["recomputed"] > results["named"] > STORES // 20


@pytest.mark.parametrize("how", ["truncate", "delete", "flip"])
@pytest.mark.parametrize("array", ["epsilon", "guarantee", "iterations", "status"])
def test_exactly_the_cells_of_a_damaged_chunk_are_computed_again(store, array, how):
    whole, expected = sweep_status(store, SPEC), contents(store)
    file = max((store / array / "c").rglob("[0-9]"), key=lambda path: (path.is_file(), str(path)))
    data = file.read_bytes()
    if how == "delete":
        file.unlink()
    else:
        file.write_bytes(data[:5] if how == "truncate" else data[:7] + bytes([data[7] ^ 1]) + data[8:])
    (found,) = damaged_cells(store)
    cells = read_document(locate(store)).layouts[array].cells(found.chunk)
    inside = np.zeros(whole.shape, dtype=bool)
    inside[cells] = True
    lost = inside & (SPEC.wanted if array == "status" else whole == Status.DONE)
    assert found.array == array
    assert len(damage_report(store)) == 2
    assert found.cells == lost.sum() > 0
    np.testing.assert_array_equal(sweep_status(store, SPEC), np.where(lost, Status.MISSING, whole))
    assert pending(SPEC, sweep_status(store, SPEC), retry_failed=False).sum() == lost.sum()
    assert len(failures(store)) == (whole == Status.FAILED).sum() - (lost & (whole == Status.FAILED)).sum()
    assert fill(store, SPEC, partly_failed) == lost.sum()
    assert contents(store) == expected
    assert damaged_cells(store) == []


def test_writer_that_is_killed_while_it_mends_has_lost_nothing_more(store, monkeypatch):
    expected = contents(store)
    shutil.rmtree(store / "epsilon" / "c")
    monkeypatch.setattr("storage.growth.mend_copies", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt), Writer.open(store, SPEC):
        pass
    monkeypatch.undo()
    assert (open_results(store)["status"] != Status.DONE).all()
    fill(store, SPEC, partly_failed)
    assert contents(store) == expected


def test_array_documents_are_mended_from_the_root(store):
    (store / "epsilon" / "zarr.json").write_text("{}")
    (store / "m" / "zarr.json").unlink()
    fill(store, SPEC, partly_failed)
    with xr.open_zarr(store, consolidated=False) as ds:
        assert ds["m"].values.tolist() == [2, 5, 6]
        assert (ds["epsilon"].notnull() == (ds["status"] == Status.DONE)).all()


def as_written_by_0_2(path: Path) -> None:
    """Turn a store into one of format 1: without checksums, digest and chunks that hold nothing."""
    root = json.loads((path / "zarr.json").read_text())
    old = zarr.open_group(path, mode="r")
    new = path.with_name("old.zarr")
    group = zarr.open_group(new, mode="w-")
    for name, array in old.arrays():
        copy = group.create_array(
            name,
            shape=array.shape,
            chunks=array.chunks,
            dtype=array.dtype if array.dtype.kind != "T" else zarr.dtype.VariableLengthUTF8(),
            fill_value=array.metadata.fill_value,
            dimension_names=array.metadata.dimension_names,
            attributes=dict(array.attrs),
        )
        copy[:] = array[:]
    attributes = root["attributes"] | {"epsweep_format": 1}
    del attributes["epsweep_digest"]
    group.attrs.update(attributes)
    with pytest.warns(zarr.errors.ZarrUserWarning):
        zarr.consolidate_metadata(new)
    shutil.rmtree(path)
    new.rename(path)


def test_store_of_0_2_opens_and_is_resumed_and_its_damage_is_found(store):
    expected = contents(store)
    as_written_by_0_2(store)
    assert contents(store) == expected
    assert damaged_cells(store) == []
    assert fill(store, SPEC, partly_failed) == 0
    assert open_results(store).attrs["epsweep_format"] == FORMAT
    larger = sweep(m="[2, 5, 6, 7]", where="r < 4 or m > 2")
    assert fill(store, larger, partly_failed) == 6
    file = max((store / "epsilon" / "c").rglob("[0-9]"), key=lambda path: (path.is_file(), str(path)))
    file.write_bytes(file.read_bytes()[:9])
    assert {each.array for each in damaged_cells(store)} == {"epsilon"}
    assert fill(store, larger, partly_failed) > 0
    assert damaged_cells(store) == []
    ds = open_results(store).sel(m=[2, 5, 6])
    assert np.nan_to_num(ds["epsilon"].values, nan=-1.0).tolist() == expected["epsilon"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"codecs": [{"name": "numcodecs.pickle"}]}, "codecs"),
        ({"data_type": {"name": "object"}}, "not read"),
        ({"shape": [10**9] * 7}, "cells"),
    ],
)
def test_store_that_would_run_code_or_fill_the_memory_is_named(store, change, message):
    location = locate(store)
    document = read_document(location)
    document.metadata["status"].update(change)
    write_document(location, document)
    for reading in (open_results, damaged_cells, lambda path: sweep_status(path, SPEC)):
        with pytest.raises(StoreError, match=message):
            reading(store)


def test_damaged_labels_name_their_axis(store):
    (store / "m" / "c" / "0").write_bytes(b"nothing")
    with pytest.raises(
        StoreError, match=r"is damaged \(labels of m: .*; restore it from a copy, or move the store away"
    ):
        open_results(store)


def test_lost_labels_are_not_read_as_zeros(store):
    (store / "m" / "c" / "0").unlink()
    with pytest.raises(StoreError, match="is damaged"), Writer.open(store, SPEC):
        pass


def test_good_store_has_no_damage(store):
    assert damage_report(store) == []
    fill(store, sweep())
    assert damaged_cells(store) == []
    assert_holds(store, sweep(m="[5]"))


# --- what was wanted is known from the specifications of the runs


def five_then_three(path, how, **changes) -> None:
    """Fill five seeds, damage the status, run three."""
    fill(path, sweep(seeds="5", **changes))
    damage_status(path, how)
    fill(path, sweep(seeds="3", **changes))


def damage_status(path, how: str) -> None:
    for file in [each for each in (path / "status").rglob("*") if each.is_file() and "zarr.json" not in each.name]:
        data = file.read_bytes()
        if how == "delete":
            file.unlink()
        else:
            file.write_bytes(data[:5] if how == "truncate" else data[:7] + bytes([data[7] ^ 1]) + data[8:])


def impossible_states(path) -> None:
    """Every cell of the status in a state that there is none of, its checksum right."""
    arrays = read_document(locate(path)).arrays(locate(path))
    arrays["status"][:] = np.full(arrays["status"].shape, 7, dtype=np.int8)


@pytest.mark.parametrize("how", ["flip", "truncate", "delete"])
@pytest.mark.parametrize("chunk_cells", [8192, 4])
def test_smaller_spec_after_damage_does_not_forget_trials_that_were_asked_for(tmp_path, monkeypatch, how, chunk_cells):
    """Kind: growth and mending after damage, in one chunk and in many."""
    monkeypatch.setattr("storage.schema._CHUNK_CELLS", chunk_cells)
    path = tmp_path / "s.zarr"
    five_then_three(path, how)
    ds = open_results(path)
    assert (ds["status"].sel(seed=[3, 4]) == Status.MISSING).all()
    curves = median_curves(ds)
    assert (curves["trials_declared"] == 5).all()
    assert curves["epsilon"].isnull().all()
    assert fill(path, sweep(seeds="5")) == 8
    assert_holds(path, sweep(seeds="5"))


def test_damage_that_a_reader_meets_before_any_run_leaves_no_curve_complete(tmp_path):
    """Kind: readers; cells that no spec asked for stay skipped, so that other curves are not held up."""
    path = tmp_path / "s.zarr"
    fill(path, sweep(seeds="5", where="seed < 4 or r == 2"))
    damage_status(path, "delete")
    ds = open_results(path)
    assert median_curves(ds)["trials_declared"].sel(m=2, n=40).values.ravel().tolist() == [5, 4]
    assert median_curves(ds)["epsilon"].isnull().all()
    (line, _) = damage_report(path)
    assert line == "status, chunk 0/0/0/0/0/0/0: 18 cells are missing now, finished before or not"


@pytest.mark.parametrize("damaged", ["into", "other"])
def test_merge_with_a_damaged_status_does_not_forget_what_was_asked_for(tmp_path, damaged):
    """Kind: merge."""
    fill(tmp_path / "into.zarr", sweep(seeds="5" if damaged == "into" else "3"))
    fill(tmp_path / "other.zarr", sweep(seeds="3" if damaged == "into" else "5", m="[2, 5, 9]", where="m < 9 or r < 4"))
    damage_status(tmp_path / f"{damaged}.zarr", "flip")
    merge(tmp_path / "into.zarr", tmp_path / "other.zarr")
    ds = open_results(tmp_path / "into.zarr")
    assert (ds["status"].sel(seed=[3, 4], m=[2, 5]) == Status.MISSING).all()
    assert (ds["status"].sel(m=9, r=4) == Status.SKIPPED).all()
    assert median_curves(ds)["epsilon"].sel(m=[2, 5]).isnull().all()


@pytest.mark.parametrize("version", [1, 3])
def test_impossible_states_read_as_what_the_specifications_asked_for(tmp_path, version):
    """Kind: status that no version writes, in stores with and without checksums."""
    path = tmp_path / "s.zarr"
    fill(path, sweep(seeds="5", where="seed < 3 or r == 2"))
    if version == 1:
        as_written_by_0_2(path)
    impossible_states(path)
    assert fill(path, sweep(seeds="2")) == 8
    status = open_results(path)["status"]
    assert (status.sel(seed=[3, 4], r=2) == Status.MISSING).all()
    assert (status.sel(seed=[3, 4], r=4) == Status.SKIPPED).all()
    assert damaged_cells(path) == []


def test_lost_status_of_a_store_without_checksums_is_asked_for_again(tmp_path):
    """Kind: formats 1 and 2, in which a chunk of the status that is not there is no damage."""
    path = tmp_path / "s.zarr"
    fill(path, sweep(seeds="5", where="seed < 3 or r == 2"))
    as_written_by_0_2(path)
    damage_status(path, "delete")
    fill(path, sweep(seeds="2"))
    status = open_results(path)["status"]
    assert (status.sel(seed=[3, 4], r=2) == Status.MISSING).all()
    assert (status.sel(seed=[3, 4], r=4) == Status.SKIPPED).all()


@pytest.mark.parametrize(
    ("spec", "asked"),
    [
        ("grid: [{function: ['mine:f', {name: 'mine:g', scale: 2}], m: [2], n: [40], seeds: 2}]", "m == 2"),
        ("grid: [{function: {file: there-is-none.npy}, seeds: 2}]", "function == 'there-is-none.npy'"),
        (
            "grid: [{function: ['mine:f'], m: [7], n: {from: 40, to: 50, count: 2}, seeds: [0, 1]}]",
            "function == 'mine:f'",
        ),
        (
            "grid: [{function: ['mine:f'], m: [2], n: [40], seeds: 2, where: 'gone > 2'}]",
            "function == 'mine:f' and m == 2",
        ),
        (
            "grid: [{function: ['mine:f'], m: [2], n: [40], seeds: 2, where: 'seed > m - 2'}]",
            "function == 'mine:f' and m == 2 and seed > 0",
        ),
        ("grid: {", "m > 0"),
        ("name: x", "m > 0"),
        ("grid: [3]", "m > 0"),
    ],
)
def test_what_a_text_does_not_tell_counts_as_asked_for(spec, asked):
    """No code is imported and no file read: modules and files of these names do not exist."""
    labels = {"function": ["mine:f", "mine:g(scale=2)", "there-is-none.npy"], "m": [2, 64], "n": [40], "seed": [0, 1]}
    explained = f"grid: [{{function: {labels['function']}, m: [2, 64], n: [40], seeds: 2, where: 'm < 0'}}]"
    columns = dict(zip(labels, np.ix_(*map(np.array, labels.values())), strict=True))
    kinds = {"function": str, "m": int, "n": int, "seed": int}
    expected = np.broadcast_to(Predicate(asked, kinds)(columns), (3, 2, 1, 2))
    found = asked_for([explained, spec], labels)
    assert (found >= expected).all()
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("function", "asked"),
    [
        ("{file: a.npy}", "function == 'a.npy' and m == 0 and seed == 0"),
        ("[{file: ./a.npy}]", "function == 'a.npy' and m == 0 and seed == 0"),
        (
            "[cauchy, {file: a.npy}]",
            "(function == 'a.npy' and m == 0 or function == 'cauchy' and m == 5) and seed == 0",
        ),
    ],
)
def test_cells_of_files_are_asked_for_apart_from_those_of_functions_in_their_list(function, asked):
    """The labels that every file fixes are known; what m says is of the functions."""
    labels = {"function": ["cauchy", "a.npy"], "m": [0, 2, 5], "n": [20, 40], "seed": [0, 1]}
    columns = dict(zip(labels, np.ix_(*map(np.array, labels.values())), strict=True))
    wanted = Predicate(asked, {"function": str, "m": int, "n": int, "seed": int})(columns)
    explained = "grid: [{function: [cauchy, a.npy], m: [0, 2, 5], n: [20, 40], seeds: 2, where: 'm < 0'}]"
    given = "m: [5], n: [20, 40], " if "cauchy" in function else ""
    found = asked_for([explained, f"grid: [{{function: {function}, {given}seeds: 1}}]"], labels)
    np.testing.assert_array_equal(found, np.broadcast_to(wanted, (2, 3, 2, 2)))


def test_labels_that_no_text_explains_count_as_asked_for():
    labels = {"m": [2, 3], "n": [4, 5]}
    assert asked_for(["grid: [{m: [2], n: [4]}]"], labels).tolist() == [[True, True], [True, True]]
    assert asked_for(["grid: [{m: [2], n: [4, 5]}]"], labels).tolist() == [[True, True], [True, True]]
    assert asked_for(["grid: [{m: [2, 3], n: [4, 5], where: 'm < n - 2'}]"], labels).tolist() == [
        [False, True],
        [False, False],
    ]


# --- the root document


@pytest.mark.parametrize("content", [b"", b'{"zarr_format": 3, "node_type"', None, b"digest"])
def test_spoilt_root_document_is_replaced_by_its_copy_without_a_loss(store, content):
    """Kind: empty, torn, lost, and changed."""
    expected, root = contents(store), store / "zarr.json"
    good = root.read_bytes()
    if content is None:
        root.unlink()
    else:
        root.write_bytes(good.replace(b"trial number", b"trial numbed") if content == b"digest" else content)
    assert contents(store) == expected
    assert damage_report(store)[0] == (
        "zarr.json: not as it was written; its copy was read, which lacks no finished cell"
    )
    told: list[str] = []
    sweep_status(store, SPEC, told.append)
    assert told == damage_report(store)[:1]
    assert fill(store, SPEC, partly_failed) == 0
    assert contents(store, zarr.open_group) == expected
    assert damage_report(store) == []


def test_root_document_and_copy_both_spoilt_are_named(store):
    (store / "zarr.json").write_bytes(b"")
    (store / "status" / "zarr.json.copy").write_bytes(b"")
    with pytest.raises(StoreError, match=r"is damaged .*; restore it from a copy"):
        open_results(store)


def test_copy_of_the_root_document_is_nothing_to_plain_zarr(store):
    with xr.open_zarr(store, consolidated=False) as ds:  # warnings are errors here
        assert set(ds["status"].dims) <= set(ds.variables)
