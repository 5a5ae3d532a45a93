"""Smoothed minimax over tensor trains: its derivatives, and proved optima and brute force for its errors."""

from itertools import pairwise
from statistics import median

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp

from pipeline import approximate_tensor
from pipeline.active_set import polish
from pipeline.smooth_maximum import SmoothMaximum
from pipeline.tensor_minimax import TrainFactorization
from pipeline.tensor_train import bond_ranks, middle_bond, unfolding

# shape and TT ranks
TRAINS = [
    ((5, 6), (3,)),
    ((4, 5, 6), (3, 3)),
    ((4, 5, 6), (2, 4)),
    ((6, 2, 7), (4, 1)),
    ((3, 4, 2, 5), (2, 2, 2)),
    ((3, 4, 2, 5), (3, 5, 2)),
    ((2, 2, 2, 2, 2), (2, 3, 4, 2)),
    ((1, 5, 1), (1, 1)),
]
SHAPES = [(7, 9), (9, 4), (5, 6, 7), (8, 2, 3), (2, 9, 2), (3, 4, 5, 2), (4, 1, 4, 3), (2, 3, 2, 3, 2)]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape)


def whole(cores) -> np.ndarray:
    """All entries of a train, core by core."""
    found = np.ones(1)
    for core in cores:
        found = np.tensordot(found, core, axes=1)
    return found[..., 0]


def diagonal(n: int, order: int) -> np.ndarray:
    tensor = np.zeros((n,) * order)
    tensor[(np.arange(n),) * order] = 1
    return tensor


def error(tensor: np.ndarray, rank: int, method: str = "minimax", seed: int = 0, **settings: object) -> float:
    return approximate_tensor(tensor, rank, method, seed, bound="tail", **settings).max_error


# --- oracles


@pytest.mark.parametrize(("n", "order"), [(2, 3), (3, 3), (4, 3), (2, 4), (3, 4)])
def test_diagonal_tensor_of_rank_one_has_its_optimum_of_a_half(n, order):
    """The constant 1/2 reaches it; an unfolding holds the identity, whose best error of rank one it is."""
    found = approximate_tensor(diagonal(n, order), 1, budget="thorough")
    assert found.max_error == pytest.approx(1 / 2, abs=1e-9)
    assert 1 / 2 - 1e-9 <= found.lower_bound <= 1 / 2


@pytest.mark.parametrize("n", [3, 4, 5])
def test_diagonal_tensor_of_one_rank_less_has_its_optimum(n):
    """It is 1/n, as for the identity that an unfolding holds.

    It is reached by D − E with E = 1/n at (i, j, j) and (i, i, j), −1/n at (i, j, i) for i ≠ j: the slices of D − E
    add up to zero along the first mode and along the last one.
    """
    i, j = np.indices((n, n))
    deviation = np.zeros((n, n, n))
    deviation[i, j, i] = -1 / n
    deviation[i, j, j] = deviation[i, i, j] = 1 / n
    best = diagonal(n, 3) - deviation
    assert [np.linalg.matrix_rank(matrix) for matrix in (best.reshape(n, n * n), best.reshape(n * n, n))] == [
        n - 1,
        n - 1,
    ]
    found = approximate_tensor(diagonal(n, 3), n - 1, budget="thorough")
    assert found.max_error == pytest.approx(1 / n, abs=1e-9)
    assert 1 / n - 1e-9 <= found.lower_bound <= 1 / n
    assert error(diagonal(n, 3), n - 1) <= 1.005 / n
    assert error(diagonal(n, 3), n - 1, "ap") <= 1.02 / n


def test_signs_that_no_tensor_of_the_rank_matches_are_left_at_zero():
    """An error below 1 would be a tensor of TT rank 1 with these signs: a product of three vectors of signs."""
    signs = np.ones((2, 3, 4))
    signs[1, 1, 1] = -1
    for budget in ("quick", "default", "thorough"):
        assert error(signs, 1, budget=budget) == 1


