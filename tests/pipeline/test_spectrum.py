"""Singular values and how many of them count, against LAPACK, known spectra and operators with exact ones."""

import math
from functools import cache, partial

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import function_matrix
from pipeline.experiment import Case, Outcome
from pipeline.experiments import EXPERIMENTS, spectrum
from pipeline.experiments.spectrum import effective_rank, stable_rank
from pipeline.functions import get_function
from pipeline.grid import parse_sweep

EXPERIMENT = EXPERIMENTS["spectrum"]
QUANTITIES = {quantity.name for quantity in EXPERIMENT.quantities}
BASIC = {"function": "gaussian", "sampling": "gaussian-independent", "m": 1, "n": 30, "seed": 0}


def case(**labels: object) -> Case:
    chosen = BASIC | {"k": 1} | labels
    return Case(tuple((axis.name, chosen[axis.name]) for axis in EXPERIMENT.axes))


def run(cases: list[Case]) -> list[Outcome]:
    outcomes = list(EXPERIMENT.run(cases, EXPERIMENT.settings()))
    assert len(outcomes) == len(cases)
    return outcomes


def values(outcome: Outcome) -> dict[str, float]:
    """Everything but the time, which is nobody's own."""
    assert outcome.values is not None, outcome.message
    assert set(outcome.values) == QUANTITIES
    return {name: value for name, value in outcome.values.items() if name != "seconds"}


def of_file(folder, matrix: np.ndarray, ks=(1,)) -> list[dict[str, float]]:
    """Values for a matrix in a file."""
    np.save(folder / "data.npy", matrix)
    grid = f"{{function: {{file: data.npy}}, k: {list(ks)}, seeds: 1}}"
    sweep = parse_sweep(f"name: t\nexperiment: spectrum\ngrid:\n  - {grid}\n", folder=folder)
    cases = [sweep.case(cell) for cell in np.argwhere(sweep.wanted)]
    return [values(outcome) for outcome in EXPERIMENT.run(cases, sweep.settings)]


def sigmas(count: int, **labels: object) -> np.ndarray:
    """The leading values of the operator, as one matrix has them."""
    return np.array([values(outcome)["sigma"] for outcome in run([case(**labels, k=k + 1) for k in range(count)])])


# --- oracle: LAPACK

MATRICES = [
    {"function": "gaussian", "sampling": "ball-independent", "m": 3, "n": 40},
    {"function": "exponential", "sampling": "sphere-symmetric", "m": 20, "n": 60, "seed": 4},
    {"function": "white_noise", "m": 2, "n": 50},
    {"function": "attention", "sampling": "sphere-independent", "m": 20, "n": 30, "seed": 1},
    {"function": "minimum_graphon", "sampling": "cube-symmetric", "m": 2, "n": 45},
]


@pytest.mark.parametrize("labels", MATRICES, ids=[str(labels["function"]) for labels in MATRICES])
def test_values_are_those_of_the_singular_values_by_lapack(labels):
    chosen = BASIC | labels
    matrix = function_matrix(*(chosen[axis] for axis in ("function", "sampling", "m", "n", "seed"))).to_numpy()
    s = scipy.linalg.svd(matrix, lapack_driver="gesvd")[1]
    outcomes = run([case(**labels, k=k + 1) for k in range(len(s))])
    for exact, outcome in zip(s, outcomes, strict=True):
        found = values(outcome)
        assert found["sigma"] == pytest.approx(exact / len(s), abs=1e-14 * s[0])
        assert found["ratio"] == pytest.approx(exact / s[0], abs=1e-13)
        assert found["effective_rank"] == pytest.approx(s.sum() ** 2 / (s**2).sum(), rel=1e-10)
        assert found["stable_rank"] == pytest.approx((s**2).sum() / s[0] ** 2, rel=1e-10)


# --- known spectra


def orthonormal(rows: int, columns: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng([rows, columns]).standard_normal((rows, columns)))[0]


@pytest.mark.parametrize("shape", [(20, 20), (50, 13), (13, 50), (1, 9), (9, 1)])
def test_equal_singular_values_all_count(tmp_path, shape):
    matrix = orthonormal(max(shape), min(shape))
    matrix = matrix if shape[0] >= shape[1] else matrix.T
    for found in of_file(tmp_path, 3 * matrix, range(1, min(shape) + 1)):
        assert found["effective_rank"] == pytest.approx(min(shape), rel=1e-12)
        assert found["stable_rank"] == pytest.approx(min(shape), rel=1e-12)
        assert found["ratio"] == pytest.approx(1.0, rel=1e-12)
        assert found["sigma"] == pytest.approx(3 / math.sqrt(matrix.size), rel=1e-12)


