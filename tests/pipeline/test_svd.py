"""Truncated singular value decompositions against LAPACK's, by blocks and whole, whatever was asked before."""

import math
from functools import cache

import numpy as np
import pytest
import scipy.linalg

import pipeline.passes
import pipeline.svd
from pipeline import approximate
from pipeline.matrix import FunctionMatrix, function_matrix
from pipeline.passes import max_error
from pipeline.svd import (
    Decomposition,
    Decompositions,
    SVDSettings,
    lapack_svd,
    randomized_svd,
    singular_values,
    truncation_errors,
)


def truncated_svd_error(matrix: np.ndarray, rank: int) -> float:
    """max |F − [F]_r| by LAPACK's other driver."""
    u, s, vt = scipy.linalg.svd(matrix, full_matrices=False, lapack_driver="gesvd")
    return float(np.abs(matrix - (u[:, :rank] * s[:rank]) @ vt[:rank]).max())


def with_spectrum(spectrum: np.ndarray, n1: int, n2: int, seed: int = 0) -> np.ndarray:
    """Matrix with random singular vectors and the given singular values."""
    random = np.random.default_rng(seed)
    left, right = (np.linalg.qr(random.standard_normal((n, len(spectrum))))[0] for n in (n1, n2))
    return (left * spectrum) @ right.T


def known_matrices() -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    return {
        "exponential": function_matrix("exponential", "ball-independent", 10, 120).to_numpy(),
        "quartic_gaussian symmetric": function_matrix("quartic_gaussian", "ball-symmetric", 3, 120).to_numpy(),
        "attention": function_matrix("attention", "sphere-independent", 40, 120).to_numpy(),
        "wide": random.standard_normal((40, 150)),
        "tall": random.uniform(-3, 3, (150, 40)),
        "geometric spectrum": with_spectrum(0.5 ** np.arange(30), 90, 70),
        "algebraic spectrum": with_spectrum(1 / np.arange(1.0, 71), 70, 110),
        "step spectrum": with_spectrum(np.r_[np.linspace(100, 99, 12), np.linspace(1e-3, 9e-4, 38)], 50, 50),
    }


KNOWN = known_matrices()


@pytest.mark.parametrize("rank", [1, 7, 12, 25])
@pytest.mark.parametrize("name", KNOWN)
def test_max_error_is_that_of_lapacks_truncated_svd(name, rank):
    matrix = KNOWN[name]
    found = approximate(matrix, rank, method="svd")
    assert found.max_error == pytest.approx(truncated_svd_error(matrix, rank), abs=1e-10)
    assert found.left.shape == (matrix.shape[0], rank)
    assert found.right.shape == (matrix.shape[1], rank)
    assert found.iterations == 0


@pytest.mark.parametrize("name", KNOWN)
def test_factors_are_balanced(name):
    """Left and right factors have the same Gram matrix, that of the singular values."""
    found = approximate(KNOWN[name], 5, method="svd")
    spectrum = np.diag(scipy.linalg.svdvals(KNOWN[name])[:5])
    np.testing.assert_allclose(found.left.T @ found.left, spectrum, atol=1e-10 * spectrum[0, 0])
    np.testing.assert_allclose(found.right.T @ found.right, spectrum, atol=1e-10 * spectrum[0, 0])


@pytest.mark.parametrize("name", KNOWN)
def test_full_rank_leaves_rounding_only(name):
    matrix = KNOWN[name]
    found = approximate(matrix, min(matrix.shape), method="svd")
    assert found.max_error <= 1e-13 * np.linalg.norm(matrix)


# --- the randomized path

SIZE = 700  # more than the columns of the default basis

KERNELS = {
    "slow: exponential, m = 100": ("exponential", "ball-independent", 100, 20),
    "slow: exponential symmetric, m = 300": ("exponential", "ball-symmetric", 300, 50),
    "slow: gaussian, m = 1000": ("gaussian", "sphere-independent", 1000, 20),
    "middling: attention, m = 10": ("attention", "sphere-independent", 10, 30),
    "middling: exponential, m = 3": ("exponential", "ball-independent", 3, 40),
    "fast: quartic_gaussian, m = 2": ("quartic_gaussian", "ball-symmetric", 2, 30),
    "fast: gaussian, m = 3": ("gaussian", "ball-independent", 3, 40),
}


@cache
def kernel(name: str) -> tuple[FunctionMatrix, np.ndarray, int]:
    function, sampling, m, rank = KERNELS[name]
    matrix = function_matrix(function, sampling, m, SIZE, seed=1)
    return matrix, matrix.to_numpy(), rank


