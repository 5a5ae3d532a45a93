"""A user's own matrix or tensor in a file, from its entries to a sweep."""

import hashlib
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import zarr

from pipeline import approximate, approximate_tensor, load_sweep
from pipeline.arrays import BlockMatrix, as_matrix
from pipeline.errors import InputError
from pipeline.files import FileMatrix, FileRecipe, find_file, sha256_of
from pipeline.grid import parse_sweep
from pipeline.passes import LocalPasses, max_norm
from tests.support import BLOCK

RANDOM = np.random.default_rng(11)
MATRIX = RANDOM.standard_normal((40, 30))
TENSOR = RANDOM.standard_normal((6, 5, 7))
REAL = ["?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "g", ">i4", ">u2", ">f4", ">f8", "<f8"]
RANGES = [
    (slice(None), slice(None)),
    (slice(0, 40), slice(0, 30)),
    (slice(3, 17), slice(5, 6)),
    (slice(39, 40), slice(0, 30)),
    (slice(None, 7), slice(28, None)),
    (slice(35, 99), slice(-4, None)),
]


def saved(folder, values, name="data.npy"):
    path = folder / name
    np.save(path, values)
    return str(path)


def stored(folder, values, name="data.zarr", **settings):
    path = folder / name
    array = zarr.create_array(path, shape=values.shape, dtype=values.dtype, **settings)
    array[:] = values
    return str(path)


def refused(call):
    """The message of a refusal, which is one short line."""
    with pytest.raises(InputError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


# --- entries


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", REAL)
def test_npy_of_every_real_type_holds_its_entries_in_double_precision(tmp_path, dtype, order):
    values = np.asarray(np.round(50 * np.abs(MATRIX)), dtype=dtype, order=order)
    matrix = FileMatrix(saved(tmp_path, values))
    assert matrix.shape == (40, 30)
    assert all(type(length) is int for length in matrix.shape)
    for ranges in RANGES:
        block = matrix.block(*ranges)
        assert block.dtype == np.dtype(np.float64)
        assert np.array_equal(block, values[ranges].astype(np.float64))
    assert np.array_equal(matrix.to_numpy(), values.astype(np.float64))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["f4", ">f8", "f8"])
def test_fractions_are_those_of_the_file(tmp_path, dtype, order):
    values = np.asarray(MATRIX, dtype=dtype, order=order)
    assert np.array_equal(FileMatrix(saved(tmp_path, values)).to_numpy(), values.astype(np.float64))


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("chunks", [(40, 30), (7, 11), (1, 30)])
@pytest.mark.parametrize("dtype", ["f8", "f4", "i2", "u1", "?", ">f8"])
def test_zarr_of_either_format_and_any_chunks_holds_its_entries(tmp_path, zarr_format, chunks, dtype):
    values = np.round(20 * np.abs(MATRIX)).astype(dtype)
    matrix = FileMatrix(stored(tmp_path, values, chunks=chunks, zarr_format=zarr_format))
    assert matrix.shape == (40, 30)
    assert all(type(length) is int for length in matrix.shape)
    for ranges in RANGES:
        block = matrix.block(*ranges)
        assert block.dtype == np.dtype(np.float64)
        assert np.array_equal(block, values[ranges].astype(np.float64))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("save", [saved, stored])
def test_tensor_of_order_three_holds_its_entries(tmp_path, save, order):
    tensor = FileMatrix(save(tmp_path, np.asarray(TENSOR, order=order)))
    assert tensor.shape == (6, 5, 7)
    assert np.array_equal(tensor.to_numpy(), TENSOR)
    part = slice(1, 3), slice(None), slice(-2, None)
    assert np.array_equal(tensor.block(*part), TENSOR[part])


def test_entries_that_were_never_written_to_a_zarr_are_its_fill_value(tmp_path):
    array = zarr.create_array(tmp_path / "part.zarr", shape=(8, 8), chunks=(4, 4), dtype="f8", fill_value=2.5)
    array[:4, :4] = 1.0
    expected = np.full((8, 8), 2.5)
    expected[:4, :4] = 1
    assert np.array_equal(FileMatrix(str(tmp_path / "part.zarr")).to_numpy(), expected)


@pytest.mark.parametrize("save", [saved, stored])
def test_block_is_a_copy_and_the_file_stays_as_it_is(tmp_path, save):
    path = save(tmp_path, MATRIX)
    before = sha256_of(path)
    matrix = FileMatrix(path)
    matrix.block(slice(0, 40), slice(0, 30))[:] = 7
    assert np.array_equal(matrix.to_numpy(), MATRIX)
    assert sha256_of(path) == before


@pytest.mark.parametrize("save", [saved, stored])
def test_recipe_makes_the_matrix_and_equals_that_of_the_same_path(tmp_path, save):
    path = save(tmp_path, MATRIX)
    recipe = FileRecipe.of(path)
    assert np.array_equal(recipe.make().to_numpy(), MATRIX)
    assert recipe == FileRecipe.of(path)
    assert hash(recipe) == hash(FileRecipe.of(path))
    assert recipe.make() == FileMatrix(path)
    file = max(each for each in (Path(path), *Path(path).rglob("*")) if each.is_file())
    os.utime(file, ns=(0, 1))
    assert FileRecipe.of(path) != recipe  # perhaps with other contents
    assert isinstance(FileMatrix(path), BlockMatrix)
    other = save(tmp_path, MATRIX[:10], f"other{Path(path).suffix}")
    with pytest.raises(InputError, match=r"has the shape \(10, 30\) here and \(40, 30\) where the run was started"):
        replace(recipe, path=other).make()


@pytest.mark.parametrize("save", [saved, stored])
def test_file_of_the_same_shape_and_other_contents_is_refused_on_a_worker(tmp_path, save):
    """Kind: a copy of yesterday's on another machine; one whose time alone differs is the same file."""
    path = save(tmp_path, MATRIX)
    recipe, digest = FileRecipe.of(path), sha256_of(path)
    recipe.require_same(digest)
    for file in Path(path).rglob("*") if Path(path).is_dir() else [Path(path)]:
        os.utime(file, ns=(0, 1))
    recipe.require_same(digest)
    save(tmp_path, MATRIX + 1, f"other{Path(path).suffix}")
    shutil.rmtree(path, ignore_errors=True)
    (tmp_path / f"other{Path(path).suffix}").rename(path)
    with pytest.raises(InputError, match="has other contents here than where the run was started; give every machine"):
        recipe.require_same(digest)


@pytest.mark.parametrize("save", [saved, stored])
def test_file_is_approximated_as_the_array_is(tmp_path, save):
    matrix = FileMatrix(save(tmp_path, MATRIX))
    found, expected = (approximate(values, 4, "ap", bound="tail") for values in (matrix, MATRIX))
    assert found.left.tobytes() == expected.left.tobytes()
    assert found.max_error == expected.max_error
    assert max_norm(LocalPasses(matrix, 2)) == np.abs(MATRIX).max()


# --- refusals


@pytest.mark.parametrize("name", ["data.csv", "data.txt", "data", "data.NPY", "data.npz", "data.npy.gz", ".npy"])
def test_other_kinds_of_file_are_refused(tmp_path, name):
    (tmp_path / name).write_text("1,2\n3,4\n")
    told = refused(lambda: FileMatrix(str(tmp_path / name)))
    assert told.startswith(f"file: {tmp_path / name} is neither a .npy file nor a .zarr folder")


@pytest.mark.parametrize("name", ["none.npy", "none.zarr", "none/none.npy"])
def test_missing_file_is_refused(tmp_path, name):
    told = refused(lambda: FileMatrix(str(tmp_path / name)))
    assert told.startswith(f"file: {tmp_path / name} cannot be read (")
    assert "every worker can read" in told


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00", b"hello world", b"\0" * 500])
def test_npy_that_is_no_array_is_refused(tmp_path, content):
    (tmp_path / "data.npy").write_bytes(content)
    assert "data.npy cannot be read (" in refused(lambda: FileMatrix(str(tmp_path / "data.npy")))


@pytest.mark.parametrize("kept", [0.3, 0.99])
def test_npy_that_was_cut_off_is_refused(tmp_path, kept):
    path = saved(tmp_path, MATRIX)
    os.truncate(path, int(kept * os.path.getsize(path)))  # noqa: PTH202
    assert "data.npy cannot be read (" in refused(lambda: FileMatrix(path))


def test_folder_named_npy_and_file_named_zarr_are_refused(tmp_path):
    (tmp_path / "data.npy").mkdir()
    (tmp_path / "data.zarr").write_text("")
    for name in ("data.npy", "data.zarr"):
        assert f"{name} cannot be read (" in refused(lambda name=name: FileMatrix(str(tmp_path / name)))


def test_zarr_that_is_no_array_is_refused(tmp_path):
    (tmp_path / "empty.zarr").mkdir()
    (tmp_path / "spoilt.zarr").mkdir()
    (tmp_path / "spoilt.zarr" / "zarr.json").write_text("{")
    for name in ("empty.zarr", "spoilt.zarr"):
        assert f"{name} cannot be read (" in refused(lambda name=name: FileMatrix(str(tmp_path / name)))


LABELLED = xr.DataArray(
    MATRIX, dims=("x", "y"), name="data", coords={"x": np.arange(40), "y": np.arange(30.0), "when": 3.5},
    attrs={"units": "m"},
)  # fmt: skip
WITH_PLACES = LABELLED.assign_coords(place=(("x", "y"), np.ones((40, 30))))


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    "written",
    [LABELLED, LABELLED.drop_vars("x"), WITH_PLACES, LABELLED.astype("f4"), LABELLED.to_dataset(), LABELLED.T],
    ids=["axes", "one axis", "coordinates of both axes", "single precision", "dataset", "transposed"],
)
def test_zarr_that_xarray_wrote_is_the_array_in_it(tmp_path, written, zarr_format):
    written.to_zarr(tmp_path / "data.zarr", zarr_format=zarr_format)
    expected = written["data"] if isinstance(written, xr.Dataset) else written
    matrix = FileMatrix(str(tmp_path / "data.zarr"))
    assert np.array_equal(matrix.to_numpy(), expected.values)
    assert np.array_equal(np.asarray(matrix.T), expected.values.T)
    assert np.array_equal(FileMatrix(str(tmp_path / "data.zarr" / "data")).to_numpy(), expected.values)
    assert FileRecipe.of(str(tmp_path / "data.zarr")).make() == matrix


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_group_with_one_array_is_that_array(tmp_path, zarr_format):
    group = zarr.create_group(tmp_path / "group.zarr", zarr_format=zarr_format)
    group.create_array("inner", shape=TENSOR.shape, dtype="f8")[:] = TENSOR
    assert np.array_equal(FileMatrix(str(tmp_path / "group.zarr")).to_numpy(), TENSOR)


