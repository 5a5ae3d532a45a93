"""What is told of an exception that a user's function raised: one line for people, and its traceback for logs."""

import ast
import linecache
import os
import re
import signal
import sysconfig
import threading
import traceback
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType

from pipeline.errors import Halted, one_line, without_home, without_secrets

_PACKAGES = tuple(str(Path(__file__).parents[1] / name) + os.sep for name in ("pipeline", "storage", "flows"))
_STANDARD = tuple(sysconfig.get_path(name) + os.sep for name in ("stdlib", "platstdlib"))
_INSTALLED = re.compile(r"[/\\](site|dist)-packages[/\\]")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+(?=>)")  # another in each process
_MOST_TEXT = 400
_MOST_READ = 10_000
_MOST_LINES = 60
_MOST_CHARACTERS = 8_000


@dataclass(frozen=True)
class Failure:
    """What is told of an exception.

    Attributes
    ----------
    message : str
        In one line: its type, its text, and the file and line of the user's code that it comes from.
    traceback : str
        Of several lines, from the user's code on.
    """

    message: str
    traceback: str


class ReportedError(Exception):
    """A failure that was found where its exception was raised, in a form that can be sent."""

    def __init__(self, message: str, traceback: str) -> None:
        super().__init__(message, traceback)
        self.failure = Failure(message, traceback)

    def __str__(self) -> str:
        """The message."""
        return self.failure.message


def stops(error: BaseException) -> bool:
    """Whether an exception ends the work from outside, and is no failure of the code that it comes out of.

    That is Ctrl-C, whatever a signal handler of this process raises, and the end of a pass that was stopped. The same
    exceptions raised by the code itself are failures; so is any that comes out of another than the main thread, where
    no signal arrives.
    """
    if isinstance(error, Halted):
        return True
    if threading.current_thread() is not threading.main_thread():
        return False
    handlers = {getattr(signal.getsignal(each), "__code__", None) for each in (signal.SIGINT, signal.SIGTERM)}
    return isinstance(error, KeyboardInterrupt) or any(
        frame.f_code in handlers for frame, _ in traceback.walk_tb(error.__traceback__)
    )


def failure_of(error: BaseException, modules: Collection[str] = ()) -> Failure:
    """Tell of an exception.

    Parameters
    ----------
    error : BaseException
    modules : collection of str
        Names of modules that are the user's wherever they are installed; what is neither Python's, nor installed, nor
        of this package is the user's too.
    """
    if isinstance(error, ReportedError):
        return error.failure
    packages = {name.partition(".")[0] for name in modules}
    own = [each for each in traceback.walk_tb(error.__traceback__) if _is_own(each[0], packages)]
    place = ""
    if own:
        frame, line = own[-1]
        place = f" ({Path(frame.f_code.co_filename).name}, line {line})"
    text = text_of(error)
    if isinstance(error, AssertionError) and text == type(error).__name__:
        text = f"{text}: {assertion}" if own and (assertion := _assertion(*own[-1])) else text
    if isinstance(error, BaseExceptionGroup):
        text = f"{text}, the first {text_of(_first_of(error))}"
    return Failure(one_line(text, _MOST_TEXT) + place, _traceback(error, own[0][0] if own else None))


def text_of(error: BaseException) -> str:
    """Type and message of an exception in one line, whatever its own `__str__` does; the type alone if it has none."""
    name = type(error).__name__
    try:
        text = str(error)[:_MOST_READ]
    except BaseException as again:
        if stops(again):
            raise
        text = f"its text cannot be made ({type(again).__name__})"
    line = _ADDRESS.sub("", without_home(without_secrets(text)))
    return f"{name}: {line}" if line else name


def _is_own(frame: FrameType, packages: Collection[str]) -> bool:
    """Whether a frame is of the user's code."""
    name = frame.f_globals.get("__name__")
    if isinstance(name, str) and name.partition(".")[0] in packages:
        return True
    path = frame.f_code.co_filename
    return not (path.startswith(("<", *_PACKAGES, *_STANDARD)) or _INSTALLED.search(path))


def _assertion(frame: FrameType, line: int) -> str:
    """Source of the assert statement at a line; empty where it cannot be read."""
    try:
        tree = ast.parse("".join(linecache.getlines(frame.f_code.co_filename, frame.f_globals)))
        found = [
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.Assert) and node.lineno <= line <= (node.end_lineno or node.lineno)
        ]
        return one_line(ast.unparse(found[-1])) if found else ""
    except (SyntaxError, ValueError, RecursionError):  # the last of an expression that is nested deeply
        return ""


def _first_of(error: BaseException) -> BaseException:
    """The first exception of a group that is none itself."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _traceback(error: BaseException, first: FrameType | None) -> str:
    """Traceback from a frame on, without secrets, its end where it is long."""
    found: TracebackType | None = error.__traceback__
    while first is not None and found is not None and found.tb_frame is not first:
        found = found.tb_next
    try:
        lines = "".join(traceback.TracebackException(type(error), error, found).format()).splitlines()
    except BaseException as again:  # of an exception that is not what it says
        if stops(again):
            raise
        return ""
    return "\n".join(map(_line_without_secrets, lines[-_MOST_LINES:]))[-_MOST_CHARACTERS:]


def _line_without_secrets(line: str) -> str:
    """A line of a traceback, its indentation kept."""
    text = line.lstrip()
    return line[: len(line) - len(text)] + without_home(without_secrets(text))
