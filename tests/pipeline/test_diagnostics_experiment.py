"""The diagnostics experiment: subspaces that are shared or not, non-negative ranks, values that are a case's own."""

import importlib
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from pipeline import function_matrix
from pipeline.arrays import FloatArray
from pipeline.diagnostics import leading_subspace_angles, mean_sine, nonnegative_error, singular_value_gap
from pipeline.errors import InputError
from pipeline.experiment import Case, Outcome
from pipeline.experiments import EXPERIMENTS
from pipeline.functions import BUILT_IN
from pipeline.grid import parse_sweep
from pipeline.sampling import SAMPLINGS

EXPERIMENT = EXPERIMENTS["diagnostics"]
REQUIRED = {quantity.name for quantity in EXPERIMENT.quantities if not quantity.optional}
NONNEGATIVE = {"nonnegative_epsilon", "nonnegative_frobenius", "nonnegative_iterations"}


def labels(**given) -> dict:
    return {"function": "gaussian", "sampling": "ball-independent", "m": 4, "n": 50, "r": 5, "seed": 0} | given


def case(**given) -> Case:
    chosen = labels(**given)
    return Case(tuple((axis.name, chosen[axis.name]) for axis in EXPERIMENT.axes))


def run(cases: list[Case], **nonnegative) -> list[Outcome]:
    return list(EXPERIMENT.run(cases, EXPERIMENT.settings.model_validate({"nonnegative": nonnegative})))


def values(outcome: Outcome) -> dict[str, float]:
    """Everything but the time."""
    assert outcome.values is not None, outcome.message
    assert set(outcome.values) - NONNEGATIVE == REQUIRED
    return {name: value for name, value in outcome.values.items() if name != "seconds"}


@cache
def one(**given) -> dict[str, float]:
    return values(run([case(**given)])[0])


def draws(function, sampling="ball-independent", m=4, n=50, seed=0) -> list[FloatArray]:
    """F(X, Y₁) and F(X, Y₂)."""
    rows, *columns = (SAMPLINGS[sampling].points(side, m, seed, 0, n) for side in range(3))
    return [BUILT_IN[function](rows, each) for each in columns]


# --- oracles: spaces that are known

IDENTIFIED = ["ball-independent", "sphere-independent", "gaussian-independent", "cube-independent"]


@pytest.mark.parametrize("sampling", IDENTIFIED)
def test_inner_products_identify_the_space_of_the_points(sampling):
    """X Y₁ᵀ and X Y₂ᵀ have the column space of X; in its m dimensions nothing is left to approximate."""
    found = one(function="inner_product", sampling=sampling, m=4, r=4)
    assert found["angle"] < 1e-12
    assert found["mean_sine"] < 1e-12
    assert found["relative_gap"] == pytest.approx(1, abs=1e-12)
    assert max(found["svd_epsilon"], found["svd_frobenius"]) < 1e-12


def test_noise_identifies_nothing():
    """Independent spaces of dimension r in R^n: the mean squared cosine is r/n, so the mean sine is near √(1 − r/n)."""
    found = one(function="white_noise", n=400, r=8)
    assert found["angle"] > 1.3
    assert found["mean_sine"] == pytest.approx(math.sqrt(1 - 8 / 400), abs=0.01)
    assert found["relative_gap"] < 0.1


def test_few_dimensions_identify_more_than_many():
    few, many = (one(function="exponential", m=m, n=150)["mean_sine"] for m in (2, 300))
    assert few < 0.2 < 0.6 < many


def test_angles_are_within_wedins_bound(user_module):
    """F(X, Y₂) = F(X, Y₁) + E: sin θ ≤ ‖E‖/(σ_r(F₂) − σ_{r+1}(F₁))."""
    name = user_module("def leading(X, Y):\n    return 10 + X[:, :1] + 0.1 * X @ Y.T\n")
    found = one(function=f"{name}:leading", r=1)
    rows, *columns = (SAMPLINGS["ball-independent"].points(side, 4, 0, 0, 50) for side in range(3))
    first, second = (10 + rows[:, :1] + 0.1 * rows @ each.T for each in columns)
    gap = np.linalg.svd(second)[1][0] - np.linalg.svd(first)[1][1]
    bound = np.linalg.norm(first - second, 2) / gap
    assert 0.01 * bound < math.sin(found["angle"]) <= bound < 0.01


