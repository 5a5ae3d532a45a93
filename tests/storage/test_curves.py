"""Medians need all their trials; exports keep every value."""

import tracemalloc

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from pipeline.errors import InputError, StoreError
from pipeline.experiment import Outcome
from pipeline.experiments import EXPERIMENTS
from storage import Status, Writer, export, failure_groups, failures, grouped_failures, median_curves, open_results
from tests.storage.test_results import fill, sweep, synthetic


def dataset(values, status) -> xr.Dataset:
    """Results over m and seed."""
    values = np.asarray(values, dtype=float)
    coordinates = {"m": np.arange(len(values)), "seed": np.arange(values.shape[1])}
    variables = {"epsilon": values, "lower_bound": values / 2, "status": np.asarray(status, dtype=np.int8)}
    return xr.Dataset({name: (("m", "seed"), array) for name, array in variables.items()}, coordinates)


def test_median_and_spread_are_numpys():
    values = np.random.default_rng(1).random((4, 5))
    curves = median_curves(dataset(values, np.full((4, 5), Status.DONE)))
    np.testing.assert_array_equal(curves["epsilon"], np.median(values, axis=1))
    np.testing.assert_array_equal(curves["lower_bound"], np.median(values / 2, axis=1))
    for name, share in (("min", 0), ("q25", 0.25), ("q75", 0.75), ("max", 1)):
        np.testing.assert_allclose(curves[f"epsilon_{name}"], np.quantile(values, share, axis=1), rtol=1e-15)
    assert (curves["trials"] == 5).all()


@pytest.mark.parametrize("state", [Status.MISSING, Status.FAILED])
def test_one_trial_short_withholds_the_median_and_says_how_many_there_are(state):
    status = np.full((2, 5), Status.DONE)
    status[1, 2] = state
    curves = median_curves(dataset(np.ones((2, 5)), status))
    assert curves["epsilon"].values.tolist()[0] == 1.0
    for name in ("epsilon", "epsilon_min", "epsilon_q25", "epsilon_q75", "epsilon_max", "lower_bound"):
        assert np.isnan(curves[name].values[1])
    assert curves["trials"].values.tolist() == [5, 4]
    assert curves["trials_declared"].values.tolist() == [5, 5]


def test_trials_that_do_not_belong_to_the_sweep_are_not_waited_for():
    status = np.full((2, 5), Status.DONE)
    status[1, 3:] = Status.SKIPPED
    values = np.where(status == Status.DONE, [1.0, 2, 3, 4, 5], np.nan)
    curves = median_curves(dataset(values, status))
    assert curves["epsilon"].values.tolist() == [3.0, 2.0]
    assert curves["trials_declared"].values.tolist() == [5, 3]


def test_value_that_a_live_store_had_not_shown_yet_is_no_trial():
    values = [[1.0, 2.0, np.nan]]
    curves = median_curves(dataset(values, np.full((1, 3), Status.DONE)))
    assert np.isnan(curves["epsilon"].values).all()
    assert curves["trials"].values.tolist() == [2]


def test_point_without_any_trial_is_missing():
    curves = median_curves(dataset(np.full((1, 5), np.nan), np.full((1, 5), Status.SKIPPED)))
    assert np.isnan(curves["epsilon"].values).all()
    assert curves["trials"].values.tolist() == [0]


def renamed(attributes, **names) -> xr.Dataset:
    """Results of another experiment: `dataset` with other names of quantities and other attributes."""
    return dataset([[1.0, 2.0, 4.0]], np.ones((1, 3))).rename(names).assign_attrs(attributes)


@pytest.mark.parametrize(
    ("attributes", "names"),
    [
        ({"main_quantity": "condition", "experiment": "mine:CONDITION"}, {"epsilon": "condition"}),
        ({"main_quantity": "epsilon"}, {}),
        ({"experiment": "spectrum"}, {"epsilon": "effective_rank"}),  # by 0.8.0
        ({"experiment": "epsilon_rank"}, {"epsilon": "rank"}),
        ({"experiment": "mine:ALONE"}, {"epsilon": "alone", "lower_bound": "seconds"}),
        ({}, {}),
    ],
)
def test_quantity_is_the_main_one_of_the_experiment_where_none_is_named(attributes, names):
    curves = median_curves(renamed(attributes, **names))
    assert curves[names.get("epsilon", "epsilon")].values.tolist() == [2.0]


