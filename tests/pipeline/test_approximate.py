"""The front door: what it takes, what it refuses, and that what it returns belongs together."""

import inspect
import os
import typing
from collections import deque
from importlib.resources import files

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import xarray as xr

from pipeline import approximate, approximate_tensor, approximation, function_matrix, function_tensor, lower_bound
from pipeline.approximation import processors
from pipeline.containers import real_number
from pipeline.diagnostics import principal_angles, singular_value_gap
from pipeline.errors import InputError
from pipeline.fits import power_law
from pipeline.functions import GeneratingFunction
from pipeline.passes import LocalPasses, largest_entry, largest_residual_and_entry, max_error

RANDOM = np.random.default_rng(11)
MATRIX = RANDOM.standard_normal((12, 9))
QUICK = {
    "ap": {"max_projections": 40},
    "svd": {},
    "minimax": {"budget": "quick", "bound": "tail"},
    "random_embedding": {"bound": "tail"},
}
METHODS = list(QUICK)


# --- what it takes


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(40, 25), (25, 40), (1, 6), (6, 1), (1, 1), (9, 9)])
def test_rectangular_matrices_get_factors_of_their_sides_and_their_true_error(method, shape):
    matrix = np.random.default_rng(0).standard_normal(shape)
    rank = min(3, *shape)
    found = approximate(matrix, rank, method, **QUICK[method])
    assert (found.left.shape, found.right.shape) == ((shape[0], rank), (shape[1], rank))
    error = np.abs(matrix - found.left @ found.right.T).max()
    assert found.max_error == pytest.approx(error, rel=1e-12, abs=1e-15)
    assert found.lower_bound <= found.max_error


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "form",
    [
        np.ndarray.tolist,
        np.asfortranarray,
        lambda matrix: np.repeat(matrix, 2, axis=1)[:, ::2],
        lambda matrix: matrix.astype(np.longdouble),
    ],
    ids=["lists", "column major", "strided", "extended precision"],
)
def test_form_of_the_matrix_does_not_matter(method, form):
    found = approximate(form(MATRIX), 3, method, **QUICK[method])
    reference = approximate(MATRIX, 3, method, **QUICK[method])
    assert found.max_error == pytest.approx(reference.max_error, rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [np.int8, np.uint16, np.int64, bool, np.float32, np.float16])
def test_real_numbers_of_any_type_are_taken_at_their_value(method, dtype):
    matrix = RANDOM.integers(0, 2, (12, 9)).astype(dtype)
    found = approximate(matrix, 3, method, **QUICK[method])
    assert found.max_error == approximate(matrix.astype(float), 3, method, **QUICK[method]).max_error
    assert found.left.dtype == np.float64


@pytest.mark.parametrize("method", METHODS)
def test_matrix_is_not_changed(method):
    matrix = MATRIX.copy()
    approximate(matrix, 3, method, **QUICK[method])
    assert np.array_equal(matrix, MATRIX)


@pytest.mark.parametrize("method", METHODS)
def test_read_only_matrix_is_taken(method):
    matrix = MATRIX.copy()
    matrix.setflags(write=False)
    assert approximate(matrix, 3, method, **QUICK[method]).max_error > 0


@pytest.mark.parametrize("method", METHODS)
def test_numpy_integers_serve_as_rank_and_seed(method):
    found = approximate(MATRIX, np.int32(3), method, np.uint8(2), **QUICK[method])
    reference = approximate(MATRIX, 3, method, 2, **QUICK[method])
    assert found.left.tobytes() == reference.left.tobytes()


@pytest.mark.parametrize("method", METHODS)
def test_factors_and_history_stay_out_of_the_printed_result(method):
    assert len(repr(approximate(MATRIX, 3, method, **QUICK[method]))) < 250


def test_method_is_minimax_where_none_is_named():
    found, named = approximate(MATRIX, 3), approximate(MATRIX, 3, "minimax")
    assert found.left.tobytes() == named.left.tobytes()
    assert found.max_error < approximate(MATRIX, 3, "svd").max_error


