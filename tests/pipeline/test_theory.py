"""Bounds of the literature: printed values, the proofs' inequalities, constants against derivatives, matrices."""

import math
from functools import partial

import numpy as np
import pytest

from pipeline import approximate, function_matrix
from pipeline.embedding import promised_epsilon
from pipeline.errors import InputError
from pipeline.functions import BUILT_IN
from pipeline.sampling import SAMPLINGS
from pipeline.theory import (
    BUILT_IN_BOUNDS,
    POSITIVE_DEFINITE,
    TAYLOR_EMBEDDING_THRESHOLD,
    Growth,
    analytical_rank,
    constants,
    distance_bound,
    embedding_rank,
    hadamard_power_rank,
    inner_product_bound,
    kernel_rank,
    latent_constants,
    latent_variable_rank,
    latent_variable_threshold,
    localized_distance_bound,
    multilinear_bound,
    second_stage,
    spectral_norm_rank,
    taylor_embedding_error,
    taylor_embedding_rank,
    taylor_factorization_rank,
    tensor_embedding_rank,
    third_stage,
    three_stages,
)

SIZES = np.array([1, 2, 10, 1e3, 1e6, 1e9, 1e100])
UNIT = Growth(1.0, 1.0)


def square(epsilon):
    return lambda n: embedding_rank(n, n, epsilon)


# --- values in print


def test_ranks_printed_for_the_inner_product():
    """Budzinskiy, section 1.3."""
    sizes = [10**5, 10**7, 10**9]
    assert embedding_rank(sizes, sizes, 0.1).tolist() == [21713, 30002, 38291]


def test_second_stage_of_the_inner_product():
    """Section 1.3 prints 18964; its own formula gives 18694, with two digits exchanged, and so less than n there."""
    assert second_stage(square(0.1)) == 18694
    assert square(0.1)(np.array([18692, 18693, 18694, 18695, 18964])).tolist() == [18694, 18694, 18694, 18694, 18720]


@pytest.mark.parametrize(("epsilon", "first"), [(0.9, 637), (0.5, 2448), (0.1, 86872), (0.01, 12250227)])
def test_any_matrix_is_approximated_only_when_n_is_extremely_large(epsilon, first):
    """Udell and Townsend on Theorem 1.0: "we need r < n, which only occurs when n is extremely large"."""
    rank = partial(spectral_norm_rank, epsilon=epsilon)
    assert second_stage(lambda n: rank(n) + 1) == first
    assert rank(first) < first
    assert rank(first - 1) >= first - 1


def test_thresholds_of_appendix_b():
    rate = TAYLOR_EMBEDDING_THRESHOLD
    assert 1.596 < rate < 1.597
    assert math.exp(rate**2) == pytest.approx(1 + math.e**2 * rate)
    assert latent_variable_threshold([1, 2, 10]) == pytest.approx([-0.0855, 0.0638, 4.8434], abs=1e-4)


@pytest.mark.parametrize("epsilon", [0.001, 0.1, 0.9])
@pytest.mark.parametrize("factor", [1.0, 30.0])
def test_theorem_2_1_is_worse_below_its_threshold(epsilon, factor):
    """Appendix B.1, already with C_u = C² mᵐ and C_v = 0, which are too small."""
    for m in range(2, 41):
        for share in (0.01, 0.5, 0.999):
            growth = Growth(factor, share * latent_variable_threshold(m))
            analytical = analytical_rank(epsilon, m, growth)
            least = latent_variable_rank(SIZES, SIZES, epsilon, factor**2 * float(m) ** m, 0)
            real = latent_variable_rank(SIZES, SIZES, epsilon, *latent_constants(m, growth))
            assert np.all((least > analytical) & (real >= least) | np.isinf(least))


@pytest.mark.parametrize("epsilon", [0.001, 0.1, 0.9])
@pytest.mark.parametrize("factor", [1.0, 30.0])
def test_theorem_a_1_is_worse_above_its_threshold(epsilon, factor):
    """Appendix B.2; far below the threshold it can be better."""
    for rate in (TAYLOR_EMBEDDING_THRESHOLD, 1.7, 3.0):
        for m in range(1, 41):
            growth = Growth(factor, rate)
            embedded = taylor_embedding_rank(SIZES, SIZES, epsilon, m, growth)
            assert np.all(embedded > analytical_rank(epsilon, m, growth))
    assert taylor_embedding_rank(1e9, 1e9, 0.1, 50, UNIT) < analytical_rank(0.1, 50, UNIT)


