"""What pydantic finds wrong with a specification, in one line."""

import difflib
from collections.abc import Sequence
from typing import cast

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from pipeline.errors import one_line, shown


def explain(error: ValidationError, model: type[BaseModel], places: Sequence[int] = ()) -> str:
    """State the first problem in one line: path, value, remedy; `places` has the written number of each block."""
    first = min(error.errors(), key=lambda problem: problem["type"] == "missing")  # a misspelt key comes first
    where = list(first["loc"])
    if where[:1] == ["grid"] and len(where) > 1 and places:
        where[1] = places[int(where[1])]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{one_line(part, 80)}" for part in where)
    path = path.lstrip(".")
    value = shown(first["input"])
    if first["type"] == "missing":
        message = "is missing; add it"
    elif first["type"] == "extra_forbidden":
        known = _keys_beside(model, first["loc"])
        near = difflib.get_close_matches(str(first["loc"][-1]), known, 1)
        remedy = f"did you mean {near[0]}?" if near else f"use one of {', '.join(known)}" if known else "it has none"
        message = f"is not a known key; {remedy}"
    elif first["type"] == "value_error":
        message = first["msg"].removeprefix("Value error, ")
    elif first["type"] == "string_pattern_mismatch":
        message = f"{value} will not do; use up to 100 letters, digits, '.', '_', '-', the first a letter or digit"
    else:
        message = f"{value} will not do: {first['msg'][0].lower()}{first['msg'][1:]}{quoted(first)}"
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{path}: {message}{more}" if path else f"{message}{more}"


def quoted(problem: ErrorDetails) -> str:
    """Advice to quote a scalar of YAML where a text is wanted; empty elsewhere."""
    given = problem["input"]
    scalar = given is None or isinstance(given, bool | int | float)
    return "; quote it if it is a text" if scalar and problem["type"] == "string_type" else ""


def _keys_beside(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Keys that a mapping of the model may have, at the place of the last part of a path."""
    for part in path[:-1]:
        if isinstance(part, str):
            annotation = model.model_fields[part].annotation
            inner = getattr(annotation, "__args__", (annotation,))[0]
            model = cast("type[BaseModel]", inner)
    return [field.alias or name for name, field in model.model_fields.items() if field.init is not False]