@pytest.mark.parametrize("method", METHODS)
def test_history_has_one_error_a_step_and_the_reason_for_stopping_is_told(method):
    found = approximate(MATRIX, 3, method, **QUICK[method])
    assert found.history.shape == (found.iterations,)
    assert np.isfinite(found.history).all()
    assert found.stopped
    assert "\n" not in found.stopped
    if method in {"ap", "minimax"}:
        assert found.iterations > 0
        assert found.history.min() == pytest.approx(found.max_error, rel=1e-5)
    else:
        assert (found.iterations, found.stopped) == (0, "direct")


@pytest.mark.parametrize("method", METHODS)
def test_zero_matrix_is_found_at_once(method):
    found = approximate(np.zeros((5, 4)), 2, method)
    assert (found.max_error, found.lower_bound, found.iterations) == (0, 0, 0)
    assert (found.left.shape, found.right.shape) == ((5, 2), (4, 2))


@pytest.mark.parametrize("method", METHODS)
def test_function_matrix_is_taken_as_its_values_are(method):
    matrix = function_matrix("gaussian", "ball-independent", 2, 30)
    found = approximate(matrix, 4, method, **QUICK[method])
    true = np.abs(matrix.to_numpy() - found.left @ found.right.T).max()
    assert found.max_error == pytest.approx(true, rel=1e-12)
    if method != "random_embedding":  # which makes use of the points
        plain = approximate(matrix.to_numpy(), 4, method, **QUICK[method])
        assert found.left.tobytes() == plain.left.tobytes()


def test_guarantee_is_given_by_the_method_that_has_a_theorem():
    matrix = function_matrix("gaussian", "ball-independent", 2, 30)
    found = {method: approximate(matrix, 4, method, **QUICK[method]) for method in METHODS}
    assert [method for method in METHODS if found[method].guarantee is not None] == ["random_embedding"]
    assert found["random_embedding"].guarantee > 0


@pytest.mark.parametrize("method", ["svd", "minimax"])
def test_best_bound_is_at_least_the_cheap_one_and_both_hold(method):
    settings = QUICK[method] | {"bound": "tail"}
    tail, best = (
        approximate(MATRIX, 3, method, **settings),
        approximate(MATRIX, 3, method, **settings | {"bound": "best"}),
    )
    assert 0 < tail.lower_bound <= best.lower_bound <= best.max_error == tail.max_error


@pytest.mark.parametrize(
    "start", [(MATRIX[:, :3], MATRIX[:3].T), [[[1.0]], [[2.0]]], (np.ones((12, 1), int), np.ones((9, 1), int))]
)
def test_start_may_be_any_pair_of_factors_that_can_be_extended(start):
    found = approximate(MATRIX, 3, start=start, bound="tail")
    assert found.left.shape == (12, 3)
    assert found.max_error <= 1.05 * approximate(MATRIX, 3, bound="tail").max_error


@pytest.mark.parametrize("method", METHODS)
def test_result_knows_its_entries_and_its_error_relative_to_the_matrix(method):
    for matrix in (MATRIX, function_matrix("gaussian", "ball-independent", 2, 30)):
        found = approximate(matrix, 3, method, **QUICK[method])
        entries = np.asarray(matrix)
        assert np.array_equal(found.to_numpy(), found.left @ found.right.T)
        assert found.max_norm == np.abs(entries).max()
        assert found.relative_error == found.max_error / found.max_norm
    assert f"rank 3, max_error {found.max_error:.4g} ({found.relative_error:.4g} of max|F|)" in repr(found)
    assert approximate(np.zeros((5, 4)), 2, method).relative_error == 0


