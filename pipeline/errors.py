"""Exceptions whose message is one clear line for the person at the command line."""

import os
import re
import reprlib

_USER_INFO = re.compile(r"(?<=://)[^/'\"]*@")
_SECRET = re.compile(r"(?i)((?:password|passwd|secret|token|api_?key|access_?key)[\"']?=)[^\s,;&)]+")
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxlong, _REPR.maxother = 3, 80, 40, 80


def shown(value: object) -> str:
    """How a value stands in a message: its repr in one line of bounded length."""
    try:
        return one_line(_REPR.repr(value), 120)
    except ValueError:  # an integer of more digits than Python prints
        return f"a {type(value).__name__} too long to print"


def one_line(text: object, limit: int = 200) -> str:
    """A text in one line of bounded length, control characters escaped."""
    line = " ".join(str(text).split())
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in line)[:limit]


def without_secrets(text: object) -> str:
    """A text in one line of bounded length that names no user and no password, in a URL or as ``password=…``."""
    return _SECRET.sub(r"\1***", _USER_INFO.sub("", one_line(text, 500)))


def without_home(text: str) -> str:
    """A text in which ``~`` stands for the home folder of whoever runs this process."""
    home = os.path.expanduser("~")  # noqa: PTH111 (Path raises where there is none)
    return re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text) if len(home) > 1 else text


class EpsweepError(Exception):
    """Base of all errors that a user can mend; the message names the field, the value and the remedy."""


class InputError(EpsweepError):
    """A specification, an argument or a matrix that cannot be used as given."""


class CodeError(InputError):
    """Code of a user's own that a process cannot import, or that is other code than was asked for."""


class StoreError(EpsweepError):
    """A result store that cannot be opened, extended or written."""


class Interrupted(EpsweepError):
    """A run was asked to stop and did, with everything finished written."""


class Halted(BaseException):
    """Work that is stopped from outside, which is no failure of the case at hand."""