def brute_force(tensor: np.ndarray, restarts: int = 25) -> float:
    """Least max error of a product of three vectors that sequential quadratic programming finds from random starts."""
    cuts = np.cumsum(tensor.shape[:-1])
    a, b, c = (np.eye(n) for n in tensor.shape)

    def residual(x: np.ndarray) -> np.ndarray:
        return (np.einsum("i,j,k->ijk", *np.split(x, cuts)) - tensor).ravel()

    def derivative(x: np.ndarray) -> np.ndarray:
        u, v, w = np.split(x, cuts)
        parts = (("im,j,k->ijkm", a, v, w), ("i,jm,k->ijkm", u, b, w), ("i,j,km->ijkm", u, v, c))
        return np.hstack([np.einsum(*part).reshape(tensor.size, -1) for part in parts])

    ones = np.ones((tensor.size, 1))
    within = {
        "type": "ineq",
        "fun": lambda z: np.r_[z[-1] - residual(z[:-1]), z[-1] + residual(z[:-1])],
        "jac": lambda z: np.block([[-derivative(z[:-1]), ones], [derivative(z[:-1]), ones]]),
    }
    random = np.random.default_rng(0)
    found = []
    for x in random.standard_normal((restarts, sum(tensor.shape))):
        z = np.r_[x, np.abs(residual(x)).max()]
        least = minimize(
            lambda z: z[-1],
            z,
            jac=lambda z: np.r_[0 * z[:-1], 1],
            method="SLSQP",
            constraints=within,
            options={"maxiter": 200, "ftol": 1e-12},
        )
        found.append(np.abs(residual(least.x[:-1])).max())
    return min(found)


def test_thorough_budget_mostly_finds_what_brute_force_does():
    ratios, gains = [], []
    for shape in ((2, 2, 2), (2, 3, 2), (3, 3, 3)):
        for seed in range(3):
            tensor = np.random.default_rng([seed, *shape]).standard_normal(shape)
            found = approximate_tensor(tensor, 1, budget="thorough")
            ratios.append(found.max_error / brute_force(tensor))
            gains.append(found.max_error / error(tensor, 1))
            assert found.lower_bound <= found.max_error
    assert median(ratios) <= 1 + 1e-6, ratios
    assert max(ratios) <= 1.25, ratios
    assert max(gains) <= 1, gains


# --- the smooth maximum over the cores

BONDS = [(*each, bond) for each in TRAINS[:7] for bond in range(1, len(each[0]))]


def problem(shape, ranks, bond) -> tuple[np.ndarray, TrainFactorization, np.ndarray]:
    """A random unfolding, a factorization with random weights, and unknowns."""
    random = np.random.default_rng([bond, *shape])
    sizes = [1, *ranks, 1]
    weights = tuple(random.uniform(0.5, 2, (a, 1, b)) for a, b in pairwise(sizes))
    factorization = TrainFactorization(0, np.ones(1), None, bond, weights, shape)
    unknowns = random.standard_normal(sum(n * w.size for n, w in zip(shape, weights, strict=True)))
    return unfolding(random.standard_normal(shape), bond), factorization, unknowns


def residual(matrix: np.ndarray, factorization: TrainFactorization, x: np.ndarray) -> np.ndarray:
    return whole(factorization.cores(x)).reshape(matrix.shape) - matrix


def differences(function, x: np.ndarray, step: float = 1e-6) -> np.ndarray:
    """Central differences of a function, shape (unknowns, …)."""
    return np.array([(function(x + shift) - function(x - shift)) / (2 * step) for shift in step * np.eye(x.size)])


@pytest.mark.parametrize(("shape", "ranks", "bond"), BONDS)
def test_unknowns_are_the_inverse_of_cores(shape, ranks, bond):
    _, factorization, x = problem(shape, ranks, bond)
    cores = factorization.cores(x)
    sizes = [1, *ranks, 1]
    assert [core.shape for core in cores] == [(a, n, b) for (a, b), n in zip(pairwise(sizes), shape, strict=True)]
    np.testing.assert_allclose(factorization.unknowns_of(cores), x, rtol=1e-15)
    assert {core.dtype for core in factorization.cores(x.astype(np.float32))} == {np.dtype(np.float32)}


@pytest.mark.parametrize(("shape", "ranks", "bond"), BONDS)
def test_factors_multiply_to_the_unfolding(shape, ranks, bond):
    matrix, factorization, x = problem(shape, ranks, bond)
    left, right = factorization.factors(x)
    assert left.shape[1] == right.shape[1] == ranks[bond - 1]
    np.testing.assert_allclose(left @ right.T - matrix, residual(matrix, factorization, x), atol=1e-11)


