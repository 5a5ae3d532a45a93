"""The front door: what it takes, what it refuses, and that what it returns belongs together."""

import numpy as np
import pytest

from pipeline import approximate, function_matrix
from pipeline.errors import InputError
from pipeline.passes import max_error

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
    ],
)
def test_start_that_is_no_pair_of_fitting_factors_is_refused(start):
    with pytest.raises(InputError) as caught:
        approximate(MATRIX, 3, start=start)
    assert str(caught.value).startswith("start: ")
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
