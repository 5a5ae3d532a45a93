"""Ranks at which a tolerance is met: the first truncation, methods between it and the certified bound."""

import dataclasses
import math
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import approximate, function_matrix
from pipeline.certificates import lower_bound
from pipeline.experiment import Case, Outcome
from pipeline.experiments import EXPERIMENTS, epsilon_rank
from pipeline.grid import parse_sweep
from pipeline.svd import lapack_svd, truncation_errors

EXPERIMENT = EXPERIMENTS["epsilon_rank"]
QUANTITIES = {quantity.name for quantity in EXPERIMENT.quantities}
METHODS = ("svd", "ap", "minimax")
BASIC = {"function": "gaussian", "sampling": "ball-independent", "m": 3, "n": 30, "tolerance": 0.01, "seed": 0}


def case(**labels: object) -> Case:
    chosen = BASIC | {"method": "svd"} | labels
    return Case(tuple((axis.name, chosen[axis.name]) for axis in EXPERIMENT.axes))


def options(bound: str = "tail", **groups: dict[str, object]):
    """Settings with the cheap lower bound and a short search unless told otherwise."""
    short = {"certificate": {"bound": bound}, "minimax": {"budget": "quick"}}
    return EXPERIMENT.settings.model_validate(short | groups)


def run(cases: list[Case], chosen=None) -> list[Outcome]:
    outcomes = list(EXPERIMENT.run(cases, chosen or options()))
    assert len(outcomes) == len(cases)
    return outcomes


def values(outcome: Outcome) -> dict[str, float]:
    """Everything but the time, which is nobody's own."""
    assert outcome.values is not None, outcome.message
    assert set(outcome.values) == QUANTITIES
    return {name: value for name, value in outcome.values.items() if name != "seconds"}


def of_file(folder: Path, matrix: np.ndarray, tolerances, methods=METHODS, seed: int = 0, **groups: str) -> dict:
    """Outcomes by tolerance and method for a matrix in a file, with the best lower bound unless told otherwise."""
    np.save(folder / "data.npy", matrix)
    listed = [float(tolerance) for tolerance in tolerances]
    grid = f"{{function: {{file: data.npy}}, tolerance: {listed}, method: [{', '.join(methods)}], seeds: [{seed}]}}"
    chosen = "".join(f"  {name}: {group}\n" for name, group in groups.items()) or "  {}\n"
    text = f"name: t\nexperiment: epsilon_rank\nsettings:\n{chosen}grid:\n  - {grid}\n"
    sweep = parse_sweep(text, folder=folder)
    cases = [sweep.case(cell) for cell in np.argwhere(sweep.wanted)]
    return {
        (each["tolerance"], each["method"]): outcome
        for each, outcome in zip(cases, run(cases, sweep.settings), strict=True)
    }


def errors_of_truncations(matrix: np.ndarray) -> list[float]:
    """max |F − [F]_r| for every r, by LAPACK's other driver."""
    u, s, vt = scipy.linalg.svd(matrix, full_matrices=False, lapack_driver="gesvd")
    return [float(np.abs(matrix - (u[:, :r] * s[:r]) @ vt[:r]).max()) for r in range(len(s) + 1)]


def first(holds) -> int:
    """Position of the first that holds."""
    return next(position for position, each in enumerate(holds) if each)


MATRICES = {
    "smooth": {"function": "gaussian", "sampling": "ball-independent", "m": 3, "n": 40},
    "rough": {"function": "exponential", "sampling": "sphere-independent", "m": 10, "n": 50},
    "symmetric": {"function": "quartic_gaussian", "sampling": "ball-symmetric", "m": 30, "n": 40, "seed": 2},
    "unbounded": {"function": "attention", "sampling": "sphere-independent", "m": 20, "n": 40},
    "noise": {"function": "white_noise", "sampling": "gaussian-independent", "m": 2, "n": 35},
    "of few values": {"function": "sign", "sampling": "gaussian-independent", "m": 2, "n": 40},
}
SHARES = (2.0, 0.9, 0.5, 0.21, 0.07, 0.013, 1.7e-3, 3e-5, 1e-9)


@cache
def matrix_of(name: str) -> np.ndarray:
    labels = BASIC | MATRICES[name]
    return function_matrix(*(labels[axis] for axis in ("function", "sampling", "m", "n", "seed"))).to_numpy()


# --- oracles: every rank in turn