def test_matrix_of_non_negative_rank_one_loses_nothing_to_signs(user_module):
    name = user_module("import numpy as np\ndef outer(X, Y):\n    return np.outer(1 + X[:, 0] ** 2, np.exp(Y[:, 0]))\n")
    found = one(function=f"{name}:outer", r=1)
    assert max(found[name] for name in ("nonnegative_epsilon", "nonnegative_frobenius", "svd_frobenius")) < 1e-12
    assert found["angle"] < 1e-12


@pytest.mark.parametrize("r", [1, 3, 8])
@pytest.mark.parametrize("function", ["gaussian", "exponential", "attention", "step"])
def test_non_negative_factors_are_no_better_than_the_truncated_svd(function, r):
    """Eckart and Young; at rank one they are as good (Perron and Frobenius)."""
    found = one(function=function, r=r)
    assert found["nonnegative_frobenius"] >= found["svd_frobenius"] * (1 - 1e-9)
    if r == 1:
        assert found["nonnegative_frobenius"] == pytest.approx(found["svd_frobenius"], rel=1e-3)


@pytest.mark.parametrize("function", ["inner_product", "white_noise", "sign"])
def test_non_negative_factors_are_left_out_where_an_entry_is_negative(function):
    assert not NONNEGATIVE & set(one(function=function))


# --- the front door


@pytest.mark.parametrize(("sampling", "m", "seed"), [("ball-independent", 4, 0), ("cube-independent", 2, 3)])
@pytest.mark.parametrize("function", ["gaussian", "tanh", "block_graphon"])
def test_values_are_those_of_the_library(function, sampling, m, seed):
    first, second = draws(function, sampling, m, 50, seed)
    np.testing.assert_allclose(first, function_matrix(function, sampling, m, 50, seed).to_numpy(), rtol=1e-12)
    r = 3 if function == "block_graphon" else 5
    angles = leading_subspace_angles(first, second, r)
    gap = singular_value_gap(np.linalg.svd(first)[1], r)
    expected = {
        "angle": angles[-1],
        "mean_sine": mean_sine(angles),
        "gap": gap.absolute,
        "relative_gap": gap.relative,
        "compression": 50 / (2 * r),
        "svd_epsilon": None,
        "svd_frobenius": None,
    }
    factored = nonnegative_error(np.abs(first), r, seed)
    if first.min() >= 0:
        expected |= {"svd_epsilon": factored.svd_epsilon, "svd_frobenius": factored.svd_frobenius_error}
        expected |= {"nonnegative_epsilon": factored.epsilon, "nonnegative_frobenius": factored.frobenius_error}
        expected["nonnegative_iterations"] = factored.iterations
    found = one(function=function, sampling=sampling, m=m, seed=seed, r=r)
    assert set(found) == set(expected)
    for name, value in expected.items():
        if value is not None:
            assert found[name] == pytest.approx(value, rel=1e-6, abs=1e-12), name


def test_errors_of_the_truncated_svd_are_those_of_the_approximation_experiment():
    other = EXPERIMENTS["approximation"]
    both = labels(function="sin", r=3) | {"method": "svd"}
    (outcome,) = other.run(
        [Case(tuple((axis.name, both[axis.name]) for axis in other.axes))],
        other.settings.model_validate({"certificate": {"bound": "tail"}}),
    )
    assert one(function="sin", r=3)["svd_epsilon"] == pytest.approx(outcome.values["epsilon"], rel=1e-12)


# --- running

MIXED = [
    labels(),
    labels(r=2),
    labels(function="inner_product"),
    labels(seed=1),
    labels(m=30),
    labels(n=33),
    labels(sampling="cube-independent", function="minimum_graphon"),
]


@pytest.mark.parametrize("order", [range(7), range(6, -1, -1), (3, 0, 1, 0, 6, 2)])
def test_case_gives_the_same_values_alone_and_in_any_company(order):
    company = [MIXED[i] for i in order]
    for given, outcome in zip(company, run([case(**each) for each in company]), strict=True):
        assert values(outcome) == one(**given)


def test_iterations_of_non_negative_factors_are_as_set():
    (few,), (many,) = (run([case(r=8)], max_iter=count, tol=1e-12) for count in (1, 300))
    assert few.values["nonnegative_frobenius"] > 1.02 * many.values["nonnegative_frobenius"]
    assert few.values["angle"] == many.values["angle"]


