"""Function-generated tensors: blocks, the points of each mode, a user's own function, and what is refused."""

from contextlib import suppress
from functools import cache
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import approximate, approximate_tensor, function_matrix, function_tensor, lower_bound
from pipeline.errors import InputError
from pipeline.formulas import multilinear_product
from pipeline.functions import BUILT_IN, GeneratingFunction
from pipeline.sampling import SAMPLINGS
from pipeline.tensor import FunctionTensor, tile_side

FOUR = GeneratingFunction(
    "four points",
    "exp(w_1 + <w, x, y, z>)",
    "here",
    lambda w, x, y, z: np.exp(w[:, :1, None, None] + multilinear_product(w, x, y, z)),
    symmetric=False,
    order=4,
)
SIZES = {2: 2 * tile_side(2) + 9, 3: 2 * tile_side(3) + 9, 4: tile_side(4) + 5}
CASES = [
    ("sinh_product", "ball-symmetric", 20),
    ("sinh_product", "sphere-independent", 3),
    ("tensor_attention", "ball-independent", 50),
    (FOUR, "ball-independent", 7),
    ("gaussian", "ball-independent", 20),
]
TENSORS = [name for name, function in BUILT_IN.items() if function.order == 3]
INDEPENDENT = ["ball-independent", "sphere-independent"]
SYMMETRIC = ["ball-symmetric", "sphere-symmetric"]


@cache
def whole(function: str | GeneratingFunction, sampling: str, m: int) -> tuple[FunctionTensor, np.ndarray]:
    order = BUILT_IN[function].order if isinstance(function, str) else function.order
    tensor = function_tensor(function, sampling, m, SIZES[order], seed=3)
    return tensor, tensor.to_numpy()


@st.composite
def parts(draw) -> tuple[tuple, tuple[slice, ...]]:
    """A case and a range of each of its modes."""
    case = draw(st.sampled_from(CASES))
    shape = whole(*case)[0].shape
    n, tile = shape[0], tile_side(len(shape))
    bounds = st.none() | st.integers(-n - 5, n + 5) | st.sampled_from([0, tile - 1, tile, tile + 1, n, -1])
    ranges = st.builds(slice, bounds, bounds, st.sampled_from([None, 1]))
    return case, draw(st.tuples(*[ranges] * len(shape)))


@settings(derandomize=True, deadline=None, max_examples=100)
@given(part=parts())
def test_any_block_equals_the_same_part_of_the_whole_bit_for_bit(part):
    case, ranges = part
    tensor, values = whole(*case)
    block = tensor.block(*ranges)
    assert block.shape == values[ranges].shape
    assert block.tobytes() == values[ranges].tobytes()


@pytest.mark.parametrize("case", CASES)
def test_single_entries_equal_those_of_the_whole_bit_for_bit(case):
    tensor, values = whole(*case)
    for index in np.random.default_rng(0).integers(values.shape[0], size=(20, values.ndim)).tolist():
        assert tensor.block(*(slice(i, i + 1) for i in index)).item() == values[tuple(index)]


@pytest.mark.parametrize("case", CASES)
def test_shape_and_dtype_are_those_of_the_stored_tensor(case):
    tensor, values = whole(*case)
    assert tensor.shape == values.shape == (SIZES[values.ndim],) * values.ndim
    assert tensor.dtype == values.dtype == np.float64


@pytest.mark.parametrize("case", CASES)
def test_entries_belong_to_their_points(case):
    _, sampling, m = case
    tensor, values = whole(*case)
    n, order = values.shape[0], values.ndim
    points = [SAMPLINGS[sampling].points(side, m, 3, 0, n) for side in range(order)]
    last, tile = n - 1, tile_side(order)
    for index in [(0,) * order, (last,) * order, (0, last, 5, tile)[:order], (tile, tile - 1, last, 0)[:order]]:
        alone = tensor.function(*(each[i : i + 1] for each, i in zip(points, index, strict=True)))
        assert values[index] == pytest.approx(alone.item(), rel=1e-12)


# --- the points of each mode


@pytest.mark.parametrize("sampling", INDEPENDENT)
@pytest.mark.parametrize("function", [*TENSORS, FOUR])
def test_independent_draw_has_separate_points_in_every_mode(function, sampling):
    points = function_tensor(function, sampling, 3, 40).points
    assert len(points) == (4 if function is FOUR else 3)
    assert len(np.unique(np.concatenate(points), axis=0)) == 40 * len(points)