def test_group_with_several_arrays_is_refused_with_the_way_to_name_one(tmp_path):
    group = zarr.create_group(tmp_path / "group.zarr")
    assert "group.zarr is a group of several arrays (none); name one" in refused(
        lambda: FileMatrix(str(tmp_path / "group.zarr"))
    )
    for name in ("b", "a"):
        group.create_array(name, shape=(3, 4), dtype="f8")[:] = 5
    told = refused(lambda: FileMatrix(str(tmp_path / "group.zarr")))
    assert told.endswith("group.zarr is a group of several arrays (a, b); name one of them, as group.zarr/a")
    assert np.array_equal(FileMatrix(str(tmp_path / "group.zarr" / "a")).to_numpy(), np.full((3, 4), 5.0))
    group.create_group("inner").create_array("c", shape=(3, 4), dtype="f8")
    assert FileMatrix(str(tmp_path / "group.zarr" / "inner" / "c")).shape == (3, 4)
    assert "cannot be read (" in refused(lambda: FileMatrix(str(tmp_path / "group.zarr" / "d")))


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("dtype", "encoding"), [("f8", {"_FillValue": -9.0}), ("i4", {"_FillValue": -9}), ("f4", {"_FillValue": -9.0})]
)
def test_entry_that_xarray_calls_missing_is_none(tmp_path, zarr_format, dtype, encoding):
    values = np.round(20 * MATRIX).astype(dtype)
    values[values == -9] = 1
    values[17, 23] = -9
    array = xr.DataArray(values, dims=("x", "y"), name="data")
    array.encoding = encoding
    array.to_zarr(tmp_path / "data.zarr", zarr_format=zarr_format)
    matrix = FileMatrix(str(tmp_path / "data.zarr"))
    assert "entry [17, 23] is nan; every entry must be finite" in refused(matrix.to_numpy)
    assert np.array_equal(matrix.block(slice(17), slice(None)), values[:17].astype(float))


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize(
    ("values", "encoding", "told"),
    [
        (MATRIX, {"dtype": "i2", "scale_factor": 0.1, "_FillValue": -999}, "codes of its entries (scale_factor: 0.1)"),
        (MATRIX, {"dtype": "f4", "add_offset": 5.0}, "codes of its entries (add_offset: 5.0)"),
        (np.full((3, 4), "2026-11-28", "M8[ns]"), {}, "codes of its entries (units: "),
    ],
)
def test_codes_that_stand_for_entries_are_refused(tmp_path, values, encoding, told):
    array = xr.DataArray(values, dims=("x", "y"), name="data")
    array.encoding = encoding
    array.to_zarr(tmp_path / "data.zarr")
    assert told in refused(lambda: FileMatrix(str(tmp_path / "data.zarr")))