def test_relative_error_of_a_matrix_in_blocks_takes_no_pass_of_its_own(monkeypatch):
    monkeypatch.setattr(approximation, "STORED_BYTES", 0)  # as if it could not be held
    passes = []
    run = LocalPasses.run
    monkeypatch.setattr(
        LocalPasses,
        "run",
        lambda self, kernel, *rest, **kind: passes.append(kernel) or run(self, kernel, *rest, **kind),
    )
    matrix = function_matrix("gaussian", "ball-independent", 2, 300)
    found = approximate(matrix, 3, "svd", bound="tail")
    assert found.max_norm == np.abs(matrix.to_numpy()).max()
    assert found.max_error == max_error(matrix, found.left, found.right)
    assert passes.count(largest_residual_and_entry) == 1
    assert largest_entry not in passes


@pytest.mark.parametrize("door", [approximate, approximate_tensor, lower_bound, function_matrix, function_tensor])
def test_signature_names_the_types_of_its_arguments_and_lists_no_types_of_numpy(door):
    text = str(inspect.signature(door))
    assert "numpy" not in text
    assert len(text) < 250
    assert typing.get_type_hints(door)


@pytest.mark.parametrize("package", ["pipeline", "storage", "flows"])
def test_package_says_that_it_is_typed(package):
    assert files(package).joinpath("py.typed").is_file()


# --- containers: taken by their values without loss, or refused in one line


class Quantity:
    """Numbers with a unit, as pint has them."""

    def __init__(self, magnitude, units):
        self.magnitude, self.units = np.asarray(magnitude), units

    def __array__(self, dtype=None, copy=None):
        return np.array(self.magnitude, dtype)


class LazyQuantity(Quantity):
    """A quantity that has the methods of Dask's collections whatever it holds, as those of pint have."""

    units = property(lambda self: "km", lambda self, value: None)

    def __dask_graph__(self):
        return None

    def compute(self):
        raise AttributeError("its magnitude is no Dask array")


class Tensor:
    """An array of another library, which NumPy can convert or not."""

    def __init__(self, values, error=None):
        self.values, self.error = values, error

    def __array__(self, dtype=None, copy=None):
        if self.error:
            raise self.error
        return self.values


class Subclass(np.ndarray):
    """An array that may say more than its numbers."""