@pytest.mark.parametrize("sampling", SYMMETRIC)
@pytest.mark.parametrize("function", [*TENSORS, FOUR])
def test_symmetric_draw_has_the_same_points_in_every_mode(function, sampling):
    first, *others = function_tensor(function, sampling, 3, 40).points
    assert len(others) == (3 if function is FOUR else 2)
    assert all(each is first for each in others)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_first_two_modes_have_the_points_of_the_matrix(sampling):
    tensor, matrix = (
        function_tensor("sinh_product", sampling, 4, 30, 2),
        function_matrix("gaussian", sampling, 4, 30, 2),
    )
    assert np.array_equal(tensor.points[0], matrix.x)
    assert np.array_equal(tensor.points[1], matrix.y)


@pytest.mark.parametrize("sampling", SYMMETRIC)
@pytest.mark.parametrize("function", TENSORS)
def test_symmetric_draw_gives_a_symmetric_tensor(function, sampling):
    """Exactly, in tiles on the diagonal, beside it, and of equal indices in two modes alone."""
    values = function_tensor(function, sampling, 5, 2 * tile_side(3) + 9).to_numpy()
    for modes in permutations(range(3)):
        assert np.array_equal(values.transpose(modes), values)


@pytest.mark.parametrize("sampling", INDEPENDENT)
def test_independent_draw_gives_a_tensor_without_symmetry(sampling):
    values = function_tensor("tensor_attention", sampling, 5, 20).to_numpy()
    for modes in list(permutations(range(3)))[1:]:
        assert np.mean(np.isclose(values.transpose(modes), values)) < 0.1


@pytest.mark.parametrize("function", TENSORS)
def test_smaller_tensor_is_the_leading_part_of_a_larger_one(function):
    small, large = (function_tensor(function, "ball-independent", 20, n).to_numpy() for n in (50, 80))
    np.testing.assert_allclose(small, large[:50, :50, :50], rtol=1e-12, atol=1e-14)


def test_seeds_give_different_tensors():
    first, again, other = (function_tensor("sinh_product", "ball-independent", 3, 10, s).to_numpy() for s in (0, 0, 1))
    assert first.tobytes() == again.tobytes()
    assert not np.isclose(first, other).any()


@pytest.mark.parametrize("function", [name for name, each in BUILT_IN.items() if each.order == 2])
def test_tensor_of_order_two_is_the_matrix(function):
    tensor, matrix = (make(function, "ball-independent", 20, 300, 1) for make in (function_tensor, function_matrix))
    assert tensor.shape == matrix.shape
    assert tensor.to_numpy().tobytes() == matrix.to_numpy().tobytes()


# --- a user's own function


@pytest.mark.parametrize(
    ("parameters", "order"),
    [("A, B", 2), ("A, B, C", 3), ("A, B, C, D", 4), ("A, B, C, power=1", 3), ("A, B, C, D, E", 5)],
)
def test_users_function_makes_a_tensor_of_as_many_modes_as_it_takes_points(user_module, parameters, order):
    name = user_module(
        f"""
        import numpy as np
        def f({parameters}):
            sets = [{parameters.removesuffix(", power=1")}]
            return sum(np.ix_(*[10.0**k * each[:, 0] for k, each in enumerate(sets)]))
        """
    )
    tensor = function_tensor(f"{name}:f", "ball-independent", 3, 6, seed=1)
    values = tensor.to_numpy()
    assert values.shape == (6,) * order
    for index in [(0, 1, 2, 3, 4)[:order], (5,) * order]:
        expected = sum(10.0**k * points[i, 0] for k, (points, i) in enumerate(zip(tensor.points, index, strict=True)))
        assert values[index] == pytest.approx(expected, rel=1e-13)


def test_blocks_of_a_users_function_of_order_four_are_parts_of_the_whole(user_module):
    name = user_module(
        """
        import numpy as np
        def f(W, X, Y, Z):
            return np.tanh(np.einsum("ia,ja,ka,la->ijkl", W, X, Y, Z) + (W @ X.T)[:, :, None, None])
        """
    )
    n = tile_side(4) + 3
    tensor = function_tensor(f"{name}:f", "ball-symmetric", 3, n)
    values = tensor.to_numpy()
    random = np.random.default_rng(4)
    for _ in range(12):
        ranges = tuple(slice(*sorted(random.integers(0, n + 1, 2).tolist())) for _ in range(4))
        assert tensor.block(*ranges).tobytes() == values[ranges].tobytes()
    assert not np.allclose(values, values.transpose(3, 1, 2, 0))


