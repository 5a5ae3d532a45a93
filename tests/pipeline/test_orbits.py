"""Matrices invariant under a group: representation, gradient, which matrices qualify, equiangular tight frames."""

import numpy as np
import pytest
import scipy.linalg

import pipeline.orbits
from pipeline.matrix import function_matrix
from pipeline.orbits import invariances, orbit_start, search_orbits
from pipeline.permutation_groups import Group, groups, random_characters, representation
from pipeline.sampling import stream
from pipeline.smooth_maximum import SmoothMaximum

GROUPS = {  # rows: group, rank
    "cyclic shift": (Group(12, 12, 1, 1), 5),
    "two blocks and fixed rows": (Group(11, 5, 1, 1), 7),
    "multiplier within a block": (Group(14, 7, 2, 3), 4),
    "cycles of blocks": (Group(25, 5, 2, 4), 6),
    "every kind of orbit": (Group(36, 7, 2, 3), 15),
    "reflection": (Group(16, 8, 7, 2), 9),
}


@pytest.fixture(params=GROUPS)
def group_and_rank(request):
    return GROUPS[request.param]


def test_representation_is_orthogonal_and_keeps_the_relations(group_and_rank):
    """R_x R_y = R_{x+y}, T^h = 1 and R_x T = T R_{a x}."""
    group, rank = group_and_rank
    g = group.cycle
    for seed in range(5):
        shifts, multiplier = representation(group, random_characters(group, rank, np.random.default_rng(seed)))
        identity = np.eye(rank)
        for matrix in (*shifts, multiplier):
            np.testing.assert_allclose(matrix @ matrix.T, identity, atol=1e-13)
        np.testing.assert_allclose(np.linalg.matrix_power(multiplier, group.order), identity, atol=1e-13)
        for x in range(g):
            np.testing.assert_allclose(shifts[x] @ shifts[1], shifts[(x + 1) % g], atol=1e-13)
            np.testing.assert_allclose(
                shifts[x] @ multiplier, multiplier @ shifts[group.multiplier * x % g], atol=1e-13
            )


def test_rows_move_as_the_group_says(group_and_rank):
    """U[p] = U ρ(p) for the shift and the multiplier, so that G is invariant."""
    group, rank = group_and_rank
    factorization, x = orbit_start(group, rank, 3)
    shifts, multiplier = representation(
        group, random_characters(group, rank, stream("start", 3, group.cycle, group.multiplier))
    )
    rows = factorization.whole(x)
    for p, image in zip(group.permutations(), (shifts[1 % group.cycle], multiplier), strict=True):
        assert sorted(p) == list(range(group.rows))
        np.testing.assert_allclose(rows[p], rows @ image, atol=1e-13)
    assert group.preserves(rows @ rows.T, 1e-13)


def test_residual_of_first_rows_has_the_entries_of_the_whole(group_and_rank):
    group, rank = group_and_rank
    matrix = np.eye(group.rows)
    factorization, x = orbit_start(group, rank, 0)
    left, right = factorization.factors(x)
    rows = factorization.whole(x)
    few, all_ = left @ right.T - factorization.first_rows(matrix), rows @ rows.T - matrix
    assert np.abs(few).max() == pytest.approx(np.abs(all_).max(), rel=1e-12)
    np.testing.assert_allclose(np.unique(np.abs(few).round(9)), np.unique(np.abs(all_).round(9)), atol=2e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gradient_is_that_of_finite_differences(group_and_rank, dtype):
    group, rank = group_and_rank
    factorization, x = orbit_start(group, rank, 1)
    rows = factorization.first_rows(np.eye(group.rows))
    smooth = SmoothMaximum(rows, factorization)
    near = smooth.maximum(x)
    direction = np.random.default_rng(0).standard_normal(x.shape)
    step = 1e-6
    ahead, behind = (smooth(x + t * direction, 20.0, near)[1] for t in (step, -step))
    gradient = SmoothMaximum(rows.astype(dtype), factorization)(x.astype(dtype), 20.0, near)[2]
    assert gradient.dtype == dtype
    tolerance = 1e-3 if dtype == np.float32 else 1e-6
    assert np.vdot(gradient, direction) == pytest.approx((ahead - behind) / (2 * step), rel=tolerance, abs=tolerance)


@pytest.mark.parametrize(
    "matrix",
    [
        function_matrix("exponential", "ball-symmetric", 5, 60).to_numpy(),
        function_matrix("quartic_gaussian", "sphere-symmetric", 3, 60).to_numpy(),
        np.random.default_rng(0).standard_normal((12, 12)),
        np.diag(np.arange(1.0, 13)),
        np.eye(12)[:, ::-1] - np.eye(12),  # its leading eigenvalues are negative
        np.eye(12)[:, :9],
    ],
    ids=["exponential", "quartic Gaussian", "random", "diagonal", "negative", "not square"],
)
def test_other_matrices_have_no_group(matrix):
    assert invariances(matrix, 4, 1e-12) == []
    assert search_orbits(matrix, float(np.abs(matrix).max()), 4, 0, "single") is None


def test_every_group_leaves_identity_and_constant_alone():
    matrix = 2 * np.eye(12) + 0.5
    assert invariances(matrix, 4) == list(groups(12, 4))


def test_circulant_matrix_has_the_shifts():
    distance = np.minimum(np.arange(12), 12 - np.arange(12))
    matrix = scipy.linalg.circulant(np.exp(-(distance**2) / 3))
    found = invariances(matrix, 4)
    assert {group.cycle for group in found if group.multiplier == 1} == {2, 3, 4, 6, 12}
    assert Group(12, 12, 11, 2) in found  # a distance is that of the opposite sign
    for group in found:
        assert group.preserves(matrix, 0)


@pytest.fixture
def few_starts(monkeypatch):
    monkeypatch.setattr(pipeline.orbits, "_SHORT_STARTS", 24)
    monkeypatch.setattr(pipeline.orbits, "_LONG_STARTS", 12)
    monkeypatch.setattr(pipeline.orbits, "_LONG_STEPS", 60)


@pytest.mark.usefixtures("few_starts")
@pytest.mark.parametrize(("n", "rank"), [(6, 3), (10, 5), (16, 6)])
def test_equiangular_tight_frames_are_found(n, rank):
    """The error of the identity is w / (1 + w) with Welch's bound w on the cosines."""
    w = np.sqrt((n - rank) / (rank * (n - 1)))
    search, errors = search_orbits(3 * np.eye(n), 3.0, rank, 0, "single")
    left, right = search.factorization.factors(search.best)
    assert left.shape == right.shape == (n, rank)
    assert np.abs(np.eye(n) - left @ right.T).max() == pytest.approx(search.error, abs=1e-12)
    assert w / (1 + w) - 1e-12 <= search.error < w / (1 + w) + 1e-3
    assert min(errors) == pytest.approx(search.error, abs=1e-6)


@pytest.mark.usefixtures("few_starts")
def test_search_is_reproducible():
    first, second = (search_orbits(np.eye(5), 1.0, 2, 4, "single") for _ in range(2))
    np.testing.assert_array_equal(first[0].best, second[0].best)
    assert first[1] == second[1]