@pytest.mark.parametrize("missing", [1e20, -1.0])
def test_entry_that_either_attribute_calls_missing_is_none_in_any_precision(tmp_path, missing):
    """Kind: numbers that stand for missing entries; 1e20 is no number of single precision, nor the only one said."""
    array = zarr.create_array(
        tmp_path / "data.zarr", shape=(3, 4), dtype="f4", attributes={"_FillValue": 1e20, "missing_value": [-1, -2]}
    )
    array[:] = 5
    assert (FileMatrix(str(tmp_path / "data.zarr")).to_numpy() == 5).all()
    array[1, 2] = missing
    assert "entry [1, 2] is nan" in refused(FileMatrix(str(tmp_path / "data.zarr")).to_numpy)
    assert f"entries of {missing:g} stand for missing ones; fill them" in refused(lambda: as_matrix(array))


def test_integers_that_are_to_be_read_without_their_sign_are_refused(tmp_path):
    zarr.create_array(tmp_path / "data.zarr", shape=(3, 4), dtype="i1", attributes={"_Unsigned": "true"})
    assert "codes of its entries (_Unsigned: true)" in refused(lambda: FileMatrix(str(tmp_path / "data.zarr")))


@pytest.mark.parametrize("save", [saved, stored])
def test_ranges_that_are_not_contiguous_or_not_one_a_mode_are_refused(tmp_path, save):
    """What is read in runs of neighbours would be other entries."""
    matrix = FileMatrix(save(tmp_path, MATRIX))
    assert refused(lambda: matrix.block(slice(0, 9, 2), slice(None))) == (
        "block: steps 2 and 1; ask for contiguous ranges (step 1)"
    )
    assert refused(lambda: matrix.T.block(slice(None), slice(None, None, -1))).startswith("block: steps -1 and 1; ")
    assert refused(lambda: matrix.block(slice(0, 9))).startswith("block: 1 ranges for a tensor of order 2; give one")
    assert refused(lambda: matrix.block(3, slice(0, 9))).startswith("block: 3 is no range; give a slice, such as ")


def test_pickled_objects_are_refused_and_never_run(tmp_path):
    class Harmful:
        def __reduce__(self):
            return (tmp_path / "harm").touch, ()

    path = saved(tmp_path, np.array([[Harmful(), 1]], dtype=object))
    (tmp_path / "plain.npy").write_bytes(pickle.dumps(Harmful()))
    for each in (path, str(tmp_path / "plain.npy")):
        assert "cannot be read (ValueError" in refused(lambda each=each: FileMatrix(each))
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    "values",
    [
        MATRIX * 1j,
        MATRIX.astype("c8"),
        np.array([["a", "b"]]),
        np.array([[b"a", b"b"]]),
        np.zeros((2, 2), "M8[s]"),
        np.zeros((2, 2), "m8[s]"),
        np.zeros((2, 2), [("a", "f8"), ("b", "f8")]),
        np.zeros((2, 2), "V8"),
        np.float64(3),
        np.ones(5),
        np.empty((0, 3)),
        np.empty((3, 0)),
        np.empty((2, 0, 2)),
        np.empty(0),
    ],
    ids=lambda values: f"{values.dtype} {values.shape}",
)
def test_npy_of_anything_but_real_numbers_of_two_or_more_dimensions_is_refused(tmp_path, values):
    told = refused(lambda: FileMatrix(saved(tmp_path, values)))
    assert told.startswith(f"file: {tmp_path / 'data.npy'} holds {values.dtype} of shape {values.shape}; give real ")


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("values", [MATRIX * 1j, np.ones(5), np.empty((0, 3)), np.float64(3)], ids=np.shape)
def test_zarr_of_anything_but_real_numbers_of_two_or_more_dimensions_is_refused(tmp_path, values, zarr_format):
    settings = {"shape": values.shape, "dtype": values.dtype, "zarr_format": zarr_format}
    zarr.create_array(tmp_path / "data.zarr", **settings)
    told = refused(lambda: FileMatrix(str(tmp_path / "data.zarr")))
    assert f"data.zarr holds {values.dtype} of shape {values.shape}; give real numbers" in told