def test_main_quantity_is_that_of_every_experiment():
    for name, experiment in EXPERIMENTS.items():
        ds = renamed({"experiment": name}, epsilon=experiment.main)
        assert experiment.main in median_curves(ds)


@pytest.mark.parametrize(
    ("ds", "quantity", "told"),
    [
        (renamed({}), "error", "quantity: 'error' is not in the dataset; use one of epsilon, lower_bound"),
        (renamed({}), "status", "quantity: 'status' is not in the dataset; use one of epsilon, lower_bound"),
        (renamed({}), 5, "quantity: 5 is not in the dataset; use one of epsilon, lower_bound"),
        (renamed({"experiment": "mine:TWO"}), None, "quantity: the dataset does not say its main one; use one of "),
        (renamed({"experiment": "spectrum"}), None, "quantity: 'effective_rank' is not in the dataset; use one of "),
        (renamed({})[["epsilon"]], None, "ds: a dataset without status is not one of results; pass what open_results"),
        (renamed({})["epsilon"], None, "ds: a DataArray is not one of results; pass what open_results"),
        ("results/s.zarr", None, "ds: a str is not one of results; pass what open_results"),
    ],
)
def test_quantity_that_is_not_there_is_refused_in_one_line(ds, quantity, told):
    with pytest.raises(InputError) as caught:
        median_curves(ds, quantity)
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)


def test_selection_of_one_trial_is_its_own_median():
    curves = median_curves(dataset([[1.0, 2.0]], [[1, 1]]).isel(seed=1))
    assert curves["epsilon"].values.tolist() == [2.0]


def partly_failed(case):
    return synthetic(case) if case["m"] == 2 or case["seed"] else Outcome(None, "ValueError: never")


@pytest.fixture
def store(tmp_path):
    fill(tmp_path / "s.zarr", sweep(where="r < 4 or m == 5"), partly_failed)
    assert xr.open_zarr(tmp_path / "s.zarr").attrs["main_quantity"] == "epsilon"
    return tmp_path / "s.zarr"


@pytest.mark.parametrize("ending", ["nc", "zarr"])
def test_grid_exports_hold_the_same_dataset(store, tmp_path, ending):
    target = tmp_path / f"copy.{ending}"
    assert export(open_results(store), target) == 7
    copy = xr.open_dataset(target) if ending == "nc" else xr.open_zarr(target)
    with copy:
        original = open_results(store)
        own = {"epsweep_format", "epsweep_digest"}
        assert {key: value for key, value in copy.attrs.items() if key not in own} == {
            key: value for key, value in original.attrs.items() if key not in own
        }
        for name in original.variables:
            np.testing.assert_array_equal(copy[name].values.tolist(), original[name].values.tolist())


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_table_exports_hold_a_row_a_finished_or_failed_cell(store, tmp_path, ending):
    target = tmp_path / f"cells.{ending}"
    export(open_results(store), target)
    frame = pd.read_parquet(target) if ending == "parquet" else pd.read_csv(target)
    assert frame["status"].value_counts().to_dict() == {"done": 7, "failed": 2}
    row = frame[(frame["m"] == 5) & (frame["r"] == 4) & (frame["seed"] == 2)].iloc[0]
    assert row["epsilon"] == 5e6 + 40e3 + 4 + 0.2 + 0.03
    assert (frame.loc[frame["status"] == "failed", "message"] == "ValueError: never").all()


def test_failures_are_named_by_all_their_labels(store):
    assert failures(store) == [
        f"function=gaussian, sampling=ball-symmetric, m=5, n=40, r={r}, method=svd, seed=0: ValueError: never"
        for r in (2, 4)
    ]


def test_failures_with_one_message_are_one_group_told_with_its_first_cell(store):
    first = "function=gaussian, sampling=ball-symmetric, m=5, n=40, r=2, method=svd, seed=0"
    assert [str(group) for group in failure_groups(store)] == [f"2 cells: ValueError: never; first: {first}"]


