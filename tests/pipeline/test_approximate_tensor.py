"""The front door for tensors: what the methods reach beside each other, what every answer is, what it refuses."""

import math
from functools import cache
from itertools import pairwise
from statistics import median

import numpy as np
import pytest

from pipeline import approximate, approximate_tensor, arrays, function_matrix, function_tensor
from pipeline.errors import InputError
from pipeline.files import FileMatrix
from pipeline.tensor_approximation import TensorApproximation

METHODS = ["svd", "ap", "minimax"]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape)


def kernel(function: str, sampling: str, m: int, n: int, seed: int = 0) -> np.ndarray:
    return function_tensor(function, sampling, m, n, seed).to_numpy()


def whole(cores, dtype: type = np.float64) -> np.ndarray:
    """All entries of a train, core by core."""
    found = np.ones(1, dtype)
    for core in cores:
        found = np.tensordot(found, core.astype(dtype), axes=1)
    return found[..., 0]


def train(shape: tuple[int, ...], rank: int, seed: int = 0) -> np.ndarray:
    """All entries of a train of integers from −3 to 3."""
    random = np.random.default_rng([seed, rank, *shape])
    sizes = [1, *[rank] * (len(shape) - 1), 1]
    return whole([random.integers(-3, 4, (a, n, b)) for (a, b), n in zip(pairwise(sizes), shape, strict=True)])


def diagonal(n: int, order: int) -> np.ndarray:
    tensor = np.zeros((n,) * order)
    tensor[(np.arange(n),) * order] = 1
    return tensor


def unfoldings(tensor: np.ndarray) -> list[np.ndarray]:
    return [tensor.reshape(math.prod(tensor.shape[:bond]), -1) for bond in range(1, tensor.ndim)]


TENSORS = {
    "sinh, m = 3": (kernel("sinh_product", "ball-independent", 3, 20), 4),
    "sinh, m = 12": (kernel("sinh_product", "ball-independent", 12, 20), 6),
    "sinh symmetric": (kernel("sinh_product", "sphere-symmetric", 5, 16), 3),
    "attention": (kernel("tensor_attention", "ball-independent", 10, 20), 5),
    "attention symmetric": (kernel("tensor_attention", "ball-symmetric", 30, 16), 4),
    "noise": (noise(6, 7, 8), 2),
    "long noise": (noise(30, 2, 9), 4),
    "flat noise": (noise(9, 1, 8), 3),
    "noise of order four": (noise(4, 3, 5, 6), 3),
    "noise of order five": (noise(2, 3, 4, 3, 2), 3),
    "diagonal": (diagonal(5, 3), 2),
    "signs": (np.sign(noise(6, 6, 6)), 2),
}
LOW_RANK = {
    "rank one": (train((6, 7, 8), 1), 1),
    "rank one at three": (train((6, 7, 8), 1), 3),
    "rank three": (train((9, 4, 10), 3), 3),
    "rank two of order four": (train((4, 5, 3, 6), 2), 2),
    "order five": (train((3, 2, 4, 2, 3), 2), 2),
    "function of the first mode": (np.broadcast_to(noise(6)[:, None, None], (6, 7, 8)), 1),
    "constant": (np.full((4, 5, 6), -2.5), 2),
    "one entry": (np.pad([[[7.0]]], ((1, 2), (0, 3), (2, 1))), 2),
    "diagonal": (diagonal(4, 3), 4),
    "full rank": (noise(4, 5, 6), 6),
    "a vector": (noise(1, 7, 1), 1),
    "a number": (np.array([[[-3.0]]]), 1),
}
ALL = {**TENSORS, **{f"{name} (low rank)": case for name, case in LOW_RANK.items()}}


@cache
def solved(name: str, method: str, seed: int = 0, bound: str = "tail", **settings: object) -> TensorApproximation:
    tensor, rank = ALL[name]
    return approximate_tensor(tensor, rank, method, seed, bound=bound, **settings)