@pytest.mark.parametrize("save", [saved, stored])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_entry_that_is_not_finite_is_named_by_its_place_in_the_file(tmp_path, save, bad, dtype):
    values = MATRIX.astype(dtype)
    values[17, 23] = bad
    path = save(tmp_path, values)
    matrix = FileMatrix(path)
    for ranges in ((slice(10, 20), slice(20, 30)), (slice(None), slice(None)), (slice(-23, None), slice(23, 24))):
        told = refused(lambda ranges=ranges: matrix.block(*ranges))
        assert told == f"file {path}: entry [17, 23] is {bad}; every entry must be finite"
    assert np.array_equal(matrix.block(slice(0, 17), slice(0, 30)), values[:17])


def test_entry_of_a_tensor_that_is_not_finite_is_named_by_all_its_indices(tmp_path):
    values = TENSOR.copy()
    values[4, 2, 6] = np.nan
    matrix = FileMatrix(saved(tmp_path, values))
    assert "entry [4, 2, 6] is nan" in refused(lambda: matrix.block(slice(3, 5), slice(1, 3), slice(5, None)))


# --- digests and places


@pytest.mark.parametrize("size", [0, 1, 1000, 2**22 - 128, 2**22, 2**22 + 1])
def test_digest_of_a_file_is_that_of_its_bytes(tmp_path, size):
    content = np.random.default_rng(size).bytes(size)
    (tmp_path / "data.npy").write_bytes(content)
    assert sha256_of(str(tmp_path / "data.npy")) == hashlib.sha256(content).hexdigest()


def test_digest_of_a_saved_array_is_that_of_the_standard_library(tmp_path):
    path = saved(tmp_path, MATRIX)
    with open(path, "rb") as file:  # noqa: PTH123
        assert sha256_of(path) == hashlib.file_digest(file, "sha256").hexdigest()


def test_digest_of_a_file_changes_with_its_content_and_only_with_it(tmp_path):
    path = saved(tmp_path, MATRIX)
    first = sha256_of(path)
    for number, values in enumerate((MATRIX + 1, MATRIX[:-1], MATRIX)):
        saved(tmp_path, values)
        os.utime(path, ns=(number, number))  # a clock of the file system may be coarse
        assert (sha256_of(path) == first) == (values is MATRIX)
    assert sha256_of(saved(tmp_path, MATRIX, "copy.npy")) == first


def test_digest_of_a_folder_changes_with_every_file_of_it(tmp_path):
    path = stored(tmp_path, MATRIX, chunks=(20, 15))
    first = sha256_of(path)
    files = sorted(each for each in (tmp_path / "data.zarr").rglob("*") if each.is_file())
    assert len(files) == 5  # metadata and four chunks
    for file in files:
        content = file.read_bytes()
        file.write_bytes(content + b" ")
        assert sha256_of(path) != first
        file.write_bytes(content)
        os.utime(file, ns=(1, 1))
        assert sha256_of(path) == first
        file.rename(file.with_name("moved"))
        assert sha256_of(path) != first
        file.with_name("moved").rename(file)
        assert sha256_of(path) == first
    (tmp_path / "data.zarr" / "more").touch()
    assert sha256_of(path) != first


def test_digest_of_a_folder_does_not_depend_on_where_it_is(tmp_path):
    path = stored(tmp_path, MATRIX, chunks=(20, 15))
    (tmp_path / "elsewhere").mkdir()
    copy = shutil.copytree(path, tmp_path / "elsewhere" / "other.zarr")
    assert sha256_of(str(copy)) == sha256_of(path)


def test_digest_of_what_is_not_there_is_refused(tmp_path):
    told = refused(lambda: sha256_of(str(tmp_path / "none.npy")))
    assert told == f"file: {tmp_path / 'none.npy'} cannot be read (No such file or directory)"


def test_file_is_looked_for_beside_the_spec_and_then_in_the_working_directory(tmp_path, monkeypatch):
    here, beside = tmp_path / "here", tmp_path / "beside"
    for folder in (here, beside):
        (folder / "sub").mkdir(parents=True)
    monkeypatch.chdir(here)
    for folder in (here, beside):  # the working directory, until there is one beside the spec
        for name in ("data.npy", "sub/data.npy"):
            saved(folder, MATRIX, name)
            assert find_file(name, beside) == str(folder / name)
        (folder / "data.zarr").mkdir()
        assert find_file("data.zarr", beside) == str(folder / "data.zarr")
    assert Path(find_file("../here/data.npy", beside)).samefile(here / "data.npy")
    assert find_file(str(here / "data.npy"), beside) == str(here / "data.npy")


def test_file_that_is_nowhere_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = refused(lambda: find_file("none.npy", tmp_path))
    assert told == "file: none.npy is not there; put it beside the spec or in the working directory"