MASK = np.zeros(MATRIX.shape, bool)
MASK[2, 3] = MASK[7, 0] = True
MASKED = np.ma.masked_array(MATRIX, MASK)
FRAME = pd.DataFrame(MATRIX, columns=[f"c{j}" for j in range(9)])
TAKEN = {
    "masked array without a masked entry": np.ma.masked_array(MATRIX, np.zeros_like(MASK)),
    "masked array without a mask": np.ma.masked_array(MATRIX),
    "numpy.matrix": MATRIX.view(np.matrix),
    "recarray without fields": MATRIX.view(np.recarray),
    "rows that are masked arrays without a masked entry": list(np.ma.masked_array(MATRIX)),
    "rows that are arrays": tuple(MATRIX),
    "data frame": FRAME,
    "data frame with a MultiIndex": FRAME.set_axis(pd.MultiIndex.from_product([range(3), list("abcd")])),
    "data frame with columns of one name": FRAME.set_axis(["c"] * 9, axis=1),
    "data frame of nullable floats": FRAME.convert_dtypes(),
    "data frame of Arrow's floats": FRAME.astype("double[pyarrow]"),
    "data frame of floats of both kinds": FRAME.astype({"c1": "Float64", "c4": "double[pyarrow]"}),
    "sparse columns of a data frame": FRAME.astype(pd.SparseDtype(float, 0.0)),
    "Dask's data frame": dd.from_pandas(FRAME, npartitions=2),
    "DataArray": xr.DataArray(MATRIX, dims=("x", "y"), attrs={"units": "m"}),
    "DataArray of a Dask array": xr.DataArray(MATRIX, dims=("x", "y")).chunk(x=5),
    "Dask array": da.from_array(MATRIX, chunks=5),
    "Dask array of masked arrays without a masked entry": da.ma.masked_array(da.from_array(MATRIX, chunks=5)),
    "array of another library": Tensor(MATRIX),
    "rows of another library": [Tensor(row) for row in MATRIX],
    "rows in a deque": deque(MATRIX),
    "rows of a data frame, one with the label unit": [pd.Series(row, ["unit", *range(8)]) for row in MATRIX],
    "DataArray whose missing value is nowhere": xr.DataArray(MATRIX, dims=("x", "y"), attrs={"_FillValue": -9e9}),
}
LOST = {
    "masked array": (MASKED, "2 of its 108 entries are masked; fill them"),
    "shared mask that hides everything": (np.ma.masked_all((12, 9)), "108 of its 108 entries are masked"),
    "masked rows in a list": (list(MASKED), "[2]: 1 of its 9 entries are masked"),
    "masked rows in a deque": (deque(MASKED), "[2]: 1 of its 9 entries are masked"),
    "masked constant in a list": ([[1.0, np.ma.masked], [3.0, 4.0]], "[0][1]: 1 of its 1 entries are masked"),
    "Dask array of masked arrays": (da.ma.masked_array(da.from_array(MATRIX, chunks=5), MASK), "2 of its 108 entries"),
    "DataArray of masked chunks": (xr.DataArray(da.ma.masked_array(MATRIX, MASK)), "entry [2, 3] is nan"),
    "masked array of another library": (Tensor(MASKED), "2 of its 108 entries are masked"),
    "subclass": (MATRIX.view(Subclass), "a Subclass may be more than its numbers"),
    "quantity": (Quantity(MATRIX, "m"), "it has the unit m; pass its numbers alone, such as .magnitude"),
    "quantity that may be lazy": (LazyQuantity(MATRIX, "km"), "it has the unit km; pass its numbers alone"),
    "quantities in lists": ([[Quantity(2.0, "m")]], "[0][0]: it has the unit m"),
    "sparse matrix": (sp.csr_matrix(MATRIX), "a csr_matrix is sparse; pass its .toarray()"),
    "sparse array": (sp.coo_array(MATRIX), "a coo_array is sparse; pass its .toarray()"),
    "sparse matrix in a list": ([sp.csr_array(MATRIX)], "[0]: a csr_array is sparse"),
    "structured array": (np.zeros((12, 9), [("a", "f8"), ("b", "f8")]), "is not real; pass one field, such as 'a'"),
    "record array": (np.rec.fromarrays([[1.0], [2.0]], names="a,b"), "is not real; pass one field, such as 'a'"),
    "masked records": (np.ma.zeros(3, [("a", "f8")]), "is not real; pass one field"),
    "codes": (xr.DataArray(MATRIX, attrs={"scale_factor": 0.5}), "it holds codes of its entries (scale_factor: 0.5)"),
    "times as codes": (xr.DataArray(MATRIX, attrs={"units": "days since 2000-01-01"}), "codes of its entries (units: "),
    "missing value of a DataArray": (
        xr.DataArray(MATRIX.astype("f4"), attrs={"missing_value": [7.0, float(MATRIX[2, 3])]}),
        f"entries of {MATRIX[2, 3]:g} stand for missing ones; fill them",
    ),
    "Dataset": (xr.Dataset({"data": (("x", "y"), MATRIX)}), "a Dataset holds several arrays"),
    "missing value of a nullable column": (FRAME.astype("Float64").mask(MASK), "entry [2, 3] is nan"),
    "missing value of an Arrow column": (FRAME.astype("double[pyarrow]").mask(MASK), "entry [2, 3] is nan"),
    "column of texts that look like numbers": (FRAME.assign(c1="2"), "column 'c1' has the type str"),
    "column of objects": (FRAME.astype({"c8": object}), "column 'c8' has the type object"),
    "column of complex numbers": (FRAME.astype({"c8": complex}), "column 'c8' has the type complex128"),
    "column of times": (FRAME.assign(when=pd.Timestamp(0)), "column 'when' has the type datetime64"),
    "column of categories": (FRAME.assign(c=pd.Categorical([1] * 12)), "column 'c' has the type category"),
    "None in a list": ([[1.0, 2.0], [None, 3.0]], "entry [1, 0] is None; pass an array whose every entry is a real"),
    "NA in an array": (np.array([[1.0, pd.NA]]), "entry [0, 1] is <NA>"),
    "text in a list": ([[1.0, "2"]], "dtype <U32 is not real"),
    "numbers as objects": (MATRIX.astype(object), "dtype object is not real; convert it, as in .astype(float)"),
    "imaginary parts": (MATRIX * 1j, "dtype complex128 is not real; pass real numbers, such as its .real"),
    "complex number in a list": ([[1.0, 2j]], "dtype complex128 is not real"),
    "times": (np.zeros((2, 2), "M8[s]"), "dtype datetime64[s] is not real"),
    "durations": (np.zeros((2, 2), "m8[s]"), "dtype timedelta64[s] is not real"),
    "variable-length strings": (np.array([["1"]], np.dtypes.StringDType()), "is not real"),
    "array that cannot be converted": (Tensor(MATRIX, RuntimeError("it needs\na gradient")), "it needs a gradient"),
    "mapping": ({"a": [1.0]}, "a dict is no array of numbers; pass a numpy.ndarray"),
    "generator": ((row for row in MATRIX), "a generator is no array of numbers"),
    "list in itself": (SELF := [], "rows differ"),
}
SELF.append(SELF)