@pytest.mark.parametrize("name", KERNELS)
def test_randomized_max_error_is_within_one_percent_of_lapacks(name):
    _, values, rank = kernel(name)
    exact = approximate(values, rank, method="svd", driver="lapack", bound="tail").max_error
    assert exact > 1e-10  # otherwise rounding is compared
    for seed in (0, 1):
        found = approximate(values, rank, method="svd", driver="randomized", seed=seed, bound="tail").max_error
        assert found == pytest.approx(exact, rel=0.01)
        assert found != exact  # LAPACK did not do it


@pytest.mark.parametrize("function", ["exponential", "quartic_gaussian"])
@pytest.mark.parametrize("sampling", ["ball-independent", "ball-symmetric"])
def test_large_matrices_take_the_randomized_path_and_lose_less_than_one_percent(function, sampling):
    matrix = function_matrix(function, sampling, 30, 3000, seed=0).to_numpy()
    decompositions = Decompositions(matrix)
    assert not decompositions.for_rank(50).complete
    exact = Decompositions(matrix, SVDSettings(driver="lapack")).for_rank(50)
    found, best = (max_error(matrix, *each.balanced_factors(50)) for each in (decompositions.for_rank(50), exact))
    assert found == pytest.approx(best, rel=0.01)


def test_randomized_decomposition_has_orthonormal_factors_and_lapacks_leading_values():
    _, values, _ = kernel("fast: gaussian, m = 3")
    found = randomized_svd(values, width=60, power_iterations=4)
    assert (found.u.shape, found.s.shape, found.vt.shape) == ((SIZE, 60), (60,), (60, SIZE))
    np.testing.assert_allclose(found.u.T @ found.u, np.eye(60), atol=1e-12)
    np.testing.assert_allclose(found.vt @ found.vt.T, np.eye(60), atol=1e-12)
    np.testing.assert_allclose(found.s[:30], scipy.linalg.svdvals(values)[:30], rtol=1e-10)
    assert not found.complete


@pytest.mark.parametrize("shape", [(40, 90), (90, 40)])
def test_sketch_as_wide_as_the_matrix_is_complete(shape):
    matrix = np.random.default_rng(0).standard_normal(shape)
    found = randomized_svd(matrix, width=500, power_iterations=0)
    assert found.complete
    np.testing.assert_allclose(found.s, scipy.linalg.svdvals(matrix), rtol=1e-11)


def small_groups(monkeypatch):
    """Passes over groups of 256 rows, in tiles of 100 columns."""
    for name, value in {"GROUP_ROWS": 256, "_GROUP_ENTRIES": 0, "TILE_COLUMNS": 100}.items():
        monkeypatch.setattr(pipeline.passes, name, value)


@pytest.mark.parametrize("driver", ["lapack", "randomized"])
@pytest.mark.parametrize("name", ["slow: exponential, m = 100", "fast: quartic_gaussian, m = 2"])
def test_matrix_by_blocks_gives_the_results_of_the_stored_one(name, driver, monkeypatch):
    small_groups(monkeypatch)
    matrix, values, rank = kernel(name)
    options = SVDSettings(driver=driver)
    by_block, stored = (Decompositions(form, options, seed=5) for form in (matrix, values))
    factors, reference = (each.for_rank(rank).balanced_factors(rank) for each in (by_block, stored))
    assert max_error(matrix, *factors) == pytest.approx(max_error(values, *reference), abs=1e-10)
    np.testing.assert_allclose(
        by_block.for_rank(rank).s, stored.for_rank(rank).s, atol=1e-10 * stored.for_rank(rank).s[0]
    )


def test_block_size_does_not_change_a_randomized_result_beyond_rounding(monkeypatch):
    _, values, rank = kernel("slow: exponential, m = 100")
    in_one = randomized_svd(values, 80, 4)
    small_groups(monkeypatch)
    in_two = randomized_svd(values, 80, 4)
    errors = [max_error(values, *each.balanced_factors(rank)) for each in (in_one, in_two)]
    assert errors[0] == pytest.approx(errors[1], abs=1e-10)


@pytest.mark.parametrize("driver", ["auto", "lapack", "randomized"])
@pytest.mark.parametrize("before", [[], [3], [100], [100, 64, 65], [65, 3, 30]])
def test_a_rank_gets_the_same_result_whatever_was_asked_before(driver, before):
    _, values, _ = kernel("slow: exponential, m = 100")
    options = SVDSettings(driver=driver, dense_limit=200)
    fresh, used = (Decompositions(values, options, seed=2) for _ in range(2))
    for rank in before:
        used.for_rank(rank)
    used.for_bound()
    for ours, alone in zip(
        used.for_rank(30).balanced_factors(30), fresh.for_rank(30).balanced_factors(30), strict=True
    ):
        assert ours.tobytes() == alone.tobytes()


