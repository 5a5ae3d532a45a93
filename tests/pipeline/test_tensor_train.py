"""Tensor trains against plain contractions and LAPACK."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.svd import lapack_svd
from pipeline.tensor_train import (
    bond_ranks,
    canonical,
    from_left,
    from_right,
    interfaces,
    left_interfaces,
    middle_bond,
    random_train,
    right_interfaces,
    right_orthogonal,
    scaled,
    tt_svd,
    unfolding,
)

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


def train(shape, ranks, seed: int = 0) -> list[np.ndarray]:
    """Gaussian cores."""
    random = np.random.default_rng([seed, *shape])
    sizes = [1, *ranks, 1]
    return [random.standard_normal((a, n, b)) for (a, b), n in zip(pairwise(sizes), shape, strict=True)]


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape)


def whole(cores) -> np.ndarray:
    """All entries of a train, core by core."""
    found = np.ones(1)
    for core in cores:
        found = np.tensordot(found, core, axes=1)
    return found[..., 0]


def tails(tensor: np.ndarray, rank: int) -> np.ndarray:
    """Frobenius error of the best matrix of that rank at each bond."""
    bonds = range(1, tensor.ndim)
    values = [np.linalg.svd(tensor.reshape(math.prod(tensor.shape[:k]), -1), compute_uv=False) for k in bonds]
    return np.array([np.linalg.norm(s[rank:]) for s in values])


def assert_orthonormal(columns: np.ndarray, tolerance: float = 1e-13) -> None:
    assert np.abs(columns.T @ columns - np.eye(columns.shape[1])).max() <= tolerance


def assert_left_orthonormal(cores) -> None:
    for interface in left_interfaces(cores[:-1]):
        assert_orthonormal(interface)


def assert_right_orthonormal(cores) -> None:
    for interface in right_interfaces(cores[1:]):
        assert_orthonormal(interface.T)


# --- interfaces


@pytest.mark.parametrize(("shape", "ranks"), TRAINS)
def test_interfaces_of_every_bond_multiply_to_the_tensor(shape, ranks):
    cores = train(shape, ranks)
    for bond, rank in enumerate(ranks, start=1):
        left, right = interfaces(cores, bond)
        assert (left.shape, right.shape) == ((math.prod(shape[:bond]), rank), (math.prod(shape[bond:]), rank))
        np.testing.assert_allclose(left @ right.T, unfolding(whole(cores), bond), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("shape", "ranks"), TRAINS)
def test_interfaces_are_the_trains_of_one_side(shape, ranks):
    cores = train(shape, ranks)
    found = np.ones(1)
    for core, interface in zip(cores, left_interfaces(cores), strict=True):
        found = np.tensordot(found, core, axes=1)
        np.testing.assert_allclose(interface, found.reshape(-1, core.shape[2]), rtol=1e-11, atol=1e-12)
    found = np.ones(1)
    for core, interface in zip(cores[::-1], right_interfaces(cores)[::-1], strict=True):
        found = np.tensordot(core, found, axes=1)
        np.testing.assert_allclose(interface, found.reshape(core.shape[0], -1), rtol=1e-11, atol=1e-12)


def test_unfolding_has_the_leading_modes_as_rows():
    tensor = noise(3, 4, 5, 2)
    for bond, rows in ((1, (3, 40)), (2, (12, 10)), (3, (60, 2))):
        assert unfolding(tensor, bond).shape == rows
    assert unfolding(tensor, 2)[2 * 4 + 1, 3 * 2 + 1] == tensor[2, 1, 3, 1]
    assert np.shares_memory(unfolding(tensor, 2), tensor)


@pytest.mark.parametrize(
    ("shape", "rank", "ranks"),
    [
        ((5, 6), 3, [3]),
        ((5, 6), 9, [5]),
        ((4, 5, 6), 5, [4, 5]),
        ((4, 5, 6), 100, [4, 6]),
        ((6, 2, 3), 5, [5, 3]),
        ((6, 2, 3), 9, [6, 3]),
        ((3, 3, 3, 3), 5, [3, 5, 3]),
        ((3, 3, 3, 3), 12, [3, 9, 3]),
        ((1, 7, 1), 4, [1, 1]),
    ],
)
def test_rank_is_capped_where_an_unfolding_has_fewer_rows_or_columns(shape, rank, ranks):
    assert bond_ranks(shape, rank) == ranks
    expected = list(zip([1, *ranks], shape, [*ranks, 1], strict=True))
    assert [core.shape for core in random_train(shape, rank, np.random.default_rng(0))] == expected
    assert [core.shape for core in tt_svd(noise(*shape), rank)] == expected


@pytest.mark.parametrize(
    ("shape", "bond"),
    [((5, 6), 1), ((4, 5, 6), 2), ((6, 5, 4), 1), ((3, 3, 3, 3), 2), ((20, 2, 2, 2), 1), ((2, 2, 2, 20), 3)],
)
def test_middle_bond_has_the_fewest_rows_and_columns(shape, bond):
    assert middle_bond(shape) == bond


def test_random_cores_have_the_published_variances():
    cores = random_train((300, 40, 300), 5, np.random.default_rng(1))
    for core, variance in zip(cores, (1 / 5, 1 / 25, 1 / 5), strict=True):
        assert core.mean() == pytest.approx(0, abs=4 * np.sqrt(variance / core.size))
        assert core.var() == pytest.approx(variance, rel=4 * np.sqrt(2 / core.size))


@pytest.mark.parametrize("factor", [0.0, 1e-100, 3.0, 1e100])
@pytest.mark.parametrize(("shape", "ranks"), TRAINS)
def test_scaled_cores_are_those_of_the_scaled_tensor(shape, ranks, factor):
    cores = scaled(train(shape, ranks), factor)
    np.testing.assert_allclose(whole(cores), factor * whole(train(shape, ranks)), rtol=1e-12)


# --- the truncated decomposition


@pytest.mark.parametrize(("shape", "ranks"), TRAINS)
def test_tensor_of_at_most_that_rank_is_decomposed_exactly(shape, ranks):
    tensor = whole(train(shape, ranks))
    for rank in (max(ranks), max(ranks) + 1):
        assert np.abs(whole(tt_svd(tensor, rank)) - tensor).max() <= 1e-13 * np.linalg.norm(tensor)


@settings(derandomize=True, deadline=None, max_examples=80)
@given(shape=st.lists(st.integers(1, 6), min_size=2, max_size=5), rank=st.integers(1, 8), seed=st.integers(0, 99))
def test_frobenius_error_lies_between_the_largest_tail_and_the_root_of_their_squares(shape, rank, seed):
    tensor = np.random.default_rng([seed, *shape]).standard_normal(shape)
    error, rest = np.linalg.norm(whole(tt_svd(tensor, rank)) - tensor), tails(tensor, rank)
    rounding = 1e-13 * np.linalg.norm(tensor)
    assert rest.max() - rounding <= error <= np.linalg.norm(rest) + rounding


@pytest.mark.parametrize("rank", [1, 3, 6])
@pytest.mark.parametrize("shape", [(7, 9), (9, 7), (6, 40), (40, 6)])
def test_train_of_order_two_is_the_truncated_svd(shape, rank):
    matrix = noise(*shape)
    u, s, vt = np.linalg.svd(matrix, full_matrices=False)
    assert np.abs(whole(tt_svd(matrix, rank)) - (u[:, :rank] * s[:rank]) @ vt[:rank]).max() <= 1e-13 * s[0]


@pytest.mark.parametrize("shape", SHAPES)
def test_decomposition_has_orthonormal_left_interfaces(shape):
    for rank in (1, 3, 100):
        assert_left_orthonormal(tt_svd(noise(*shape), rank))


@pytest.mark.parametrize("shape", SHAPES)
def test_decomposition_of_the_first_unfolding_may_be_given(shape):
    tensor = noise(*shape)
    first = lapack_svd(unfolding(tensor, 1))
    for rank in (1, 2, 4):
        given_first, alone = tt_svd(tensor, rank, first), tt_svd(tensor, rank)
        assert all(np.array_equal(*pair) for pair in zip(given_first, alone, strict=True))


# --- orthogonal cores


@pytest.mark.parametrize(("shape", "ranks"), TRAINS)
def test_right_orthogonal_cores_are_the_same_tensor_with_orthonormal_right_interfaces(shape, ranks):
    cores = train(shape, ranks)
    found = right_orthogonal(cores)
    np.testing.assert_allclose(whole(found), whole(cores), atol=1e-13 * np.linalg.norm(whole(cores)))
    assert_right_orthonormal(found)


@pytest.mark.parametrize(("shape", "ranks"), TRAINS)
def test_canonical_cores_are_the_same_tensor_with_orthonormal_left_interfaces(shape, ranks):
    cores = train(shape, ranks)
    found, _ = canonical(cores)
    np.testing.assert_allclose(whole(found), whole(cores), atol=1e-13 * np.linalg.norm(whole(cores)))
    assert_left_orthonormal(found)


@pytest.mark.parametrize(("shape", "ranks"), TRAINS)
def test_canonical_values_are_the_singular_values_of_each_unfolding(shape, ranks):
    cores = train(shape, ranks)
    _, values = canonical(cores)
    for bond, (found, rank) in enumerate(zip(values, ranks, strict=True), start=1):
        expected = np.linalg.svd(unfolding(whole(cores), bond), compute_uv=False)
        assert len(found) <= rank
        found = np.pad(found, (0, len(expected) - len(found)))  # ranks that a neighbour's does not allow are left out
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-13 * expected[0])


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_of_a_complete_decomposition_are_lapacks(shape):
    tensor = noise(*shape)
    _, values = canonical(tt_svd(tensor, tensor.size))
    for bond, found in enumerate(values, start=1):
        expected = np.linalg.svd(unfolding(tensor, bond), compute_uv=False)
        np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-13 * expected[0])


# --- subspace iteration


@pytest.mark.parametrize(("shape", "ranks"), TRAINS)
def test_one_sweep_from_a_random_start_finds_a_tensor_of_that_rank(shape, ranks):
    tensor = whole(train(shape, ranks))
    start = right_orthogonal(train(shape, ranks, seed=1))
    left = from_left(tensor, start)
    right = from_right(tensor, canonical(start)[0])
    assert [core.shape for core in left] == [core.shape for core in right] == [core.shape for core in start]
    for found in (left, right):
        assert np.abs(whole(found) - tensor).max() <= 1e-9 * np.linalg.norm(tensor)
    assert_left_orthonormal(left)
    assert_right_orthonormal(right)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_sweeps_in_turn_keep_precision_shapes_and_orthonormality(shape, dtype):
    tensor = noise(*shape).astype(dtype)
    cores = right_orthogonal([core.astype(dtype) for core in random_train(shape, 3, np.random.default_rng(2))])
    shapes = [core.shape for core in cores]
    tolerance = 1e-13 if dtype == np.float64 else 1e-5
    for _ in range(3):
        cores = from_left(tensor, cores)
        assert [(core.shape, core.dtype) for core in cores] == [(each, dtype) for each in shapes]
        for interface in left_interfaces(cores[:-1]):
            assert_orthonormal(interface, tolerance)
        cores = from_right(tensor, cores)
        assert [(core.shape, core.dtype) for core in cores] == [(each, dtype) for each in shapes]
        for interface in right_interfaces(cores[1:]):
            assert_orthonormal(interface.T, tolerance)


@pytest.mark.parametrize("shape", [(9, 12), (6, 7, 8), (8, 3, 9), (4, 5, 4, 5)])
def test_sweeps_in_turn_converge_to_a_quasi_best_train(shape):
    """A tensor of rank 2 and a perturbation: the error is that of TT-SVD or less; at order 2 it is the least."""
    tensor = whole(train(shape, [2] * (len(shape) - 1))) + 0.05 * noise(*shape)
    cores = right_orthogonal(random_train(shape, 2, np.random.default_rng(3)))
    for _ in range(15):
        cores = from_right(tensor, from_left(tensor, cores))
    error, rest = np.linalg.norm(whole(cores) - tensor), tails(tensor, 2)
    assert rest.max() * (1 - 1e-12) <= error <= np.linalg.norm(whole(tt_svd(tensor, 2)) - tensor) * (1 + 1e-9)
    if len(shape) == 2:
        assert error == pytest.approx(rest[0], rel=1e-9)


def test_tensor_of_smaller_rank_keeps_the_cores_orthonormal():
    tensor = whole(train((5, 6, 7), (1, 1)))
    cores = right_orthogonal(random_train((5, 6, 7), 3, np.random.default_rng(4)))
    for _ in range(2):
        cores = from_left(tensor, cores)
        assert_left_orthonormal(cores)
        cores = from_right(tensor, cores)
        assert_right_orthonormal(cores)
    assert np.abs(whole(cores) - tensor).max() <= 1e-13 * np.linalg.norm(tensor)
