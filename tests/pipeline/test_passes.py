"""Passes over a matrix: the numbers of NumPy, and the same ones whoever works on the groups."""

from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline.passes
import pipeline.projections
import pipeline.sampling
import pipeline.smooth_maximum
from pipeline import approximate, approximation, function_matrix
from pipeline.kept import ScaledMatrix
from pipeline.minimax import MinimaxSettings, minimax
from pipeline.passes import (
    Joining,
    LocalPasses,
    Piece,
    Transposed,
    is_symmetric,
    max_error,
    max_norm,
    row_groups,
    times,
)
from pipeline.projections import (
    APSettings,
    _MatrixIterate,
    _PassesIterate,
    alternating_projections,
    clipped_products,
)
from pipeline.smooth_maximum import Factorization, PassesMaximum, SmoothMaximum, weighed_products
from pipeline.svd import lapack_svd, randomized_svd

RANDOM = np.random.default_rng(0)


@pytest.fixture
def small_groups(monkeypatch):
    """Groups of 256 rows, tiles of 200 columns."""
    for name, value in {"GROUP_ROWS": 256, "_GROUP_ENTRIES": 0, "TILE_COLUMNS": 200}.items():
        monkeypatch.setattr(pipeline.passes, name, value)


@pytest.fixture
def small_panels(monkeypatch):
    """Groups of 64 rows, tiles of 16 rows and 40 columns, for iterative methods too."""
    for name, value in {"GROUP_ROWS": 64, "_GROUP_ENTRIES": 0, "TILE_COLUMNS": 40, "PANEL_ROWS": 16}.items():
        for module in (pipeline.passes, pipeline.projections, pipeline.smooth_maximum):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, value)


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


# --- pieces


def pieces(count, dtype=np.float64, seed=0):
    random = np.random.default_rng(seed)
    return [
        Piece(
            random.standard_normal((int(random.integers(1, 6)), 3)),
            float(random.exponential()),
            (random.standard_normal((4, 2)).astype(dtype), (random.standard_normal(2) * 1e8).astype(dtype)),
        )
        for _ in range(count)
    ]


def joined(found, order):
    joining = Joining()
    for index in order:
        joining.put(index, 1, found[index])
    return joining.whole()


def assert_same_bits(whole, expected):
    assert whole.rows.tobytes() == expected.rows.tobytes()
    assert whole.largest == expected.largest
    assert [total.tobytes() for total in whole.totals] == [total.tobytes() for total in expected.totals]