def test_npy_file_is_read_not_mapped(tmp_path):
    """Blocks of a file that shrinks while it is in use are refused; with a map the process would be killed."""
    path = saved(tmp_path, np.zeros((400, 300)))
    matrix = FileMatrix(path)
    os.truncate(path, 500_000)
    assert np.array_equal(matrix.block(slice(0, 10), slice(5, 20)), np.zeros((10, 15)))
    assert "shorter" in refused(lambda: matrix.block(slice(390, 400), slice(0, 300)))
    assert "shorter than its header says" in refused(lambda: FileMatrix(path))


@pytest.mark.parametrize("order", ["C", "F"])
def test_every_block_of_a_tensor_in_a_file(tmp_path, order):
    values = np.asarray(np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5), order=order)
    matrix = FileMatrix(saved(tmp_path, values))
    for starts in np.ndindex(2, 3, 4, 5):
        ranges = tuple(slice(start, start + 2) for start in starts)
        assert np.array_equal(matrix.block(*ranges), values[ranges])
        assert matrix.block(*ranges).flags.c_contiguous
        whole = (*ranges[:2], slice(None), slice(None))  # neighbours in the file, read together
        assert np.array_equal(matrix.block(*whole), values[whole])
        assert np.array_equal(matrix.block(*whole[::-1]), values[whole[::-1]])
    assert matrix.block(*[slice(1, 1)] * 4).shape == (0, 0, 0, 0)
    assert matrix.block(slice(0, 2), slice(3, 3), slice(0, 4), slice(0, 5)).shape == (2, 0, 4, 5)


def test_digest_of_a_folder_looks_behind_links_and_takes_any_name(tmp_path):
    path = Path(stored(tmp_path, MATRIX, chunks=(20, 15)))
    (path / "c").rename(tmp_path / "elsewhere")
    (path / "c").symlink_to(tmp_path / "elsewhere")
    before = sha256_of(str(path))
    chunk = next(each for each in (tmp_path / "elsewhere").rglob("*") if each.is_file())
    chunk.write_bytes(chunk.read_bytes() + b"x")
    assert sha256_of(str(path)) != before
    (path / os.fsdecode(b"\xff")).write_bytes(b"")
    assert len(sha256_of(str(path))) == 64


def test_array_beyond_what_is_held_in_large_chunks_is_refused(tmp_path):
    path = tmp_path / "large.zarr"
    zarr.create_array(path, shape=(20_000, 20_000), chunks=(4000, 4000), dtype="f8")
    assert "chunks of 122 MiB" in refused(lambda: FileMatrix(str(path)))
    zarr.create_array(tmp_path / "small.zarr", shape=(4000, 4000), chunks=(4000, 4000), dtype="f8")
    assert FileMatrix(str(tmp_path / "small.zarr")).shape == (4000, 4000)


def test_spellings_of_a_name_are_one_label(folder):
    assert parsed(folder, block("./data.npy")).labels["function"] == ("data.npy",)
    assert parsed(folder, block("../beside/./data.npy")).labels["function"] == ("../beside/data.npy",)


def test_link_keeps_the_suffix_of_its_name(tmp_path):
    Path(saved(tmp_path, MATRIX)).rename(tmp_path / "0a1b2c")
    (tmp_path / "data.npy").symlink_to(tmp_path / "0a1b2c")
    found = FileMatrix(find_file("data.npy", tmp_path))
    assert np.array_equal(found.to_numpy(), MATRIX)


def test_archive_named_npy_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.eye(3))
    (tmp_path / "a.npz").rename(tmp_path / "data.npy")
    refused(lambda: FileMatrix(str(tmp_path / "data.npy")))


@pytest.mark.parametrize("name", ["x" * 900, "a/" * 600, '"a\\nb.npy"', '"a\\0b.npy"'])
def test_odd_names_are_refused_in_one_short_line(folder, name):
    told = refused(lambda: parsed(folder, block(name)))
    assert "is not there" in told


# --- sweeps


FREE = {key: entry for key, entry in BLOCK.items() if key not in ("function", "sampling", "m", "n")}


def block(file="data.npy", **changes):
    """A block of a file, as YAML; None leaves a key out."""
    entries = {"function": f"{{file: {file}}}", **FREE, **changes}
    return f"  - {{{', '.join(f'{key}: {entry}' for key, entry in entries.items() if entry is not None)}}}\n"


def spec(*blocks, settings="{}"):
    return f"name: t\nsettings: {settings}\ngrid:\n" + "".join(blocks)


FUNCTIONS = "  - {" + ", ".join(f"{key}: {entry}" for key, entry in BLOCK.items()) + "}\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Folder of a spec with files; the working directory is another one."""
    (tmp_path / "beside").mkdir()
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    saved(tmp_path / "beside", MATRIX)
    saved(tmp_path / "beside", TENSOR, "tensor.npy")
    stored(tmp_path / "beside", MATRIX[:20], "some.zarr")
    return tmp_path / "beside"


def parsed(folder, *blocks, **settings):
    return parse_sweep(spec(*blocks, **settings), folder=folder)


@pytest.mark.parametrize(("file", "n"), [("data.npy", 30), ("tensor.npy", 5), ("some.zarr", 20)])
def test_file_fixes_the_labels_that_it_has_itself(folder, file, n):
    sweep = parsed(folder, block(file))
    assert sweep.labels == {
        "function": (file,),
        "sampling": ("given",),
        "m": (0,),
        "n": (n,),
        "r": (2, 4),
        "method": ("svd",),
        "seed": (0, 1, 2),
    }
    assert sweep.wanted.all()
    assert sweep.settings.files == {file: str(folder / file)}