def solve(tensor: np.ndarray, rank: int, **settings: object) -> TensorApproximation:
    return approximate_tensor(tensor, rank, bound="tail", **settings)


def error(tensor: np.ndarray, rank: int, method: str = "minimax", seed: int = 0, **settings: object) -> float:
    return solve(tensor, rank, method=method, seed=seed, **settings).max_error


# --- function-generated tensors

DRAWS = [(m, rank, seed) for m, rank in ((3, 4), (12, 6), (40, 3)) for seed in range(2)]


@pytest.mark.parametrize(("m", "rank", "seed"), DRAWS)
@pytest.mark.parametrize("function", ["sinh_product", "tensor_attention"])
def test_minimax_is_below_alternating_projections_and_these_below_tt_svd(function, m, rank, seed):
    tensor = kernel(function, "ball-independent", m, 22, seed)
    svd, ap, minimax = (error(tensor, rank, method, seed) for method in METHODS)
    assert minimax <= 1.02 * ap
    assert ap < svd
    assert minimax <= 0.7 * svd


@pytest.mark.parametrize(
    ("shape", "m", "rank", "svd", "ap", "minimax"),
    [((40, 50, 60), 12, 6, 0.728, 0.760, 0.405), ((60, 60, 60), 100, 10, 0.943, 0.591, 0.468)],
)
def test_errors_are_those_of_a_prototype_on_other_draws(shape, m, rank, svd, ap, minimax):
    tensor = kernel("sinh_product", "ball-independent", m, 60)[tuple(map(slice, shape))]
    norm = np.abs(tensor).max()
    assert error(tensor, rank, "svd") / norm == pytest.approx(svd, rel=0.25)
    assert error(tensor, rank, "ap") / norm <= 1.1 * ap
    assert error(tensor, rank, "minimax", budget="quick") / norm <= 1.15 * minimax


def test_subspace_projection_reaches_what_the_exact_one_does():
    names = [name for name in TENSORS if name != "diagonal"]
    ratios = {
        name: median(solved(name, "ap", seed).max_error for seed in range(2))
        / median(solved(name, "ap", seed, projection="exact").max_error for seed in range(2))
        for name in names
    }
    assert 0.97 <= median(ratios.values()) <= 1.03, ratios
    assert all(0.85 <= ratio <= 1.15 for ratio in ratios.values()), ratios
    for name in names:
        exact, near = (solved(name, "ap", projection=each) for each in ("exact", "subspace"))
        assert [core.shape for core in exact.cores] == [core.shape for core in near.cores]


@pytest.mark.parametrize("name", ["sinh, m = 12", "attention", "noise", "noise of order four"])
def test_start_from_tt_svd_is_no_worse_than_it_and_the_same_for_every_seed(name):
    first, other = (solved(name, "ap", seed, initial="svd") for seed in (0, 1))
    assert first.max_error <= solved(name, "svd").max_error
    assert first.max_error <= 1.15 * median(solved(name, "ap", seed).max_error for seed in range(2))
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first.cores, other.cores, strict=True))
    tensor, rank = TENSORS[name]
    for factor in (1e-3, 1e3):
        one = solve(factor * tensor, rank, method="ap", initial="svd", max_projections=1)
        assert one.max_error <= factor * solved(name, "svd").max_error * (1 + 1e-6)


def test_single_precision_reaches_what_double_does():
    for name in ("sinh, m = 3", "attention", "noise of order four"):
        for method in ("ap", "minimax"):
            double = solved(name, method, precision="double").max_error
            assert solved(name, method).max_error == pytest.approx(double, rel=0.02)


@pytest.mark.parametrize(
    ("function", "m", "rank"), [("sinh_product", 2, 8), ("sinh_product", 1, 4), ("tensor_attention", 1, 7)]
)
def test_errors_below_single_precision_are_pursued(function, m, rank):
    """Relative errors of 5e-6, 1e-11 and 2e-9."""
    tensor = kernel(function, "ball-independent", m, 16)
    svd, ap, minimax = (error(tensor, rank, method) / np.abs(tensor).max() for method in METHODS)
    assert minimax <= 1.02 * ap
    assert ap < 0.5 * svd
    assert svd < 2e-5


