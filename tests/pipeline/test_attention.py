"""The attention experiment: outputs that are known, what an entrywise error allows, values that are a case's own."""

import math
import re
from functools import cache

import numpy as np
import pytest
import scipy.special

from pipeline import approximate, function_matrix
from pipeline.errors import InputError
from pipeline.experiment import Case, Outcome
from pipeline.experiments import EXPERIMENTS
from pipeline.experiments.attention import attention_of_factors, largest_weight_error, theorem_rank
from pipeline.grid import parse_sweep
from pipeline.passes import LocalPasses
from pipeline.sampling import SAMPLINGS
from pipeline.theory import BUILT_IN_BOUNDS, constants, embedding_rank

EXPERIMENT = EXPERIMENTS["attention"]
QUANTITIES = {quantity.name for quantity in EXPERIMENT.quantities}
METHODS = ("svd", "ap", "minimax", "random_embedding")
UNIT = ("ball-independent", "ball-symmetric", "sphere-independent", "sphere-symmetric")


def labels(**given) -> dict:
    return {"sampling": "ball-independent", "m": 6, "n": 40, "r": 8, "method": "svd", "seed": 0} | given


def case(**given) -> Case:
    chosen = labels(**given)
    return Case(tuple((axis.name, chosen[axis.name]) for axis in EXPERIMENT.axes))


def options(**groups):
    return EXPERIMENT.settings.model_validate({"certificate": {"bound": "tail"}} | groups)


def run(cases: list[Case], chosen=None) -> list[Outcome]:
    return list(EXPERIMENT.run(cases, chosen or options()))


def values(outcome: Outcome) -> dict[str, float]:
    """Everything but the time."""
    assert outcome.values is not None, outcome.message
    assert set(outcome.values) | {"theorem_rank"} == QUANTITIES
    return {name: value for name, value in outcome.values.items() if name != "seconds"}


@cache
def one(**given) -> dict[str, float]:
    return values(run([case(**given)])[0])


def sides(sampling="ball-independent", m=6, n=40, seed=0) -> tuple[np.ndarray, ...]:
    """Q, K and V."""
    return tuple(np.sqrt(m) * SAMPLINGS[sampling].points(side, m, seed, 0, n) for side in range(3))


