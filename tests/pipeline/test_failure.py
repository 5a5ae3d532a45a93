"""What an own function raises is a failed case with a message that says what and where, whatever was raised."""

import signal
import sys
import threading
from itertools import groupby

import pytest

from pipeline.errors import Halted, InputError
from pipeline.experiment import Case, Outcome
from pipeline.experiments import EXPERIMENTS, get_experiment
from pipeline.experiments.generated import matrix_experiment
from pipeline.failure import ReportedError, failure_of, stops
from pipeline.functions import imported

EXPERIMENT = EXPERIMENTS["approximation"]
SETTINGS = EXPERIMENT.settings.model_validate({"certificate": {"bound": "tail"}})
MODULE = """
import asyncio
import os
import signal

import numpy as np


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class MuteForGood(Exception):
    def __str__(self):
        raise SystemExit


class NoText(Exception):
    def __str__(self):
        return 3


class Own(BaseException):
    pass


class Unsendable(Exception):
    def __init__(self, one, two):
        super().__init__(one, lambda: two)


RAISED = {
    2: lambda: ValueError("plain"),
    3: lambda: Own("own"),
    4: asyncio.CancelledError,
    5: KeyboardInterrupt,
    6: lambda: GeneratorExit("closed"),
    7: lambda: SystemExit(3),
    8: lambda: StopIteration("over"),
    9: Mute,
    10: MuteForGood,
    11: NoText,
    12: lambda: Unsendable(1, 2),
    13: lambda: ExceptionGroup("two", [ValueError("one\\nof them"), TypeError()]),
    14: lambda: BaseExceptionGroup("deep", [ExceptionGroup("in", [OSError("it")]), Own()]),
    15: lambda: FileNotFoundError(2, "No such file", os.path.expanduser("~/data/x.npy")),
    16: lambda: ValueError("s3://me:pw@host/x?token=abc&y=1 api_key='k k'"),
    17: lambda: ValueError("many\\nlines\\x1b[31m" + "x" * 5000),
    18: lambda: StopAsyncIteration(),
}


def f(x, y):
    m = x.shape[1]
    if m in RAISED:
        raise RAISED[m]()
    if m == 20:
        assert (
            x.max()
            > 5
        )
    if m == 21:
        assert m < 3, "m is\\n large"
    if m == 22:
        np.linalg.inv(np.zeros((2, 2)))
    if m == 23:
        a = 1; assert a == 1; assert a > 2
    if m == 24:
        os.kill(os.getpid(), signal.SIGINT)
    if m == 25:
        assert DEEP
    return x @ y.T
""".replace("DEEP", " + ".join(["0"] * 1500))
PREPARED_LINE = MODULE.splitlines().index("        raise RAISED[m]()") + 1


def case(m: int, function: str, **labels: object) -> Case:
    given = {"function": function, "sampling": "ball-independent", "m": m, "n": 8, "r": 2, "method": "svd", "seed": 0}
    return Case(tuple((axis.name, (given | labels)[axis.name]) for axis in EXPERIMENT.axes))


@pytest.fixture
def function(tmp_path, monkeypatch):
    """An own function whose latent dimension says what it raises, in a module of a name of its own."""
    name = f"raising_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield f"{name}:f"
    sys.modules.pop(name, None)


def in_a_thread(work):
    """What a function returns in a thread, as a worker calls it."""
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def outcomes(cases: list[Case]) -> list[Outcome]:
    return in_a_thread(lambda: list(EXPERIMENT.run(cases, SETTINGS)))


def test_whatever_is_raised_is_a_failed_case_with_its_message_and_the_others_go_on(function):
    expected = {
        2: "ValueError: plain",
        3: "Own: own",
        4: "CancelledError",
        5: "KeyboardInterrupt",
        6: "GeneratorExit: closed",
        7: "SystemExit: 3",
        8: "StopIteration: over",
        9: "Mute: its text cannot be made (RuntimeError)",
        10: "MuteForGood: its text cannot be made (SystemExit)",
        11: "NoText: its text cannot be made (TypeError)",
        13: "ExceptionGroup: two (2 sub-exceptions), the first ValueError: one of them",
        14: "BaseExceptionGroup: deep (2 sub-exceptions), the first OSError: it",
        18: "StopAsyncIteration",
    }
    found = outcomes([case(m, function) for m in [*expected, 1]])
    module = function.partition(":")[0]
    place = f" ({module}.py, line {PREPARED_LINE})"
    assert [outcome.message for outcome in found] == [*(text + place for text in expected.values()), ""]
    assert found[-1].values is not None
    for outcome in found[:-1]:
        assert outcome.values is None
        assert outcome.traceback.startswith("Traceback (most recent call last):") or "| " in outcome.traceback
        assert f'{module}.py", line {PREPARED_LINE}, in f' in outcome.traceback
        assert "pipeline" not in outcome.traceback.partition("in f")[0]