# --- order two


@pytest.mark.parametrize("shape", [(9, 12), (12, 9), (5, 40)])
@pytest.mark.parametrize("rank", [1, 3, 5])
def test_tt_svd_of_a_matrix_is_its_truncated_svd(shape, rank):
    matrix = noise(*shape)
    found, expected = approximate_tensor(matrix, rank, "svd"), approximate(matrix, rank, "svd")
    assert found.to_numpy() == pytest.approx(expected.left @ expected.right.T, abs=1e-13)
    assert found.max_error == pytest.approx(expected.max_error, rel=1e-12, abs=1e-13)
    assert found.lower_bound == expected.lower_bound


@pytest.mark.parametrize("matrix", [noise(9, 12), function_matrix("exponential", "ball-independent", 5, 20).to_numpy()])
@pytest.mark.parametrize("method", METHODS)
def test_matrix_is_a_tensor_of_order_two(method, matrix):
    found, expected = (call(matrix, 3, method, bound="tail") for call in (approximate_tensor, approximate))
    assert [core.shape for core in found.cores] == [(1, len(matrix), 3), (3, matrix.shape[1], 1)]
    assert found.max_error == pytest.approx(np.abs(matrix - whole(found.cores)).max(), rel=1e-12)
    assert found.max_error <= 1.1 * expected.max_error  # searches from other starts


# --- what every answer is


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("method", METHODS)
def test_error_is_the_true_one_of_the_returned_cores(method, name):
    tensor, rank = ALL[name]
    found = solved(name, method)
    true = float(np.abs(tensor - whole(found.cores, np.longdouble)).max())
    rounding = 1e-14 * np.abs(tensor).max()
    assert found.max_error == pytest.approx(true, rel=1e-12, abs=rounding)
    assert found.to_numpy() == pytest.approx(whole(found.cores), abs=10 * rounding)
    assert {core.dtype for core in found.cores} == {np.dtype(np.float64)}
    ranks = [min(rank, *matrix.shape) for matrix in unfoldings(tensor)]
    assert [core.shape for core in found.cores] == list(zip([1, *ranks], tensor.shape, [*ranks, 1], strict=True))


@pytest.mark.parametrize("name", TENSORS)
def test_minimax_is_never_worse_than_tt_svd_or_zero(name):
    tensor, _ = TENSORS[name]
    for budget in ("quick", "default"):
        best = solved(name, "minimax", budget=budget).max_error
        assert best <= min(solved(name, "svd").max_error, np.abs(tensor).max())


@pytest.mark.parametrize("name", ALL)
def test_lower_bound_is_below_the_errors_and_above_the_tail_at_every_bond(name):
    tensor, rank = ALL[name]
    best = solved(name, "svd", bound="best").lower_bound
    assert best <= min(solved(name, method).max_error for method in METHODS)
    rounding = 1e-13 * np.abs(tensor).max()
    tails = [np.linalg.norm(np.linalg.svd(each, compute_uv=False)[rank:]) for each in unfoldings(tensor)]
    simple = solved(name, "svd").lower_bound
    assert simple == pytest.approx(max(tails) / np.sqrt(tensor.size), rel=1e-9, abs=rounding)
    assert simple <= best


@pytest.mark.parametrize("name", LOW_RANK)
@pytest.mark.parametrize("method", METHODS)
def test_tensor_of_at_most_that_rank_is_found_up_to_rounding(method, name):
    tensor, rank = LOW_RANK[name]
    for seed in range(2):
        found = approximate_tensor(tensor, rank, method, seed)
        assert found.max_error <= 3e-15 * max(tensor.shape) * np.abs(tensor).max()
        assert found.lower_bound <= found.max_error