@pytest.mark.parametrize("file", ["data.npy", "some.zarr"])
def test_digest_of_a_file_is_among_the_used_settings(folder, file):
    used = parsed(folder, block(file)).used_settings
    assert used[file] == {"sha256": sha256_of(str(folder / file))}
    assert set(used) == {"svd", "certificate", file}
    assert "files" not in parsed(folder, FUNCTIONS).used_settings


def test_digest_follows_what_the_file_holds(folder):
    first = parsed(folder, block()).used_settings
    again = parsed(folder, block()).used_settings
    saved(folder, MATRIX[::-1][:29])
    assert again == first != parsed(folder, block()).used_settings


def test_file_is_found_beside_the_spec_and_in_the_working_directory(folder, tmp_path):
    path = folder / "sweep.yaml"
    path.write_text(spec(block()))
    assert load_sweep(path).settings.files == {"data.npy": str(folder / "data.npy")}
    saved(tmp_path / "cwd", MATRIX[:9])
    assert load_sweep(path).settings.files == {"data.npy": str(folder / "data.npy")}
    assert parse_sweep(spec(block())).labels["n"] == (9,)
    (folder / "data.npy").unlink()
    assert load_sweep(path).settings.files == {"data.npy": str(tmp_path / "cwd" / "data.npy")}
    (tmp_path / "cwd" / "data.npy").unlink()
    told = refused(lambda: load_sweep(path))
    assert told.startswith(f"{path}: grid[0].function.file: data.npy is not there; put it beside the spec")


def test_whole_path_of_a_file_is_its_label(folder):
    path = str(folder / "data.npy")
    sweep = parse_sweep(spec(block(path)))
    assert sweep.labels["function"] == (path,)
    assert sweep.settings.files == {path: path}


def test_blocks_of_functions_and_of_files_go_together(folder):
    sweep = parsed(folder, FUNCTIONS, block(), block("some.zarr", r="[3]", seeds="1"), block("tensor.npy", r="[2]"))
    assert sweep.labels["function"] == ("gaussian", "data.npy", "some.zarr", "tensor.npy")
    assert sweep.labels["sampling"] == ("ball-symmetric", "given")
    assert sweep.labels["m"] == (0, 2)
    assert sweep.labels["n"] == (5, 20, 30, 40)
    assert sweep.wanted.sum() == 6 + 6 + 1 + 3
    columns = sweep.columns(np.argwhere(sweep.wanted))
    chosen = (columns[axis].tolist() for axis in ("function", "sampling", "m", "n"))
    combinations = set(zip(*chosen, strict=True))
    assert combinations == {
        ("gaussian", "ball-symmetric", 2, 40),
        ("data.npy", "given", 0, 30),
        ("some.zarr", "given", 0, 20),
        ("tensor.npy", "given", 0, 5),
    }


def test_several_blocks_of_one_file_unite(folder):
    sweep = parsed(folder, block(r="[2]"), block(r="[7]", method="[svd, ap]"))
    assert sweep.labels["function"] == ("data.npy",)
    assert sweep.wanted.sum() == 3 + 6


def test_block_repeated_by_an_alias_is_read_as_the_first(folder):
    text = "name: t\ngrid:\n  - &a {function: {file: data.npy}, r: [2], method: [svd], seeds: 2}\n  - *a\n"
    assert parse_sweep(text, folder=folder).wanted.sum() == 2
    text = "name: t\ngrid:\n  - {function: &f {file: data.npy}, r: [2], method: [svd], seeds: 2}\n"
    text += "  - {function: *f, r: [3], method: [svd], seeds: 2}\n"
    assert parse_sweep(text, folder=folder).wanted.sum() == 4


def test_predicate_of_a_block_may_name_what_the_file_fixes(folder):
    where = "function == 'data.npy' and sampling == 'given' and m == 0 and n == 30 and r < 3"
    assert parsed(folder, block(where=f'"{where}"')).wanted.sum() == 3


FILES = "[{file: data.npy}, {file: some.zarr}]"


def listed(function, **changes):
    """A block with a list of functions and files."""
    return block(**{"function": function} | changes)


def combinations(sweep):
    columns = sweep.columns(np.argwhere(sweep.wanted))
    return set(zip(*(columns[axis].tolist() for axis in ("function", "sampling", "m", "n", "r")), strict=True))


def test_files_in_a_list_have_axes_of_their_own(folder):
    sweep = parsed(folder, listed(FILES))
    apart = parsed(folder, block(), block("some.zarr"))
    assert (sweep.labels, sweep.settings, sweep.used_settings) == (apart.labels, apart.settings, apart.used_settings)
    assert np.array_equal(sweep.wanted, apart.wanted)
    assert parsed(folder, listed("[{file: data.npy}]")).labels == parsed(folder, block()).labels
    used = {case["function"] for case, _ in outcomes(parsed(folder, listed(FILES, r="[2]", seeds="1")))}
    assert used == {"data.npy", "some.zarr"}


def test_files_stand_in_a_list_beside_functions_whose_axes_are_not_theirs(folder):
    given = {"sampling": "[ball-symmetric]", "m": "[2, 3]", "n": "[40]", "r": "[2]"}
    sweep = parsed(
        folder, listed("[{file: data.npy}, {name: gaussian, scale: 2}, {file: tensor.npy}, cauchy]", **given)
    )
    assert combinations(sweep) == {
        ("data.npy", "given", 0, 30, 2),
        ("tensor.npy", "given", 0, 5, 2),
        *((name, "ball-symmetric", m, 40, 2) for name in ("gaussian(scale=2)", "cauchy") for m in (2, 3)),
    }