@pytest.mark.parametrize("container", TAKEN)
def test_container_is_taken_by_its_values(container):
    """As a matrix, a tensor, a start, and the result of an own function."""
    values = TAKEN[container]
    found, expected = approximate(values, 2, "svd"), approximate(MATRIX, 2, "svd")
    assert found.left.tobytes() == expected.left.tobytes()
    assert lower_bound(values, 2) == lower_bound(MATRIX, 2)
    assert approximate_tensor(values, 2, "svd").max_error == approximate_tensor(MATRIX, 2, "svd").max_error
    own = GeneratingFunction("own", "", "", lambda x, y: values)
    assert own(np.ones((12, 1)), np.ones((9, 1))).tobytes() == MATRIX.tobytes()
    assert type(own(np.ones((12, 1)), np.ones((9, 1)))) is np.ndarray


@pytest.mark.parametrize("container", LOST)
def test_container_of_which_something_would_be_lost_is_refused_in_one_line(container):
    """By every door: masks, units, fields, what is left out, imaginary parts, and what is no number."""
    values, told = LOST[container]
    own = GeneratingFunction("own", "", "", lambda x, y: values)
    doors = {
        "matrix": lambda: approximate(values, 1, "svd"),
        "matrix ": lambda: lower_bound(values, 1),
        "tensor": lambda: approximate_tensor(values, 1, "svd"),
        "start": lambda: approximate(MATRIX, 2, start=(values, MATRIX[:, :2])),
    }
    for door, call in doors.items():
        with pytest.raises(InputError) as caught:
            call()
        assert str(caught.value).startswith(door.strip())
        assert told in str(caught.value)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500
    if "nan" not in told:  # which is looked for in a whole block
        with pytest.raises(InputError, match=r"^function: (what )?own returned") as caught:
            own(np.ones((12, 1)), np.ones((9, 1)))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("container", ["masked array", "quantity", "sparse array", "imaginary parts"])
def test_numbers_of_other_functions_lose_nothing_either(container):
    values, _ = LOST[container]
    calls = [
        lambda: principal_angles(values, MATRIX),
        lambda: singular_value_gap(values, 1),
        lambda: power_law(np.arange(1.0, 10), values),
    ]
    for call in calls:
        with pytest.raises(InputError, match=r"masked|unit|sparse|not real|not an array"):
            call()


