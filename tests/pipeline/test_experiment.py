"""Running cases: a case's values are its own, and so is its failure."""

import dataclasses
import importlib
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import approximate, approximation, function_matrix
from pipeline.certificates import certified_bound
from pipeline.experiment import Case, Outcome, Quantity
from pipeline.experiments import EXPERIMENTS

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


def test_settings_reach_their_method():
    few = options(ap={"max_projections": 5, "initial": "svd"}, minimax={"budget": "quick"})
    assert values(run([case(method="ap")], few)[0])["iterations"] == 5
    quick = approximate(function_matrix("gaussian", "ball-independent", 3, 30), 4, budget="quick", bound="tail")
    assert values(run([case(method="minimax")], few)[0])["iterations"] == quick.iterations


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
    timed = dataclasses.replace(
        EXPERIMENT, prepare=lambda *_: None, evaluate=lambda *_: {"epsilon": 0.5, "seconds": 1000.0}
    )
    untimed = dataclasses.replace(timed, evaluate=lambda *_: {"epsilon": 0.5})
    assert 1000 <= next(timed.run([case()], options())).values["seconds"] < 1100
    assert 0 < next(untimed.run([case()], options())).values["seconds"] < 100


def test_time_is_positive_and_shared_preparation_is_counted():
    for outcome in run([case(r=1), case(r=2), case(r=3)]):
        assert outcome.values["seconds"] > 0


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
    assert {outcome.message for outcome in outcomes[2:4]} == {"ZeroDivisionError: four is forbidden"}


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
