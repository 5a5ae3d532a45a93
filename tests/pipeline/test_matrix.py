"""Function-generated matrices: blocks, symmetry, and what is refused."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from pipeline import approximate, tensor
from pipeline import sampling as sampling_of_points
from pipeline.arrays import BlockMatrix
from pipeline.errors import InputError
from pipeline.formulas import multilinear_product
from pipeline.functions import BUILT_IN, get_function
from pipeline.matrix import FunctionMatrix, function_matrix
from pipeline.sampling import SAMPLINGS
from pipeline.tensor import function_tensor, sample_points, tile_side

TILE = tile_side(2)
N = 2 * TILE + 40
FUNCTIONS = [name for name, function in BUILT_IN.items() if function.order == 2]
CASES = [
    ("exponential", "ball-symmetric", 20),
    ("gaussian", "ball-independent", 3),
    ("attention", "sphere-symmetric", 100),
    ("inner_product", "sphere-independent", 7),
    ("block_softmax(side=16)", "gaussian-independent", 5),
    ("white_noise", "cube-independent", 2),
]


@cache
def whole(function: str, sampling: str, m: int) -> tuple[FunctionMatrix, np.ndarray]:
    matrix = function_matrix(function, sampling, m, N, seed=3)
    return matrix, matrix.to_numpy()


bounds = st.none() | st.integers(-N - 5, N + 5) | st.sampled_from([0, TILE - 1, TILE, TILE + 1, 2 * TILE, N, -1])
ranges = st.builds(slice, bounds, bounds, st.sampled_from([None, 1]))


@settings(derandomize=True, deadline=None, max_examples=80)
@given(case=st.sampled_from(CASES), rows=ranges, cols=ranges)
def test_any_block_equals_the_same_part_of_the_whole_bit_for_bit(case, rows, cols):
    matrix, values = whole(*case)
    block = matrix.block(rows, cols)
    assert block.shape == values[rows, cols].shape
    assert block.tobytes() == values[rows, cols].tobytes()


@pytest.mark.parametrize("case", CASES)
def test_shape_and_dtype_are_those_of_the_stored_matrix(case):
    matrix, values = whole(*case)
    assert matrix.shape == values.shape == (N, N)
    assert matrix.dtype == values.dtype == np.float64


@pytest.mark.parametrize("case", [case for case in CASES if not case[0].startswith("block_softmax")])
def test_entries_belong_to_their_pair_of_points(case):
    function, sampling, m = case
    _, values = whole(*case)
    x, y = (SAMPLINGS[sampling].points(side, m, 3, 0, N) for side in (0, 1))
    for i, j in [(0, 0), (5, N - 1), (N - 1, 5), (TILE - 1, TILE), (TILE, TILE - 1), (N - 1, N - 1)]:
        alone = get_function(function)(x[i : i + 1], y[j : j + 1])[0, 0]
        assert values[i, j] == pytest.approx(alone, rel=1e-12)


@pytest.mark.parametrize("m", [2, 20, 100])
@pytest.mark.parametrize("sampling", ["ball-symmetric", "sphere-symmetric"])
@pytest.mark.parametrize("function", [name for name in FUNCTIONS if BUILT_IN[name].symmetric])
def test_symmetric_draw_gives_an_exactly_symmetric_matrix(function, sampling, m):
    matrix = function_matrix(function, sampling, m, TILE + 60)
    values = matrix.to_numpy()
    assert values.tobytes() == values.T.tobytes()
    assert matrix.x is matrix.y


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("sampling", ["gaussian-independent", "cube-symmetric"])
def test_entries_are_the_same_bits_at_any_number_of_threads(function, sampling):
    """OpenBLAS cuts long inner products in other places when several threads share them."""
    points = tuple(0.1 * each for each in sample_points(sampling, 600, TILE + 30, 0, 2))  # so that none overflows
    if sampling.endswith("symmetric"):
        points = points[:1] * 2
    made = []
    for threads in (1, 2, 3):
        with threadpool_limits(threads):
            made.append(FunctionMatrix(get_function(function), points).to_numpy())
    assert made[0].tobytes() == made[1].tobytes() == made[2].tobytes()


def test_blocks_made_by_several_threads_at_once_are_those_made_alone_and_leave_the_number_of_threads():
    matrix = function_matrix("exponential", "ball-symmetric", 600, N)
    rows = [slice(start, start + 90) for start in range(0, N, 90)]
    with threadpool_limits(2):
        alone = matrix.to_numpy()
        with ThreadPoolExecutor(3) as pool:
            found = list(pool.map(lambda each: matrix.block(each, slice(None)), rows * 3))
        assert {each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"} == {2}
    assert np.concatenate(found[: len(rows)]).tobytes() == alone.tobytes()
    assert np.concatenate(found[-len(rows) :]).tobytes() == alone.tobytes()


@pytest.mark.parametrize("function", ["exponential", "inner_product", "attention"])
@pytest.mark.parametrize("sampling", ["ball-independent", "ball-symmetric"])
def test_points_that_are_drawn_where_they_are_used_give_the_same_bits(monkeypatch, function, sampling):
    held = function_matrix(function, sampling, 100, N).to_numpy()
    monkeypatch.setattr(tensor, "HELD_BYTES", 0)
    monkeypatch.setattr(sampling_of_points, "HELD_BYTES", 0)
    assert function_matrix(function, sampling, 100, N).to_numpy().tobytes() == held.tobytes()


@pytest.mark.parametrize("sampling", ["ball-independent", "sphere-independent"])
def test_independent_draw_gives_an_unsymmetric_matrix(sampling):
    values = function_matrix("exponential", sampling, 5, 40).to_numpy()
    assert np.array_equal(values == values.T, np.eye(40, dtype=bool))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_smaller_matrix_is_the_leading_part_of_a_larger_one(function):
    small, large = (function_matrix(function, "ball-independent", 20, n).to_numpy() for n in (300, 600))
    np.testing.assert_allclose(small, large[:300, :300], rtol=1e-12, atol=1e-14)


def test_functions_are_compared_on_the_same_points():
    first, second = (function_matrix(f, "ball-independent", 4, 30, seed=2) for f in ("exponential", "attention"))
    assert np.array_equal(first.x, second.x)
    assert np.array_equal(first.y, second.y)


# --- a user's own function


def test_unsymmetric_user_function_is_not_mirrored_in_a_symmetric_draw(user_module):
    name = user_module("def f(X, Y):\n    return X[:, :1] - Y[:, 0]\n")
    values = function_matrix(f"{name}:f", "ball-symmetric", 3, TILE + 50).to_numpy()
    assert np.array_equal(values, -values.T)
    assert np.any(values)


def test_user_function_that_changes_its_arguments_cannot_change_the_points(user_module):
    name = user_module("def f(X, Y):\n    X *= 2\n    return X @ Y.T\n")
    matrix = function_matrix(f"{name}:f", "ball-independent", 3, 20)
    before = matrix.x.copy()
    with suppress(InputError, ValueError):  # refused is as good as unharmed
        matrix.to_numpy()
    assert np.array_equal(matrix.x, before)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_entry_that_is_not_finite_is_named(user_module, value):
    name = user_module(
        f"""
        import numpy as np
        def f(X, Y):
            values = X @ Y.T
            values[np.arange(len(X)) == 3, 5] = float({value!r})
            return values
        """
    )
    matrix = function_matrix(f"{name}:f", "ball-independent", 3, 20)
    with pytest.raises(InputError, match=rf"function {name}:f: entry \[3, 5\] is {value}; every entry must be finite"):
        matrix.to_numpy()
    assert np.isfinite(matrix.block(slice(4, 20), slice(None))).all()


def test_entry_that_is_not_finite_is_named_by_its_place_in_the_matrix(user_module):
    name = user_module("def f(X, Y):\n    values = X @ Y.T\n    values[3, 5] = float('nan')\n    return values\n")
    matrix = function_matrix(f"{name}:f", "ball-independent", 3, 20)
    with pytest.raises(InputError, match=r"entry \[3, 5\] is nan"):
        matrix.block(slice(2, 10), slice(4, 10))


# --- what is refused


@pytest.mark.parametrize("step", [2, -1, 3])
def test_steps_other_than_one_are_refused(step):
    matrix, _ = whole(*CASES[0])
    for rows, cols in ((slice(None, None, step), slice(None)), (slice(None), slice(None, None, step))):
        with pytest.raises(InputError, match=f"^block: steps .*{step}.*step 1"):
            matrix.block(rows, cols)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"m": 0}, "m: 0 is not an integer of at least 1"),
        ({"m": -2}, "m: -2 "),
        ({"m": 2.0}, "m: 2.0 "),
        ({"m": "2"}, "m: '2' "),
        ({"m": True}, "m: True "),
        ({"m": None}, "m: None "),
        ({"n": 0}, "n: 0 is not an integer of at least 1"),
        ({"n": 2**31}, "n: 2147483648 is too large; give at most 2147483647"),
        ({"m": 10**30}, "m: 1000000000000000000000000000000 is too large; give at most 2147483647"),
        ({"n": 10.5}, "n: 10.5 "),
        ({"n": float("nan")}, "n: nan "),
        ({"n": [10]}, "n: [10] "),
        ({"seed": -1}, "seed: -1 is not an integer of at least 0"),
        ({"seed": 0.5}, "seed: 0.5 "),
        ({"seed": None}, "seed: None "),
        (
            {"function": 5},
            "function: 5 is neither a name, nor {'name': 'gaussian', 'scale': 2}, nor a function f(X, Y)",
        ),
        ({"function": None}, "function: None is neither "),
        ({"function": ["gaussian"]}, "function: ['gaussian'] is neither "),
        ({"function": {"scale": 2}}, "function: {'scale': 2} is neither "),
        ({"function": {"name": 5}}, "function: {'name': 5} is neither "),
        ({"function": {"name": "gaussian", "scale": -1}}, "function: scale: -1.0 is not between"),
        ({"function": {"name": "gaussian", "length": 1}}, "function: gaussian has no parameter 'length'"),
        ({"function": {"name": "gausian"}}, "function: 'gausian' is not known"),
        ({"function": lambda x, y, z: x}, "function: <lambda> makes tensors of order 3; use function_tensor"),
        ({"sampling": None}, "sampling: None is not known"),
        ({"sampling": ["ball-symmetric"]}, "sampling: ['ball-symmetric'] is not known"),
        ({"n": "9" * 900}, "n: '999"),
        ({"seed": "0"}, "seed: '0' is not an integer of at least 0"),
        ({"function": "cosine"}, "function: 'cosine' is not known"),
        ({"function": "sinh_product"}, "function: sinh_product makes tensors of order 3; use function_tensor"),
        ({"sampling": "cube"}, "sampling: 'cube' is not known"),
    ],
)
def test_arguments_out_of_range_are_refused(changed, told):
    arguments = {"function": "gaussian", "sampling": "ball-symmetric", "m": 2, "n": 10, "seed": 0, **changed}
    with pytest.raises(InputError) as caught:
        function_matrix(**arguments)
    assert str(caught.value).startswith(told)
    assert len(str(caught.value)) < 700
    if "function" not in changed or "order 3" not in told:
        with pytest.raises(InputError) as caught:
            function_tensor(**arguments)
        assert str(caught.value).startswith(told)


def test_numpy_integers_are_as_good_as_pythons():
    small = function_matrix("gaussian", "ball-symmetric", np.int32(2), np.int64(10), np.uint8(1)).to_numpy()
    assert np.array_equal(small, function_matrix("gaussian", "ball-symmetric", 2, 10, 1).to_numpy())


# --- what users of NumPy expect


def own(x, y):
    return x[:, :1] - 2 * y[:, 0]


@pytest.mark.parametrize("function", ["gaussian", "block_softmax", own, "sinh_product"])
def test_array_in_blocks_says_of_itself_what_its_stored_form_says(function):
    make = function_tensor if function == "sinh_product" else function_matrix
    found = make(function, "ball-independent", 3, 20, 1)
    stored = found.to_numpy()
    for each, expected in ((found, stored), (found.T, stored.T)):
        assert (each.shape, each.ndim, each.size, len(each)) == (expected.shape, expected.ndim, expected.size, 20)
        assert each.dtype == expected.dtype
        assert np.array_equal(np.asarray(each), expected)
        assert np.asarray(each, dtype=np.float32).dtype == np.float32
        assert np.array_equal(each.block(*[slice(3, 9)] * each.ndim), expected[(slice(3, 9),) * each.ndim])
        assert isinstance(each, BlockMatrix)
    assert found.T.T is found
    assert np.array_equal(np.abs(found), np.abs(stored))
    assert np.array_equal(found @ np.ones(20), stored @ np.ones(20))
    assert not np.shares_memory(np.asarray(found), np.asarray(found))
    with pytest.raises(ValueError, match="copy=False"):
        np.array(found, copy=False)


def test_transpose_is_approximated_as_its_entries_are():
    matrix = function_matrix(own, "ball-independent", 3, 20)
    found, expected = approximate(matrix.T, 2, "svd"), approximate(matrix.to_numpy().T, 2, "svd")
    assert found.left.tobytes() == expected.left.tobytes()


@pytest.mark.parametrize("form", [lambda matrix: matrix, lambda matrix: matrix.T, lambda matrix: matrix.T.T])
@pytest.mark.parametrize(("make", "function", "n"), [
    (function_matrix, "gaussian", 20_000), (function_tensor, "sinh_product", 1000),
])  # fmt: skip
def test_conversion_of_more_entries_than_are_made_by_the_way_is_refused(make, function, n, form):
    array = form(make(function, "ball-independent", 2, n))
    for convert in (np.asarray, np.linalg.norm, np.abs):
        with pytest.raises(
            InputError, match=rf"^array: {n} × {n} .*entries take .* GiB; .*block\(slice.* to_numpy\(\)"
        ):
            convert(array)


def test_printed_form_is_short_and_names_function_and_sizes():
    assert repr(function_matrix("gaussian(scale=2)", "ball-symmetric", 3, 20)) == (
        "FunctionMatrix(gaussian(scale=2), 20 × 20, m = 3)"
    )
    assert repr(function_tensor("sinh_product", "ball-symmetric", 3, 20).T) == (
        "FunctionTensor(sinh_product, 20 × 20 × 20, m = 3).T"
    )


class Kernel:
    def __call__(self, x, y, rate=1.0):
        return np.exp(rate * x @ y.T)


@pytest.mark.parametrize(
    ("function", "same", "name"),
    [
        ({"name": "gaussian", "scale": 2}, "gaussian(scale=2)", "gaussian(scale=2)"),
        ({"name": "polynomial", "degree": 3, "offset": 1.0}, "polynomial(degree=3)", "polynomial(degree=3)"),
        ({"name": "gaussian"}, "gaussian", "gaussian"),
        (BUILT_IN["cauchy"], "cauchy", "cauchy"),
        (lambda x, y: x @ y.T, "inner_product", "<lambda>"),
        (Kernel(), lambda x, y: np.exp(x @ y.T), "Kernel"),
        (Kernel().__call__, lambda x, y: np.exp(x @ y.T), "__call__"),
        (partial(Kernel(), rate=0.5), lambda x, y: np.exp(0.5 * x @ y.T), "partial"),
    ],
)
def test_function_is_a_name_a_mapping_with_parameters_or_a_callable(function, same, name):
    found, expected = (function_matrix(each, "ball-independent", 3, 30) for each in (function, same))
    np.testing.assert_allclose(found.to_numpy(), expected.to_numpy(), rtol=1e-14, atol=1e-15)
    assert found.function.name == name
    assert approximate(found, 2, "svd").max_error > 0


def test_tensor_of_a_callable_has_the_order_of_its_points():
    found = function_tensor(lambda x, y, z: multilinear_product(x, y, z), "cube-independent", 3, 9)
    assert found.shape == (9, 9, 9)
    expected = function_tensor("sinh_product", "cube-independent", 3, 9).to_numpy()
    np.testing.assert_allclose(np.sinh(found.to_numpy()), expected, rtol=1e-13)