def exact(sampling="ball-independent", m=6, n=40, seed=0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A, D and the output by the definition, the softmax of SciPy."""
    queries, keys, vectors = sides(sampling, m, n, seed)
    logits = queries @ keys.T / np.sqrt(m)
    return np.exp(logits), np.exp(logits).sum(axis=1), scipy.special.softmax(logits, axis=1) @ vectors


def factors(method, sampling="ball-independent", m=6, n=40, r=8, seed=0) -> tuple[np.ndarray, np.ndarray]:
    found = approximate(function_matrix("attention", sampling, m, n, seed), r, method, seed, bound="tail")
    return found.left, found.right


# --- oracles: the definition, and what follows from an entrywise error


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sampling", ["ball-independent", "sphere-symmetric", "cube-independent"])
def test_values_are_those_of_the_definition(sampling, method):
    """With the approximation formed, and the softmax of SciPy."""
    found = one(sampling=sampling, method=method)
    matrix, sums, output = exact(sampling)
    left, right = factors(method, sampling)
    other = left @ right.T
    other_sums = other.sum(axis=1)
    weights = other / other_sums[:, None]
    errors = np.abs(weights @ sides(sampling)[2] - output)
    assert found["output_error"] == pytest.approx(errors.max() / np.abs(output).max(), rel=1e-9)
    row_errors = np.abs(weights - matrix / sums[:, None]).sum(axis=1)
    assert found["weight_error"] == pytest.approx(row_errors.max(), rel=1e-9)
    assert found["row_sum_error"] == pytest.approx(np.abs(other_sums / sums - 1).max(), rel=1e-9)
    assert found["negative_rows"] == (other_sums < 0).sum()
    assert found["epsilon"] == pytest.approx(np.abs(matrix - other).max() / matrix.max(), rel=1e-9)


@pytest.mark.parametrize("method", ["svd", "minimax"])
def test_full_rank_gives_the_exact_output(method):
    found = one(n=12, r=12, method=method)
    for name in ("output_error", "weight_error", "row_sum_error", "epsilon"):
        assert found[name] < 1e-12
    assert found["negative_rows"] == 0


CLOSE = [
    (sampling, method, r, seed)
    for sampling in UNIT
    for method, r in (("svd", 30), ("ap", 25), ("minimax", 25))
    for seed in (0, 1)
]


@pytest.mark.parametrize(("sampling", "method", "r", "seed"), CLOSE)
def test_entrywise_error_bounds_the_row_sums_the_weights_and_the_output(sampling, method, r, seed):
    """If max|A − Ã| ≤ η, a row sum is off by δ ≤ nη and a row of the weights by at most 2δ/(D − δ), where δ < D."""
    n = 40
    found = one(sampling=sampling, method=method, r=r, seed=seed)
    matrix, sums, output = exact(sampling, seed=seed)
    delta = n * found["epsilon"] * matrix.max()
    assert delta < sums.min()
    assert found["row_sum_error"] <= delta / sums.min() * (1 + 1e-9)
    assert found["weight_error"] <= 2 * delta / (sums.min() - delta) * (1 + 1e-9)
    largest_value = np.abs(sides(sampling, seed=seed)[2]).max()
    assert found["output_error"] * np.abs(output).max() <= found["weight_error"] * largest_value * (1 + 1e-9)
    assert found["negative_rows"] == 0


@pytest.mark.parametrize("method", METHODS)
def test_matrix_and_approximation_are_those_of_the_approximation_experiment(method):
    other = EXPERIMENTS["approximation"]
    for given in (labels(method=method), labels(method=method, sampling="ball-symmetric", m=30, seed=2, r=3)):
        both = given | {"function": "attention"}
        (outcome,) = other.run([Case(tuple((axis.name, both[axis.name]) for axis in other.axes))], options())
        found = one(**given)
        for name, same in {
            "epsilon": "epsilon",
            "lower_bound": "epsilon_bound",
            "max_norm": "max_norm",
            "iterations": "iterations",
        }.items():
            assert found[same] == outcome.values[name]


def test_best_bound_is_at_least_that_of_the_singular_values():
    (tail,), (best,) = run([case()]), run([case()], EXPERIMENT.settings())
    assert 0 < tail.values["epsilon_bound"] <= best.values["epsilon_bound"] <= best.values["epsilon"]


# --- the output of factors


def test_output_does_not_depend_on_the_scale_of_a_row_or_its_sign():
    random = np.random.default_rng(0)
    left, right, vectors = (random.uniform(0.5, 1, shape) for shape in ((7, 3), (9, 3), (9, 2)))
    scales = np.array([1, -1, 2.5, -1e-3, 1e6, 3, 1])[:, None]
    output, sums = attention_of_factors(left, right, vectors)
    scaled, scaled_sums = attention_of_factors(scales * left, right, vectors)
    np.testing.assert_allclose(scaled, output, rtol=1e-13)
    np.testing.assert_allclose(scaled_sums, scales[:, 0] * sums, rtol=1e-13)


def test_equal_weights_average_the_values():
    vectors = np.arange(12.0).reshape(6, 2)
    output, sums = attention_of_factors(np.full((4, 1), 3.0), np.ones((6, 1)), vectors)
    np.testing.assert_allclose(output, np.tile(vectors.mean(axis=0), (4, 1)), rtol=1e-14)
    np.testing.assert_array_equal(sums, 18)


def test_row_that_sums_to_nothing_is_refused():
    left, right = np.array([[1.0], [1.0], [0.0]]), np.array([[1.0], [2.0]])
    with pytest.raises(InputError, match=r"^r: row 2 of the approximation sums to 0, .*; raise r or lower m$"):
        attention_of_factors(left, right, np.ones((2, 1)))


def test_case_with_a_row_that_sums_to_nothing_fails_alone():
    """Entries up to exp(500) leave other rows nothing at rank one."""
    failed, done = run([case(sampling="cube-independent", m=100, r=1), case()])
    assert failed.values is None
    assert failed.message.startswith("InputError: r: row ")
    assert values(done) == one()


def test_rows_that_sum_to_less_than_nothing_are_counted_and_their_values_recorded():
    found = one(method="random_embedding", r=1, m=10)
    assert found["negative_rows"] > 0
    assert found["row_sum_error"] > 1
    assert all(map(math.isfinite, found.values()))


@pytest.mark.parametrize("shape", [(5, 7), (300, 2100), (2200, 30)])
def test_weight_errors_are_those_of_the_formed_weights_whatever_the_tiles(shape):
    random = np.random.default_rng(1)
    matrix = random.uniform(0.1, 1, shape)
    left, right = random.uniform(0.1, 1, (shape[0], 3)), random.uniform(0.1, 1, (shape[1], 3))
    sums, other = matrix.sum(axis=1), left @ right.T
    passes = LocalPasses(matrix)
    found = passes.run(largest_weight_error, [right], [left, sums, other.sum(axis=1)]).largest
    expected = np.abs(matrix / sums[:, None] - other / other.sum(axis=1, keepdims=True)).sum(axis=1).max()
    assert found == pytest.approx(expected, rel=1e-12)


# --- the theorem


@pytest.mark.parametrize(("m", "n", "error"), [(1, 50, 0.3), (4, 1000, 0.01), (30, 10**6, 1.0)])
@pytest.mark.parametrize("sampling", UNIT)
def test_rank_of_the_theorem_promises_the_error(sampling, m, n, error):
    """Theorem 3.8, some t: 1 + (t − 1) ⌈9 log(3n²)/ε²⌉ and e^√m (e^−t + ε(e^√m − 1)), checked at its own t and ε."""
    rank, scale = theorem_rank(sampling, m, n, error), math.exp(math.sqrt(m))
    growth = constants("attention", "Theorem 3.8", m)
    promised = []
    for t in range(math.ceil(math.e**2 * math.sqrt(m)), 200):
        epsilon = (error / scale - math.exp(-t)) / (scale - 1)
        if epsilon > 0 and 1 + (t - 1) * embedding_rank(n, n, epsilon) == rank:
            promised.append(scale * float(BUILT_IN_BOUNDS["Theorem 3.8"].error(epsilon, t, growth)))
    assert promised == [pytest.approx(error, rel=1e-9)]


def test_rank_of_the_theorem_is_left_out_where_it_promises_nothing():
    for sampling in ("gaussian-independent", "cube-symmetric"):
        assert theorem_rank(sampling, 2, 50, 0.1) == math.inf
        assert "theorem_rank" not in one(sampling=sampling, m=2)
    assert theorem_rank("ball-independent", 10**6, 50, 0.1) == math.inf
    assert theorem_rank("ball-independent", 5, 50, 0.0) == math.inf
    assert one(m=2)["theorem_rank"] == theorem_rank(
        "ball-independent", 2, 40, one(m=2)["epsilon"] * one(m=2)["max_norm"]
    )


# --- running


MIXED = [
    labels(),
    labels(r=3),
    labels(method="minimax"),
    labels(method="ap", seed=1),
    labels(method="random_embedding", r=3),
    labels(sampling="ball-symmetric"),
    labels(m=20),
    labels(n=41),
]


@pytest.mark.parametrize("order", [range(8), range(7, -1, -1), (3, 0, 1, 0, 6, 2)])
def test_case_gives_the_same_values_alone_and_in_any_company(order):
    company = [MIXED[i] for i in order]
    for given, outcome in zip(company, run([case(**each) for each in company]), strict=True):
        assert values(outcome) == one(**given)


def test_symmetric_values_are_the_queries():
    queries, keys, vectors = sides("sphere-symmetric")
    np.testing.assert_array_equal(queries, keys)
    np.testing.assert_array_equal(queries, vectors)


def test_points_whose_exponentials_overflow_fail_their_case(recwarn):
    failed, done = run([case(sampling="gaussian-symmetric", m=200), case()])
    assert "entry [0, 0] is inf" in failed.message
    assert values(done) == one()
    assert not list(recwarn)  # the message says it


def test_settings_reach_their_method():
    (few,) = run([case(method="ap")], options(ap={"max_projections": 5, "initial": "svd"}))
    assert few.values["iterations"] == 5
    assert EXPERIMENT.settings_used(labels(method=["ap", "svd"])) == {"ap", "svd", "certificate"}


@pytest.mark.parametrize("method", METHODS)
def test_predicted_costs_grow_and_are_above_those_of_the_approximation_alone(method):
    def costs(experiment=EXPERIMENT, **given) -> np.ndarray:
        chosen = labels(method=method) | given | {"function": "attention"}
        columns = dict(zip(chosen, map(np.ravel, np.broadcast_arrays(*map(np.array, chosen.values()))), strict=True))
        found = [cost(columns, options()) for cost in (experiment.prepare_cost, experiment.evaluate_cost)]
        return np.array([each for cost in found for each in (cost.seconds, cost.memory)])

    by_size = costs(n=[20, 100, 1000, 50_000])
    assert np.isfinite(by_size).all()
    assert (by_size > 0).all()
    assert (np.diff(by_size) > 0).all()
    assert (np.diff(costs(m=[1, 10, 1000])[:2]) > 0).all()
    assert (costs(n=500) > costs(EXPERIMENTS["approximation"], n=500)).all()
    assert np.isinf(EXPERIMENT.spread_cost({"n": np.array([10, 20])}, options()).memory).all()


# --- specifications

SPEC = """
name: heads
experiment: attention
grid:
  - {sampling: [ball-independent], m: [4], n: [20], r: [2, 5], method: [svd, minimax], seeds: 2%s}
"""


def test_specification_is_read():
    sweep = parse_sweep(SPEC % "")
    assert int(sweep.wanted.sum()) == 8
    assert list(sweep.labels) == ["sampling", "m", "n", "r", "method", "seed"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ((SPEC % "").replace("[2, 5]", "[2, 21]"), "r = 21 breaks r <= n; lower r"),
        (
            re.sub(r"sampling: \[[^]]*", "sampling: [gaussian-independent", SPEC % ""),
            "norm sqrt(m) at most; use one of ball-",
        ),
        (SPEC % ", function: [attention]", "function: is not a known key"),
        ((SPEC % "").replace("svd", "qr"), "method: 'qr' is not known"),
        ((SPEC % "") + "settings: {files: {}}", "settings.files: is not a known key"),
    ],
)
def test_specification_that_does_not_fit_is_refused(text, message):
    with pytest.raises(InputError) as refused:
        parse_sweep(text)
    assert message in str(refused.value)