@pytest.mark.parametrize(
    "value", [2.5, np.float32(2.5), np.array(2.5), xr.DataArray(2.5), Tensor(np.array(2.5)), 3, True]
)
def test_value_of_an_own_experiment_is_any_real_number(value):
    assert real_number(value, "mean") == float(value if not isinstance(value, Tensor) else 2.5)


@pytest.mark.parametrize(
    "value", [2.5 + 1j, np.complex128(2), "2.5", None, np.ma.masked, np.array([2.5]), Quantity(2.5, "m"), pd.NA, {}]
)
def test_value_of_an_own_experiment_that_is_no_real_number_is_refused(value):
    with pytest.raises(InputError, match=r"^mean: .*; "):
        real_number(value, "mean")


def test_processors_are_those_that_this_process_may_use():
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(allowed)})
        assert processors() == 1
    finally:
        os.sched_setaffinity(0, allowed)
    assert 1 <= processors() <= len(allowed)


def test_start_may_be_an_approximation():
    smaller = approximate(MATRIX, 2, bound="tail")
    found = approximate(MATRIX, 3, start=smaller, bound="tail")
    assert (
        found.left.tobytes() == approximate(MATRIX, 3, start=(smaller.left, smaller.right), bound="tail").left.tobytes()
    )
    good = approximate(MATRIX, 3, "minimax", bound="tail", budget="thorough")
    again = approximate(MATRIX, 3, start=good, bound="tail", budget="quick")
    assert again.max_error <= good.max_error


# --- what it refuses

NAN = MATRIX.copy()
NAN[1, 2] = np.nan
INFINITE = MATRIX.copy()
INFINITE[11, 0] = -np.inf