# --- formulas


def test_analytical_rank_is_the_exact_binomial():
    for m in (1, 2, 3, 7, 20, 60):
        for rate in (0.01, 0.1, 1.0, 3.0):
            for epsilon in (0.5, 1e-3, 1e-9):
                terms = math.ceil(max(math.log(2 / epsilon), math.e**2 * m * rate))
                exact = math.comb(m + terms - 1, m)
                found = analytical_rank(epsilon, m, Growth(2.0, rate))
                assert found == float(exact)
                assert found <= math.e**m * max(2 / epsilon, (1 + math.e**2 * rate) ** m) * (1 + 1e-12)


def test_analytical_rank_is_infinite_exactly_where_it_overflows():
    finite = []
    for m in range(225, 245):
        terms = math.ceil(math.e**2 * m)
        finite.append(math.log2(math.comb(m + terms - 1, m)) < 1024)
        assert np.isfinite(analytical_rank(0.1, m, UNIT)) == finite[-1]
    assert set(finite) == {True, False}
    assert np.isinf(analytical_rank(0.1, [1000, 10**6], UNIT)).all()


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("rate", [0.5, 1.0, 1.5])
def test_latent_constants_are_the_series_of_the_proof(m, rate):
    terms = range(150)
    c_u = 4 * sum((m + s) ** m * rate ** (2 * s) / math.factorial(s // m) for s in terms)
    c_v = sum((m + s) ** m * 0.8 ** (2 * s) / math.factorial(s) for s in terms)
    assert latent_constants(m, Growth(2.0, rate), 0.8) == pytest.approx((c_u, c_v))
    assert c_u > 4 * m**m
    assert c_v > m**m


def test_latent_constants_overflow_to_infinity():
    c_u, c_v = latent_constants([5, 144, 10**6], Growth(1.0, [4.0, 0.1, 0.1]))
    assert np.isinf(c_u).all()
    assert np.isinf(c_v).tolist() == [False, True, True]
    assert np.isinf(latent_variable_rank(10, 10, 0.1, c_u, c_v)).all()


def test_latent_variable_rank_is_that_of_the_embedding_in_its_proof():
    """ε_JL = (ε/2)/(C_u + C_v + 1 + ε/2) in ⌈8 log(n1 + n2 + 1)/ε_JL²⌉."""
    for n1, n2, epsilon, c_u, c_v in ((5, 9, 0.5, 3.0, 2.0), (10**6, 10, 0.01, 1.0, 40.0)):
        embedded = epsilon / 2 / (c_u + c_v + 1 + epsilon / 2)
        assert latent_variable_rank(n1, n2, epsilon, c_u, c_v) == math.ceil(8 * math.log(n1 + n2 + 1) / embedded**2)


def test_taylor_factorization_is_never_below_the_analytical_rank_of_its_own_terms():
    for m in (1, 2, 3, 5):
        for epsilon in (0.5, 0.01):
            terms = math.ceil(max(2 * math.e * m * 0.3, math.log2(2 / epsilon)))
            rank = taylor_factorization_rank(epsilon, m, Growth(2.0, 0.3))
            assert rank == (terms + 1) * m**terms >= math.comb(m + terms, m)
            assert taylor_factorization_rank(epsilon, m, Growth(2.0, 0.6), 0.5) == rank


def recursion(r: int, t: int, p: int) -> int:
    """Lemma 4.1 of Budzinskiy, as it stands there."""
    if p == 0:
        return r if t else 1
    return 1 + sum(recursion(r, s, p - 1) for s in range(1, t + 1))


@pytest.mark.parametrize("p", range(5))
def test_hadamard_powers_have_the_rank_of_the_recursion(p):
    for r in (1, 7, 1000):
        assert hadamard_power_rank(r, range(9), p).tolist() == [recursion(r, t, p) for t in range(9)]


def test_taylor_bounds_are_those_of_the_theorems():
    growth = Growth(3.0, 0.7)
    for bound, reach, spread, rank in (
        (inner_product_bound(0.5, 2.0), 2.0, 2.0, lambda r, t: 1 + (t - 1) * r),
        (distance_bound(0.5, 2.0), 8.0, 8.0, lambda r, t: recursion(r, t - 1, 3)),
        (localized_distance_bound(3.0, 0.5, 2.0), 1.5, 16.0, lambda r, t: recursion(r, t - 1, 4)),
        (multilinear_bound(3, 2.0), 8.0, 8.0, lambda r, t: 1 + (t - 1) * r),
    ):
        t = math.ceil(math.e**2 * 0.7 * reach)
        assert bound.terms(growth) == t
        assert bound.error(0.2, t, growth) == pytest.approx(3 * (math.exp(-t) + 0.2 * (math.exp(0.7 * spread) - 1)))
        assert bound.rank(50, t) == rank(50, t)
        with pytest.raises(InputError, match=f"^t: {t - 1}.0 is out of range; give {t} to inf$"):
            bound.error(0.2, t - 1, growth)


def test_cut_series_are_polynomials_of_so_many_monomials():
    """Degree below t, in m products or in m + 2 (section 4: ρ = t − 1); numerically the rank is no larger."""
    growth, random = Growth(2.0, 0.3), np.random.default_rng(0)
    x, y = random.standard_normal((2, 60, 2)) / 3
    distances = ((x[:, None] - y) ** 2).sum(axis=-1)
    for bound, argument, added in ((inner_product_bound(), x @ y.T, 0), (distance_bound(), distances, 2)):
        for error in (1.0, 1e-3, 1e-6):
            t = max(int(bound.terms(growth)), math.ceil(math.log(2 / error)))
            monomials = math.comb(2 + added + t - 1, t - 1)
            assert bound.analytical_rank(error, 2, growth) == monomials
            cut = np.polynomial.polynomial.polyval(argument, 1 / np.arange(1.0, t + 1))
            assert np.linalg.matrix_rank(cut) <= monomials


def test_remainder_falls_as_claimed_from_the_first_t_on():
    """Stirling's formula in Corollary 3.7: (M a)ᵗ/t! ≤ e^−t for t ≥ e² M a."""
    for rate in (0.01, 0.3, 1.0, 4.0, 21.9):
        first = int(BUILT_IN_BOUNDS["Theorem 4.5"].terms(Growth(1.0, rate)))
        for t in range(first, first + 50):
            assert t * math.log(4 * rate) - math.lgamma(t + 1) <= -t


@pytest.mark.parametrize("bound", BUILT_IN_BOUNDS.values(), ids=BUILT_IN_BOUNDS)
@pytest.mark.parametrize("error", [1e-6, 0.01, 0.5])
def test_rank_for_an_error_is_the_least_over_t(bound, error):
    growth, n = Growth(2.0, 0.3), 10**6
    found = bound.rank_for_error(error, partial(embedding_rank, n, n), growth)
    ranks = []
    for t in range(int(bound.terms(growth)), 400):
        epsilon = (error / 2 - math.exp(-t)) / math.expm1(0.3 * bound.spread)
        if 0 < epsilon < 1:
            assert bound.error(epsilon, t, growth) == pytest.approx(error)
            ranks.append(float(bound.rank(embedding_rank(n, n, epsilon), t)))
    assert found == min(ranks)


def test_a_multilinear_product_of_two_is_an_inner_product():
    assert multilinear_bound(2, 1.3) == inner_product_bound(1.0, 1.3)
    assert tensor_embedding_rank([100, 200], 0.3, 9) == math.ceil(9 * math.log(2 * math.e * 20000) / 0.3**2)


def test_embedding_rank_inverts_the_promise_of_the_embedding():
    for n1, n2, rank in ((400, 300, 200), (10**5, 10**5, 21713), (7, 10**9, 5000)):
        assert embedding_rank(n1, n2, promised_epsilon(n1, n2, rank) * (1 + 1e-12)) == rank


def test_theorem_a_1_in_both_forms():
    growth = Growth(2.0, 0.5)
    wanted = taylor_embedding_error(0.1, 4, growth)  # above 1: the rank is that of a smaller ε
    assert wanted == pytest.approx(0.1 * 2 * math.exp(2.5))
    assert taylor_embedding_rank(50, 60, 0.1, 4, growth) == embedding_rank(50, 60, 0.01 / wanted)


# --- shape of the curves


def test_ranks_grow_with_n_and_fall_with_epsilon():
    tolerances = np.array([0.01, 0.1, 0.5, 0.99])
    for rank in (
        embedding_rank(SIZES[:, None], SIZES[:, None], tolerances),
        spectral_norm_rank(SIZES[:, None], tolerances),
        latent_variable_rank(SIZES[:, None], 5, tolerances, 3.0, 2.0),
        taylor_embedding_rank(SIZES[:, None], 5, tolerances, 3, UNIT),
        tensor_embedding_rank([SIZES[:, None]] * 3, tolerances, 27),
        *(
            bound.rank_for_error(tolerances, partial(embedding_rank, SIZES[:, None], 9), Growth(1.0, 0.2))
            for bound in BUILT_IN_BOUNDS.values()
        ),
    ):
        assert rank.shape == (7, 4)
        assert np.all(np.diff(rank, axis=0) >= 0)
        assert np.all(np.diff(rank, axis=1) <= 0)
        assert np.isfinite(rank).all()
        assert np.all(rank == np.ceil(rank))


def test_vectors_equal_scalars():
    n, epsilon, m = np.array([[5.0], [1e4], [1e12]]), np.array([0.9, 0.03]), np.array([[[1]], [[6]]])

    def log_ranks(n, epsilon, m):
        growth = constants("attention", "Theorem 3.8", m)
        yield inner_product_bound().rank_for_error(epsilon, partial(embedding_rank, n, n), growth)
        yield inner_product_bound().analytical_rank(epsilon, m, growth) + 0 * n
        yield analytical_rank(epsilon, m, growth) + 0 * n
        yield taylor_embedding_rank(n, n, epsilon, m, growth)
        yield taylor_factorization_rank(epsilon, m, growth) + 0 * n
        yield latent_variable_rank(n, n, epsilon, *latent_constants(m, growth))

    for ranks, *scalars in zip(
        log_ranks(n, epsilon, m), *(log_ranks(a, b, c) for c in (1, 6) for a in n[:, 0] for b in epsilon), strict=True
    ):
        assert ranks.shape == (2, 3, 2)
        assert ranks.ravel().tolist() == scalars


def test_three_stages_follow_each_other():
    rank, analytical = square(0.1), 25000.0
    second, third = second_stage(rank), third_stage(rank, analytical)
    n = np.array([1, second - 1, second, third - 1, third, 1e300])
    assert 18694 == second < third
    assert three_stages(n, rank, analytical).tolist() == [1, second - 1, second, rank(third - 1), 25000, 25000]
    assert rank(third - 1) <= 25000 < rank(third)


def test_crossovers_of_many_tolerances_at_once_are_those_of_each():
    tolerances = np.array([0.9, 0.3, 0.01])
    second, third = second_stage(square(tolerances)), third_stage(square(tolerances), 5000.0)
    for k, epsilon in enumerate(tolerances):
        assert second[k] == second_stage(square(epsilon))
        assert square(epsilon)(second[k] - 1) > second[k] - 1
        assert third[k] == third_stage(square(epsilon), 5000.0)


def test_crossovers_may_not_exist():
    assert second_stage(lambda n: n + np.inf) == np.inf
    assert third_stage(square(0.1), np.inf) == np.inf


# --- constants of the built-in functions

M = 4
Z, D = np.linspace(-1, 1, 41), np.linspace(0, 4, 41)
PROFILES = {  # h, its domain, and ‖f‖
    ("inner_product", "Theorem 3.8", "ball"): (lambda z: z, Z, 1.0),
    ("attention", "Theorem 3.8", "ball"): (lambda z: np.exp(math.sqrt(M) * z), Z, math.exp(math.sqrt(M))),
    ("gaussian", "Theorem 3.8", "ball"): (lambda z: np.exp(2 * z), Z, 1.0),
    ("gaussian", "Theorem 3.8", "sphere"): (lambda z: np.exp(2 * z - 2), Z, 1.0),
    ("gaussian", "Theorem 4.5", "ball"): (lambda d: np.exp(-d), np.linspace(-4, 4, 81), 1.0),
    ("gaussian", "Corollary 4.8", "ball"): (lambda d: np.exp(-d), D, 1.0),
    ("quartic_gaussian", "Theorem 4.5", "ball"): (lambda d: np.exp(-(d**2)), np.linspace(-4, 4, 81), 1.0),
    ("quartic_gaussian", "Corollary 4.8", "ball"): (lambda d: np.exp(-(d**2)), D, 1.0),
    ("sinh_product", "Theorem 6.5", "ball"): (np.sinh, Z, math.sinh(1)),
    ("tensor_attention", "Theorem 6.5", "ball"): (lambda z: np.exp(M * z), Z, math.exp(M)),
}


def derivatives(h, points, orders=13, radius=1.0):
    """Derivatives of orders 0, 1, … of an entire function by Cauchy's integrals, shape (orders, points)."""
    nodes = radius * np.exp(2j * np.pi * np.arange(64) / 64)
    coefficients = np.fft.fft(h(points[:, None] + nodes), axis=1).T[:orders] / 64
    return np.array([math.factorial(s) / radius**s for s in range(orders)])[:, None] * coefficients.real


@pytest.mark.parametrize("key", PROFILES, ids=" ".join)
def test_constants_bound_the_derivatives_and_are_the_least(key):
    h, domain, norm = PROFILES[key]
    growth = constants(key[0], key[1], M, key[2])
    suprema = np.abs(derivatives(h, domain)).max(axis=1) / norm
    ratios = suprema / (growth.factor * growth.rate ** np.arange(len(suprema)))
    assert ratios.max() == pytest.approx(1, abs=1e-6)
    if key[0] not in ("inner_product", "quartic_gaussian"):
        assert ratios[-2:].max() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("key", PROFILES, ids=" ".join)
def test_profiles_are_the_built_in_functions(key):
    name, theorem, domain = key
    h, _, _ = PROFILES[key]
    e, other = np.eye(M)[:1], np.eye(M)[1]
    if theorem in ("Theorem 4.5", "Corollary 4.8"):
        for d in D:
            assert BUILT_IN[name](e * math.sqrt(d) / 2, -e * math.sqrt(d) / 2).item() == pytest.approx(h(d))
        return
    for z in Z:
        factor = math.exp(z**2 + 1) if key == ("gaussian", "Theorem 3.8", "ball") else 1.0
        x = z * e + math.sqrt(1 - z**2) * other if domain == "sphere" else z * e
        assert factor * BUILT_IN[name](x, *[e] * (BUILT_IN[name].order - 1)).item() == pytest.approx(h(z))


@pytest.mark.parametrize("name", ["inner_product", "attention"])
def test_constants_bound_all_partial_derivatives(name):
    """Example 1.2, by Cauchy's integrals in two of the variables, at points up to the boundary."""
    growth, norm = constants(name, "Example 1.2", M), 1.0 if name == "inner_product" else math.exp(math.sqrt(M))
    nodes = np.exp(2j * np.pi * np.arange(32) / 32)
    grid = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), axis=-1).reshape(-1, 2)
    worst = 0.0
    for x in np.array([[1, 0], [0.6, 0.8], [-0.3, 0.5]]):
        for y in np.array([[1, 0], [0.6, 0.8], [0.2, -0.1]]):
            points = np.pad(y + grid, ((0, 0), (0, M - 2)))
            values = BUILT_IN[name].entries(np.pad(x, (0, M - 2))[None], points).reshape(32, 32)
            coefficients = np.abs(np.fft.fft2(values)) / 32**2
            for i in range(7):
                for j in range(7 - i):
                    derivative = coefficients[i, j] * math.factorial(i) * math.factorial(j) / norm
                    worst = max(worst, derivative / (growth.factor * growth.rate ** (i + j)))
    assert worst == pytest.approx(1)