@pytest.mark.parametrize("scale", ["absolute", "relative"])
@pytest.mark.parametrize("name", MATRICES)
def test_rank_by_svd_is_the_first_truncation_that_meets_the_tolerance(name, scale):
    matrix = matrix_of(name)
    norm, errors = np.abs(matrix).max(), errors_of_truncations(matrix)
    unit = norm if scale == "relative" else 1.0
    outcomes = run(
        [case(**MATRICES[name], tolerance=norm * share / unit) for share in SHARES], options(tolerance={"scale": scale})
    )
    for share, outcome in zip(SHARES, outcomes, strict=True):
        found = values(outcome)
        assert found["rank"] == first(error <= share * norm for error in errors)
        assert found["error"] == pytest.approx(errors[int(found["rank"])], abs=1e-12 * norm)
        assert found["max_norm"] == norm
        assert found["iterations"] == 0


@pytest.mark.parametrize("method", ["ap", "minimax"])
@pytest.mark.parametrize("name", MATRICES)
def test_rank_of_a_search_is_met_by_its_factors_and_the_rank_below_is_not(name, method):
    matrix, shares = matrix_of(name), (0.6, 0.21, 0.03)
    norm = np.abs(matrix).max()
    budget = {"budget": "quick"} if method == "minimax" else {}
    seed = MATRICES[name].get("seed", 0)

    @cache
    def found_by(way: str, rank: int) -> float:
        return approximate(matrix, rank, way, seed, bound="tail", **(budget if way == method else {})).max_error

    cases = [
        case(**MATRICES[name], tolerance=share * norm, method=each) for share in shares for each in ("svd", method)
    ]
    outcomes = [values(outcome) for outcome in run(cases)]
    for share, direct, searched in zip(shares, outcomes[::2], outcomes[1::2], strict=True):
        rank, lower = int(searched["rank"]), searched["lower_bound"]
        assert lower == direct["lower_bound"] <= rank <= direct["rank"]
        assert searched["error"] <= share * norm
        assert searched["error"] in [found_by(way, rank) for way in ("svd", method)]
        assert rank == lower or found_by(method, rank - 1) > share * norm


@pytest.mark.parametrize("name", MATRICES)
def test_cheap_lower_bound_is_the_first_rank_with_a_small_enough_tail(name):
    matrix = matrix_of(name)
    norm, squares = np.abs(matrix).max(), scipy.linalg.svdvals(matrix) ** 2
    tails = [norm] + [math.sqrt(squares[r:].sum() / matrix.size) for r in range(1, len(matrix) + 1)]
    for share, outcome in zip(
        SHARES, run([case(**MATRICES[name], tolerance=share * norm) for share in SHARES]), strict=True
    ):
        assert values(outcome)["lower_bound"] == first(tail <= share * norm for tail in tails)


@pytest.mark.parametrize("name", MATRICES)
def test_no_smaller_rank_than_the_best_lower_bound_can_meet_the_tolerance(name):
    matrix, shares = matrix_of(name), (2.0, 0.6, 0.21, 0.03, 1e-5)
    norm = np.abs(matrix).max()
    cases = [case(**MATRICES[name], tolerance=share * norm) for share in shares]
    cheap = [values(outcome)["lower_bound"] for outcome in run(cases)]
    best = [int(values(outcome)["lower_bound"]) for outcome in run(cases, options("best"))]
    for share, least, lower in zip(shares, cheap, best, strict=True):
        assert lower >= least
        assert (lower == 0) is (share >= 1)
        if lower > 1:
            assert lower_bound(matrix, lower - 1) > share * norm


# --- exact optima: the identity where an equiangular tight frame exists


@pytest.mark.parametrize(("n", "r", "seed"), [(6, 3, 0), (10, 5, 0), (16, 6, 1)])
def test_ranks_of_the_identity_bracket_the_known_optimum(tmp_path, n, r, seed):
    """The best error of rank r is w/(1 + w) by Welch's bound, which the frame attains; some starts lead there."""
    w = math.sqrt((n - r) / (r * (n - 1)))
    best = w / (1 + w)
    within, above, below = best * (1 + 2e-3), best * (1 + 1e-9), best * (1 - 1e-9)
    relative = {"tolerance": "{scale: relative}"}
    found = of_file(tmp_path, 2.5 * np.eye(n), (within, above, below), ("svd", "minimax"), seed, **relative)
    ranks = {key: (values(outcome)["lower_bound"], values(outcome)["rank"]) for key, outcome in found.items()}
    assert ranks[within, "minimax"] == (r, r)
    assert ranks[above, "minimax"][0] == r
    assert ranks[above, "minimax"][1] in (r, r + 1)
    assert ranks[below, "minimax"] == (r + 1, r + 1)
    assert {ranks[tolerance, "svd"][1] for tolerance in (within, above, below)} == {n}


def test_rank_of_a_rank_deficient_matrix_is_found_by_every_method(tmp_path):
    random = np.random.default_rng(1)
    matrix = random.uniform(-1, 1, (50, 4)) @ random.uniform(-1, 1, (4, 70))
    found = of_file(tmp_path, matrix, [1e-9, 1e-6])
    for outcome in found.values():
        assert (values(outcome)["rank"], values(outcome)["lower_bound"]) == (4, 4)
        assert values(outcome)["error"] <= 1e-12