def test_identity_has_full_and_rank_one_has_unit_effective_rank(tmp_path):
    (found,) = of_file(tmp_path, np.eye(31))
    assert (found["effective_rank"], found["stable_rank"]) == pytest.approx((31, 31), rel=1e-12)
    random = np.random.default_rng(2)
    (found,) = of_file(tmp_path, np.outer(random.standard_normal(20), random.standard_normal(70)))
    assert found["effective_rank"] == pytest.approx(1.0, abs=1e-12)
    assert found["stable_rank"] == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(
    ("s", "effective", "stable"),
    [
        ([1, 1, 1, 0, 0], 3, 3),
        ([3, 1], 1.6, 10 / 9),
        ([2, 1, 1], 16 / 6, 1.5),
        (2.0 ** -np.arange(40), 3, 4 / 3),
        ([1e-200, 1e-200], 2, 2),
        ([1e200, 1e200, 1e200], 3, 3),
    ],
)
def test_counts_of_prescribed_spectra(s, effective, stable):
    assert effective_rank(np.array(s, dtype=float)) == pytest.approx(effective, rel=1e-9)
    assert stable_rank(np.array(s, dtype=float)) == pytest.approx(stable, rel=1e-9)


POSITIVE = st.floats(0, 1e200, allow_subnormal=False) | st.floats(0, 1)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(s=st.lists(POSITIVE, min_size=1, max_size=30).map(sorted).filter(lambda s: s[-1] > 0))
def test_stable_rank_lies_between_one_and_the_effective_rank_and_that_below_the_rank(s):
    s = np.array(s[::-1])
    rank, tiny = int((s > 0).sum()), 1e-12
    assert 1 - tiny <= stable_rank(s) <= effective_rank(s) * (1 + tiny)
    assert effective_rank(s) <= rank * (1 + tiny)


@settings(derandomize=True, deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6),
    shape=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    exponent=st.integers(-900, 900),
)
def test_counts_and_ratios_change_neither_with_the_scale_nor_by_transposition(tmp_path_factory, seed, shape, exponent):
    matrix, folder = np.random.default_rng(seed).standard_normal(shape), tmp_path_factory.mktemp("matrix")
    ks = range(1, min(shape) + 1)
    plain = of_file(folder, matrix, ks)
    for scale, other in ((2.0**exponent, matrix), (1.0, matrix.T), (-(2.0**exponent), matrix.T)):
        for before, after in zip(plain, of_file(folder, scale * other, ks), strict=True):
            assert after.pop("sigma") == pytest.approx(abs(scale) * before["sigma"], rel=1e-9)
            assert after == pytest.approx({name: before[name] for name in after}, rel=1e-9)


# --- elementwise functions of products


@pytest.mark.parametrize("function", ["identity", "square", "sign", "abs", "cube"])
def test_function_that_is_a_product_of_two_factors_has_effective_rank_one(function):
    first, second = (values(outcome) for outcome in run([case(function=function, n=150, k=k) for k in (1, 2)]))
    assert first["effective_rank"] == pytest.approx(1.0, abs=1e-12)
    assert first["stable_rank"] == pytest.approx(1.0, abs=1e-12)
    assert second["ratio"] < 1e-14


@pytest.mark.parametrize(
    ("function", "m", "rank"),
    [
        ("identity", 4, 4),
        ("identity", 9, 9),
        ("relu", 1, 2),
        ("step", 1, 2),
        ("square", 3, 6),
        ("cube", 2, 4),
        ("polynomial", 2, 6),
        ("block_graphon", 2, 3),
    ],
)
def test_rank_of_the_matrix_is_the_number_of_terms_of_the_function(function, m, rank):
    sampling = "cube-independent" if function == "block_graphon" else "gaussian-independent"
    outcomes = run([case(function=function, sampling=sampling, m=m, n=80, k=k) for k in (rank, rank + 1)])
    last, beyond = (values(outcome) for outcome in outcomes)
    assert last["ratio"] > 1e-3
    assert beyond["ratio"] < 1e-13
    assert last["effective_rank"] <= rank


def test_effective_rank_of_white_noise_is_that_of_the_quarter_circle():
    """(E σ)² / E σ² = (8/(3π))² for the density √(4 − σ²)/π on [0, 2]."""
    density = partial(np.trapezoid, x=np.linspace(0, 2, 200_001))
    line = np.linspace(0, 2, 200_001)
    weight = np.sqrt(4 - line**2) / np.pi
    expected = density(line * weight) ** 2 / density(line**2 * weight)
    assert expected == pytest.approx((8 / (3 * np.pi)) ** 2, rel=1e-6)
    shares = []
    for n in (300, 1000):
        (outcome,) = run([case(function="white_noise", m=3, n=n)])
        shares.append(values(outcome)["effective_rank"] / n)
        assert values(outcome)["stable_rank"] == pytest.approx(n / 4, rel=0.05)  # σ_1² → 4 n
    assert shares[1] == pytest.approx(expected, rel=0.005)
    assert shares[0] == pytest.approx(expected, rel=0.01)


