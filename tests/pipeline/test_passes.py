"""Passes over a matrix: the numbers of NumPy, and the same ones whoever works on the groups."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline.passes
import pipeline.sampling
from pipeline import approximate, approximation, function_matrix
from pipeline.passes import LocalPasses, max_error, max_norm, row_groups, times
from pipeline.svd import randomized_svd

RANDOM = np.random.default_rng(0)


@pytest.fixture
def small_groups(monkeypatch):
    """Groups of 256 rows, tiles of 200 columns."""
    for name, value in {"GROUP_ROWS": 256, "_GROUP_ENTRIES": 0, "TILE_COLUMNS": 200}.items():
        monkeypatch.setattr(pipeline.passes, name, value)


@settings(derandomize=True, max_examples=100, deadline=None)
@given(rows=st.integers(1, 10**6), columns=st.integers(1, 10**6))
def test_groups_hold_every_row_once(rows, columns):
    groups = row_groups((rows, columns))
    assert groups[0].start == 0
    assert groups[-1].stop == rows
    assert all(before.stop == after.start for before, after in pairwise(groups))
    assert max(group.stop - group.start for group in groups) * columns <= 2**24 + 1024 * columns


@pytest.mark.parametrize("shape", [(700, 450), (450, 700), (256, 200), (3, 1000), (1000, 1)])
def test_products_and_maxima_are_those_of_numpy(shape, small_groups):
    matrix = RANDOM.standard_normal(shape)
    passes = LocalPasses(matrix)
    for transposed, whole in ((False, matrix), (True, matrix.T)):
        thin = RANDOM.standard_normal((whole.shape[1], 5))
        np.testing.assert_allclose(passes.run(times, [thin], transposed=transposed).rows, whole @ thin, atol=1e-12)
    left, right = (RANDOM.standard_normal((size, 4)) for size in shape)
    assert max_norm(matrix) == np.abs(matrix).max()
    assert max_error(matrix, left, right) == pytest.approx(np.abs(matrix - left @ right.T).max(), rel=1e-14)


@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize("sampling", ["ball-independent", "ball-symmetric"])
def test_threads_and_storage_change_no_bit(threads, sampling, small_groups):
    matrix = function_matrix("gaussian", sampling, 6, 900, seed=1)
    expected = randomized_svd(matrix.to_numpy(), 30, 2, seed=3)
    for passes in (LocalPasses(matrix), LocalPasses(matrix, threads), LocalPasses(matrix.to_numpy(), threads)):
        found = randomized_svd(passes, 30, 2, seed=3)
        assert found.u.tobytes() == expected.u.tobytes()
        assert found.vt.tobytes() == expected.vt.tobytes()
        assert max_error(passes, *found.balanced_factors(20)) == max_error(matrix, *expected.balanced_factors(20))


@pytest.mark.parametrize("place", [(0, 0), (699, 449), (300, 210)])
def test_entry_that_is_nan_is_not_passed_over(place, small_groups):
    matrix = RANDOM.standard_normal((700, 450))
    matrix[place] = np.nan
    assert np.isnan(max_norm(matrix))
    assert np.isnan(max_error(matrix, np.ones((700, 1)), np.ones((450, 1))))


def test_matrix_beyond_what_is_stored_is_never_made_whole(monkeypatch, small_groups):
    monkeypatch.setattr(approximation, "STORED_BYTES", 8 * 900**2 - 1)
    matrix = function_matrix("gaussian", "ball-independent", 40, 900)
    expected = approximate(matrix.to_numpy(), 10, "svd", driver="randomized", bound="tail", dense_limit=300)
    sizes = []
    block = type(matrix).block

    def measured(self, rows, cols):
        found = block(self, rows, cols)
        sizes.append(found.size)
        return found

    monkeypatch.setattr(type(matrix), "block", measured)
    found = approximate(matrix, 10, "svd", driver="randomized", bound="tail", dense_limit=300)
    assert found.max_error == expected.max_error
    assert found.lower_bound == pytest.approx(expected.lower_bound, rel=1e-12)
    assert max(sizes) <= max(256 * 200, 300**2)


# --- points that are drawn where they are used


@pytest.mark.parametrize("sampling", ["ball-independent", "sphere-symmetric"])
def test_points_that_are_not_held_are_the_same(monkeypatch, sampling):
    held = function_matrix("gaussian", sampling, 30, 1000, seed=2)
    monkeypatch.setattr(pipeline.sampling, "HELD_BYTES", 100_000)
    monkeypatch.setattr(pipeline.tensor, "HELD_BYTES", 100_000)
    drawn = function_matrix("gaussian", sampling, 30, 1000, seed=2)
    assert isinstance(held.points[0], np.ndarray)
    assert not isinstance(drawn.points[0], np.ndarray)
    assert drawn.to_numpy().tobytes() == held.to_numpy().tobytes()
    assert drawn.shape == held.shape
    assert drawn.points[0].shape == (1000, 30)
    assert np.array_equal(drawn.x, held.x)
    assert np.array_equal(drawn.points[1][290:310], held.y[290:310])
    assert drawn.points[0]._chunk.cache_info().currsize <= 2
    with pytest.raises(ValueError, match="read-only"):
        drawn.points[0][:10][0] = 0
