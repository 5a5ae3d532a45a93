"""Reads docker-compose.yml, .env and the Dockerfile."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parent.parent
_VARIABLE = re.compile(r"\$(?:\$|\{(?P<name>\w+)(?:(?P<kind>:[?-])(?P<word>[^}]*))?\})")


class MissingVariableError(Exception):
    """A variable that the compose file requires is not set."""


def interpolate(value: Any, variables: Mapping[str, str]) -> Any:
    """Put variables in as compose does.

    Raises
    ------
    MissingVariableError
        If a required one is empty or not set.
    """

    def put(match: re.Match[str]) -> str:
        name, kind, word = match["name"], match["kind"], match["word"]
        if name is None:
            return "$"
        if not variables.get(name) and kind == ":?":
            raise MissingVariableError(f"{name}: {word}")
        return variables.get(name) or (word if kind == ":-" else "")

    if isinstance(value, str):
        return _VARIABLE.sub(put, value)
    if isinstance(value, list):
        return [interpolate(item, variables) for item in value]
    if isinstance(value, dict):
        return {key: interpolate(item, variables) for key, item in value.items()}
    return value


def read_variables(path: Path) -> dict[str, str]:
    """Variables of an .env file."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def read_dockerfile(path: Path) -> list[tuple[str, str]]:
    """Instructions and their arguments, in order."""
    text = path.read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return [(name, argument.strip()) for name, _, argument in (line.partition(" ") for line in lines)]


def read_compose(folder: Path = ROOT, variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Compose file of a folder, interpolated if there are variables to do it with."""
    document = yaml.safe_load((folder / "docker-compose.yml").read_text())
    return document if variables is None else interpolate(document, variables)