def test_sketch_seed_matters_to_the_randomized_driver_alone():
    _, values, rank = kernel("slow: gaussian, m = 1000")
    randomized = [
        approximate(values, rank, "svd", seed, driver="randomized", bound="tail").max_error for seed in (0, 0, 1)
    ]
    assert randomized[0] == randomized[1] != randomized[2]
    direct = [approximate(values, rank, "svd", seed, driver="lapack", bound="tail").max_error for seed in (0, 1)]
    assert direct[0] == direct[1]


@pytest.mark.parametrize(("limit", "randomized"), [(SIZE - 1, True), (SIZE, False)])
def test_auto_takes_lapack_up_to_the_dense_limit(limit, randomized):
    _, values, rank = kernel("slow: gaussian, m = 1000")
    direct = approximate(values, rank, "svd", driver="lapack", bound="tail").max_error
    chosen = approximate(values, rank, "svd", driver="auto", dense_limit=limit, bound="tail").max_error
    assert (chosen != direct) is randomized


def test_more_power_iterations_come_closer_to_lapack_where_values_decay_slowly():
    _, values, rank = kernel("slow: exponential, m = 100")
    tail = np.linalg.norm(scipy.linalg.svdvals(values)[rank:])
    excess = []
    for powers in (0, 2, 6):
        found = approximate(values, rank, "svd", driver="randomized", power_iterations=powers, bound="tail")
        excess.append(np.linalg.norm(values - found.left @ found.right.T) - tail)
    assert excess[0] > excess[1] > excess[2] >= -1e-10


@pytest.mark.parametrize("shape", [(500, 30), (30, 500), (500, 20), (500, 19), (500, 21)])
def test_basis_that_fills_the_shorter_side_gives_every_singular_value(shape, monkeypatch):
    matrix = np.random.default_rng(0).standard_normal(shape)
    monkeypatch.setattr(pipeline.svd, "STORED_BYTES", 8 * matrix.size - 1)  # as if it could not be held
    decompositions = Decompositions(matrix, SVDSettings(oversampling=0))
    found = decompositions.for_rank(10)
    assert found.complete
    np.testing.assert_allclose(found.s, np.linalg.svd(matrix)[1], rtol=1e-12)
    np.testing.assert_allclose((found.u * found.s) @ found.vt, matrix, atol=1e-12)


# --- errors of all truncations


def direct_errors(matrix: np.ndarray, found: Decomposition) -> list[float]:
    """max |F − [F]_r| for r = 0, …, k, each truncation formed on its own."""
    return [
        float(np.abs(matrix - (found.u[:, :r] * found.s[:r]) @ found.vt[:r]).max()) for r in range(len(found.s) + 1)
    ]


@pytest.mark.parametrize("scale", [1e-290, 1e-150, 1.0, 1e150, 1e290])
@pytest.mark.parametrize(
    "shape", [(1, 1), (1, 9), (9, 1), (60, 60), (30, 257), (257, 30), (255, 40), (513, 20), (20, 600), (256, 256)]
)
def test_truncation_errors_are_those_of_truncations_formed_one_by_one(shape, scale):
    matrix = scale * np.random.default_rng(shape).standard_normal(shape)
    decomposition = lapack_svd(matrix)
    kept = matrix.copy()
    found = truncation_errors(matrix, decomposition)
    assert found.shape == (min(shape) + 1,)
    assert found[0] == np.abs(matrix).max()
    np.testing.assert_allclose(
        found / scale, np.array(direct_errors(matrix, decomposition)) / scale, rtol=0, atol=1e-13 * math.prod(shape)
    )
    assert found[-1] <= 1e-13 * decomposition.s[0]
    assert np.array_equal(matrix, kept)


@pytest.mark.parametrize("name", KNOWN)
def test_truncation_errors_are_those_of_lapacks_other_driver(name):
    matrix = KNOWN[name]
    found = truncation_errors(matrix, lapack_svd(matrix))
    for rank in (1, 7, 12, 25):
        assert found[rank] == pytest.approx(truncated_svd_error(matrix, rank), abs=1e-10)