def test_condition_of_a_list_may_leave_out_some_of_its_files_but_not_all(folder):
    sweep = parsed(folder, listed(FILES, where="\"function == 'some.zarr'\""))
    assert {case[0] for case in combinations(sweep)} == {"some.zarr"}
    assert parsed(folder, listed(FILES, r="[2, 25]", where="r <= n")).wanted.sum() == 3 * 2 + 3
    assert refused(lambda: parsed(folder, FUNCTIONS, listed(FILES, where="n > 99"))).startswith(
        "grid[1].where: 'n > 99' leaves no cell"
    )


def test_place_of_a_block_is_the_written_one_behind_a_list_of_files(folder):
    told = refused(lambda: parsed(folder, listed(FILES), block(r="[0]")))
    assert told.startswith("grid[1].r: item 0: 0 is not between")
    assert refused(lambda: parsed(folder, listed(FILES), block(r="[99]"))).startswith("grid[1]: n = 30, r = 99 breaks")
    given = {"sampling": "[ball-symmetric]", "m": "[2]", "n": "[40]"}
    told = refused(lambda: parsed(folder, listed("[{file: data.npy}, gaussian, 5]", **given)))
    assert told.startswith("grid[0].function: item 2: 5 is not a text")
    long = "{from: 1, to: 9, count: 9, scale: log}"
    assert parsed(folder, listed(FILES), block(r=long)).notes[0].startswith("grid[1].r: {from: 1")
    assert len(parsed(folder, listed(FILES, r=long)).notes) == 1


def test_list_of_files_is_read_through_an_alias_as_the_first(folder):
    text = f"name: t\ngrid:\n  - {{function: &f {FILES}, r: [2], method: [svd], seeds: 2}}\n"
    text += "  - {function: *f, r: [3], method: [svd], seeds: 2}\n"
    assert parse_sweep(text, folder=folder).wanted.sum() == 8


@pytest.mark.parametrize("key", ["sampling", "m", "n"])
def test_key_that_the_file_fixes_is_refused(folder, key):
    told = refused(lambda: parsed(folder, block(**{key: BLOCK[key]})))
    assert told == f"grid[0].{key}: is fixed by function: {{file: data.npy}}; leave it out"
    assert refused(lambda: parsed(folder, FUNCTIONS, block(**{key: BLOCK[key]}))).startswith(f"grid[1].{key}: ")


@pytest.mark.parametrize(
    ("function", "start", "told"),
    [
        ("{file: none.npy}", "grid[0].function.file: none.npy is not there", "beside the spec"),
        ("{file: [data.npy]}", "grid[0].function.file: ['data.npy'] is not a text", ".npy file or a .zarr folder"),
        ("{file: {a: b}}", "grid[0].function.file: {'a': 'b'} is not a text", ".npy"),
        ("{file: 5}", "grid[0].function.file: 5 is not a text", ".npy"),
        ("{file: }", "grid[0].function.file: None is not a text", ".npy"),
        ("{file: true}", "grid[0].function.file: True is not a text", ".npy"),
        ("{file: ''}", "grid[0].function.file: '' is not a text", ".npy"),
        ("{file: .}", "grid[0].function.file: ", "neither a .npy file nor a .zarr folder"),
        ("{file: data.csv}", "grid[0].function.file: ", "neither a .npy file nor a .zarr folder"),
        ("{file: line.npy}", "grid[0].function.file: ", "shape (5,)"),
        ("{file: complex.npy}", "grid[0].function.file: ", "complex128"),
        ("{file: broken.npy}", "grid[0].function.file: ", "cannot be read"),
        ("{file: data.npy, more: 1}", "grid[0].function: {", "write {file: data.npy}, or a list"),
        ("{files: [data.npy]}", "grid[0].function: {", "write {file: data.npy}"),
        ("{}", "grid[0].function: {}", "write {file: data.npy}"),
        ("{from: 1, to: 5, count: 2}", "grid[0].function: {", "list the labels"),
        ("[{file: data.npy}, {file: none.npy}]", "grid[0].function[1].file: none.npy is not there", "beside the spec"),
        ("[{file: data.npy}, {file: ./data.npy}]", "grid[0].function: 'data.npy' is listed twice", "once"),
        ("[{file: data.npy}, gaussian]", "grid[0].sampling: is missing", "add it"),
        ("[{file: line.npy}]", "grid[0].function[0].file: ", "shape (5,)"),
        ("[{file: data.npy, more: 1}]", "grid[0].", ""),
        ("[data.npy]", "grid[0].", ""),
        ("data.npy", "grid[0].", ""),
        ("[given]", "grid[0].", ""),
    ],
)
def test_wrong_forms_are_refused_in_one_short_line(folder, function, start, told):
    (folder / "data.csv").write_text("1,2")
    (folder / "broken.npy").write_text("1,2")
    saved(folder, np.ones(5), "line.npy")
    saved(folder, np.ones((2, 2)) * 1j, "complex.npy")
    message = refused(lambda: parsed(folder, block(function=function)))
    assert message.startswith(start)
    assert told in message


@pytest.mark.parametrize("axis", ["sampling", "m", "n", "r", "method", "seeds"])
def test_file_stands_for_functions_only(folder, axis):
    entries = {**BLOCK, axis: "{file: data.npy}"}
    text = "  - {" + ", ".join(f"{key}: {entry}" for key, entry in entries.items()) + "}\n"
    assert refused(lambda: parsed(folder, text)).startswith(f"grid[0].{axis}: ")


@pytest.mark.parametrize("sampling", ["[given]", "[ball-symmetric, given]"])
def test_sampling_of_a_file_is_none_of_a_function(sampling):
    entries = {**BLOCK, "sampling": sampling}
    text = spec("  - {" + ", ".join(f"{key}: {entry}" for key, entry in entries.items()) + "}\n")
    assert refused(lambda: parse_sweep(text)).startswith("grid[0].sampling: 'given' is not known")