def test_groups_of_failures_are_ordered_by_their_cells_and_a_single_cell_is_told_by_its_labels():
    status = np.array([[Status.FAILED, Status.FAILED, Status.DONE], [Status.FAILED] * 3])
    ds = dataset(np.ones((2, 3)), status)
    ds["message"] = ("m", "seed"), np.array([["a", "b: 1", "stale"], ["b: 2", "b: 1", "b: 1"]])
    assert [str(group) for group in grouped_failures(ds)] == [
        "3 cells: b: 1; first: m=0, seed=1",
        "m=0, seed=0: a",
        "m=1, seed=0: b: 2",
    ]
    assert grouped_failures(dataset(np.ones((2, 3)), np.full((2, 3), Status.DONE))) == []


def test_unknown_ending_and_existing_target_are_refused(store, tmp_path):
    with pytest.raises(StoreError, match=r"'x.xls' has no known ending; use one of .nc, .zarr, .parquet, .csv"):
        export(open_results(store), tmp_path / "x.xls")
    with pytest.raises(StoreError, match="exists; remove it"):
        export(open_results(store), store)


def test_exported_grid_is_a_store_of_its_own(store, tmp_path):
    export(open_results(store), tmp_path / "copy.zarr")
    assert failures(tmp_path / "copy.zarr") == failures(store)
    assert fill(tmp_path / "copy.zarr", sweep()) == 3


@pytest.fixture(scope="module")
def sparse(tmp_path_factory):
    """A store of 40 cells, of which one failed, in a box of 640,000 that has labels without any cell beside."""
    labels = str(list(range(41, 81)))
    sizes = {"m": labels, "n": labels, "r": labels, "seeds": str(list(range(10)))}
    spec = sweep(**sizes, method="[svd]", where="m == n and n == r and seed == (m - 41) % 10")
    path = tmp_path_factory.mktemp("sparse") / "s.zarr"
    with Writer.open(path, spec) as writer:
        cells = np.argwhere(spec.wanted)
        cells = cells[cells[:, 2] != 7]  # m = 48 is not computed
        writer.write(cells, [sparsely(spec.case(cell)) for cell in cells])
    return path


def sparsely(case):
    return synthetic(case) if case["m"] != 50 else Outcome(None, "ValueError: not at m = 50")


@pytest.mark.parametrize("ending", ["nc", "zarr", "csv", "parquet"])
def test_export_of_few_cells_in_a_large_box_is_small_in_the_file_and_in_memory(sparse, tmp_path, ending):
    target = tmp_path / f"x.{ending}"
    ds = open_results(sparse)
    ds["status"].load()
    tracemalloc.start()
    assert export(ds, target) == 38
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 32e6  # a variable over the box has 5 MB, and there are nine
    size = sum(path.stat().st_size for path in [target, *target.rglob("*")] if path.is_file())
    assert size < 1e6
    if ending in ("nc", "zarr"):
        with xr.open_dataset(target) if ending == "nc" else xr.open_zarr(target) as copy:
            assert copy.sizes["m"] == copy.sizes["n"] == 39
            assert 48 not in copy["m"]
            cell = copy.sel(m=60, n=60, r=60, seed=9).squeeze()
            assert (cell["epsilon"], cell["iterations"], cell["status"]) == (60e6 + 60e3 + 60 + 0.9 + 0.03, 60, 1)
            assert copy.sel(m=50, n=50, r=50, seed=9).squeeze()["message"] == "ValueError: not at m = 50"
            assert np.isnan(copy["epsilon"].sel(m=60, n=61)).all()
            assert (copy["iterations"].sel(m=60, n=61) == -1).all()
            assert int((copy["status"] == Status.DONE).sum()) == 38
    else:
        frame = pd.read_parquet(target) if ending == "parquet" else pd.read_csv(target)
        assert len(frame) == 39
        assert frame.loc[frame["m"] == 60, "epsilon"].item() == 60e6 + 60e3 + 60 + 0.9 + 0.03