@pytest.mark.parametrize(("theorem", "reach"), [("Theorem 4.5", 4), ("Corollary 4.8", 2)])
def test_hermite_polynomials_stay_below_the_constants_up_to_their_order(theorem, reach):
    """|H_s(z)| exp(−z²) for all orders that may be used; a lower order would allow no t at all."""
    growth = constants("quartic_gaussian", theorem)
    z = np.linspace(-4, 4, 801)
    before, now = np.zeros_like(z), np.exp(-(z**2))  # scaled by 1/√(2ˢ s!)
    for s in range(int(growth.order) + 1):
        assert np.log(np.abs(now).max()) + (s * math.log(2) + math.lgamma(s + 1)) / 2 <= s * np.log(growth.rate) + 1e-9
        before, now = now, (z * math.sqrt(2) * now - math.sqrt(s) * before) / math.sqrt(s + 1)
    assert BUILT_IN_BOUNDS[theorem].terms(growth) == growth.order
    shorter = growth.order - 1
    assert shorter < math.e**2 * reach * math.sqrt(2) * math.exp(math.lgamma(shorter + 1) / (2 * shorter))
    assert np.isfinite(BUILT_IN_BOUNDS[theorem].rank_for_error(0.1, partial(embedding_rank, 1e6, 1e6), growth))