@pytest.mark.parametrize(("shape", "ranks", "bond"), BONDS)
def test_gradient_is_that_of_finite_differences(shape, ranks, bond):
    """Of any linear function of the entries."""
    matrix, factorization, x = problem(shape, ranks, bond)
    left, right = factorization.factors(x)
    gradient = factorization.gradient(x, matrix @ right, matrix.T @ left)
    numeric = differences(lambda y: np.vdot(matrix, residual(matrix, factorization, y)), x)
    assert np.abs(gradient - numeric).max() <= 1e-7 * np.abs(gradient).max()


@pytest.mark.parametrize(("shape", "ranks", "bond"), BONDS)
def test_derivatives_of_entries_are_those_of_finite_differences(shape, ranks, bond):
    matrix, factorization, x = problem(shape, ranks, bond)
    i, j = (index[::3] for index in np.indices(matrix.shape).reshape(2, -1))
    found = factorization.derivatives(x, i, j)
    assert found.shape == (len(i), x.size)
    numeric = differences(lambda y: residual(matrix, factorization, y)[i, j], x)
    assert np.abs(found - numeric.T).max() <= 1e-7 * np.abs(found).max()


@pytest.mark.parametrize("sharpness", [5, 1000])
@pytest.mark.parametrize(("shape", "ranks", "bond"), BONDS)
def test_smooth_maximum_is_that_of_the_formula(shape, ranks, bond, sharpness):
    matrix, factorization, x = problem(shape, ranks, bond)
    objective = SmoothMaximum(matrix, factorization)
    largest = np.abs(residual(matrix, factorization, x)).max()
    beta = sharpness / largest
    maximum, value, gradient = objective(x, beta, largest)
    assert maximum == pytest.approx(largest, rel=1e-13) == objective.maximum(x)
    assert value == pytest.approx(logsumexp(beta * np.abs(residual(matrix, factorization, x))) / beta, rel=1e-5)
    numeric = differences(lambda y: objective(y, beta, largest)[1], x)
    assert np.abs(gradient - numeric).max() <= 1e-5 * np.abs(gradient).max()


@pytest.mark.parametrize(("shape", "ranks", "bond"), BONDS)
def test_single_precision_agrees_with_double(shape, ranks, bond):
    matrix, factorization, x = problem(shape, ranks, bond)
    largest = np.abs(residual(matrix, factorization, x)).max()
    _, value, gradient = SmoothMaximum(matrix, factorization)(x, 20 / largest, largest)
    single = SmoothMaximum(matrix.astype(np.float32), factorization)
    _, found, found_gradient = single(x.astype(np.float32), 20 / largest, largest)
    assert found_gradient.dtype == np.float32
    assert found == pytest.approx(value, rel=1e-5)
    assert np.abs(found_gradient - gradient).max() <= 1e-4 * np.abs(gradient).max()


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_follow_the_singular_values_at_the_middle_bond(shape):
    """Also where some vanish; the larger a value, the smaller the weight."""
    values = [10.0 ** -np.arange(rank) for rank in bond_ranks(shape, 3)]
    values = [np.append(each[:-1], 0.0) if len(each) > 1 else each for each in values]
    factorization = TrainFactorization.of(shape, values)
    assert factorization.bond == middle_bond(shape)
    sizes = [1, *map(len, values), 1]
    assert [weight.shape for weight in factorization.weights] == [(a, 1, b) for a, b in pairwise(sizes)]
    for weight in factorization.weights:
        assert np.isfinite(weight).all()
        assert np.all(weight > 0)
        assert np.all(np.diff(weight, axis=0) > 0)
        assert np.all(np.diff(weight, axis=2) > 0)


@pytest.mark.parametrize(("shape", "ranks", "bond"), BONDS)
def test_polish_lowers_the_error(shape, ranks, bond):
    matrix, factorization, x = problem(shape, ranks, bond)
    polished, stopped = polish(matrix, factorization, 0.2 * x)
    before, after = (np.abs(residual(matrix, factorization, each)).max() for each in (0.2 * x, polished))
    assert after < 0.95 * before
    assert stopped