@pytest.mark.parametrize("shape", [(300, 290), (90, 400), (400, 90)])
def test_truncation_errors_beyond_the_rank_are_rounding(shape):
    matrix = with_spectrum(2.0 ** -np.arange(12.0), *shape)
    found = truncation_errors(matrix, lapack_svd(matrix))
    assert (found[12:] <= 1e-14).all()
    assert (found[:12] > 1e-6).all()


def test_truncation_errors_of_the_identity_are_one_up_to_the_last():
    found = truncation_errors(np.eye(300), lapack_svd(np.eye(300)))
    assert found.tolist() == [1.0] * 300 + [0.0]


@pytest.mark.parametrize("tile", [1, 7, 64, 1000])
def test_truncation_errors_do_not_depend_on_the_tiles(tile, monkeypatch):
    matrix = KNOWN["wide"]
    found = truncation_errors(matrix, lapack_svd(matrix))
    monkeypatch.setattr(pipeline.svd, "_CURVE_TILE", tile)
    np.testing.assert_allclose(truncation_errors(matrix, lapack_svd(matrix)), found, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("m", "n"), [(3, 270), (40, 300)])
def test_truncation_errors_of_a_matrix_by_blocks_are_those_of_the_stored_one(m, n):
    matrix = function_matrix("exponential", "ball-independent", m, n)
    values = matrix.to_numpy()
    decomposition = lapack_svd(values)
    by_block = truncation_errors(matrix, decomposition)
    np.testing.assert_allclose(by_block, truncation_errors(values, decomposition), rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", ["f4", "i4", ">f8"])
def test_truncation_errors_of_entries_of_another_type_are_those_of_the_same_numbers(dtype):
    matrix = np.round(100 * KNOWN["tall"]).astype(dtype)
    decomposition = lapack_svd(matrix.astype(np.float64))
    found = truncation_errors(matrix, decomposition)
    assert found.tolist() == truncation_errors(matrix.astype(np.float64), decomposition).tolist()
    assert found[-1] < 1e-10 < found[-2]


def test_truncation_errors_of_a_part_of_a_decomposition_end_with_it():
    matrix = KNOWN["algebraic spectrum"]
    whole = lapack_svd(matrix)
    part = Decomposition(whole.u[:, :9], whole.s[:9], whole.vt[:9], complete=False)
    np.testing.assert_allclose(
        truncation_errors(matrix, part), truncation_errors(matrix, whole)[:10], rtol=0, atol=1e-15
    )


@pytest.mark.parametrize("scale", [1.0, 1e-300, 1e300])
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (40, 30), (30, 40)])
def test_singular_values_are_those_of_lapack(shape, scale):
    matrix = np.random.default_rng(0).standard_normal(shape)
    expected = scipy.linalg.svdvals(matrix)
    np.testing.assert_allclose(singular_values(matrix * scale) / scale, expected, rtol=1e-12, atol=1e-14)


def test_singular_values_of_signs_are_exact_to_rounding_of_the_largest():
    signs = np.sign(np.random.default_rng(0).standard_normal(200))
    found = singular_values(np.outer(signs, signs))
    assert found[0] == pytest.approx(200, rel=1e-12)
    assert found[1:].max() < 200 * 1e-14


@pytest.mark.parametrize("power_iterations", [0, 3])
@pytest.mark.parametrize("exponent", [310, 516, 1000, -310, -516, -985])
def test_randomized_decomposition_is_that_of_entries_near_one_bit_for_bit(exponent, power_iterations):
    """Kind: products with F and with its transpose over- or underflow; entries to 1e300 are accepted."""
    matrix = with_spectrum(0.9 ** np.arange(120), 150, 120)
    near, far = (randomized_svd(np.ldexp(matrix, each), 20, power_iterations, seed=1) for each in (0, exponent))
    assert np.array_equal(far.u, near.u)
    assert np.array_equal(far.vt, near.vt)
    assert np.array_equal(far.s, np.ldexp(near.s, exponent))


@pytest.mark.parametrize("largest", [1e155, 1e300, 1e-155, 1e-290])
def test_randomized_truncation_of_huge_and_tiny_entries(largest):
    matrix = with_spectrum(0.5 ** np.arange(100), 130, 100)
    matrix *= largest / np.abs(matrix).max() * (1 - 1e-15)
    found = approximate(matrix, 5, "svd", driver="randomized", bound="tail", oversampling=0)
    assert found.max_error == pytest.approx(truncated_svd_error(matrix / largest, 5) * largest, rel=1e-6, abs=0)
    assert 0 < found.lower_bound <= found.max_error


def test_randomized_decomposition_of_zero_is_zero():
    assert not randomized_svd(np.zeros((90, 80)), 20, 2).s.any()