@pytest.mark.parametrize("shape", [(20, 60), (60, 20), (1, 30), (30, 1)])
def test_wide_and_tall_matrices_in_files_have_the_ranks_of_their_transposes(tmp_path, shape):
    matrix = np.random.default_rng(shape).standard_normal((min(shape), max(shape)))
    matrix = matrix if shape[0] < shape[1] else matrix.T
    norm, errors = np.abs(matrix).max(), errors_of_truncations(matrix)
    tolerances = [2 * norm, 0.3 * norm, 1e-3 * norm]
    for (tolerance, method), outcome in of_file(tmp_path, matrix, tolerances).items():
        found, by_svd = values(outcome), first(error <= tolerance for error in errors)
        assert found["error"] <= tolerance
        assert found["lower_bound"] <= found["rank"] <= by_svd <= min(shape)
        if method == "svd":
            assert found["rank"] == by_svd


# --- both ends


@pytest.mark.parametrize("method", METHODS)
def test_zero_meets_the_largest_entry_and_nothing_less(method):
    norm = np.abs(matrix_of("unbounded")).max()
    zero, more = run([case(**MATRICES["unbounded"], tolerance=t, method=method) for t in (norm, np.nextafter(norm, 0))])
    expected = {"rank": 0, "lower_bound": 0, "error": norm, "max_norm": norm, "iterations": 0}
    assert values(zero) == expected
    assert values(more)["rank"] > 0
    assert values(more)["lower_bound"] == 1
    relative = options(tolerance={"scale": "relative"})
    assert values(run([case(**MATRICES["unbounded"], tolerance=1.0, method=method)], relative)[0]) == expected


def test_tolerance_below_rounding_fails_alone_and_says_what_can_be_met():
    tolerances = (1e-300, 0.1, 1e-17, 1e-3)
    cases = [case(tolerance=tolerance, method=method) for tolerance in tolerances for method in ("svd", "minimax")]
    outcomes = run(cases)
    assert [outcome.values is None for outcome in outcomes] == [True, True, False, False] * 2
    for each, outcome in zip(cases, outcomes, strict=True):
        if outcome.values is None:
            told = f"InputError: tolerance: {each['tolerance']:.3g} is below the rounding of the SVD ("
            assert outcome.message.startswith(told)
            assert outcome.message.endswith("); raise it")
        else:
            assert values(outcome) == values(run([each])[0])


LINE = np.linspace(0, 1, 200)
NUMERICALLY_LOW_RANK = {
    **{f"hilbert {n}": 1 / (1 + np.add.outer(np.arange(n), np.arange(n))) for n in (60, 100, 150, 300)},
    "rank five": np.random.default_rng(0).standard_normal((200, 5))
    @ np.random.default_rng(1).standard_normal((5, 200)),
    "cosines": np.cos(np.outer(LINE, LINE)),
}


@pytest.mark.parametrize("name", NUMERICALLY_LOW_RANK)
def test_tolerance_near_rounding_is_met_or_refused_with_a_larger_number_after_few_truncations(
    name, tmp_path, monkeypatch
):
    """There μ_r and the errors of the factors, which sum the same terms in another order, differ."""
    counted = []
    plain = epsilon_rank.max_error

    def max_error(*arguments):
        counted.append(arguments)
        return plain(*arguments)

    monkeypatch.setattr(epsilon_rank, "max_error", max_error)
    matrix = NUMERICALLY_LOW_RANK[name]
    errors = truncation_errors(matrix, lapack_svd(matrix))
    levels = np.unique(np.r_[np.geomspace(errors.min() / 2, 4 * errors[-1], 60), errors[errors < 8 * errors.min()]])
    found = of_file(tmp_path, matrix, levels, ("svd",), certificate="{bound: tail}")
    assert len(counted) <= 15
    assert {outcome.values is None for outcome in found.values()} == {True, False}
    for (tolerance, _), outcome in found.items():
        if outcome.values is None:
            assert float(outcome.message.split("(")[1].split(")")[0]) >= float(f"{tolerance:.3g}")
        else:
            assert outcome.values["error"] <= tolerance


def test_function_without_entries_other_than_zero_fails_with_a_reason(user_module):
    name = user_module("def zero(X, Y):\n    return 0 * X @ Y.T\n")
    bad, good = run([case(function=f"{name}:zero"), case()])
    assert "all entries are zero" in bad.message
    assert good.values is not None


# --- a case's values are its own