def test_message_is_one_line_of_bounded_length_without_secrets_home_and_addresses(function, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    missing, secret, long, address = (each.message for each in outcomes([case(m, function) for m in (15, 16, 17, 12)]))
    assert missing.startswith("FileNotFoundError: [Errno 2] No such file: '~/data/x.npy' (")
    assert secret.startswith("ValueError: s3://host/x?token=***&y=1 api_key=*** k' (")
    assert long.startswith("ValueError: many lines\\x1b[31mxxx")
    assert long.endswith(f".py, line {PREPARED_LINE})")
    assert len(long) < 600
    assert address.startswith("Unsendable: (1, <function Unsendable.__init__.<locals>.<lambda>>) (")
    for outcome in outcomes([case(m, function) for m in (15, 16)]):
        assert "pw@" not in outcome.traceback
        assert str(tmp_path) not in outcome.traceback


def test_assertion_without_a_text_tells_its_source(function):
    several_lines, told, one_line = (each.message for each in outcomes([case(m, function) for m in (20, 21, 23)]))
    assert several_lines.startswith("AssertionError: assert x.max() > 5 (")
    assert told.startswith("AssertionError: m is large (")
    assert one_line.startswith("AssertionError: assert a > 2 (")


def test_assertion_that_is_nested_too_deeply_to_be_told_is_a_failure_like_any_other(function):
    (found,) = outcomes([case(25, function)])
    assert found.message.startswith("AssertionError (")


def test_place_is_in_the_code_of_the_user_where_a_library_raised(function):
    (found,) = outcomes([case(22, function)])
    line = MODULE.splitlines().index("        np.linalg.inv(np.zeros((2, 2)))") + 1
    assert found.message == f"LinAlgError: Singular matrix ({function.partition(':')[0]}.py, line {line})"
    assert "numpy" in found.traceback


def test_place_is_in_an_installed_module_where_the_function_is_from_there(tmp_path, monkeypatch):
    """Kind: code of the user's that is no file beside the specification."""
    folder = tmp_path / "site-packages" / "kernels_of_mine"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("def f(x, y):\n    raise LookupError\n")
    monkeypatch.syspath_prepend(folder.parent)
    (found,) = outcomes([case(2, "kernels_of_mine:f")])
    assert found.message == "LookupError (__init__.py, line 2)"
    sys.modules.pop("kernels_of_mine")


@pytest.mark.parametrize("raised", [KeyboardInterrupt(), GeneratorExit(), Exception(), BaseException()])
def test_own_experiment_that_raises_anything_in_evaluating_is_a_failed_case(raised):
    def compute(matrix, case):
        raise raised

    experiment = matrix_experiment("raises", {"value": "none"}, compute)
    cases = [Case(tuple(pair for pair in case(2, "gaussian").labels if pair[0] not in ("r", "method")))]
    (found,) = in_a_thread(lambda: list(experiment.run(cases, experiment.settings())))
    assert found.values is None
    assert found.message.startswith(f"{type(raised).__name__} (test_failure.py, line ")
    assert found.elapsed > 0


@pytest.mark.parametrize(
    "error", ["KeyboardInterrupt", "asyncio.CancelledError('x')", "BaseException", "SystemExit(1)"]
)
def test_module_that_raises_anything_where_it_is_imported_is_told_in_one_line(error, tmp_path, monkeypatch):
    name = f"unimportable_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(f"import asyncio\nraise {error}\n")
    monkeypatch.syspath_prepend(tmp_path)
    kind = error.partition("(")[0].rpartition(".")[2]
    (found,) = outcomes([case(2, f"{name}:f")])
    assert found.message.startswith(f"InputError: function: '{name}:f' cannot be imported ({kind}")
    assert f"({name}.py, line 2)" in found.message

    def ask():
        with pytest.raises(InputError, match="cannot be imported"):
            get_experiment(f"{name}:X", allow_code=True)
        return True

    assert in_a_thread(ask)


def test_ctrl_c_in_this_process_is_no_failure_of_the_case(function):
    previous = signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored in what a shell runs behind it
    try:
        with pytest.raises(KeyboardInterrupt):
            list(EXPERIMENT.run([case(24, function)], SETTINGS))
    finally:
        signal.signal(signal.SIGINT, previous)


def test_what_a_signal_handler_raises_is_no_failure_of_the_code_at_hand(tmp_path, monkeypatch):
    """Kind: SIGTERM while a user's module is imported, an `Exception` of ours and one that is none."""

    class Terminated(BaseException):
        pass

    name = f"terminated_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGTERM)\n")
    monkeypatch.syspath_prepend(tmp_path)
    for kind in (Terminated, InputError):

        def stop(number, frame, kind=kind):
            raise kind("stopped")

        previous = signal.signal(signal.SIGTERM, stop)
        try:
            with pytest.raises(kind, match=r"^stopped$"):
                imported("function", f"{name}:f")
        finally:
            signal.signal(signal.SIGTERM, previous)


def test_pass_that_is_stopped_is_no_failure_wherever_it_runs():
    assert stops(Halted())
    assert in_a_thread(lambda: stops(Halted()))
    assert not in_a_thread(lambda: stops(KeyboardInterrupt()))
    assert not stops(GeneratorExit())


def test_failure_that_was_found_elsewhere_is_told_as_it_was_found():
    import pickle

    sent = pickle.loads(pickle.dumps(ReportedError("ValueError: x (mine.py, line 2)", "Traceback")))
    assert failure_of(sent).message == "ValueError: x (mine.py, line 2)"
    assert failure_of(sent).traceback == "Traceback"


def test_cases_of_one_preparation_that_fails_all_fail_and_share_its_time(function):
    cases = [case(2, function, r=r) for r in (1, 2, 3)] + [case(1, function)]
    found = outcomes(cases)
    assert [outcome.values is None for outcome in found] == [True, True, True, False]
    assert len({key for key, _ in groupby(found[:3], lambda each: each.message)}) == 1
    assert sum(outcome.elapsed for outcome in found[:3]) >= found[0].preparation