@settings(derandomize=True, max_examples=100, deadline=None)
@given(data=st.data(), count=st.integers(1, 40), height=st.integers(0, 6), dtype=st.sampled_from([np.float32, float]))
def test_pieces_in_any_order_and_joined_anywhere_give_the_same_bits(data, count, height, dtype):
    found, length, joining = pieces(count, dtype), 2**height, Joining()
    runs = [range(first, min(first + length, count)) for first in range(0, count, length)]
    for run in data.draw(st.permutations(runs)):
        order = data.draw(st.permutations(range(len(run))))
        joining.put(run[0], len(run), joined([found[index] for index in run], order))
    assert_same_bits(joining.whole(), joined(found, range(count)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_whole_has_all_rows_the_largest_entry_and_totals(dtype):
    found = pieces(9, dtype)
    before = [total.copy() for total in found[0].totals]
    whole = joined(found, range(8, -1, -1))
    assert np.array_equal(whole.rows, np.concatenate([piece.rows for piece in found]))
    assert whole.largest == max(piece.largest for piece in found)
    for position, total in enumerate(whole.totals):
        assert total.dtype == dtype
        sizes = np.sum([np.abs(piece.totals[position]) for piece in found], axis=0)
        exact = np.sum([piece.totals[position].astype(np.longdouble) for piece in found], axis=0)
        assert (np.abs(total - exact) <= 4 * np.finfo(dtype).eps * sizes).all()  # a tree of four levels
    assert all(np.array_equal(*both) for both in zip(found[0].totals, before, strict=True))


@pytest.mark.parametrize("place", range(4))
def test_largest_of_pieces_is_nan_where_one_of_them_is(place):
    found = [Piece(np.empty((1, 0)), np.nan if index == place else 1.0) for index in range(4)]
    whole = joined(found, [2, 0, 3, 1])
    assert np.isnan(whole.largest)
    assert whole.totals == ()
    assert whole.rows.shape == (4, 0)


# --- symmetry


@pytest.mark.parametrize("n", [1, 7, 300, 515])
def test_symmetric_matrix_is_told_from_one_that_is_nearly_so(n, small_groups):
    square = RANDOM.standard_normal((n, n))
    matrix = square + square.T
    for each in (matrix, LocalPasses(matrix), LocalPasses(matrix, 3), LocalPasses(Transposed(matrix))):
        assert is_symmetric(each)
    for i, j in {(0, n - 1), (n - 1, 0), (n // 2, n // 3)} if n > 1 else ():
        nearly = matrix.copy()
        nearly[i, j] = np.nextafter(nearly[i, j], np.inf)
        for each in (nearly, LocalPasses(nearly), LocalPasses(nearly, 3), LocalPasses(Transposed(nearly))):
            assert not is_symmetric(each)


@pytest.mark.parametrize("shape", [(3, 4), (4, 3), (1, 2), (300, 299)])
def test_matrix_that_is_not_square_is_not_symmetric(shape):
    matrix = np.ones(shape)
    assert not is_symmetric(matrix)
    assert not is_symmetric(LocalPasses(matrix))


def test_zeros_of_both_signs_and_tiny_entries_are_compared_as_numbers(small_groups):
    matrix = np.array([[1.0, 0.0], [-0.0, 1.0]])
    tiny = np.array([[1.0, 5e-324], [0.0, 1.0]])
    skew = np.array([[0.0, 1.0], [-1.0, 0.0]])
    undefined = np.array([[np.nan, 1.0], [1.0, 0.0]])
    for wrap in (np.asarray, LocalPasses):
        assert is_symmetric(wrap(matrix))
        assert not any(is_symmetric(wrap(each)) for each in (tiny, skew, undefined))


@pytest.mark.parametrize(
    ("sampling", "symmetric"), [("ball-symmetric", True), ("ball-independent", False), ("sphere-symmetric", True)]
)
def test_function_matrix_is_symmetric_where_its_draw_is(sampling, symmetric, small_groups):
    matrix = function_matrix("gaussian", sampling, 5, 600)
    assert is_symmetric(matrix.to_numpy()) == symmetric
    assert is_symmetric(LocalPasses(matrix, 2)) == symmetric
    assert is_symmetric(LocalPasses(matrix).scaled(3.0, np.float32)) == symmetric


# --- scaled passes


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("exponent", [0, 30])
def test_scaled_passes_are_those_over_the_quotient(dtype, exponent, small_groups):
    matrix = function_matrix("exponential", "ball-independent", 4, 600, seed=2)
    scale = 1.7 * 10.0**exponent
    expected = (matrix.to_numpy() / scale).astype(dtype)
    for passes in (LocalPasses(matrix), LocalPasses(matrix.to_numpy(), 3), LocalPasses(matrix, 3)):
        scaled = passes.scaled(scale, dtype)
        assert (scaled.shape, scaled.dtype) == ((600, 600), np.dtype(dtype))
        assert isinstance(scaled.matrix, np.ndarray if isinstance(passes.matrix, np.ndarray) else ScaledMatrix)
        for _ in range(2):
            assert max_norm(scaled) == np.abs(expected).max()
        thin = RANDOM.standard_normal((600, 3))
        product = expected @ thin
        np.testing.assert_allclose(scaled.run(times, [thin]).rows, product, rtol=0, atol=1e-12 * np.abs(product).max())
        assert max_norm(passes) == np.abs(matrix.to_numpy()).max()


def test_scaled_passes_are_kept_until_others_are_asked_for():
    passes = LocalPasses(function_matrix("gaussian", "ball-independent", 3, 50))
    first = passes.scaled(2.0, np.float32)
    assert passes.scaled(2.0, np.float32) is first
    assert max_norm(first) == max_norm(first)
    for scale, dtype in ((2.0, np.float64), (3.0, np.float32)):
        other = passes.scaled(scale, dtype)
        assert other is not first
        assert other.dtype == dtype
        assert passes.scaled(scale, dtype) is other
    assert passes.scaled(2.0, np.float32) is not first


# --- products of the iterative methods

SHAPES = [(150, 130), (37, 200), (200, 37), (64, 40), (130, 1), (1, 100), (65, 41)]


def problem(shape, rank=4, dtype=np.float64, seed=7):
    """A matrix, factors of G and an orthonormal basis."""
    random = np.random.default_rng(seed)
    matrix, left, right = (random.standard_normal(sides) for sides in (shape, (shape[0], rank), (shape[1], rank)))
    basis = np.linalg.qr(random.standard_normal((shape[1], rank)))[0]
    return tuple(each.astype(dtype) for each in (matrix, left, right, np.resize(basis, (shape[1], rank))))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("epsilon", [0.0, 0.4, 2.5, 1e9])
def test_clipped_products_are_those_of_numpy(shape, epsilon, small_panels):
    matrix, left, right, basis = problem(shape)
    clipped = matrix + np.clip(left @ right.T - matrix, -epsilon, epsilon)
    found = LocalPasses(matrix).run(clipped_products, [right, basis, np.array([epsilon])], [left])
    assert found.rows.shape == (shape[0], 4)
    np.testing.assert_allclose(found.rows, clipped @ basis, atol=1e-12)
    np.testing.assert_allclose(found.totals[0], clipped.T @ (clipped @ basis), atol=1e-10)
    assert found.largest == pytest.approx(np.abs(left @ right.T - matrix).max(), rel=1e-14)


def test_clipped_products_in_single_precision_are_near_those_in_double(small_panels):
    matrix, left, right, basis = problem((150, 130), dtype=np.float32)
    clipped = matrix + np.clip(left.astype(np.float64) @ right.T - matrix, -0.4, 0.4)
    found = LocalPasses(matrix).run(clipped_products, [right, basis, np.array([0.4])], [left])
    assert found.rows.dtype == np.float32
    np.testing.assert_allclose(found.rows, clipped @ basis, atol=1e-4)
    np.testing.assert_allclose(found.totals[0], clipped.T @ (clipped @ basis), atol=1e-3)
    assert found.largest == pytest.approx(np.abs(left.astype(np.float64) @ right.T - matrix).max(), rel=1e-6)


@pytest.mark.parametrize("place", [(0, 0), (149, 129), (70, 45)])
def test_clipped_products_do_not_pass_over_nan(place, small_panels):
    matrix, left, right, basis = problem((150, 130))
    matrix[place] = np.nan
    assert np.isnan(LocalPasses(matrix).run(clipped_products, [right, basis, np.array([0.4])], [left]).largest)


def weights_of(matrix, left, right, beta, near, above=-np.inf):
    """exp(β(|E| − near)) with the signs of E for |E| beyond a level, and |E|."""
    residual = left @ right.T - matrix
    size = np.abs(residual)
    return np.where(size > above, np.copysign(np.exp(beta * (size - near)), residual), 0.0), size


@pytest.mark.parametrize("both", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_weighed_products_are_those_of_numpy(shape, both, small_panels):
    matrix, left, right, _ = problem(shape)
    near = float(np.abs(left @ right.T - matrix).max()) * 1.01
    beta = 3 / near
    weights, size = weights_of(matrix, left, right, beta, near)
    found = LocalPasses(matrix).run(weighed_products, [right, np.array([beta, near, both])], [left])
    assert found.largest == pytest.approx(size.max(), rel=1e-14)
    np.testing.assert_allclose(found.rows, weights @ right, atol=1e-10)
    assert len(found.totals) == 1 + both
    assert found.totals[0] == pytest.approx([np.abs(weights).sum(), weights.size], rel=1e-12)
    if both:
        np.testing.assert_allclose(found.totals[1], weights.T @ left, atol=1e-10)


@pytest.mark.parametrize("shape", [(150, 130), (37, 200), (200, 37)])
def test_weighed_products_where_few_entries_weigh_anything(shape, small_panels):
    """What is below log N + 4 over β is left out of sparse tiles, and is nothing beside the rest."""
    matrix, left, right, _ = problem(shape)
    near = float(np.abs(left @ right.T - matrix).max())
    beta = 300 / near
    above = near - (np.log(matrix.size) + 4) / beta
    weights, _ = weights_of(matrix, left, right, beta, near, above)
    assert 1 <= np.count_nonzero(weights) <= 0.01 * weights.size
    found = LocalPasses(matrix).run(weighed_products, [right, np.array([beta, near, 1.0])], [left])
    np.testing.assert_allclose(found.rows, weights @ right, atol=1e-4)
    np.testing.assert_allclose(found.totals[1], weights.T @ left, atol=1e-4)
    assert found.totals[0][0] == pytest.approx(np.abs(weights).sum(), rel=1e-4)


@pytest.mark.parametrize("kernel", [clipped_products, weighed_products])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_threads_and_storage_change_no_bit_of_the_products(kernel, dtype, small_panels):
    matrix = function_matrix("gaussian", "ball-independent", 6, 300, seed=1)
    _, left, right, basis = problem((300, 300), dtype=dtype)
    shared = [right, basis, np.array([0.4])] if kernel is clipped_products else [right, np.array([3.0, 9.0, 1.0])]
    found = [
        passes.scaled(0.9, dtype).run(kernel, shared, [left])
        for passes in (LocalPasses(matrix.to_numpy()), LocalPasses(matrix), LocalPasses(matrix, 3))
    ]
    for each in found[1:]:
        assert each.rows.tobytes() == found[0].rows.tobytes()
        assert each.largest == found[0].largest
        assert all(a.tobytes() == b.tobytes() for a, b in zip(each.totals, found[0].totals, strict=True))


# --- the smooth maximum


def objectives(shape, dtype=np.float64, sign=None, threads=1):
    """The smooth maximum of a stored matrix and that by passes, and unknowns."""
    random = np.random.default_rng(4)
    matrix = random.standard_normal(shape)
    matrix = (matrix if sign is None else matrix + matrix.T).astype(dtype)
    signs = None if sign is None else np.full(5, float(sign))
    factorization = Factorization(shape[0], random.uniform(0.5, 2, 5), signs)
    x = random.standard_normal((sum(shape) if sign is None else shape[0], 5)).astype(dtype)
    return matrix, SmoothMaximum(matrix, factorization), PassesMaximum(LocalPasses(matrix, threads), factorization), x


KINDS = [((150, 130), None), ((37, 200), None), ((200, 37), None), ((150, 150), 1), ((150, 150), -1)]


@pytest.mark.parametrize(("shape", "sign"), KINDS)
@pytest.mark.parametrize("sharpness", [2, 15, 100, 1000])
def test_smooth_maximum_by_passes_is_that_of_a_stored_matrix_and_of_numpy(shape, sign, sharpness, small_panels):
    matrix, stored, passes, x = objectives(shape, sign=sign)
    left, right = passes.factorization.factors(x)
    size = np.abs(left @ right.T - matrix)
    near = float(size.max())
    beta = sharpness / near
    assert passes.maximum(x) == pytest.approx(near, rel=1e-14)
    maximum, value, gradient = passes(x, beta, near)
    assert maximum == pytest.approx(near, rel=1e-14)
    assert value == pytest.approx(near + np.log(np.exp(beta * (size - near)).sum()) / beta, abs=0.03 / beta)
    _, expected, slope = stored(x, beta, near)
    assert value == pytest.approx(expected, abs=0.03 / beta)
    assert gradient.shape == x.shape
    np.testing.assert_allclose(gradient, slope, atol=0.03 * np.abs(slope).max())
    if sharpness == 2:  # no entry weighs too little
        assert value == pytest.approx(expected, rel=1e-12)
        np.testing.assert_allclose(gradient, slope, atol=1e-12 * np.abs(slope).max())


@pytest.mark.parametrize(("shape", "sign"), KINDS)
def test_gradient_by_passes_is_that_of_differences(shape, sign, small_panels):
    _, _, passes, x = objectives(shape, sign=sign)
    near = passes.maximum(x)
    beta = 5 / near
    direction = np.random.default_rng(1).standard_normal(x.shape)
    direction /= np.linalg.norm(direction)
    slope = float(np.vdot(passes(x, beta, near)[2], direction))
    ahead, behind = (passes(x + step * direction, beta, near)[1] for step in (1e-5, -1e-5))
    assert slope == pytest.approx((ahead - behind) / 2e-5, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(("shape", "sign"), KINDS)
def test_single_precision_by_passes_is_near_double(shape, sign, small_panels):
    _, _, double, x = objectives(shape, sign=sign)
    _, _, single, rounded = objectives(shape, np.float32, sign)
    near = double.maximum(x)
    found, expected = single(rounded, 15 / near, near), double(x, 15 / near, near)
    assert found[2].dtype == single.dtype == np.float32
    assert found[:2] == pytest.approx(expected[:2], rel=1e-4)
    np.testing.assert_allclose(found[2], expected[2], atol=1e-3 * np.abs(expected[2]).max())


@pytest.mark.parametrize(("shape", "sign"), KINDS)
def test_smooth_maximum_far_above_what_is_near_counts_as_infinite(shape, sign, small_panels):
    _, stored, passes, x = objectives(shape, sign=sign)
    maximum = passes.maximum(x)
    for objective in (stored, passes):
        found, value, unchanged = objective(x, 1000 / maximum, maximum / 2)
        assert value == np.inf
        assert unchanged is x
        assert maximum / 2 + 60 * maximum / 1000 <= found <= maximum


@pytest.mark.parametrize(("shape", "sign"), KINDS)
@pytest.mark.parametrize("times_too_high", [1.5, 3, 100])
def test_smooth_maximum_far_below_what_was_near_is_taken_anew(shape, sign, times_too_high, small_panels):
    _, _, passes, x = objectives(shape, sign=sign)
    maximum = passes.maximum(x)
    found, expected = (passes(x, 100 / maximum, near) for near in (times_too_high * maximum, maximum))
    assert found[:2] == pytest.approx(expected[:2], rel=1e-14)
    np.testing.assert_allclose(found[2], expected[2], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(("shape", "sign"), KINDS)
def test_smooth_maximum_of_nan_is_refused_as_infinite(shape, sign, small_panels):
    _, stored, passes, x = objectives(shape, sign=sign)
    near = passes.maximum(x)
    x[shape[0] // 2, 1] = np.nan
    for objective in (stored, passes):
        maximum, value, _ = objective(x, 10 / near, near)
        assert np.isnan(maximum)
        assert value == np.inf
    assert np.isnan(passes.maximum(x))


@pytest.mark.parametrize(("shape", "sign"), KINDS)
def test_operations_by_passes_are_counted_as_those_of_a_stored_matrix(shape, sign, small_panels):
    _, stored, passes, x = objectives(shape, sign=sign)
    near = passes.maximum(x)
    stored.maximum(x)
    for objective in (stored, passes):
        objective(x, 10 / near, near)
    products = 2 if sign is None else 1
    assert passes.flops == stored.flops == 2 * 5 * shape[0] * shape[1] * (2 + products)


def test_threads_change_no_bit_of_the_smooth_maximum(small_panels):
    (_, _, one, x), (_, _, three, _) = (objectives((200, 130), threads=threads) for threads in (1, 3))
    near = one.maximum(x)
    found, other = one(x, 20 / near, near), three(x, 20 / near, near)
    assert found[:2] == other[:2]
    assert found[2].tobytes() == other[2].tobytes()


# --- iterative methods: what passes find is what is found of a stored matrix

INTEGERS = np.random.default_rng(8)
FUNCTIONS = {
    "gaussian": ("gaussian", "ball-independent", 3, 60, 6),
    "exponential, symmetric": ("exponential", "ball-symmetric", 5, 80, 4),
    "exponential": ("exponential", "ball-independent", 2, 60, 8),
    "attention": ("attention", "sphere-independent", 10, 60, 6),
    "cauchy": ("cauchy", "ball-independent", 3, 60, 6),
    "gaussian on the sphere": ("gaussian", "sphere-symmetric", 8, 70, 9),
    "quartic, symmetric": ("quartic_gaussian", "ball-symmetric", 3, 64, 5),
    "inner product": ("inner_product", "ball-independent", 4, 50, 2),
    "error of one millionth": ("gaussian", "ball-independent", 2, 80, 30),
    "error of one billionth": ("gaussian", "ball-independent", 1, 60, 9),
}
MATRICES = {
    **{name: (function_matrix(*labels, seed=1).to_numpy(), rank) for name, (*labels, rank) in FUNCTIONS.items()},
    "wide": (np.random.default_rng(1).standard_normal((30, 90)), 7),
    "tall": (np.random.default_rng(2).uniform(-1, 1, (90, 30)), 7),
    "rank one": (np.random.default_rng(3).standard_normal((50, 40)), 1),
    "zero rows": (np.pad(np.random.default_rng(4).standard_normal((20, 20)), ((0, 20), (0, 10))), 5),
    "identity": (np.eye(60), 20),
    "nearly the identity": (-np.eye(30) + 1e-3, 8),
    "nearly symmetric": (np.eye(40) + 1e-9 * np.random.default_rng(5).standard_normal((40, 40)), 8),
}
OF_RANK = {
    "its rank": (1.0 * INTEGERS.integers(-5, 6, (50, 3)) @ INTEGERS.integers(1, 6, (3, 40)), 3),
    "lower rank": (1.0 * INTEGERS.integers(-5, 6, (50, 3)) @ INTEGERS.integers(1, 6, (3, 40)), 6),
    "rank one of four": (np.outer(INTEGERS.standard_normal(40), INTEGERS.standard_normal(30)), 4),
    "all": (INTEGERS.standard_normal((12, 20)), 12),
    "one row": (INTEGERS.standard_normal((1, 9)), 1),
    "one column": (INTEGERS.standard_normal((9, 1)), 1),
    "one number": (np.array([[-3.0]]), 1),
    "one entry": (np.pad([[2.0]], ((3, 30), (4, 20))), 3),
}
AP = [{}, {"precision": "double"}, {"initial": "svd"}, {"stagnation_memory": "run"}, {"warm_up": 0}]
MINIMAX = [{"budget": "quick"}, {}, {"budget": "quick", "symmetric": False}]


@pytest.fixture
def by_passes(monkeypatch):
    """Passes are made over matrices of any size."""
    monkeypatch.setattr(approximation, "PASSED_ENTRIES", 0)


@cache
def stored_error(name, method, *options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(approximation, "PASSED_ENTRIES", 2**60)
        return approximate(*MATRICES[name], method, bound="tail", **dict(options)).max_error


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_start_from_the_svd_in_single_precision_scales(scale, by_passes):
    matrix, rank = MATRICES["gaussian"]
    found = approximate(scale * matrix, rank, "ap", bound="tail", initial="svd")
    expected = stored_error("gaussian", "ap", ("initial", "svd"))
    assert found.max_error == pytest.approx(scale * expected, rel=0.03, abs=0)


def assert_true(found, matrix, rank):
    """The error is that of the factors, and the history ends there."""
    assert (found.left.shape, found.right.shape) == ((matrix.shape[0], rank), (matrix.shape[1], rank))
    assert found.left.dtype == found.right.dtype == np.float64
    error = np.abs(matrix - found.left.astype(np.longdouble) @ found.right.astype(np.longdouble).T).max()
    assert found.max_error == pytest.approx(float(error), rel=1e-12, abs=1e-15 * np.abs(matrix).max())
    assert len(found.history) == found.iterations
    if found.iterations:
        assert found.history.min() == pytest.approx(found.max_error, rel=1e-5, abs=1e-14 * np.abs(matrix).max())


@pytest.mark.parametrize("name", ["gaussian", "error of one millionth", "wide", "tall", "rank one", "identity"])
def test_projection_by_passes_is_that_of_a_stored_matrix(name):
    """Step by step, from the same factors, at levels that change and stay.

    Where the singular values fall to a millionth a random start leaves 1e-9 of rounding.
    """
    matrix, rank = MATRICES[name]
    random = np.random.default_rng(0)
    factors = tuple(random.standard_normal((side, rank)) for side in matrix.shape)
    iterates = _MatrixIterate(matrix, factors), _PassesIterate(LocalPasses(matrix), factors)
    for share in (0, 0, 0.9, 0.9, 0.5, 0.5, 0.5):
        epsilon = share * iterates[0].error
        errors, products = [], []
        for iterate in iterates:
            iterate.project(epsilon, exact=False)
            errors.append(iterate.error)
            products.append(iterate.factors[0] @ iterate.factors[1].T)
        assert errors[1] == pytest.approx(errors[0], rel=1e-6, abs=1e-8)
        np.testing.assert_allclose(products[1], products[0], rtol=0, atol=1e-8)
        assert errors[1] == pytest.approx(np.abs(products[1] - matrix).max(), rel=1e-6, abs=1e-14)


def test_columns_that_are_made_orthogonal_by_passes_nearly_are_so_before():
    """However the singular values differ: right singular vectors are multiplied by, not just any basis."""
    matrix, rank = MATRICES["error of one billionth"]
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((rank, rank)))[0]
    truncated = lapack_svd(matrix)
    left, right = truncated.u[:, :rank] * truncated.s[:rank] @ turn, truncated.vt[:rank].T @ turn
    iterate = _PassesIterate(LocalPasses(matrix), (left, right))
    columns = iterate._found.rows / np.linalg.norm(iterate._found.rows, axis=0)
    assert np.linalg.cond(columns) < 1.1
    assert np.linalg.cond(iterate._found.rows) > 1e6
    assert np.linalg.cond(left) > 1e6
    assert np.linalg.cond(left / np.linalg.norm(left, axis=0)) > 1e6


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (name, options)
        for name in MATRICES
        for options in AP
        if "identity" not in name or "initial" not in options  # singular values tie: any rounding error decides
    ],
    ids=str,
)
def test_projections_by_passes_end_where_those_of_a_stored_matrix_do(name, options, by_passes):
    matrix, rank = MATRICES[name]
    found = approximate(matrix, rank, "ap", bound="tail", **options)
    assert_true(found, matrix, rank)
    assert found.max_error == pytest.approx(stored_error(name, "ap", *options.items()), rel=0.03)


@pytest.mark.parametrize("options", MINIMAX, ids=str)
@pytest.mark.parametrize("name", MATRICES)
def test_minimax_by_passes_ends_where_that_of_a_stored_matrix_does(name, options, by_passes):
    matrix, rank = MATRICES[name]
    found = approximate(matrix, rank, "minimax", bound="tail", **options)
    assert_true(found, matrix, rank)
    assert found.max_error == pytest.approx(stored_error(name, "minimax", *options.items()), rel=0.03)
    assert found.max_error <= stored_error(name, "svd")
    assert all(later <= sooner for sooner, later in pairwise(found.history))


@pytest.mark.parametrize("name", ["gaussian", "exponential, symmetric", "wide"])
def test_minimax_by_passes_in_double_precision(name, by_passes):
    matrix, rank = MATRICES[name]
    options = {"budget": "quick", "precision": "double"}
    found = approximate(matrix, rank, "minimax", bound="tail", **options)
    assert_true(found, matrix, rank)
    assert found.max_error == pytest.approx(stored_error(name, "minimax", *options.items()), rel=0.03)


@pytest.mark.parametrize(("method", "options"), [("ap", {}), ("ap", {"initial": "svd"}), ("minimax", {})], ids=str)
@pytest.mark.parametrize("name", OF_RANK)
def test_matrix_of_that_rank_or_less_is_found_up_to_rounding_by_passes(name, method, options, by_passes):
    matrix, rank = OF_RANK[name]
    found = approximate(matrix, rank, method, bound="tail", **options)
    assert found.max_error <= 1e-14 * np.abs(matrix).max()
    assert found.stopped == "the error is at rounding level"
    assert_true(found, matrix, rank)


@pytest.mark.parametrize("method", ["ap", "minimax"])
def test_zero_matrix_has_error_zero_by_passes(method, by_passes):
    found = approximate(np.zeros((5, 7)), 2, method)
    assert (found.max_error, found.iterations) == (0, 0)


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e30, 1e200])
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("ap", {}),
        ("ap", {"precision": "double"}),
        ("ap", {"precision": "double", "initial": "svd"}),
        ("minimax", {"budget": "quick"}),
    ],
    ids=str,
)
def test_errors_by_passes_scale_with_the_matrix(method, options, scale, by_passes):
    matrix, rank = MATRICES["gaussian"]
    found = approximate(scale * matrix, rank, method, bound="tail", **options)
    assert_true(found, scale * matrix, rank)
    assert found.max_error == pytest.approx(scale * stored_error("gaussian", method, *options.items()), rel=0.03, abs=0)


@pytest.mark.parametrize("limit", [1, 2, 7, 50])
def test_no_more_projections_by_passes_than_allowed(limit, by_passes):
    matrix, rank = MATRICES["gaussian"]
    found = approximate(matrix, rank, "ap", bound="tail", max_projections=limit)
    assert (found.iterations, found.stopped) == (limit, "max_projections are used up")


@pytest.fixture
def kernels(monkeypatch):
    """Names of the kernels of all passes that are made, and what their groups share."""
    calls, run = [], LocalPasses.run

    def logged(self, kernel, shared=(), *arguments, **options):
        calls.append((kernel.__name__, shared))
        return run(self, kernel, shared, *arguments, **options)

    monkeypatch.setattr(LocalPasses, "run", logged)
    return calls


@pytest.mark.parametrize("name", ["gaussian", "wide"])
def test_projection_is_one_pass_and_another_where_epsilon_changes(name, kernels, by_passes):
    """And one before each of the three parts of a run: the first error, the start, the bisection."""
    found = approximate(*MATRICES[name], "ap", bound="tail")
    levels = [float(shared[2][0]) for kernel, shared in kernels if kernel == "clipped_products"]
    changes = sum(before != after for before, after in pairwise(levels))
    assert len(levels) == found.iterations + changes + 3
    assert levels[:9] == [0.0] * 9  # six steps of the start are not clipped
    assert min(levels[9:]) > 0


@pytest.mark.parametrize(
    ("method", "options"), [("ap", {"projection": "exact"}), ("minimax", {"warm_start": "rank", "budget": "quick"})]
)
def test_methods_that_need_a_stored_matrix_get_it(method, options, kernels, by_passes):
    matrix, rank = MATRICES["inner product"]
    found = approximate(matrix, rank, method, bound="tail", **options)
    assert not {"clipped_products", "weighed_products"} & {kernel for kernel, _ in kernels}
    assert found.max_error == stored_error("inner product", method, *options.items())


def test_start_that_is_given_is_used_whatever_the_size(kernels, by_passes):
    matrix, rank = MATRICES["gaussian"]
    best = approximate(matrix, rank, "minimax", bound="tail")
    assert "weighed_products" in {kernel for kernel, _ in kernels}
    kernels.clear()
    found = approximate(matrix, rank, "minimax", bound="tail", budget="quick", start=(best.left, best.right))
    assert found.max_error <= best.max_error
    assert "weighed_products" not in {kernel for kernel, _ in kernels}


@pytest.mark.parametrize("entries", [60 * 60 - 1, 60 * 60])
def test_passes_are_made_beyond_a_number_of_entries(entries, kernels, monkeypatch):
    monkeypatch.setattr(approximation, "PASSED_ENTRIES", entries)
    approximate(*MATRICES["gaussian"], "ap", bound="tail", max_projections=3)
    assert ("clipped_products" in {kernel for kernel, _ in kernels}) == (entries < 60 * 60)


@pytest.mark.parametrize("precision", ["single", "double"])
@pytest.mark.parametrize("sampling", ["ball-independent", "ball-symmetric"])
def test_threads_and_storage_change_no_bit_of_projections(sampling, precision, small_panels):
    matrix = function_matrix("gaussian", sampling, 4, 150, seed=1)
    found = [
        alternating_projections(passes, 5, APSettings(precision=precision, max_projections=60), seed=2)
        for passes in (LocalPasses(matrix.to_numpy()), LocalPasses(matrix), LocalPasses(matrix, 3))
    ]
    for factors, errors, stopped in found[1:]:
        assert (errors, stopped) == found[0][1:]
        assert [each.tobytes() for each in factors] == [each.tobytes() for each in found[0][0]]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("sampling", ["ball-independent", "ball-symmetric"])
def test_threads_and_storage_change_no_bit_of_minimax(sampling, symmetric, small_panels, monkeypatch):
    monkeypatch.setitem(pipeline.minimax.BUDGETS, "quick", pipeline.minimax._Budget((15, 80), 10))
    matrix = function_matrix("gaussian", sampling, 4, 150, seed=1)
    decomposition = lapack_svd(matrix.to_numpy())
    settings = MinimaxSettings(budget="quick", symmetric=symmetric)
    found = [
        minimax(passes, 5, settings, decomposition, seed=2)
        for passes in (LocalPasses(matrix.to_numpy()), LocalPasses(matrix), LocalPasses(matrix, 3))
    ]
    assert found[0].history[-1] < 0.9 * found[0].history[0]
    for each in found[1:]:
        assert each.history == found[0].history
        assert each.left.tobytes() == found[0].left.tobytes()
        assert each.right.tobytes() == found[0].right.tobytes()


@pytest.mark.parametrize("name", ["gaussian", "exponential, symmetric", "wide", "tall"])
def test_groups_and_tiles_change_errors_by_rounding_only(name, small_panels, by_passes):
    matrix, rank = MATRICES[name]
    for method, options in (("ap", {}), ("minimax", {"budget": "quick"})):
        found = approximate(matrix, rank, method, bound="tail", **options)
        assert_true(found, matrix, rank)
        assert found.max_error == pytest.approx(stored_error(name, method, *options.items()), rel=0.03)


@pytest.mark.parametrize("method", ["ap", "minimax"])
def test_function_matrix_that_is_not_stored_ends_where_the_stored_one_does(method, by_passes, monkeypatch):
    matrix = function_matrix("gaussian", "ball-independent", 3, 60, seed=1)
    options = {"budget": "quick"} if method == "minimax" else {}
    expected = approximate(matrix.to_numpy(), 6, method, bound="tail", **options)
    monkeypatch.setattr(approximation, "STORED_BYTES", 0)
    found = approximate(matrix, 6, method, bound="tail", **options)
    assert found.left.tobytes() == expected.left.tobytes()
    assert (
        found.max_error
        == expected.max_error
        == pytest.approx(stored_error("gaussian", method, *options.items()), rel=0.03)
    )
