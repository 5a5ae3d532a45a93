"""What the minimax solver is made of: the smooth maximum, limited-memory BFGS and the active-set polish."""

import numpy as np
import pytest
from scipy.special import logsumexp

from pipeline import arrays, smooth_maximum
from pipeline.active_set import polish
from pipeline.descent import Descent
from pipeline.lbfgs import InverseHessian
from pipeline.smooth_maximum import Factorization, SmoothMaximum

DENSE, SPARSE = 5, 1000  # β max|E| at which nearly all and hardly any entries of a small residual count


def problem(symmetric: bool, shape: tuple[int, int] = (40, 30)) -> tuple[np.ndarray, Factorization, np.ndarray]:
    """A random matrix, a factorization of rank 4 and unknowns."""
    random = np.random.default_rng(3)
    rows, columns = (shape[0], shape[0]) if symmetric else shape
    matrix = random.standard_normal((rows, columns))
    signs = np.array([1.0, -1.0, -1.0, 1.0]) if symmetric else None
    factorization = Factorization(rows, random.uniform(0.5, 2, 4), signs)
    unknowns = random.standard_normal((rows if symmetric else rows + columns, 4))
    return (matrix + matrix.T if symmetric else matrix), factorization, unknowns


def residual(matrix: np.ndarray, factorization: Factorization, x: np.ndarray) -> np.ndarray:
    left, right = factorization.factors(x)
    return left @ right.T - matrix


def plain(matrix: np.ndarray, factorization: Factorization, x: np.ndarray, beta: float):
    """M, S_β and its gradient, as they are written down."""
    error = residual(matrix, factorization, x)
    total = logsumexp(beta * np.abs(error))
    weights = np.exp(beta * np.abs(error) - total) * np.sign(error)
    left, right = factorization.factors(x)
    if factorization.signs is None:
        gradient = np.concatenate([weights @ right, weights.T @ left]) * factorization.scale
    else:
        gradient = 2 * (weights @ left) * factorization.scale
    return np.abs(error).max(), total / beta, gradient