MIXED = [
    case(),
    case(tolerance=0.1),
    case(tolerance=0.1, method="minimax"),
    case(tolerance=0.04, method="minimax"),
    case(method="minimax"),
    case(method="ap"),
    case(tolerance=0.04, method="ap"),
    case(tolerance=3.0, method="ap"),
    case(seed=1, method="ap"),
    case(seed=1, method="minimax"),
    case(function="exponential", sampling="ball-symmetric", tolerance=0.2, method="minimax"),
    case(function="gaussian(scale=0.5)", tolerance=0.2),
]


@cache
def alone(one: Case, bound: str) -> dict[str, float]:
    return values(run([one], options(bound))[0])


@settings(derandomize=True, deadline=None, max_examples=25)
@given(company=st.lists(st.sampled_from(MIXED), min_size=1, max_size=8), bound=st.sampled_from(["tail", "best"]))
def test_case_gives_the_same_values_alone_and_in_any_company(company, bound):
    for one, outcome in zip(company, run(company, options(bound)), strict=True):
        assert values(outcome) == alone(one, bound)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MATRICES)
def test_rank_does_not_grow_with_the_tolerance(name, method):
    norm = np.abs(matrix_of(name)).max()
    tolerances = norm * np.geomspace(0.02, 1.1, 8 if method == "svd" else 5)
    found = [
        values(outcome) for outcome in run([case(**MATRICES[name], tolerance=t, method=method) for t in tolerances])
    ]
    for quantity in ("rank", "lower_bound"):
        assert all(loose[quantity] <= tight[quantity] for tight, loose in pairwise(found))
    assert found[-1]["rank"] == 0 < found[0]["rank"]


def test_curve_of_truncations_is_computed_once_a_matrix(monkeypatch):
    counted = []
    plain = epsilon_rank.truncation_errors

    def truncation_errors(*arguments):
        counted.append(arguments)
        return plain(*arguments)

    monkeypatch.setattr(epsilon_rank, "truncation_errors", truncation_errors)
    run([case(tolerance=t, method=method, seed=s) for s in (0, 1) for t in (0.1, 0.01) for method in ("svd", "ap")])
    assert len(counted) == 2


def test_settings_reach_their_method():
    few = options(ap={"max_projections": 5, "initial": "svd"})
    one = case(**MATRICES["rough"], tolerance=0.3, method="ap")
    assert values(run([one], few)[0])["iterations"] in range(5, 26, 5)
    assert values(run([one])[0])["iterations"] > 25
    quick, whole = (
        values(
            run([case(**MATRICES["rough"], tolerance=0.3, method="minimax")], options(minimax={"budget": budget}))[0]
        )
        for budget in ("quick", "default")
    )
    assert quick["iterations"] < whole["iterations"]


def test_time_counts_a_share_of_the_preparation(monkeypatch):
    slow = dataclasses.replace(EXPERIMENT, evaluate=lambda *_: dict.fromkeys(QUANTITIES - {"seconds"}, 1.0))
    assert all(outcome.values["seconds"] > 0 for outcome in slow.run([case(), case(tolerance=0.1)], options()))


# --- predicted costs


def costs(chosen=None, **labels: object) -> tuple[np.ndarray, ...]:
    """Seconds and bytes of the preparation, then of the evaluation, of cases whose labels are broadcast."""
    arrays = np.broadcast_arrays(*map(np.array, (BASIC | {"method": "minimax"} | labels).values()))
    columns = {name: np.ravel(each) for name, each in zip(BASIC | {"method": ""} | labels, arrays, strict=True)}
    chosen = chosen or EXPERIMENT.settings()
    found = EXPERIMENT.prepare_cost(columns, chosen), EXPERIMENT.evaluate_cost(columns, chosen)
    return tuple(each for cost in found for each in (cost.seconds, cost.memory))


@pytest.mark.parametrize("method", METHODS)
def test_predicted_costs_grow_with_the_size(method):
    for by_size in costs(n=[10, 100, 1000, 3000], method=method):
        assert np.isfinite(by_size).all()
        assert (np.diff(by_size) > 0).all()


def test_predicted_time_of_searches_is_above_that_of_truncations_and_grows_with_the_settings():
    svd, ap, minimax = (costs(n=500, method=method)[2][0] for method in METHODS)
    assert svd < min(ap, minimax)
    assert costs(options("tail"), n=500)[2][0] < costs(options("best"), n=500)[2][0]
    by_budget = [costs(options(minimax={"budget": budget}), n=500)[2][0] for budget in ("quick", "default", "thorough")]
    assert by_budget == sorted(set(by_budget))


def test_a_case_is_never_spread():
    columns = {name: np.array([label]) for name, label in (BASIC | {"method": "svd"}).items()}
    assert np.isinf(EXPERIMENT.spread_cost(columns, options()).memory).all()