@pytest.mark.parametrize("change", ["selected", "transposed", "unsorted", "loaded", "nothing done", "one cell"])
@pytest.mark.parametrize("ending", ["nc", "zarr", "csv", "parquet"])
def test_exports_of_what_became_of_a_store_agree_with_it(store, tmp_path, ending, change):
    ds, target = open_results(store), tmp_path / f"x.{ending}"
    ds = {
        "selected": lambda: ds.sel(m=5, function="gaussian"),
        "transposed": lambda: ds.transpose(..., "m"),
        "unsorted": lambda: ds.isel(m=[1, 0], seed=[2, 0, 1]),
        "loaded": ds.load,
        "nothing done": lambda: ds.isel(m=[0], r=[1]),
        "one cell": lambda: ds.isel(dict.fromkeys(ds["status"].dims, -1)),
    }[change]()
    there = ds["status"].isin([Status.DONE, Status.FAILED])
    assert export(ds, target) == int((ds["status"] == Status.DONE).sum())
    if ending in ("nc", "zarr"):
        with xr.open_dataset(target) if ending == "nc" else xr.open_zarr(target) as copy:
            assert copy["status"].dims == ds["status"].dims
            for name in ds.variables:
                np.testing.assert_array_equal(copy[name].values.tolist(), ds[name].values.tolist())
                assert ds[name].dtype.kind == "T" or copy[name].dtype == ds[name].dtype
    else:
        frame = pd.read_parquet(target) if ending == "parquet" else pd.read_csv(target)
        assert len(frame) == int(there.sum())
        np.testing.assert_array_equal(
            frame["epsilon"].to_numpy(dtype=float), ds["epsilon"].values[there.values].astype(float)
        )
        assert {"m", "function", "message"} <= set(frame)


def test_flags_have_the_type_of_the_status_in_netcdf_of_ours_and_of_users(store, tmp_path):
    export(open_results(store), tmp_path / "ours.nc")
    open_results(store).drop_vars("message").assign_coords(function=[0], sampling=[0], method=[0]).to_netcdf(
        tmp_path / "users.nc"
    )
    export(open_results(store), tmp_path / "copy.zarr")
    export(open_results(tmp_path / "copy.zarr"), tmp_path / "again.nc")
    for name in ("ours", "users", "again"):
        with xr.open_dataset(tmp_path / f"{name}.nc") as copy:
            assert copy["status"].dtype == copy["status"].attrs["flag_values"].dtype == np.int8


def test_what_is_no_part_of_results_is_not_exported(store, tmp_path):
    """Curves, an empty selection, a status that is no state any more, and additions that a format cannot hold."""
    ds = open_results(store)
    flags = ds.assign(flag=ds["status"] == Status.DONE)
    for given, ending, told in [
        (median_curves(ds), "csv", "status is not in the dataset; give what open_results returns"),
        (ds.isel(m=slice(0)), "nc", "no cells are left, {.*'m': 0.*}; select labels"),
        (ds.where(ds["m"] > 2), "parquet", "status is float32, as after where"),
        (flags, "nc", r".nc cannot hold these results \(Illegal primitive data type"),
        (ds.assign_attrs(note=None), "nc", r".nc cannot hold these results \(Invalid value for attr 'note'"),
    ]:
        with pytest.raises(StoreError, match=f"^export: {told}") as refused:
            export(given, tmp_path / "out" / f"x.{ending}")
        assert "\n" not in str(refused.value)
    assert not list(tmp_path.glob("out/*"))
    assert export(ds.sel(m=ds["m"].values[0]), tmp_path / "x.csv") < export(ds, tmp_path / "y.csv")


def test_export_makes_its_folder_appears_whole_and_is_refused_in_one_line(store, tmp_path, monkeypatch):
    ds = open_results(store)
    assert export(ds, tmp_path / "new" / "deep" / "x.nc") == 7
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.csv").mkdir()
    for target, reason in {
        tmp_path / "file" / "x.csv": "cannot be written",
        tmp_path / "folder.csv": r"cannot be written \(Is a directory\)",
        "/proc/none/x.parquet": "cannot be written",
        "s3://bucket/x.zarr": "is a URL; give a local path",
    }.items():
        with pytest.raises(StoreError, match=reason) as refused:
            export(ds, target)
        assert "\n" not in str(refused.value)

    def full(*_, **__):
        raise RuntimeError("NetCDF: HDF error")

    before = (tmp_path / "new/deep/x.nc").read_bytes()
    monkeypatch.setattr("storage.grid_files._fill", full)
    for ending in ("nc", "zarr"):
        with pytest.raises(StoreError, match=r"cannot be written \(NetCDF: HDF error\)"):
            export(ds, tmp_path / "new" / "deep" / f"x.{ending}")
    assert [path.name for path in (tmp_path / "new" / "deep").iterdir()] == ["x.nc"]
    assert (tmp_path / "new/deep/x.nc").read_bytes() == before
