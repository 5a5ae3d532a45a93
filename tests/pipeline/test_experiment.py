"""Running cases: a case's values are its own, and so is its failure."""

import dataclasses
import importlib
import signal
import sys
import warnings
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import (
    approximate,
    approximate_tensor,
    approximation,
    function_matrix,
    function_tensor,
    lower_bound,
    tensor_approximation,
)
from pipeline.certificates import certified_bound
from pipeline.experiment import Case, Outcome, Quantity
from pipeline.experiments import EXPERIMENTS
from pipeline.experiments.generated import matrix_experiment

EXPERIMENT = EXPERIMENTS["approximation"]
QUANTITIES = {quantity.name for quantity in EXPERIMENT.quantities if not quantity.optional}
OPTIONAL = {quantity.name for quantity in EXPERIMENT.quantities if quantity.optional}


def case(**labels: object) -> Case:
    given_labels = {
        "function": "gaussian",
        "sampling": "ball-independent",
        "m": 3,
        "n": 30,
        "r": 4,
        "method": "svd",
        "seed": 0,
        **labels,
    }
    return Case(tuple((axis.name, given_labels[axis.name]) for axis in EXPERIMENT.axes))


def options(**groups: dict[str, object]):
    """Settings with the cheap lower bound unless told otherwise."""
    return EXPERIMENT.settings.model_validate({"certificate": {"bound": "tail"}} | groups)


def run(cases: list[Case], chosen=None) -> list[Outcome]:
    outcomes = list(EXPERIMENT.run(cases, chosen or options()))
    assert len(outcomes) == len(cases)
    return outcomes


def values(outcome: Outcome) -> dict[str, float]:
    """Everything but the time, which is nobody's own."""
    assert outcome.values is not None, outcome.message
    assert set(outcome.values) - OPTIONAL == QUANTITIES
    return {name: value for name, value in outcome.values.items() if name != "seconds"}


# --- oracle: the case alone

MIXED = [
    case(),
    case(r=2),
    case(r=2, method="ap"),
    case(method="ap"),
    case(seed=1, method="ap"),
    case(sampling="ball-symmetric"),
    case(sampling="ball-symmetric", function="exponential", method="ap"),
    case(m=40),
    case(n=31),
    case(function="attention", m=20, r=7),
    case(method="minimax"),
    case(r=2, method="minimax"),
    case(sampling="ball-symmetric", method="minimax", seed=1),
    case(method="random_embedding"),
    case(r=2, method="random_embedding"),
    case(function="sinh_product", n=12),
    case(function="sinh_product", n=12, r=2, method="ap"),
    case(function="sinh_product", n=12, method="minimax"),
    case(function="sinh_product", n=12, sampling="ball-symmetric", method="minimax", seed=1),
    case(function="tensor_attention", n=9, m=20, method="ap", seed=1),
    case(function="tensor_attention", n=9, m=20, method="minimax", seed=1),
]
LARGE = [case(n=200, m=50, r=r, seed=seed) for r in (3, 10, 64, 65, 100, 150) for seed in (0, 1)]
RANDOMIZED = {"svd": {"driver": "randomized", "dense_limit": 50}}


@cache
def alone(one: Case, randomized: bool) -> dict[str, float]:
    return values(run([one], options(**RANDOMIZED) if randomized else options())[0])


@settings(derandomize=True, deadline=None, max_examples=25)
@given(company=st.lists(st.sampled_from(MIXED), min_size=1, max_size=8))
def test_case_gives_the_same_values_alone_and_in_any_company(company):
    for one, outcome in zip(company, run(company), strict=True):
        assert values(outcome) == alone(one, randomized=False)


@settings(derandomize=True, deadline=None, max_examples=25)
@given(company=st.lists(st.sampled_from(LARGE), min_size=1, max_size=8))
def test_case_gives_the_same_values_in_any_company_where_decompositions_are_randomized(company):
    for one, outcome in zip(company, run(company, options(**RANDOMIZED)), strict=True):
        assert values(outcome) == alone(one, randomized=True)