@pytest.mark.parametrize("shape", [(3, 4, 5), (2, 3, 2, 3), (1, 1, 1)])
@pytest.mark.parametrize("method", METHODS)
def test_zero_tensor_is_found_at_once(method, shape):
    found = approximate_tensor(np.zeros(shape), 1, method)
    assert (found.max_error, found.lower_bound, found.iterations) == (0, 0, 0)
    assert found.history.shape == (0,)
    assert found.stopped == "the tensor is zero"
    assert [core.shape for core in found.cores] == [(1, n, 1) for n in shape]
    assert not found.to_numpy().any()


# --- steps


@pytest.mark.parametrize("name", ALL)
def test_history_of_minimax_falls_to_the_error(name):
    tensor, _ = ALL[name]
    found = solved(name, "minimax")
    assert found.history.shape == (found.iterations,)
    assert found.iterations > 0
    assert all(later <= earlier for earlier, later in pairwise(found.history))
    assert found.history[-1] == pytest.approx(found.max_error, rel=1e-12, abs=1e-14 * np.abs(tensor).max())


@pytest.mark.parametrize("name", ["sinh, m = 12", "noise", "noise of order four"])
@pytest.mark.parametrize("settings", [{}, {"projection": "exact"}, {"precision": "double"}])
def test_history_of_projections_holds_the_error_of_each(name, settings):
    found = solved(name, "ap", **settings)
    assert found.history.shape == (found.iterations,)
    assert found.history.min() == pytest.approx(found.max_error, rel=1e-5)
    assert np.any(np.diff(found.history) > 0)


@pytest.mark.parametrize("limit", [1, 2, 17, 100])
def test_no_more_projections_than_allowed(limit):
    longer = solved("noise", "ap").max_error
    found = solved("noise", "ap", max_projections=limit)
    assert found.iterations == limit
    assert found.stopped == "max_projections are used up"
    assert found.max_error >= longer


def test_ways_of_stopping_are_told():
    told = {
        "direct": solved("noise", "svd").stopped,
        "the bounds on ε meet": solved("noise", "ap").stopped,
        "the steps are used up": solved("sinh, m = 12", "minimax", budget="quick").stopped,
        "the smooth maximum no longer falls": solved("diagonal", "minimax").stopped,
        "no step lowers the error to first order": solve(diagonal(2, 3), 1, budget="thorough").stopped,
        "the error is at rounding level": solve(train((4, 5, 6), 2), 2).stopped,
        "the tensor is zero": solve(np.zeros((2, 3, 4)), 2).stopped,
    }
    assert all(sentence == stopped for sentence, stopped in told.items()), told
    assert solved("rank one (low rank)", "ap").stopped == "the error is at rounding level"


@pytest.mark.parametrize("name", ["sinh, m = 12", "attention", "noise", "noise of order four"])
def test_larger_budgets_reach_smaller_errors(name):
    quick, default = (solved(name, "minimax", budget=budget).max_error for budget in ("quick", "default"))
    assert default <= 1.005 * quick
    if name == "noise":
        assert solved(name, "minimax", budget="thorough").max_error <= 1.005 * default


# --- what should not matter, and what should


@pytest.mark.parametrize(
    "settings", [{}, {"method": "ap"}, {"method": "ap", "projection": "exact"}, {"budget": "quick"}]
)
@pytest.mark.parametrize("name", ["attention", "noise of order four"])
def test_same_seed_gives_the_same_bits_and_another_seed_others(name, settings):
    tensor, rank = TENSORS[name]
    first, again, other = (approximate_tensor(tensor, rank, seed=s, bound="tail", **settings) for s in (3, 3, 4))
    assert [core.tobytes() for core in first.cores] == [core.tobytes() for core in again.cores]
    assert np.array_equal(first.history, again.history)
    assert all(a.tobytes() != b.tobytes() for a, b in zip(first.cores, other.cores, strict=True))


def test_tt_svd_is_the_same_for_every_seed():
    first, other = (solved("attention", "svd", seed) for seed in (0, 1))
    assert [core.tobytes() for core in first.cores] == [core.tobytes() for core in other.cores]


