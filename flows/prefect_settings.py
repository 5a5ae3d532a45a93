"""What Prefect's own settings say: variables, ``.env``, ``prefect.toml``, ``pyproject.toml`` and profiles."""

from __future__ import annotations

import io
import os
import tomllib
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from flows.environment import QUIET, prepare
from pipeline.errors import InputError, one_line, without_secrets

if TYPE_CHECKING:
    from prefect.settings import Settings


_URL = {"prefect.toml": ("url",), "pyproject.toml": ("prefect", "url")}  # words of files that may name the server
_URL_ELSEWHERE = ("prefect_api_url",)


def current_settings() -> Settings:
    """Prefect's settings, read anew in the environment as it is; they hold for this process.

    Raises
    ------
    InputError
        If Prefect cannot read them; the message names the file or the variable.
    """
    prepare()
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):  # of a home that cannot be made, or of profiles
            warnings.simplefilter("ignore")
            from prefect.context import refresh_global_settings_context
            from prefect.settings import get_current_settings, load_profiles

            refresh_global_settings_context()
            settings = get_current_settings()
            profiles = load_profiles().names
    except ImportError:
        raise
    except Exception as error:  # each source raises what it likes
        raise InputError(f"Prefect: {_complaint(error)}") from error
    name = os.environ.get("PREFECT_PROFILE")
    if name and name not in profiles:
        known = ", ".join(sorted(profiles))
        raise InputError(f"Prefect: PREFECT_PROFILE: there is no profile {one_line(name)!r}; use one of {known}")
    return settings


def _complaint(error: Exception) -> str:
    """What is wrong with Prefect's settings and where, in one line."""
    for path in _files():
        if problem := _unreadable(path):
            return f"{path} cannot be used ({problem}); mend it"
    reason = without_secrets(error) or type(error).__name__
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        reason = without_secrets(first["msg"])
        if first["loc"]:
            return f"{_place(str(first['loc'][-1]))}: {'.'.join(map(str, first['loc']))}: {reason}; mend it"
    where = [*_variables(), *map(str, _files())]
    return f"its settings cannot be used ({reason}); mend {', '.join(where) or 'PREFECT_HOME'}"


def place_of_url() -> str:
    """Where the URL of the server is configured, if that is not a variable."""
    if os.environ.get("PREFECT_API_URL"):
        return ""
    named = [str(path) for path in _files() if all(word in _text(path) for word in _URL.get(path.name, _URL_ELSEWHERE))]
    return f" in {' or '.join(named)}" if named else ""


def _text(path: Path) -> str:
    """Text of a file in small letters; empty where it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").lower()
    except OSError:
        return ""


def _variables() -> list[str]:
    """Names of the variables that the user has set for Prefect."""
    ours = QUIET.items()
    return [
        name for name, value in os.environ.items() if name.lower().startswith("prefect_") and (name, value) not in ours
    ]


def _files() -> Iterator[Path]:
    """Files that Prefect's settings are read from, if they are there, first those that count most."""
    home = Path(os.path.expanduser(os.environ.get("PREFECT_HOME") or "~/.prefect"))  # noqa: PTH111 (Path raises)
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml")
    if Path(".env").is_file():
        yield Path(".env")
    yield from (path for path in (Path("prefect.toml"), Path("pyproject.toml"), profiles) if _there(path))


def _there(path: Path) -> bool:
    """Whether there is a file, or something that keeps this user from knowing."""
    try:
        return path.exists()
    except OSError:
        return True


def _unreadable(path: Path) -> str:
    """Why the text of a file cannot be read or parsed; empty if it can."""
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".toml":
            tomllib.loads(text)
    except OSError as error:
        return one_line(error.strerror or error)
    except UnicodeDecodeError:
        return "it is not UTF-8 text"
    except ValueError as error:
        return f"it is not valid TOML: {one_line(error)}"
    return ""


def _place(field: str) -> str:
    """Variable or file that gives a setting its value."""
    name = field.lower()
    for variable in _variables():
        if variable.lower().endswith(name.removeprefix("prefect_")):
            return variable
    for path in _files():
        if name.removeprefix("prefect_") in _text(path):
            return str(path)
    return "its settings"