def test_functions_without_constants():
    """Derivatives that grow faster than any power: no C and M exist."""
    theorems = ["Example 1.2", *BUILT_IN_BOUNDS]
    assert all(constants(name, theorem) is None for name in ("exponential", "cauchy") for theorem in theorems)
    assert constants("gaussian", "Example 1.2") is constants("quartic_gaussian", "Example 1.2") is None
    at_zero = np.zeros(1)
    cauchy = np.abs(derivatives(lambda d: 1 / (1 + d), at_zero, radius=0.5)[:, 0])
    assert cauchy == pytest.approx([math.factorial(s) for s in range(13)], rel=1e-4)
    gaussian = np.abs(derivatives(lambda y: np.exp(-(y**2)), at_zero)[:, 0])[::2]
    assert gaussian == pytest.approx([math.factorial(2 * k) / math.factorial(k) for k in range(7)], rel=1e-6)


def test_the_gaussian_outgrows_the_derivatives_claimed_for_it():
    """Udell and Townsend, section 4, claim N(4R)^(N+|µ|), so M = 4; with N = R = 1 the 40th derivative is larger."""
    assert math.factorial(40) / math.factorial(20) > 4.0**41


def test_kernels_are_positive_definite_and_one_at_zero():
    for name in POSITIVE_DEFINITE:
        values = function_matrix(name, "ball-symmetric", m=3, n=40).to_numpy()
        assert np.all(np.diag(values) == 1)
        assert np.linalg.eigvalsh(values).min() > -1e-12
    assert set(BUILT_IN) >= POSITIVE_DEFINITE