# --- operators under the Gaussian measure with exact singular values, by Mehler's formula: Σ ρ^k h_k(x) h_k(y) is the
# --- kernel √(1 − ρ²)⁻¹ exp((2 ρ x y − ρ² (x² + y²)) / (2 (1 − ρ²))) after a change of scale, where ρ solves …

GOLDEN = (math.sqrt(5) - 1) / 2  # … ρ/(1 + ρ²) = i for exp(i x y): ρ = i t with t = 1 − t², and the factor is √t
WIDE = 2 - math.sqrt(3)  # … ρ/(1 + ρ²) = 2/(4 + s²) for exp(−(x − y)²/s²), s = 2; ρ = 1/2 for s = 1
OPERATORS = {
    ("gaussian", 1): [2.0 ** -(k + 1) for k in range(6)],
    ("gaussian", 2): [1 / 4, 1 / 8, 1 / 8, 1 / 16, 1 / 16, 1 / 16],
    ("gaussian(scale=2)", 1): [(1 - WIDE) * WIDE**k for k in range(6)],
    ("cos", 1): [math.sqrt(GOLDEN) * GOLDEN ** (2 * k) for k in range(6)],
    ("sin", 1): [math.sqrt(GOLDEN) * GOLDEN ** (2 * k + 1) for k in range(6)],
    ("identity", 1): [1, 0],
    ("identity", 3): [1, 1, 1, 0],
    ("square", 1): [3, 0],
    ("polynomial(offset=0)", 1): [3, 0],
    ("cube", 1): [15, 0],
    ("polynomial(degree=1)", 1): [1, 1, 0],
    ("abs", 1): [1, 0],
    ("sign", 1): [1, 0],
    ("relu", 1): [1 / 2, 1 / 2, 0],
    ("step", 1): [1 / 2, 1 / 2, 0],
}
SMOOTH = [each for each in OPERATORS if each[0] not in ("abs", "sign", "relu", "step")]
MOMENTS = {
    "cube": 6.0,
    "square": 2.5,
    "polynomial(offset=0)": 2.5,
}  # deviations of σ_k √n/σ_1 where they are not below 1