@pytest.mark.parametrize("settings", [{}, {"minimax": {"warm_start": "rank"}}, {"minimax": {"warm_start": "size"}}])
def test_minimax_case_is_the_same_alone_and_in_any_order(settings):
    """Also with the best lower bound, and where a start is computed from a smaller problem."""
    chosen = EXPERIMENT.settings.model_validate({"minimax": {"budget": "quick"} | settings.get("minimax", {})})
    company = [case(r=r, method=method) for r in (2, 4, 6) for method in ("minimax", "svd", "random_embedding")]
    single = [values(run([one], chosen)[0]) for one in company]
    assert [values(outcome) for outcome in run(company, chosen)] == single
    assert [values(outcome) for outcome in run(company[::-1], chosen)] == single[::-1]


def test_values_are_those_of_the_front_door():
    for method in ("svd", "ap", "minimax", "random_embedding"):
        matrix = function_matrix("exponential", "ball-symmetric", 5, 40, seed=3)
        found = approximate(matrix, 6, method, seed=3, bound="tail")
        one = case(function="exponential", sampling="ball-symmetric", m=5, n=40, r=6, method=method, seed=3)
        norm = np.abs(matrix.to_numpy()).max()
        promised = {} if found.guarantee is None else {"guarantee": pytest.approx(found.guarantee / norm, rel=1e-12)}
        assert values(run([one])[0]) == {
            "epsilon": pytest.approx(found.max_error / norm, rel=1e-12),
            "lower_bound": pytest.approx(found.lower_bound / norm, rel=1e-12),
            "max_norm": norm,
            "iterations": found.iterations,
            **promised,
        }


@pytest.mark.parametrize("function", ["sinh_product", "tensor_attention", "a user's", "a user's of order four"])
def test_values_of_tensors_are_those_of_the_front_door(user_module, function):
    """With the best lower bound, alone and in company."""
    name = user_module(
        """
        import numpy as np
        def triple(X, Y, Z):
            return np.cos(3 * np.einsum("ia,ja,ka->ijk", X, Y, Z) + X[:, :1, None])
        def quadruple(W, X, Y, Z):
            return np.exp(-np.einsum("ia,ja,ka,la->ijkl", W, X, Y, Z) - Z[:, 0])
        """
    )
    users = {"a user's": f"{name}:triple", "a user's of order four": f"{name}:quadruple"}
    function, chosen = users.get(function, function), EXPERIMENT.settings()
    given = {"function": function, "sampling": "sphere-independent", "m": 2, "n": 7, "seed": 3}
    company = [case(**given, r=r, method=method) for r in (1, 3) for method in ("svd", "ap", "minimax")]
    tensor = function_tensor(function, "sphere-independent", 2, 7, 3)
    norm = np.abs(tensor.to_numpy()).max()
    expected = []
    for each in company:
        found = approximate_tensor(tensor, each["r"], each["method"], seed=3)
        expected.append(
            {
                "epsilon": pytest.approx(found.max_error / norm, rel=1e-12),
                "lower_bound": pytest.approx(found.lower_bound / norm, rel=1e-12),
                "max_norm": norm,
                "iterations": found.iterations,
            }
        )
    assert [values(outcome) for outcome in run(company, chosen)] == expected
    assert [values(outcome) for outcome in run(company[::-1], chosen)] == expected[::-1]
    assert [values(run([each], chosen)[0]) for each in company] == expected


def test_settings_reach_their_method():
    few = options(ap={"max_projections": 5, "initial": "svd"}, minimax={"budget": "quick"})
    assert values(run([case(method="ap")], few)[0])["iterations"] == 5
    quick = approximate(function_matrix("gaussian", "ball-independent", 3, 30), 4, budget="quick", bound="tail")
    assert values(run([case(method="minimax")], few)[0])["iterations"] == quick.iterations
    tensor = function_tensor("sinh_product", "ball-independent", 3, 12)
    quick = approximate_tensor(tensor, 4, budget="quick", bound="tail")
    outcomes = run([case(function="sinh_product", n=12, method=method) for method in ("ap", "minimax")], few)
    assert [values(outcome)["iterations"] for outcome in outcomes] == [5, quick.iterations]