def differences(function, x: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Central differences of a scalar function."""
    gradient = np.empty_like(x)
    for at in np.ndindex(x.shape):
        shift = np.zeros_like(x)
        shift[at] = step
        gradient[at] = (function(x + shift) - function(x - shift)) / (2 * step)
    return gradient


# --- factorizations


@pytest.mark.parametrize("symmetric", [False, True])
def test_unknowns_are_the_inverse_of_factors(symmetric):
    _, factorization, x = problem(symmetric)
    assert np.allclose(factorization.unknowns(*factorization.factors(x)), x, rtol=1e-14)


def test_symmetric_factorization_has_a_symmetric_product_of_the_given_signs():
    _, factorization, x = problem(symmetric=True)
    left, right = factorization.factors(x)
    product = left @ right.T
    assert np.allclose(product, product.T, atol=1e-12)
    values = np.linalg.eigvalsh(product)
    assert (np.sum(values > 1e-8), np.sum(values < -1e-8)) == (2, 2)


# --- the smooth maximum


@pytest.fixture(params=[None, 16, 7], ids=["one panel", "panels of 16 rows", "panels of 7 rows"])
def panels(request, monkeypatch):
    if request.param:
        monkeypatch.setattr(arrays, "_PANEL_BYTES", 1)
        monkeypatch.setattr(arrays, "_PANEL_ROWS", request.param)


@pytest.mark.parametrize("sharpness", [1, DENSE, 50, SPARSE])
@pytest.mark.parametrize("symmetric", [False, True])
def test_value_and_gradient_are_those_of_the_formula(panels, symmetric, sharpness):
    matrix, factorization, x = problem(symmetric)
    largest = np.abs(residual(matrix, factorization, x)).max()
    beta = sharpness / largest
    _, value, gradient = plain(matrix, factorization, x, beta)
    objective = SmoothMaximum(matrix, factorization)
    maximum, found, found_gradient = objective(x, beta, largest)
    assert maximum == pytest.approx(largest, rel=1e-14) == objective.maximum(x)
    assert found == pytest.approx(value, rel=1e-5)  # entries that hardly weigh anything are left out
    assert np.abs(found_gradient - gradient).max() <= 1e-3 * np.abs(gradient).max()
    if sharpness <= DENSE:
        assert found == pytest.approx(value, rel=1e-14)
        assert np.abs(found_gradient - gradient).max() <= 1e-13 * np.abs(gradient).max()


@pytest.mark.parametrize("sharpness", [DENSE, SPARSE])
@pytest.mark.parametrize("symmetric", [False, True])
def test_gradient_is_that_of_finite_differences(symmetric, sharpness):
    matrix, factorization, x = problem(symmetric, (12, 9))
    largest = np.abs(residual(matrix, factorization, x)).max()
    objective = SmoothMaximum(matrix, factorization)
    gradient = objective(x, sharpness / largest, largest)[2]
    numeric = differences(lambda y: objective(y, sharpness / largest, largest)[1], x)
    assert np.abs(gradient - numeric).max() <= 1e-6 * np.abs(gradient).max()


def test_sparse_and_dense_weights_agree(monkeypatch):
    matrix, factorization, x = problem(symmetric=False)
    largest = np.abs(residual(matrix, factorization, x)).max()
    results = []
    for share in (0.0, 1.0):
        monkeypatch.setattr(smooth_maximum, "_SPARSE", share)
        results.append(SmoothMaximum(matrix, factorization)(x, 100 / largest, largest))
    (_, dense, dense_gradient), (_, sparse, sparse_gradient) = results
    assert sparse == pytest.approx(dense, rel=1e-3 / 100)
    assert np.abs(sparse_gradient - dense_gradient).max() <= 0.02 * np.abs(dense_gradient).max()
    assert not np.array_equal(sparse_gradient, dense_gradient)  # both branches were taken


@pytest.mark.parametrize("sharpness", [DENSE, 50, SPARSE])
@pytest.mark.parametrize("symmetric", [False, True])
def test_single_precision_agrees_with_double(symmetric, sharpness):
    matrix, factorization, x = problem(symmetric)
    largest = np.abs(residual(matrix, factorization, x)).max()
    beta = sharpness / largest
    _, value, gradient = SmoothMaximum(matrix, factorization)(x, beta, largest)
    single = SmoothMaximum(matrix.astype(np.float32), factorization)
    _, found, found_gradient = single(x.astype(np.float32), beta, largest)
    assert found_gradient.dtype == np.float32
    assert found == pytest.approx(value, rel=1e-6)
    assert np.abs(found_gradient - gradient).max() <= 1e-6 * max(sharpness, 10) * np.abs(gradient).max()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("symmetric", [False, True])
def test_value_lies_between_the_maximum_and_log_of_the_entries_above_it(symmetric, dtype):
    matrix, factorization, x = problem(symmetric)
    matrix, x = matrix.astype(dtype), x.astype(dtype)
    objective = SmoothMaximum(matrix, factorization)
    near = objective.maximum(x)
    for sharpness in (0.1, 1, 10, 100, 1e3, 1e4):
        beta = sharpness / near
        maximum, value, _ = objective(x, beta, near)
        assert maximum * (1 - 1e-6) <= value <= (maximum + np.log(matrix.size) / beta) * (1 + 1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_maximum_far_above_what_was_expected_counts_as_infinite(panels, dtype):
    matrix, factorization, x = problem(symmetric=False)
    objective = SmoothMaximum(matrix.astype(dtype), factorization)
    largest = objective.maximum(x.astype(dtype))
    maximum, value, _ = objective(x.astype(dtype), 200 / largest, largest / 2)
    assert largest / 2 < maximum <= largest  # that of the first panel which is too large
    assert value == np.inf


def test_undefined_residual_counts_as_infinite():
    matrix, factorization, x = problem(symmetric=False)
    assert SmoothMaximum(matrix, factorization)(np.full_like(x, np.nan), 1.0, 1.0)[1] == np.inf


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("factor", [1.05, 2, 10, 1e4])
def test_maximum_far_below_what_was_expected_changes_little(panels, dtype, factor):
    matrix, factorization, x = problem(symmetric=False)
    objective = SmoothMaximum(matrix.astype(dtype), factorization)
    x = x.astype(dtype)
    largest = objective.maximum(x)
    _, value, gradient = objective(x, 100 / largest, largest)
    _, found, found_gradient = objective(x, 100 / largest, factor * largest)
    assert found == pytest.approx(value, rel=1e-3)
    assert np.abs(found_gradient - gradient).max() <= 0.05 * np.abs(gradient).max()


# --- limited-memory BFGS


def two_loops(pairs: list[tuple[np.ndarray, np.ndarray]], gradient: np.ndarray) -> np.ndarray:
    """The textbook recursion (Nocedal and Wright, "Numerical optimization", 2006, algorithm 7.4)."""
    product, shares = gradient.copy(), []
    for step, change in reversed(pairs):
        shares.append(step @ product / (step @ change))
        product -= shares[-1] * change
    product *= pairs[-1][0] @ pairs[-1][1] / (pairs[-1][1] @ pairs[-1][1])
    for (step, change), share in zip(pairs, reversed(shares), strict=True):
        product += (share - change @ product / (step @ change)) * step
    return product


def quadratic(size: int = 12) -> np.ndarray:
    """A symmetric positive-definite matrix."""
    root = np.random.default_rng(size).standard_normal((size, size))
    return root @ root.T + 0.1 * np.eye(size)


def remembered(count: int, memory: int = 5) -> tuple[InverseHessian, list[tuple[np.ndarray, np.ndarray]]]:
    """The estimate after some random steps on a quadratic, and those it should remember."""
    hessian, estimate = quadratic(), InverseHessian(12, memory, np.float64)
    steps = np.random.default_rng(count).standard_normal((count, 12))
    for step in steps:
        estimate.add(step, hessian @ step)
    return estimate, [(step, hessian @ step) for step in steps[-memory:]]


@pytest.mark.parametrize("count", [1, 2, 4, 5, 6, 7, 13])
def test_product_is_that_of_the_two_loop_recursion(count):
    estimate, pairs = remembered(count)
    for gradient in np.random.default_rng(0).standard_normal((3, 12)):
        expected = two_loops(pairs, gradient)
        assert np.abs(estimate.times(gradient) - expected).max() <= 1e-10 * np.abs(expected).max()


@pytest.mark.parametrize("count", [1, 4, 5, 9])
def test_last_step_follows_from_its_change(count):
    estimate, pairs = remembered(count)
    step, change = pairs[-1]
    assert estimate.times(change) == pytest.approx(step, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("count", [1, 5, 9])
def test_estimate_is_symmetric_and_positive_definite(count):
    estimate, _ = remembered(count)
    matrix = np.stack([estimate.times(row) for row in np.eye(12)])
    assert np.abs(matrix - matrix.T).max() <= 1e-10 * np.abs(matrix).max()
    assert np.linalg.eigvalsh(matrix).min() > 0


def test_estimate_without_pairs_is_the_identity():
    estimate = InverseHessian(3, 2, np.float64)
    gradient = np.array([1.0, -2.0, 3.0])
    assert estimate.empty
    assert np.array_equal(estimate.times(gradient), gradient)
    assert estimate.times(gradient) is not gradient


def test_pairs_without_positive_curvature_are_left_out():
    estimate, pairs = remembered(4)
    gradient = np.arange(1.0, 13)
    before = estimate.times(gradient)
    step = np.ones(12)
    for change in (-step, 0 * step, np.tile([1.0, -1.0], 6), np.full(12, np.nan)):
        estimate.add(step, change)
    assert np.array_equal(estimate.times(gradient), before)
    estimate.forget()
    assert estimate.empty
    estimate.add(*pairs[0])
    assert estimate.times(gradient) == pytest.approx(two_loops(pairs[:1], gradient), rel=1e-12)


def test_change_too_small_for_its_square_is_left_out():
    estimate = InverseHessian(2, 3, np.float32)
    estimate.add(np.ones(2, np.float32), np.full(2, 1e-30, np.float32))
    assert np.isfinite(estimate.times(np.ones(2, np.float32))).all()


def test_descent_on_a_convex_quadratic_reaches_its_minimum():
    hessian = quadratic()
    x, estimate, minimum = np.zeros(12), InverseHessian(12, 10, np.float64), np.arange(12.0)
    gradient = hessian @ (x - minimum)
    for _ in range(200):
        direction = -estimate.times(gradient)
        if not (curvature := direction @ hessian @ direction):
            break
        step = -(gradient @ direction) / curvature * direction  # to the least point along the line
        change = hessian @ step
        estimate.add(step, change)
        x, gradient = x + step, gradient + change
    assert x == pytest.approx(minimum, abs=1e-8)


def test_single_precision_product_agrees_with_double():
    estimate, single = InverseHessian(12, 5, np.float64), InverseHessian(12, 5, np.float32)
    for step in np.random.default_rng(1).standard_normal((8, 12)):
        estimate.add(step, quadratic() @ step)
        single.add(step.astype(np.float32), (quadratic() @ step).astype(np.float32))
    gradient = np.arange(1.0, 13)
    found = single.times(gradient.astype(np.float32))
    assert found.dtype == np.float32
    expected = estimate.times(gradient)
    assert np.abs(found - expected).max() <= 1e-3 * np.abs(expected).max()


# --- polish


@pytest.mark.parametrize("symmetric", [False, True])
def test_derivatives_of_entries_are_those_of_finite_differences(symmetric):
    matrix, factorization, x = problem(symmetric, (5, 4))
    i, j = np.indices(matrix.shape).reshape(2, -1)
    found = factorization.derivatives(x, i, j)
    for entry in range(matrix.size):
        numeric = differences(lambda y, at=entry: residual(matrix, factorization, y)[i[at], j[at]], x)
        assert found[entry] == pytest.approx(numeric.ravel(), abs=1e-8)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("spread", [0.0, 0.01, 1.0])
def test_polish_never_ends_worse(symmetric, spread):
    matrix, factorization, x = problem(symmetric, (9, 7))
    x = x * (0.1 + spread)
    before = np.abs(residual(matrix, factorization, x)).max()
    polished, stopped = polish(matrix, factorization, x)
    assert np.abs(residual(matrix, factorization, polished)).max() <= before
    assert stopped


@pytest.mark.parametrize(("n", "rank", "optimum"), [(6, 3, 1 / (1 + 5**0.5)), (5, 1, 0.5), (5, 4, 0.2)])
@pytest.mark.parametrize("symmetric", [False, True])
def test_polish_reaches_a_vertex_to_ten_digits(n, rank, optimum, symmetric):
    """From a rough solution of a few steps on the smooth maximum."""
    random = np.random.default_rng(1)
    factorization = Factorization(n, np.ones(rank), np.ones(rank) if symmetric else None)
    start = random.standard_normal((n if symmetric else 2 * n, rank)) / np.sqrt(n)
    found = []
    for _ in range(4):
        x = start + 0.3 * random.standard_normal(start.shape)
        for beta in (20, 50):
            x = descended(np.eye(n), factorization, x, beta)
        polished, _ = polish(np.eye(n), factorization, x)
        found.append(np.abs(residual(np.eye(n), factorization, polished)).max())
    assert optimum - 1e-12 <= min(found) <= optimum + 1e-10


def descended(matrix: np.ndarray, factorization: Factorization, x: np.ndarray, sharpness: float) -> np.ndarray:
    search = Descent(matrix, 1.0, factorization, x, "double")
    search.stage(sharpness, 60)
    return search.best


def test_polish_leaves_an_exact_solution_alone():
    _, factorization, x = problem(symmetric=False, shape=(6, 5))
    matrix = residual(np.zeros((6, 5)), factorization, x)
    polished, stopped = polish(matrix, factorization, x)
    assert np.array_equal(polished, x)
    assert stopped == "the error is at rounding level"
