"""The text of a specification: a file read and YAML parsed, both at bounded cost."""

import re
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


def parse_yaml(text: str) -> dict[object, object]:
    """Parse a mapping.

    Raises
    ------
    InputError
        If the text is too long, or not YAML, or anything but a mapping; the message names the place.
    """
    if len(text) > MAX_SPEC_CHARACTERS:
        raise InputError(_TOO_LONG)
    try:
        document = yaml.load(text, Loader=_UniqueKeyLoader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "the text"
        raise InputError(f"{place}: {one_line(error.problem)}; the spec must be valid YAML") from error
    except Exception as error:  # tags such as !!bool and !!timestamp raise what they like
        raise InputError(f"not valid YAML ({one_line(error)})") from error
    if not isinstance(document, dict):
        kind = "empty" if document is None else f"a {type(document).__name__}"
        raise InputError(f"the spec is {kind}; give a mapping with the keys name, experiment and grid")
    return document


class _UniqueKeyLoader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice in one mapping, and what makes a short text cost much."""

    _merged = 0

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Merge ``<<`` keys, which nested a few times multiply without bound."""
        super().flatten_mapping(node)
        self._merged += len(node.value)
        if self._merged > _MAX_MERGED:
            raise yaml.constructor.ConstructorError(None, None, "too many merged keys", node.start_mark)

    def number(self, node: yaml.ScalarNode) -> object:
        """Read a number of bounded length: long ones in base 60 take a time that is its square."""
        if len(node.value) > _MAX_DIGITS:
            raise yaml.constructor.ConstructorError(None, None, "a number is too long", node.start_mark)
        integer = node.tag == "tag:yaml.org,2002:int"
        return self.construct_yaml_int(node) if integer else self.construct_yaml_float(node)


def _unique_mapping(loader: _UniqueKeyLoader, node: yaml.MappingNode) -> dict[object, object]:
    seen: set[object] = set()
    for key_node, _ in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            continue  # refused by construct_mapping
        key = key_node.value
        if key in seen:
            raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} is given twice", key_node.start_mark)
        seen.add(key)
    return loader.construct_mapping(node, deep=True)


_UniqueKeyLoader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _unique_mapping)
for _tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
    _UniqueKeyLoader.add_constructor(_tag, _UniqueKeyLoader.number)
_UniqueKeyLoader.add_implicit_resolver(  # 1e-4, a text in YAML 1.1
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)