def test_guarantee_is_left_out_by_methods_without_a_theorem():
    methods = ("svd", "ap", "minimax", "random_embedding")
    outcomes = run([case(method=method) for method in methods])
    assert [set(outcome.values) & OPTIONAL for outcome in outcomes] == [set(), set(), set(), {"guarantee"}]


def test_optional_quantity_is_undefined_where_it_is_left_out():
    optional = Quantity("guarantee", "a promise", optional=True)
    assert np.isnan(optional.of({"epsilon": 0.5}))
    assert optional.of({"guarantee": 0.25}) == Quantity("guarantee", "a promise").of({"guarantee": 0.25}) == 0.25
    with pytest.raises(KeyError):
        Quantity("guarantee", "a promise").of({"epsilon": 0.5})


def test_guarantee_that_is_not_finite_fails_its_case():
    chatty = dataclasses.replace(EXPERIMENT, evaluate=lambda *_: {"epsilon": 0.5, "guarantee": float("nan")})
    (outcome,) = chatty.run([case()], options())
    assert outcome == Outcome(None, "guarantee is nan; every value must be finite")


def test_lower_bound_is_computed_once_a_rank(monkeypatch):
    ranks = []

    def counted(decompositions, rank, settings):
        ranks.append(rank)
        return certified_bound(decompositions, rank, settings)

    monkeypatch.setattr(approximation, "certified_bound", counted)
    cases = [case(r=r, method=method) for r in (2, 4) for method in ("svd", "ap", "random_embedding")]
    outcomes = run([*cases, case(r=2, seed=1)])
    assert ranks == [2, 4, 2]
    assert len({values(outcome)["lower_bound"] for outcome in outcomes[:3]}) == 1


def test_time_that_a_case_reports_stands_for_that_of_the_call():
    values = {"epsilon": 0.5, "lower_bound": 0.1, "max_norm": 1.0, "iterations": 3}
    timed = dataclasses.replace(EXPERIMENT, prepare=lambda *_: None, evaluate=lambda *_: {**values, "seconds": 1000.0})
    untimed = dataclasses.replace(timed, evaluate=lambda *_: values)
    assert 1000 <= next(timed.run([case()], options())).values["seconds"] < 1100
    assert 0 < next(untimed.run([case()], options())).values["seconds"] < 100


def test_time_is_positive_and_shared_preparation_is_counted():
    for outcome in run([case(r=1), case(r=2), case(r=3)]):
        assert outcome.values["seconds"] > 0


# --- predicted costs