@pytest.mark.parametrize("factor", [1e-300, 1e-100, -3.7, 1e100, 1e298])
@pytest.mark.parametrize("name", ["sinh, m = 12", "noise", "noise of order four"])
def test_result_scales_with_the_tensor(name, factor):
    tensor, rank = TENSORS[name]
    for method, tolerance in (("svd", 1e-12), ("ap", 0.03), ("minimax", 0.03)):
        found, expected = approximate_tensor(factor * tensor, rank, method), solved(name, method, bound="best")
        assert found.max_error == pytest.approx(abs(factor) * expected.max_error, rel=tolerance, abs=0)
        assert found.lower_bound == pytest.approx(abs(factor) * expected.lower_bound, rel=1e-6, abs=0)
        assert all(np.isfinite(core).all() for core in found.cores)
        if method == "svd":
            assert found.to_numpy() == pytest.approx(factor * expected.to_numpy(), rel=1e-9, abs=1e-13 * abs(factor))


@pytest.mark.parametrize("name", ["sinh, m = 12", "attention", "long noise", "noise of order four"])
@pytest.mark.parametrize("settings", [{}, {"projection": "exact"}])
def test_size_of_the_panels_hardly_matters(monkeypatch, name, settings):
    tensor, rank = TENSORS[name]
    expected = solved(name, "ap", **settings)
    monkeypatch.setattr(arrays, "_PANEL_BYTES", 1)
    monkeypatch.setattr(arrays, "_PANEL_ROWS", 7)
    found = solve(tensor, rank, method="ap", **settings)
    assert found.max_error <= 1.1 * expected.max_error  # searches from other starts
    assert found.history[:6] == pytest.approx(expected.history[:6], rel=1e-3)


@pytest.mark.parametrize("name", ["sinh, m = 12", "noise of order four"])
@pytest.mark.parametrize("method", ["ap", "minimax"])
def test_orientation_hardly_matters(method, name):
    tensor, rank = TENSORS[name]
    turned = np.transpose(tensor)
    assert error(turned, rank, method) == pytest.approx(solved(name, method).max_error, rel=0.1)


@pytest.mark.parametrize(
    "form",
    [
        np.ndarray.tolist,
        np.asfortranarray,
        lambda tensor: np.repeat(tensor, 2, axis=1)[:, ::2],
        lambda tensor: tensor.astype(np.longdouble),
    ],
    ids=["lists", "column major", "strided", "extended precision"],
)
@pytest.mark.parametrize("method", METHODS)
def test_form_of_the_tensor_does_not_matter(method, form):
    tensor, rank = TENSORS["noise"]
    found = approximate_tensor(form(tensor), rank, method, bound="tail")
    assert [a.tobytes() for a in found.cores] == [b.tobytes() for b in solved("noise", method).cores]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [np.int8, bool, np.float32])
def test_real_numbers_of_any_type_are_taken_at_their_value(method, dtype):
    tensor = np.random.default_rng(5).integers(0, 2, (5, 4, 6)).astype(dtype)
    found, expected = (approximate_tensor(each, 2, method, bound="tail") for each in (tensor, tensor.astype(float)))
    assert found.max_error == expected.max_error > 0
    assert found.cores[0].dtype == np.float64


@pytest.mark.parametrize("method", METHODS)
def test_tensor_is_not_changed_and_may_be_read_only(method):
    tensor = noise(5, 6, 7)
    tensor.setflags(write=False)
    approximate_tensor(tensor, 2, method)
    assert np.array_equal(tensor, noise(5, 6, 7))


@pytest.mark.parametrize("method", METHODS)
def test_function_tensor_is_taken_as_its_values_are(method):
    tensor = function_tensor("sinh_product", "ball-independent", 3, 12)
    found, plain = (approximate_tensor(each, np.int32(3), method, np.uint8(1)) for each in (tensor, tensor.to_numpy()))
    assert [a.tobytes() for a in found.cores] == [b.tobytes() for b in plain.cores]
    assert found.lower_bound == plain.lower_bound > 0