@pytest.mark.parametrize("files", ["{data.npy: /etc/passwd}", "{}", "5", "null"])
def test_paths_cannot_be_set_in_the_settings(folder, files):
    told = refused(lambda: parsed(folder, block(), settings=f"{{files: {files}}}"))
    assert told.startswith("settings.files: is not a known key; name a file in the grid, as function: {file: data.npy}")


def test_files_are_not_proposed_as_a_setting(folder):
    told = refused(lambda: parsed(folder, block(), settings="{filse: {}}"))
    assert told.startswith("settings.filse: is not a known key; use one of svd, ap, minimax")
    assert "files" not in told


@pytest.mark.parametrize(("file", "n"), [("data.npy", 30), ("tensor.npy", 5), ("some.zarr", 20)])
def test_rank_above_the_smaller_side_is_refused(folder, file, n):
    assert parsed(folder, block(file, r=f"[{n}]")).wanted.all()
    told = refused(lambda: parsed(folder, block(file, r=f"[2, {n + 1}]")))
    assert told.startswith(f"grid[0]: n = {n}, r = {n + 1} breaks r <= n")


def test_tensor_in_a_file_is_for_the_methods_of_tensors(folder):
    assert parsed(folder, block("tensor.npy", method="[svd, ap, minimax]")).wanted.all()
    assert parsed(folder, block(method="[svd, ap, minimax, random_embedding]")).wanted.all()
    told = refused(lambda: parsed(folder, block("tensor.npy", method="[svd, random_embedding]")))
    assert told.startswith("grid[0]: function = tensor.npy, method = random_embedding breaks the rule that ")
    warm = {"settings": "{minimax: {warm_start: rank}}"}
    assert parsed(folder, block(method="[minimax]"), **warm).wanted.all()
    told = refused(lambda: parsed(folder, block("tensor.npy", method="[minimax]"), **warm))
    assert told.startswith("grid[0]: function = tensor.npy, method = minimax breaks the rule that minimax.warm_start")


def outcomes(sweep):
    cases = [sweep.case(cell) for cell in np.argwhere(sweep.wanted)]
    found = list(sweep.experiment.run(cases, sweep.settings))
    assert all(outcome.values is not None for outcome in found), found
    return zip(cases, (outcome.values for outcome in found), strict=True)


@pytest.mark.parametrize(("file", "values"), [("data.npy", MATRIX), ("some.zarr", MATRIX[:20])])
def test_sweep_of_a_file_finds_what_the_array_gives(folder, file, values):
    methods = "[svd, ap, minimax, random_embedding]"
    settings = "{minimax: {budget: quick}}"
    sweep = parsed(folder, block(file, r="[3]", method=methods, seeds="2"), settings=settings)
    norm = np.abs(values).max()
    for case, found in outcomes(sweep):
        budget = {"budget": "quick"} if case["method"] == "minimax" else {}
        expected = approximate(values, 3, case["method"], case["seed"], **budget)
        assert found["max_norm"] == norm
        assert found["epsilon"] == pytest.approx(expected.max_error / norm, rel=1e-9)
        assert found["lower_bound"] == pytest.approx(expected.lower_bound / norm, rel=1e-9)
        assert found["iterations"] == expected.iterations


@pytest.mark.parametrize("order", ["C", "F"])
def test_sweep_of_a_tensor_in_a_file_finds_what_the_array_gives(folder, order):
    saved(folder, np.asarray(TENSOR, order=order), "tensor.npy")
    sweep = parsed(
        folder,
        block("tensor.npy", r="[2]", method="[svd, ap, minimax]", seeds="1"),
        settings="{minimax: {budget: quick}}",
    )
    norm = np.abs(TENSOR).max()
    for case, found in outcomes(sweep):
        budget = {"budget": "quick"} if case["method"] == "minimax" else {}
        expected = approximate_tensor(TENSOR, 2, case["method"], case["seed"], **budget)
        assert found["max_norm"] == norm
        assert found["epsilon"] == pytest.approx(expected.max_error / norm, rel=1e-6)


def test_sweep_of_a_file_with_a_bad_entry_fails_in_one_line_and_the_others_go_on(folder):
    values = MATRIX.copy()
    values[3, 4] = np.nan
    saved(folder, values, "nan.npy")
    saved(folder, np.zeros((9, 9)), "zero.npy")
    sweep = parsed(folder, block("nan.npy", seeds="1"), block("zero.npy", seeds="1"), block(seeds="1"))
    cases = [sweep.case(cell) for cell in np.argwhere(sweep.wanted)]
    found = dict(zip((case["function"] for case in cases), sweep.experiment.run(cases, sweep.settings), strict=True))
    assert found["nan.npy"].message == (
        f"InputError: file {folder / 'nan.npy'}: entry [3, 4] is nan; every entry must be finite"
    )
    assert "all entries are zero" in found["zero.npy"].message
    assert found["data.npy"].values is not None


def test_costs_of_cases_depend_on_the_shape_in_the_file(folder):
    saved(folder, np.ones((3000, 30)), "tall.npy")
    sweep = parsed(folder, block(r="[2]", seeds="1"), block("tall.npy", r="[2]", seeds="1"))
    columns = sweep.columns(np.argwhere(sweep.wanted))
    for cost in (sweep.experiment.prepare_cost, sweep.experiment.evaluate_cost):
        predicted = cost(columns, sweep.settings)
        assert np.isfinite(predicted.seconds).all()
        assert predicted.memory[0] < predicted.memory[1]
        assert predicted.memory[1] >= 8 * 3000 * 30