def costs(chosen=None, **labels: object) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Seconds and bytes of the preparation, then of the evaluation, of cases whose labels are broadcast."""
    given_labels = {"function": "sinh_product", "sampling": "ball-independent", "m": 10, "n": 50, "r": 5} | labels
    given_labels = {"method": "minimax", "seed": 0} | given_labels
    arrays = np.broadcast_arrays(*map(np.array, given_labels.values()))
    columns = {name: np.ravel(each) for name, each in zip(given_labels, arrays, strict=True)}
    chosen = chosen or EXPERIMENT.settings()
    found = EXPERIMENT.prepare_cost(columns, chosen), EXPERIMENT.evaluate_cost(columns, chosen)
    return tuple(each for cost in found for each in (cost.seconds, cost.memory))


def rises(numbers: np.ndarray) -> bool:
    return all(later > earlier for earlier, later in pairwise(numbers))


@pytest.mark.parametrize("method", ["svd", "ap", "minimax"])
@pytest.mark.parametrize("function", ["sinh_product", "tensor_attention"])
def test_predicted_costs_of_tensors_grow_with_what_makes_work(function, method):
    label = {"function": function, "method": method}
    for by_size in costs(n=[5, 20, 100, 200, 1000], **label):
        assert rises(by_size)
        assert np.isfinite(by_size).all()
        assert by_size[0] > 0
    prepared, held, evaluated, _ = costs(m=[1, 10, 1000], **label)
    assert rises(prepared)
    assert rises(held)
    assert len(set(evaluated)) == 1
    prepared, _, evaluated, _ = costs(r=[1, 5, 50], **label)
    assert rises(evaluated)
    assert len(set(prepared)) == 1
    if method != "svd":  # each step costs more, not only the last look at the error
        steps, once = (costs(options(), r=[1, 50], **label | {"method": each})[2] for each in (method, "svd"))
        assert steps[1] - steps[0] > 10 * (once[1] - once[0])


def test_predicted_time_of_tensors_grows_with_the_settings():
    def seconds(method: str, **groups: dict[str, object]) -> float:
        return costs(EXPERIMENT.settings.model_validate(groups), method=method)[2][0]

    assert rises([seconds("minimax", minimax={"budget": each}) for each in ("quick", "default", "thorough")])
    assert rises([seconds(method) for method in ("svd", "ap")])
    for method in ("ap", "minimax"):
        assert rises([seconds(method, **{method: {"precision": each}}) for each in ("single", "double")])
    assert rises([seconds("ap", ap={"projection": each}) for each in ("subspace", "exact")])
    assert rises([seconds("svd", certificate={"bound": each}) for each in ("tail", "best")])


def test_predicted_costs_of_a_tensor_are_above_those_of_a_matrix():
    for tensor, matrix in zip(costs(n=200), costs(n=200, function="gaussian"), strict=True):
        assert tensor > matrix


@pytest.mark.parametrize("method", ["svd", "ap", "minimax"])
def test_predicted_costs_of_many_cases_are_those_of_each(user_module, method):
    """Of matrices and tensors together, and of orders beyond three."""
    name = user_module("def quadruple(W, X, Y, Z): ...\n")
    functions = ["gaussian", "sinh_product", "inner_product", f"{name}:quadruple", "tensor_attention"]
    sizes = np.array([10, 40, 2000])[:, None]
    ranks = np.array([2, 9])[:, None, None]
    together = costs(method=method, function=functions, n=sizes, r=ranks)
    single = [costs(method=method, function=f, n=n, r=r) for r in (2, 9) for n in (10, 40, 2000) for f in functions]
    for quantity, each in zip(together, zip(*single, strict=True), strict=True):
        np.testing.assert_allclose(quantity, np.concatenate(each), rtol=1e-13)
        assert np.isfinite(quantity).all()
        assert (quantity > 0).all()


# --- failures


def test_failing_preparation_fails_only_its_own_group():
    cases = [case(), case(r=2), case(function="cosine"), case(function="cosine", r=2), case(seed=1)]
    outcomes = run(cases)
    assert [outcome.values is None for outcome in outcomes] == [False, False, True, True, False]
    for failed in outcomes[2:4]:
        assert failed.message.startswith("InputError: function: 'cosine' is not known")
    assert values(outcomes[1]) == alone(case(r=2), randomized=False)
    assert values(outcomes[4]) == values(run([case(seed=1)])[0])


def test_failing_evaluation_fails_only_its_own_case():
    outcomes = run([case(), case(method="qr"), case(r=2)])
    assert [outcome.values is None for outcome in outcomes] == [False, True, False]
    assert "method: 'qr' is not known" in outcomes[1].message
    assert values(outcomes[2]) == alone(case(r=2), randomized=False)


def test_user_function_that_raises_for_one_m_fails_there_alone(user_module):
    name = user_module(
        """
        import numpy as np
        def picky(X, Y):
            if X.shape[1] == 4:
                raise ZeroDivisionError("four is\\nforbidden")
            return np.exp(X @ Y.T)
        """
    )
    cases = [case(function=f"{name}:picky", m=m, method=method) for m in (3, 4, 5) for method in ("svd", "ap")]
    outcomes = run(cases)
    assert [outcome.values is None for outcome in outcomes] == [False, False, True, True, False, False]
    assert {outcome.message for outcome in outcomes[2:4]} == {
        f"ZeroDivisionError: four is forbidden ({name}.py, line 5)"
    }


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        ("np.where(np.arange(len(Y)) == 2, np.nan, X @ Y.T)", "entry [0, 2] is nan"),
        ("np.full((len(X), len(Y)), np.inf)", "entry [0, 0] is inf"),
        ("np.zeros((len(X), len(Y)))", "all entries are zero"),
        ("X", "returned float64 of shape (30, 3)"),
        ("X @ Y.T + 1j", "returned complex128"),
        ("undefined_name", "NameError"),
        ("np.linalg.inv(np.zeros((2, 2)))", "LinAlgError"),
    ],
)
def test_user_function_without_a_usable_matrix_fails_with_its_reason(user_module, returned, told):
    name = user_module(f"import numpy as np\ndef f(X, Y):\n    return {returned}\n")
    failed, done = run([case(function=f"{name}:f"), case()])
    assert failed.values is None
    assert told in failed.message
    assert "\n" not in failed.message
    assert values(done) == alone(case(), randomized=False)


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        ("np.where(np.arange(len(Z)) == 2, np.nan, 1.0) * product", "entry [0, 0, 2] is nan"),
        ("0 * product", "all entries are zero"),
        ("X @ Y.T", "returned float64 of shape (8, 8)"),
        ("undefined_name", "NameError"),
    ],
)
def test_user_function_without_a_usable_tensor_fails_with_its_reason(user_module, returned, told):
    name = user_module(
        f"""
        import numpy as np
        def f(X, Y, Z):
            product = np.einsum("ia,ja,ka->ijk", X, Y, Z)
            return {returned}
        """
    )
    failed, done = run([case(function=f"{name}:f", n=8, method="ap"), case()])
    assert failed.values is None
    assert told in failed.message
    assert "\n" not in failed.message
    assert values(done) == alone(case(), randomized=False)


def test_tensor_with_a_method_for_matrices_fails_in_one_line():
    (failed,) = run([case(function="sinh_product", n=8, method="random_embedding")])
    assert failed.message == (
        "InputError: method: 'random_embedding' is for matrices; use one of svd, ap, minimax for tensors"
    )


def test_message_of_a_failure_is_one_line_of_bounded_length(user_module):
    name = user_module("def f(X, Y):\n    raise RuntimeError('line\\n' * 5000)\n")
    (failed,) = run([case(function=f"{name}:f")])
    assert failed.message.startswith("RuntimeError: line line")
    assert "\n" not in failed.message
    assert len(failed.message) <= 500


def test_matrix_is_made_once_for_neighbours_that_share_it(user_module):
    name = user_module(
        """
        calls = []
        def counted(X, Y):
            calls.append(len(X))
            return X @ Y.T
        """
    )
    shared = [case(function=f"{name}:counted", r=r, method=method) for r in (1, 2) for method in ("svd", "ap")]
    run([*shared, case(function=f"{name}:counted", seed=1)])
    assert importlib.import_module(name).calls == [30, 30]


def test_tensor_is_made_and_its_bound_found_once_for_neighbours_that_share_it(user_module, monkeypatch):
    ranks = []

    def counted(decompositions, rank, settings):
        ranks.append(rank)
        return certified_bound(decompositions, rank, settings)

    monkeypatch.setattr(tensor_approximation, "certified_bound", counted)
    name = user_module(
        """
        import numpy as np
        calls = []
        def triple(X, Y, Z):
            calls.append(len(X))
            return np.einsum("ia,ja,ka->ijk", X, Y, Z)
        """
    )
    shared = [case(function=f"{name}:triple", n=6, r=r, method=method) for r in (1, 2) for method in ("svd", "ap")]
    run([*shared, case(function=f"{name}:triple", n=6, r=2, seed=1)])
    assert importlib.import_module(name).calls == [6, 6]
    assert ranks == [1, 2, 2]


# --- NumPy's error state, Python's warnings, and sizes of entries


STRICT = """import os, signal, sys, warnings
import numpy as np
os.chdir("/")
sys.setrecursionlimit(500)
np.seterr(all='raise')
warnings.simplefilter('error')
for each in (signal.SIGINT, signal.SIGTERM):
    signal.signal(each, lambda *_: None)