@pytest.mark.parametrize("wrong", [{"max_iter": 0}, {"max_iter": 2.5}, {"tol": 0.0}, {"tol": 1.0}, {"iterations": 3}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        EXPERIMENT.settings.model_validate({"nonnegative": wrong})


def test_a_second_draw_without_entries_fails_its_group_alone(user_module):
    name = user_module(
        """
        calls = []
        def second(X, Y):
            calls.append(1)
            return X @ Y.T * (len(calls) < 2)
        """
    )
    failed, done = run([case(function=f"{name}:second"), case()])
    assert "all entries are zero" in failed.message
    assert values(done) == one()


def test_matrices_are_made_once_for_neighbours_that_share_them(user_module):
    name = user_module(
        """
        import numpy as np
        from pathlib import Path
        def counted(X, Y):
            with Path(__file__).with_suffix(".log").open("a") as log:
                log.write("x")
            return np.exp(X @ Y.T)
        """
    )
    run([case(function=f"{name}:counted", r=r) for r in (1, 2, 3)])
    assert Path(importlib.import_module(name).__file__).with_suffix(".log").read_text() == "xx"


def test_predicted_costs_grow_with_what_makes_work():
    def costs(max_iter=200, **given) -> np.ndarray:
        chosen = labels(**given)
        columns = dict(zip(chosen, map(np.ravel, np.broadcast_arrays(*map(np.array, chosen.values()))), strict=True))
        settings = EXPERIMENT.settings.model_validate({"nonnegative": {"max_iter": max_iter}})
        found = [cost(columns, settings) for cost in (EXPERIMENT.prepare_cost, EXPERIMENT.evaluate_cost)]
        return np.array([each for cost in found for each in (cost.seconds, cost.memory)])

    by_size = costs(n=[20, 100, 1000, 50_000])
    assert np.isfinite(by_size).all()
    assert (by_size > 0).all()
    assert (np.diff(by_size) > 0).all()
    assert (np.diff(costs(m=[1, 10, 1000])[:2]) > 0).all()
    assert (np.diff(costs(r=[1, 10, 40])[2:]) > 0).all()
    assert costs(400)[2] > 1.5 * costs(200)[2]
    assert np.isinf(EXPERIMENT.spread_cost({"n": np.array([10, 20])}, None).memory).all()


# --- specifications

SPEC = """
name: angles
experiment: diagnostics
settings: {nonnegative: {max_iter: 50}}
grid:
  - {function: [gaussian], sampling: [ball-independent], m: [4], n: [20], r: [2, 5], seeds: 2}
"""


def test_specification_is_read():
    sweep = parse_sweep(SPEC)
    assert int(sweep.wanted.sum()) == 4
    assert list(sweep.labels) == ["function", "sampling", "m", "n", "r", "seed"]
    assert sweep.used_settings == {"nonnegative": {"max_iter": 50, "tol": 1e-4}}


REMEDY = "use an independent sampling, such as ball-independent, and functions rather than files"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ball-independent", "ball-symmetric", f"sampling = ball-symmetric breaks the rule that .* twice .*; {REMEDY}"),
        ("gaussian", "sinh_product", "function = sinh_product breaks the rule that this experiment is for matrices"),
        ("[2, 5]", "[2, 20]", "r = 20, n = 20|n = 20, r = 20 breaks r < n; lower r"),
        ("seeds: 2", "seeds: 2, method: [svd]", "method: is not a known key"),
        ("max_iter: 50", "max_iter: 0", r"settings\.nonnegative\.max_iter: 0 will not do"),
    ],
)
def test_specification_that_does_not_fit_is_refused(old, new, message):
    with pytest.raises(InputError, match=message):
        parse_sweep(SPEC.replace(old, new))


def test_file_is_refused_for_want_of_a_second_draw(tmp_path):
    np.save(tmp_path / "data.npy", np.eye(20))
    text = SPEC.replace("[gaussian], sampling: [ball-independent], m: [4], n: [20]", "{file: data.npy}")
    with pytest.raises(InputError, match=f"function = data.npy, sampling = given breaks .*; {REMEDY}"):
        parse_sweep(text, folder=tmp_path)