def test_method_is_minimax_and_the_bound_the_best_where_none_is_named():
    found, named = approximate_tensor(noise(6, 7, 8), 2), solved("noise", "minimax", bound="best")
    assert [a.tobytes() for a in found.cores] == [b.tobytes() for b in named.cores]
    assert found.lower_bound == named.lower_bound > solved("noise", "minimax").lower_bound


def test_cores_and_history_stay_out_of_the_printed_result():
    assert len(repr(solved("noise", "minimax"))) < 250


# --- what it refuses

NAN, INFINITE = noise(3, 4, 5), noise(3, 4, 5)
NAN[2, 0, 1] = np.nan
INFINITE[0, 3, 4] = -np.inf


@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        (NAN, "tensor: entry [2, 0, 1] is nan"),
        (INFINITE, "tensor: entry [0, 3, 4] is -inf"),
        (np.arange(4.0), "tensor: shape (4,) "),
        (3.0, "tensor: shape () "),
        (None, "tensor: "),
        ([], "tensor: shape (0,) "),
        (np.zeros((2, 0, 3)), "tensor: shape (2, 0, 3) "),
        (noise(2, 3, 4) + 1j, "tensor: dtype complex128 is not real"),
        (noise(2, 3, 4).astype(object), "tensor: dtype object is not real"),
        ([[["a"], ["b"]]], "tensor: dtype <U1 is not real"),
        ([[[1.0, 2.0], [3.0]]], "tensor: its rows differ in length"),
        ([[[1.0, 2.0]], [[3.0, 4.0], [5.0, 6.0]]], "tensor: its rows differ in length"),
        (np.full((2, 2, 2), 1e301), "tensor: entries up to 1e+301 overflow"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_what_is_not_a_real_finite_tensor_is_refused(method, tensor, told):
    with pytest.raises(InputError) as caught:
        approximate_tensor(tensor, 1, method)
    assert str(caught.value).startswith(told)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rank", [0, -1, 9, 2.5, 3.0, "3", None, float("nan"), True, [3]])
@pytest.mark.parametrize("method", METHODS)
def test_rank_out_of_range_is_refused(method, rank):
    with pytest.raises(InputError) as caught:
        approximate_tensor(noise(8, 5, 6), rank, method)
    assert str(caught.value) == (
        f"rank: {rank!r} is not an integer between 1 and the largest TT rank of shape (8, 5, 6) = 8"
    )


@pytest.mark.parametrize("seed", [-1, 0.5, "0", None, True])
def test_seed_that_is_not_a_non_negative_integer_is_refused(seed):
    with pytest.raises(InputError, match=f"^seed: {seed!r} is not a non-negative integer$"):
        approximate_tensor(noise(2, 3, 4), 2, "ap", seed)


@pytest.mark.parametrize("tensor", [noise(2, 3, 4), np.zeros((2, 3, 4)), noise(4, 5)])
def test_methods_and_settings_for_matrices_are_refused(tensor):
    with pytest.raises(InputError, match=r"^method: 'random_embedding' is for matrices; use one of svd, ap, minimax "):
        approximate_tensor(tensor, 2, "random_embedding")
    for kind in ("rank", "size"):
        with pytest.raises(InputError, match=rf"^warm_start: '{kind}' is for matrices; use 'none' for tensors$"):
            approximate_tensor(tensor, 2, warm_start=kind)


@pytest.mark.parametrize("method", ["qr", "", None, 5, ["svd"]])
def test_unknown_method_names_the_known_ones(method):
    with pytest.raises(InputError) as caught:
        approximate_tensor(noise(2, 3, 4), 2, method)
    assert str(caught.value).startswith(f"method: {method!r} is not known; use one of svd, ap, minimax")


@pytest.mark.parametrize(
    ("method", "settings", "told"),
    [
        ("ap", {"projecton": "exact"}, "projecton: 'exact'"),
        ("ap", {"tolerance": 0}, "tolerance: 0"),
        ("svd", {"driver": "gesvd"}, "driver: 'gesvd'"),
        ("minimax", {"budget": "fast"}, "budget: 'fast'"),
    ],
)
def test_settings_that_a_method_does_not_take_are_refused(method, settings, told):
    with pytest.raises(InputError) as caught:
        approximate_tensor(noise(2, 3, 4), 2, method, **settings)
    assert str(caught.value).startswith(f"{told} will not do for method {method!r}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bound", ["worst", None, 1])
def test_unknown_bound_is_refused(bound):
    with pytest.raises(InputError, match=f"^bound: {bound!r} is not known; use 'best'"):
        approximate_tensor(noise(2, 3, 4), 2, "svd", bound=bound)


# --- starts, and what a result says of itself


def test_start_is_an_approximation_or_its_cores_and_never_lost():
    tensor, _ = TENSORS["sinh, m = 3"]
    good = approximate_tensor(tensor, 3, bound="tail", budget="default")
    for start in (good, good.cores, [core.tolist() for core in good.cores]):
        assert approximate_tensor(tensor, 3, start=start, bound="tail", budget="quick").max_error <= good.max_error
    further = approximate_tensor(tensor, 4, start=good, bound="tail", budget="quick")
    assert [core.shape for core in further.cores] == [(1, 20, 4), (4, 20, 4), (4, 20, 1)]
    assert further.max_error < good.max_error


def test_start_of_zeros_is_as_good_as_none():
    tensor, rank = TENSORS["noise"]
    zero = approximate_tensor(0 * tensor, rank, "svd")
    found, plain = solve(tensor, rank, start=zero, budget="quick"), solve(tensor, rank, budget="quick")
    assert found.max_error <= 1.05 * plain.max_error


CORES = approximate_tensor(noise(4, 5, 6), 2, "svd", bound="tail").cores


@pytest.mark.parametrize(
    "start",
    [
        5,
        "ab",
        CORES[:2],
        CORES[::-1],
        [core[0] for core in CORES],
        (*CORES[:2], CORES[2][:1]),
        [np.ones((1, 4, 3)), np.ones((3, 5, 3)), np.ones((3, 6, 1))],
        [np.full_like(core, np.nan) for core in CORES],
        [np.ma.masked_equal(core, core[0, 0, 0]) for core in CORES],
        approximate(np.ones((4, 5)), 1, "svd"),
        [1e200 * core for core in CORES],
    ],
)
def test_start_that_is_no_train_of_the_shape_and_rank_is_refused_in_one_line(start):
    with pytest.raises(InputError) as caught:
        approximate_tensor(noise(4, 5, 6), 2, start=start)
    assert str(caught.value).startswith("start: ")
    assert "pass " in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "matrix" not in str(caught.value)
    assert "object is not" not in str(caught.value)


@pytest.mark.parametrize("method", ["svd", "ap"])
def test_start_is_refused_for_methods_that_begin_from_none(method):
    with pytest.raises(InputError, match=f"^start: method '{method}' begins from no given cores"):
        approximate_tensor(noise(4, 5, 6), 2, method, start=CORES)


def test_result_knows_its_error_relative_to_the_tensor():
    tensor, rank = TENSORS["noise"]
    found = solved("noise", "svd")
    assert found.max_norm == np.abs(tensor).max()
    assert found.relative_error == found.max_error / np.abs(tensor).max()
    assert f"(6 × 7 × 8, TT ranks {rank}, {rank}, max_error {found.max_error:.4g} (" in repr(found)
    assert len(repr(found)) < 250


def test_tensor_in_a_file_is_taken(tmp_path):
    np.save(tmp_path / "t.npy", TENSORS["noise"][0])
    found = approximate_tensor(FileMatrix(str(tmp_path / "t.npy")), 2, "svd", bound="tail")
    assert found.max_error == solved("noise", "svd").max_error