"""


def test_what_an_own_module_sets_of_the_process_decides_nothing(user_module):
    """Kind: cells that fail by who imported what. Entries underflow, and squares of them in methods."""
    name = user_module(STRICT + "def f(X, Y):\n    return np.exp(-900 * np.abs(X[:, :1] - Y[:, 0]))\n")

    def state():
        handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
        return np.geterr(), list(warnings.filters), handlers, sys.getrecursionlimit(), Path.cwd()

    before = state()
    cases = [case(function=f"{name}:f", method=method) for method in ("svd", "ap", "minimax", "random_embedding")]
    expected = [values(each) for each in run(cases)]
    assert state() == before
    with np.errstate(all="raise"):
        found = [values(each) for each in run(cases)]
    assert found == expected


def test_own_function_runs_with_numpys_defaults_wherever_it_is_called(user_module):
    name = user_module(
        "import numpy as np\nseen = []\ndef f(X, Y):\n    seen.append(np.geterr())\n    return X @ Y.T\n"
    )
    with np.errstate(all="raise"):
        run([case(function=f"{name}:f", method="svd")])
        function_matrix(f"{name}:f", "ball-independent", 2, 5).to_numpy()
    defaults = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
    seen = sys.modules[name].seen
    assert len(seen) >= 2
    assert all(each == defaults for each in seen)


def test_results_are_read_under_the_state_of_the_caller():
    """Kind: what is computed after the call returned. Products of factors near the smallest numbers underflow."""
    entries = 1e-310 * np.random.default_rng(0).random((12, 9))
    found = approximate(entries, 2)
    expected = found.to_numpy(), found.relative_error
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(found.to_numpy(), expected[0])
        assert found.relative_error == expected[1]


@pytest.mark.parametrize("state", ["raise", "call", "print"])
def test_state_of_the_caller_changes_no_value(state, capsys):
    """Kind: numerics under the state of who calls them; with seterrcall and print as well."""

    def solved() -> list[bytes]:
        far = function_matrix("quartic_gaussian(scale=0.1)", "gaussian-independent", 3, 40)  # entries underflow
        tensor = function_tensor("sinh_product", "ball-symmetric", 3, 8)
        found = [approximate(far, 3, method).left for method in ("svd", "ap", "minimax", "random_embedding")]
        found += [approximate_tensor(tensor, 2, method).cores[0] for method in ("svd", "ap", "minimax")]
        return [each.tobytes() for each in (*found, np.array(lower_bound(far, 3)), far.to_numpy())]

    expected = solved()

    def told(*args: object) -> None:
        raise AssertionError(args)

    with np.errstate(all=state, call=told), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert solved() == expected
    assert capsys.readouterr() == ("", "")


def test_own_experiment_computes_with_numpys_defaults():
    def root(matrix, case):
        return {"under": float(np.exp(np.float64(-800))), "state": float(np.geterr()["over"] == "warn")}

    own = matrix_experiment("roots", {"under": "underflows", "state": "defaults"}, root)
    labels = [(axis.name, case()[axis.name]) for axis in own.axes]
    with np.errstate(all="raise"):
        (outcome,) = own.run([Case(tuple(labels))], own.settings())
    assert outcome.values is not None, outcome.message
    assert (outcome.values["under"], outcome.values["state"]) == (0.0, 1.0)


@pytest.mark.parametrize("exponent", [516, 990, -516, -980])
def test_relative_errors_are_those_of_entries_near_one(user_module, exponent):
    """Kind: entries near the ends of the range of numbers, by whose squares a method over- or underflows."""
    source = "import numpy as np\ndef f(X, Y):\n    return np.ldexp(np.exp(-np.abs(X @ Y.T)), {})\n"
    functions = [user_module(source.format(each)) for each in (0, exponent)]
    chosen = options(svd={"driver": "randomized", "oversampling": 0, "power_iterations": 1})
    for method in ("svd", "ap", "minimax"):
        cases = [case(function=f"{name}:f", n=90, method=method) for name in functions]
        near, far = (values(each) for each in run(cases, chosen))
        assert far["epsilon"] == pytest.approx(near["epsilon"], rel=1e-6)
        assert far["lower_bound"] == pytest.approx(near["lower_bound"], rel=1e-6)
        assert far["max_norm"] == np.ldexp(near["max_norm"], exponent)


def test_entries_beyond_what_can_be_decomposed_are_refused_in_one_line(user_module):
    name = user_module("def f(X, Y):\n    return 1e305 + X @ Y.T\n")
    (outcome,) = run([case(function=f"{name}:f")])
    assert outcome.values is None
    assert "entries up to 1e+305 overflow in a decomposition; scale them below 1e+300" in outcome.message