@pytest.mark.parametrize(
    ("matrix", "told"),
    [
        (NAN, "matrix: entry [1, 2] is nan"),
        (INFINITE, "matrix: entry [11, 0] is -inf"),
        (np.array([[1, 2], [3, 1e300 * np.longdouble(1e300)]]), "matrix: entry [1, 1] is inf"),
        (np.arange(4.0), "matrix: shape (4,) "),
        (np.zeros((2, 3, 4)), "matrix: shape (2, 3, 4) "),
        (3.0, "matrix: shape () "),
        (None, "matrix: "),
        (np.zeros((0, 5)), "matrix: shape (0, 5) "),
        (np.zeros((5, 0)), "matrix: shape (5, 0) "),
        ([], "matrix: shape (0,) "),
        (MATRIX + 1j, "matrix: dtype complex128 is not real"),
        ([["a", "b"], ["c", "d"]], "matrix: dtype <U1 is not real"),
        (MATRIX.astype(object), "matrix: dtype object is not real"),
        ([[1.0, 2.0], [3.0]], "matrix: "),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_what_is_not_a_real_finite_matrix_is_refused(method, matrix, told):
    with pytest.raises(InputError) as caught:
        approximate(matrix, 1, method)
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rank", [0, -1, 10, 2.5, 3.0, "3", None, float("nan"), True, [3]])
@pytest.mark.parametrize("method", METHODS)
def test_rank_out_of_range_is_refused(method, rank):
    with pytest.raises(InputError) as caught:
        approximate(MATRIX, rank, method)
    assert str(caught.value).startswith(f"rank: {rank!r} is not an integer between 1 and")
    assert "9" in str(caught.value)


@pytest.mark.parametrize("seed", [-1, 0.5, "0", None, True])
def test_seed_that_is_not_a_non_negative_integer_is_refused(seed):
    with pytest.raises(InputError) as caught:
        approximate(MATRIX, 2, "ap", seed)
    assert str(caught.value).startswith(f"seed: {seed!r} is not a non-negative integer")


@pytest.mark.parametrize("method", ["qr", "SVD", "", None, 5, ["svd"]])
def test_unknown_method_names_the_known_ones(method):
    with pytest.raises(InputError) as caught:
        approximate(MATRIX, 2, method)
    assert str(caught.value).startswith(
        f"method: {method!r} is not known; use one of svd, ap, minimax, random_embedding"
    )


@pytest.mark.parametrize(
    ("method", "settings", "told"),
    [
        ("ap", {"projecton": "exact"}, "projecton: 'exact'"),
        ("svd", {"projection": "exact"}, "projection: 'exact'"),
        ("ap", {"driver": "lapack"}, "driver: 'lapack'"),
        ("ap", {"projection": "inexact"}, "projection: 'inexact'"),
        ("ap", {"precision": 32}, "precision: 32"),
        ("ap", {"stagnation_memory": "none"}, "stagnation_memory: 'none'"),
        ("ap", {"tolerance": 0}, "tolerance: 0"),
        ("ap", {"tolerance": 1.0}, "tolerance: 1.0"),
        ("ap", {"stagnation": -0.1}, "stagnation: -0.1"),
        ("ap", {"raise_above": float("nan")}, "raise_above: nan"),
        ("ap", {"raise_by": None}, "raise_by: None"),
        ("ap", {"max_projections": 0}, "max_projections: 0"),
        ("ap", {"max_projections": 2.5}, "max_projections: 2.5"),
        ("svd", {"driver": "gesvd"}, "driver: 'gesvd'"),
        ("svd", {"oversampling": -1}, "oversampling: -1"),
        ("svd", {"power_iterations": "4"}, "power_iterations: '4'"),
        ("svd", {"dense_limit": 0}, "dense_limit: 0"),
    ],
)
def test_settings_that_a_method_does_not_take_are_refused(method, settings, told):
    with pytest.raises(InputError) as caught:
        approximate(MATRIX, 2, method, **settings)
    assert str(caught.value).startswith(f"{told} will not do for method {method!r}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "start",
    [
        1,
        "ab",
        (1, 2),
        (np.ones((12, 2)),),
        (np.ones((12, 2)),) * 3,
        (np.ones((12, 2)), np.ones((9, 3))),
        (np.ones((13, 2)), np.ones((9, 2))),
        (np.ones((12, 2)), np.ones((10, 2))),
        (np.ones((12, 4)), np.ones((9, 4))),
        (np.ones((0, 2)), np.ones((9, 2))),
        (np.ones(12), np.ones(9)),
        (np.full((12, 2), np.nan), np.ones((9, 2))),
        (np.ones((12, 2)) * 1j, np.ones((9, 2))),
        {"left": np.ones((12, 2)), "right": np.ones((9, 2))},
        approximate(MATRIX[:5], 4, "svd", bound="tail"),
        approximate(np.ones((13, 9)), 2, "svd", bound="tail"),
        approximate_tensor(MATRIX, 2, "svd", bound="tail"),
    ],
)
def test_start_that_is_no_pair_of_fitting_factors_is_refused(start):
    with pytest.raises(InputError) as caught:
        approximate(MATRIX, 3, start=start)
    assert str(caught.value).startswith("start: ")
    assert "object is not" not in str(caught.value)
    assert "unpack" not in str(caught.value)
    assert "pass " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("method", ["svd", "random_embedding"])
def test_start_is_refused_for_methods_that_begin_from_none(method):
    with pytest.raises(InputError) as caught:
        approximate(MATRIX, 3, method, start=(MATRIX[:, :3], MATRIX[:3].T))
    assert str(caught.value).startswith(f"start: method {method!r} ")


@pytest.mark.parametrize("bound", ["worst", None, 1])
def test_unknown_bound_is_refused(bound):
    with pytest.raises(InputError) as caught:
        approximate(MATRIX, 3, "svd", bound=bound)
    assert str(caught.value).startswith(f"bound: {bound!r} is not known; use 'best'")
    assert "\n" not in str(caught.value)


def test_factors_that_are_not_numbers_have_no_finite_error():
    assert np.isnan(max_error(np.ones((3, 3)), np.full((3, 1), np.nan), np.ones((3, 1))))