# --- what is promised is attained


@pytest.mark.parametrize("name", sorted(POSITIVE_DEFINITE))
def test_random_embedding_attains_the_error_of_a_kernel_at_its_rank(name):
    n, epsilon = 400, 0.75
    rank = int(kernel_rank(n, n, epsilon))
    assert rank < n / 1.8
    found = approximate(function_matrix(name, "sphere-independent", m=50, n=n), rank, "random_embedding", bound="tail")
    assert found.lower_bound <= found.max_error <= epsilon


def test_construction_of_theorem_3_8_attains_its_error_at_its_rank():
    """h(z) = exp(z/5) cut after two terms, the linear one embedded."""
    n, epsilon, bound, growth = 400, 0.8, inner_product_bound(), Growth(math.exp(0.2), 0.2)
    rank = int(embedding_rank(n, n, epsilon))
    products = function_matrix("inner_product", "sphere-independent", m=600, n=n)
    found = approximate(products, rank, "random_embedding", bound="tail")
    assert 1 + rank == bound.rank(rank, 2) < n / 2
    error = np.abs(np.exp(products.to_numpy() / 5) - 1 - found.left @ found.right.T / 5).max()
    assert 0.02 < error <= bound.error(epsilon, 2, growth) < 0.4


@pytest.mark.parametrize("epsilon", [0.1, 1e-4, 1e-9])
def test_truncated_svd_attains_the_error_of_the_analytical_ranks(epsilon):
    for m in (1, 2):
        matrix = function_matrix("attention", "ball-independent", m=m, n=250)
        growth = constants("attention", "Example 1.2", m)
        exponential = constants("attention", "Theorem 3.8", m)
        norm = math.exp(math.sqrt(m))
        for rank in (
            analytical_rank(epsilon, m, growth),
            inner_product_bound().analytical_rank(epsilon, m, exponential),
        ):
            assert rank < 250
            assert approximate(matrix, int(rank), "svd", bound="tail").max_error <= epsilon * norm


