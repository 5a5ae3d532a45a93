"""The text of a specification: a file read and YAML parsed, both at bounded cost.

Scalars are those of YAML 1.2's core schema. Values that YAML 1.1 reads as something else, such as 0100 (64) or on
(true), are refused: nobody can tell which of the two was meant.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from pipeline.errors import InputError, one_line

MAX_SPEC_CHARACTERS = 200_000
_MAX_MERGED = 100_000
_MAX_DIGITS = 5000
_TOO_LONG = f"more than {MAX_SPEC_CHARACTERS} characters; a spec is a short text: use ranges, or several specs"


def read_text(path: Path) -> str:
    """Read a file of UTF-8 text, of no more than a specification may have.

    Raises
    ------
    InputError
        If it cannot be read, is too long or is not such text; the message does not name it.
    """
    try:
        with path.open("rb") as file:
            content = file.read(4 * MAX_SPEC_CHARACTERS + 1)  # no more, whatever it is
        if len(content) > 4 * MAX_SPEC_CHARACTERS:
            raise InputError(_TOO_LONG)
        return content.decode("utf-8")
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror}); name a YAML file or a shipped sweep") from error
    except UnicodeDecodeError as error:
        raise InputError(f"is not UTF-8 text ({error.reason}); name a YAML file") from error


def parse_yaml(text: str, *, checked: bool = True) -> dict[object, object]:
    """Parse a mapping.

    Parameters
    ----------
    text : str
    checked : bool
        Whether to refuse values that YAML 1.1 reads in another way; if not, they are text.

    Raises
    ------
    InputError
        If the text is too long, or not YAML, or anything but a mapping; the message names the place.
    """
    document = load_yaml(text, "the spec", checked=checked)
    if not isinstance(document, dict):
        kind = "empty" if document is None else f"a {type(document).__name__}"
        raise InputError(f"the spec is {kind}; give a mapping with the keys name, experiment and grid")
    return document


def load_yaml(text: str, what: str, *, checked: bool = True) -> object:
    """Parse YAML of any kind; `what` names it in messages, the rest is as `parse_yaml` has it."""
    if len(text) > MAX_SPEC_CHARACTERS:
        raise InputError(_TOO_LONG)
    try:
        return _parsed(text, checked=checked)
    except InputError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "the text"
        raise InputError(f"{place}: {one_line(error.problem)}; {what} must be valid YAML") from error
    except Exception as error:  # characters that YAML has not, brackets nested too deeply
        raise InputError(f"not valid YAML ({one_line(error)})") from error


def _parsed(text: str, *, checked: bool) -> object:
    loader = _Loader(text)
    root = loader.get_single_node()
    for path, value in _ambiguous(root) if checked and root else ():
        raise InputError(
            f"{path}: {one_line(value, 40)} means one thing in YAML 1.1 and another in 1.2; write a number in plain "
            "digits, a truth value as true or false, or quote it if it is a text"
        )
    return loader.construct_document(root) if root else None


def _ambiguous(root: yaml.Node) -> Iterator[tuple[str, str]]:
    """Path and spelling of each value, keys aside, whose meaning depends on the version of YAML."""
    seen: set[int] = set()
    waiting: list[tuple[yaml.Node, tuple[object, ...]]] = [(root, ())]
    while waiting:
        node, path = waiting.pop()
        if id(node) in seen:  # by another alias
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            waiting += [(each, (*path, position)) for position, each in enumerate(node.value)][::-1]
        elif isinstance(node, yaml.MappingNode):
            waiting += [(each, (*path, key.value)) for key, each in node.value][::-1]
        elif node.tag == _AMBIGUOUS:
            parts = (f"[{part}]" if isinstance(part, int) else f".{one_line(part, 80)}" for part in path)
            yield "".join(parts).lstrip(".") or "the text", node.value


_TAG = "tag:yaml.org,2002:"
_AMBIGUOUS = f"{_TAG}ambiguous"
_YAML_1_1 = (
    r"yes|Yes|YES|no|No|NO|on|On|ON|off|Off|OFF"
    r"|[-+]?0[0-9_]+|[-+]?0b[01_]+"  # to the bases 8 and 2
    r"|[-+]?[1-9][0-9_]*(:[0-5]?[0-9])+|[-+]?[0-9][0-9_]*(:[0-5]?[0-9])+\.[0-9_]*"  # to the base 60
    r"|(?=[^_]*_)[-+]?(0x[0-9a-fA-F_]+|\.?[0-9][0-9_]*(\.[0-9_]*)?([eE][-+]?[0-9]+)?)"
    r"|[0-9]{4}-[0-9]{2}-[0-9]{2}|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt]|[ \t]+)[0-9]{1,2}:.*"
)
_SCALARS = {  # in the order in which they are tried; whatever none of them matches is a text
    "ambiguous": _YAML_1_1,
    "null": "~|null|Null|NULL|",
    "bool": "true|True|TRUE|false|False|FALSE",
    "int": "[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    "merge": "<<",
}


class _Loader(yaml.SafeLoader):
    """Safe YAML of the core schema that refuses a key given twice, and what makes a short text cost much."""

    yaml_implicit_resolvers: dict[str | None, list[tuple[str, re.Pattern[str]]]] = {  # noqa: RUF012 (as PyYAML wants it)
        None: [(_TAG + kind, re.compile(f"({pattern})\\Z")) for kind, pattern in _SCALARS.items()]
    }
    _merged = 0

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge ``<<`` keys, which nested a few times multiply without bound."""
        super().flatten_mapping(node)
        self._merged += len(node.value)
        if self._merged > _MAX_MERGED:
            raise yaml.constructor.ConstructorError(None, None, "too many merged keys", node.start_mark)

    def scalar(self, node: yaml.ScalarNode) -> object:
        """Read a scalar that has its kind by its spelling, or by a tag such as ``!!int``."""
        text, kind = str(self.construct_scalar(node)), node.tag.removeprefix(_TAG)
        problem = (
            "a number is too long" if len(text) > _MAX_DIGITS else f"{one_line(text, 40)} is no {kind} of YAML 1.2"
        )
        if len(text) > _MAX_DIGITS or not re.fullmatch(_SCALARS[kind], text):
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        if kind == "int":
            return int(text, 0 if text[:2] in ("0x", "0o") else 10)
        if kind == "float":
            return float(re.sub(r"\.(?=[inIN])", "", text))  # .inf and .nan
        return {"null": None, "bool": text.lower() == "true"}.get(kind, text)


def _unique_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[object, object]:
    seen: set[object] = set()
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            continue  # refused by construct_mapping
        key = key_node.value
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)
for _kind in _SCALARS:
    _Loader.add_constructor(_TAG + _kind, _Loader.scalar)