@cache
def quadrature(m: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes of a Gauss–Hermite rule for the normal distribution on R^m, and square roots of its weights."""
    nodes, weights = np.polynomial.hermite_e.hermegauss({1: 120, 2: 30, 3: 10}[m])
    weights = weights / weights.sum()
    grid = np.stack(np.meshgrid(*[nodes] * m, indexing="ij"), axis=-1).reshape(-1, m)
    return grid, np.sqrt(np.prod(np.stack(np.meshgrid(*[weights] * m, indexing="ij"), axis=-1), axis=-1).ravel())


@pytest.mark.parametrize(("function", "m"), SMOOTH)
def test_exact_singular_values_of_operators_are_those_of_a_quadrature(function, m):
    nodes, roots = quadrature(m)
    exact = OPERATORS[function, m]
    found = scipy.linalg.svdvals(roots[:, None] * get_function(function)(nodes, nodes) * roots)
    np.testing.assert_allclose(found[: len(exact)], exact, rtol=0, atol=1e-6 if m > 1 else 1e-13 * exact[0])


@pytest.mark.parametrize(("function", "m"), OPERATORS)
def test_sigma_is_that_of_the_operator_but_for_the_error_of_monte_carlo(function, m):
    """Equal values repel each other, so their mean is looked at."""
    exact = np.array(OPERATORS[function, m])
    deviation = MOMENTS.get(function, 1.0) * exact[0] / math.sqrt(400)
    by_seed = np.array([sigmas(len(exact), function=function, m=m, n=400, seed=seed) for seed in range(5)])
    assert (np.abs(by_seed - exact) <= 3 * deviation).all()
    for value in set(exact.tolist()):
        assert by_seed[:, exact == value].mean() == pytest.approx(value, abs=3 * deviation / math.sqrt(5))


@pytest.mark.parametrize("function", ["gaussian", "cos"])
def test_sigma_of_two_thousand_points_is_near_the_operators(function):
    exact = OPERATORS[function, 1]
    found = sigmas(len(exact), function=function, n=2000)
    np.testing.assert_allclose(found, exact, rtol=0, atol=1.5 / math.sqrt(2000))
    assert (np.diff(found) < 0).all()


def test_parameters_of_a_users_function_reach_it_as_keywords(user_module):
    """exp(c x y): ρ/(1 + ρ²) = c with the factor √(1 + ρ²), bounded for c < 1/2."""
    name = user_module(
        """
        import numpy as np
        def growth(X, Y, *, rate=1.0, shift=0.0):
            assert type(rate) in (int, float)
            return np.exp(rate * X @ Y.T + shift)
        """
    )
    nodes, roots = quadrature(1)
    labels = [f"{{name: '{name}:growth', rate: 0.25}}", f"{{name: '{name}:growth', shift: 1, rate: 0.25}}"]
    text = (
        f"name: t\nexperiment: spectrum\ngrid:\n  - {{function: [{', '.join(labels)}], "
        "sampling: [gaussian-independent], m: [1], n: [500], k: [1, 2, 3], seeds: 4}\n"
    )
    sweep = parse_sweep(text, allow_code=True)
    assert sweep.labels["function"] == (f"{name}:growth(rate=0.25)", f"{name}:growth(rate=0.25,shift=1)")
    exact = math.sqrt(1 + WIDE**2) * WIDE ** np.arange(3)
    weighted = roots[:, None] * np.exp(0.25 * nodes @ nodes.T) * roots
    np.testing.assert_allclose(scipy.linalg.svdvals(weighted)[:3], exact, rtol=1e-12)
    cases = [sweep.case(cell) for cell in np.argwhere(sweep.wanted)]
    found = np.reshape([values(outcome)["sigma"] for outcome in run(cases)], (2, 3, 4))
    np.testing.assert_allclose(found[0].mean(axis=1), exact, rtol=0, atol=0.05)
    np.testing.assert_allclose(found[1], math.e * found[0], rtol=1e-12)


# --- a case's values are its own

MIXED = [
    case(),
    case(k=2),
    case(k=30),
    case(seed=1),
    case(n=31, k=31),
    case(function="gaussian(scale=2)"),
    case(function="white_noise", m=2, k=7),
    case(function="sign", sampling="sphere-symmetric", m=3),
]


@cache
def alone(one: Case) -> dict[str, float]:
    return values(run([one])[0])


@settings(derandomize=True, deadline=None, max_examples=25)
@given(company=st.lists(st.sampled_from(MIXED), min_size=1, max_size=8))
def test_case_gives_the_same_values_alone_and_in_any_company(company):
    for one, outcome in zip(company, run(company), strict=True):
        assert values(outcome) == alone(one)


def test_singular_values_are_computed_once_a_matrix(monkeypatch):
    counted = []

    def singular_values(matrix):
        counted.append(matrix.shape)
        return scipy.linalg.svd(matrix, compute_uv=False)

    monkeypatch.setattr(spectrum, "singular_values", singular_values)
    run([case(n=n, k=k) for n in (10, 12) for k in (1, 2, 3)])
    assert counted == [(10, 10), (12, 12)]


def test_matrices_without_a_spectrum_fail_alone_with_a_reason(user_module):
    name = user_module(
        """
        import numpy as np
        def zero(X, Y):
            return 0 * X @ Y.T
        def undefined(X, Y):
            return np.where(X > 1, np.nan, X @ Y.T)
        """
    )
    outcomes = run([case(), case(function=f"{name}:zero"), case(function=f"{name}:undefined"), case(k=2)])
    assert [outcome.values is None for outcome in outcomes] == [False, True, True, False]
    assert "all entries are zero" in outcomes[1].message
    assert "every entry must be finite" in outcomes[2].message
    assert values(outcomes[3]) == alone(case(k=2))


def test_number_beyond_the_smaller_side_of_a_file_is_refused(tmp_path):
    with pytest.raises(Exception, match=r"n = 5, k = 6 breaks k <= n"):
        of_file(tmp_path, np.ones((5, 40)), [1, 6])


def test_predicted_costs_grow_with_the_size():
    columns = {name: np.array([label] * 4) for name, label in (BASIC | {"k": 1}).items()}
    columns["n"] = np.array([10, 100, 1000, 3000])
    prepared = EXPERIMENT.prepare_cost(columns, EXPERIMENT.settings())
    for each in (prepared.seconds, prepared.memory):
        assert (np.diff(each) > 0).all()
    assert (EXPERIMENT.evaluate_cost(columns, EXPERIMENT.settings()).seconds > 0).all()
    assert np.isinf(EXPERIMENT.spread_cost(columns, EXPERIMENT.settings()).memory).all()