def test_ranks_are_above_what_the_identity_needs():
    """It is the limit of kernels; a rank r has error at least 1/(1 + √(r(n − 1)/(n − r))) (Welch)."""
    for epsilon in (0.03, 0.1, 0.3, 0.9):
        n = np.geomspace(second_stage(square(epsilon)) + 1, 1e12, 30).round()
        rank = kernel_rank(n, n, epsilon)
        assert np.all(1 / (1 + np.sqrt(rank * (n - 1) / (n - rank))) <= epsilon)


def test_theorems_for_the_gaussian_in_order_of_strength():
    """Theorem 5.2 needs no series; on the sphere the inner product, in the ball the distance costs more."""
    n = np.geomspace(10, 1e15, 6).round()
    ranks = [kernel_rank(n, n, 0.1)]
    for theorem, domain in (("Theorem 3.8", "sphere"), ("Theorem 3.8", "ball"), ("Corollary 4.8", "ball")):
        growth = constants("gaussian", theorem, 1, domain)
        ranks.append(BUILT_IN_BOUNDS[theorem].rank_for_error(0.1, partial(embedding_rank, n, n), growth))
    assert np.all(np.diff(ranks, axis=0) > 0)


# --- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: embedding_rank(10, 10, 1.0), "epsilon: 1.0 is out of range; give a number strictly between 0 and 1"),
        (lambda: embedding_rank(10, 10, [0.5, 0.0]), "epsilon: 0.0 is out of range"),
        (lambda: embedding_rank(10, 10, math.nan), "epsilon: nan is out of range"),
        (lambda: kernel_rank(0, 10, 0.1), "n1: 0.0 is out of range; give a whole number of at least 1"),
        (lambda: embedding_rank(10, 2.5, 0.1), "n2: 2.5 is out of range; give a whole number of at least 1"),
        (lambda: spectral_norm_rank("many", 0.1), "n: 'many' is not a number; give a whole number of at least 1"),
        (lambda: spectral_norm_rank(math.inf, 0.1), "n: inf is out of range"),
        (lambda: tensor_embedding_rank([5, 5, -1], 0.1, 27), "n3: -1.0 is out of range"),
        (lambda: tensor_embedding_rank([5, 5], 0.1, 0), "constant: 0.0 is out of range; give a positive finite number"),
        (lambda: analytical_rank(0.1, 0, UNIT), "m: 0.0 is out of range; give a whole number of at least 1"),
        (lambda: analytical_rank(0.1, 1, Growth(0.5, 1)), "factor: 0.5 is out of range; give a C of at least 1"),
        (lambda: latent_variable_rank(1, 1, 0.1, -1, 1), "c_u: -1.0 is out of range; give a number of at least 0"),
        (lambda: latent_constants(2, UNIT, 0), "radius: 0.0 is out of range; give a positive finite number"),
        (lambda: Growth(1.0, math.nan), "rate: nan is out of range; give a positive finite number"),
        (lambda: hadamard_power_rank(3, -1, 2), "t: -1.0 is out of range; give a whole number of at least 0"),
        (lambda: inner_product_bound(norm=-1), "norm: -1.0 is out of range; give a positive finite number"),
        (lambda: inner_product_bound().rank_for_error(0, square(0.1), UNIT), "error: 0.0 is out of range"),
        (lambda: three_stages(0, square(0.1), 5), "n: 0.0 is out of range; give a whole number of at least 1"),
        (lambda: constants("mine:f", "Theorem 3.8"), "function: 'mine:f' has no known constants; give a Growth, or"),
        (lambda: constants("attention", "Theorem 3.8", 0), "m: 0.0 is out of range"),
    ],
)
def test_bad_numbers_are_refused_in_one_line(call, message):
    with pytest.raises(InputError) as refusal:
        call()
    assert str(refusal.value).startswith(message)
    assert "\n" not in str(refusal.value)


def test_ball_and_sphere_have_points_of_norm_at_most_one():
    """The constants are those of the unit ball and sphere."""
    for name in ("ball-independent", "ball-symmetric", "sphere-independent", "sphere-symmetric"):
        sampling = SAMPLINGS[name]
        assert np.linalg.norm(sampling.points(0, 3, 0, 0, 200), axis=1).max() <= 1 + 1e-12, name