def test_users_function_that_changes_its_arguments_cannot_change_the_points(user_module):
    name = user_module("def f(X, Y, Z):\n    Z *= 2\n    return X[:, :1, None] + Y[:, :1] + Z[:, 0]\n")
    tensor = function_tensor(f"{name}:f", "ball-independent", 3, 20)
    before = [each.copy() for each in tensor.points]
    with suppress(InputError, ValueError):  # refused is as good as unharmed
        tensor.to_numpy()
    assert all(np.array_equal(*pair) for pair in zip(tensor.points, before, strict=True))


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_entry_that_is_not_finite_is_named_by_its_place(user_module, value):
    name = user_module(
        f"""
        import numpy as np
        def f(X, Y, Z):
            values = np.einsum("ia,ja,ka->ijk", X, Y, Z)
            values[3, 5, 7] = float({value!r})
            return values
        """
    )
    tensor = function_tensor(f"{name}:f", "ball-independent", 3, 20)
    told = rf"^function {name}:f: entry \[3, 5, 7\] is {value}; every entry must be finite$"
    with pytest.raises(InputError, match=told):
        tensor.to_numpy()
    with pytest.raises(InputError, match=told):
        tensor.block(slice(2, 10), slice(4, 6), slice(7, 8))
    with pytest.raises(InputError, match=told):
        approximate_tensor(tensor, 2)
    assert np.isfinite(tensor.block(slice(4, 20), slice(None), slice(None))).all()


@pytest.mark.parametrize("returned", ["X @ Y.T", "np.ones((len(Z), len(Y), len(X)))", "np.ones((4, 5, 6)) + 1j"])
def test_result_of_wrong_shape_or_type_is_refused(user_module, returned):
    name = user_module(f"import numpy as np\ndef f(X, Y, Z):\n    return {returned}\n")
    tensor = FunctionTensor(function_tensor(f"{name}:f", "ball-independent", 2, 3).function, sets(4, 5, 6))
    told = (
        rf"^function: {name}:f returned .* for points of shapes \(4, 2\) and \(5, 2\) and \(6, 2\); "
        r"return real numbers of shape \(4, 5, 6\)$"
    )
    with pytest.raises(InputError, match=told):
        tensor.to_numpy()


def sets(*lengths: int) -> tuple[np.ndarray, ...]:
    return tuple(np.random.default_rng(n).standard_normal((n, 2)) for n in lengths)


def test_modes_may_differ_in_length():
    tensor = FunctionTensor(BUILT_IN["sinh_product"], sets(4, 70, 6))
    expected = np.sinh(np.einsum("ia,ja,ka->ijk", *tensor.points))
    assert tensor.shape == (4, 70, 6)
    np.testing.assert_allclose(tensor.to_numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(tensor.block(slice(1, 3), slice(60, None), slice(-2, 6)), expected[1:3, 60:, -2:])


# --- what is refused


@pytest.mark.parametrize("count", [0, 1, 2, 4])
def test_ranges_that_are_not_one_a_mode_are_refused(count):
    tensor = function_tensor("sinh_product", "ball-independent", 2, 5)
    with pytest.raises(InputError, match=f"^block: {count} ranges for a tensor of order 3; give one a mode$"):
        tensor.block(*[slice(None)] * count)


@pytest.mark.parametrize("mode", range(3))
@pytest.mark.parametrize("step", [2, -1, 3])
def test_steps_other_than_one_are_refused(step, mode):
    tensor = function_tensor("sinh_product", "ball-independent", 2, 5)
    ranges = [slice(None)] * 3
    ranges[mode] = slice(None, None, step)
    steps = " and ".join(str(step if k == mode else 1) for k in range(3))
    with pytest.raises(InputError, match=f"^block: steps {steps}; .*step 1"):
        tensor.block(*ranges)


def test_matrix_of_a_users_function_of_three_points_is_refused(user_module):
    name = user_module("def f(X, Y, Z):\n    return X[:, :1, None] + Y[:, :1] + Z[:, 0]\n")
    with pytest.raises(InputError, match=rf"^function: {name}:f makes tensors of order 3; use function_tensor$"):
        function_matrix(f"{name}:f", "ball-independent", 2, 5)


@pytest.mark.parametrize("call", [approximate, lower_bound])
def test_tensor_is_refused_where_a_matrix_is_wanted(call):
    tensor = function_tensor("sinh_product", "ball-independent", 2, 5)
    with pytest.raises(InputError, match=r"^matrix: shape \(5, 5, 5\) is not that of a non-empty matrix; [^\n]*$"):
        call(tensor, 2)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"m": 0}, "m: 0 is not an integer of at least 1"),
        ({"m": True}, "m: True "),
        ({"n": 0}, "n: 0 is not an integer of at least 1"),
        ({"n": 10.5}, "n: 10.5 "),
        ({"seed": -1}, "seed: -1 is not an integer of at least 0"),
        ({"function": "cosine"}, "function: 'cosine' is not known"),
        ({"sampling": "cube"}, "sampling: 'cube' is not known"),
    ],
)
def test_arguments_out_of_range_are_refused(changed, told):
    arguments = {"function": "sinh_product", "sampling": "ball-symmetric", "m": 2, "n": 10, "seed": 0, **changed}
    with pytest.raises(InputError) as caught:
        function_tensor(**arguments)
    assert str(caught.value).startswith(told)
