"""What a source file says apart from its form: a digest of its syntax tree, and the modules that it imports."""

import ast
import hashlib
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

_BY_NAME = frozenset({"import_module", "__import__", "run_module"})  # whose first argument names the module
_BY_PATH = frozenset(
    {"exec", "run_path", "spec_from_file_location", "module_from_spec", "iter_modules", "walk_packages"}
    | {"resolve_name", "load_source", "SourceFileLoader", "SourcelessFileLoader", "ExtensionFileLoader"}
)
_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
_FORM = frozenset({"ctx", "kind", "type_comment", "type_ignores"})  # fields that say nothing of what is computed
_PARSING = threading.Lock()  # Python's filters of warnings are those of all threads


@dataclass(frozen=True)
class Import:
    """One statement or call that imports.

    Attributes
    ----------
    module : str
    names : tuple of str
        What is taken of it, of which each may be a module, or "*".
    level : int
        Number of leading dots.
    """

    module: str
    names: tuple[str, ...] = ()
    level: int = 0


@dataclass(frozen=True)
class Source:
    """A source file.

    Attributes
    ----------
    digest : str
        SHA-256 of the syntax tree: comments, formatting and docstrings aside, and the same in every Python version.
    imports : tuple of Import
        At any depth, whether or not they are ever reached.
    computed : bool
        Whether it also imports what only running it tells.
    exported : tuple of str
        What ``__all__`` lists.
    """

    digest: str
    imports: tuple[Import, ...] = ()
    computed: bool = False
    exported: tuple[str, ...] = ()


@lru_cache(maxsize=4096)
def read_source(content: bytes) -> Source:
    r"""Look at a source file; one that cannot be parsed is known by its bytes alone.

    Parameters
    ----------
    content : bytes

    Examples
    --------
    >>> read_source(b"x = 1  # one").digest == read_source(b"x=1").digest
    True
    >>> read_source(b"def f():\n    from . import a").imports
    (Import(module='', names=('a',), level=1),)
    """
    try:
        with _PARSING, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whoever imports it is told
            tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):
        return Source(hashlib.sha256(content).hexdigest())
    imports, literal = [], set()
    nodes = list(ast.walk(tree))
    for node in nodes:
        if isinstance(node, ast.Import):
            imports += [Import(each.name) for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            imports.append(Import(node.module or "", tuple(each.name for each in node.names), node.level))
        elif isinstance(node, ast.Call) and _called(node.func) in _BY_NAME and (name := _literal(node)):
            level = len(name) - len(name.lstrip("."))
            imports.append(Import(name[level:], (), level))
            literal.add(id(node.func))
    computed = any(id(node) not in literal and _imports_otherwise(node) for node in nodes)
    return Source(_digest(tree), tuple(dict.fromkeys(imports)), computed, _exported(tree))


def _called(function: ast.AST) -> str:
    if isinstance(function, ast.Name):
        return function.id
    return function.attr if isinstance(function, ast.Attribute) else ""


def _literal(call: ast.Call) -> str:
    """The module that a call names in a text; empty where it is anything else, or depends on what else is given."""
    given = [*call.args, *(each.value for each in call.keywords if each.arg in ("name", "mod_name"))]
    first = given[0] if given else None
    others = [each for each in (*call.args, *(each.value for each in call.keywords)) if each is not first]
    if not all(isinstance(each, ast.Name) and each.id == "__package__" for each in others):
        return ""
    return first.value if isinstance(first, ast.Constant) and isinstance(first.value, str) else ""


def _imports_otherwise(node: ast.AST) -> bool:
    if isinstance(node, ast.alias):
        return node.asname is not None and node.name in _BY_NAME | _BY_PATH
    return _called(node) in _BY_NAME | _BY_PATH


def _exported(tree: ast.Module) -> tuple[str, ...]:
    found: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(each, ast.Name) and each.id == "__all__" for each in targets):
                constants = (each.value for each in ast.walk(node.value) if isinstance(each, ast.Constant))
                found += [each for each in constants if isinstance(each, str)]
    return tuple(found)


def _digest(tree: ast.Module) -> str:
    digest = hashlib.sha256()
    for part in _parts(tree):
        text = part.encode("utf-8", errors="surrogatepass")
        digest.update(b"%d:" % len(text) + text)
    return digest.hexdigest()


def _parts(tree: ast.Module) -> Iterator[str]:
    """The tree in texts, without a call a level: expressions nest as deep as they like."""
    waiting: list[object] = [tree]
    while waiting:
        item = waiting.pop()
        if isinstance(item, ast.Constant):
            yield _constant(item.value)
        elif isinstance(item, ast.AST):
            fields = _fields(item)
            yield f"{type(item).__name__} {len(fields)}"
            for name, value in reversed(fields):
                waiting += [value, name]
        elif isinstance(item, list):
            yield f"list {len(item)}"
            waiting += reversed(item)
        else:
            yield f"{type(item).__name__} {item}"


def _fields(node: ast.AST) -> list[tuple[str, object]]:
    """Fields that say something: versions of Python differ in those that they leave empty."""
    fields = {name: value for name, value in ast.iter_fields(node) if name not in _FORM and value not in (None, [])}
    if isinstance(node, _WITH_DOCSTRING) and ast.get_docstring(node, clean=False) is not None:
        fields["body"] = node.body[1:]
    if isinstance(node, ast.JoinedStr):
        fields["values"] = _joined(node.values)
    if not fields.get("level", 1):
        del fields["level"]
    return list(fields.items())


def _joined(values: list[ast.expr]) -> list[ast.expr]:
    """Parts of a formatted text, neighbouring constants in one: versions of Python cut them differently."""
    joined: list[ast.expr] = []
    for value in values:
        if isinstance(value, ast.Constant) and joined and isinstance(before := joined[-1], ast.Constant):
            joined[-1] = ast.Constant(f"{before.value!s}{value.value!s}")
        elif not isinstance(value, ast.Constant) or value.value:
            joined.append(value)
    return joined


def _constant(value: object) -> str:
    """A constant as text, the same in every version: what repr shows of a text follows Unicode's tables."""
    kind = type(value).__name__
    if isinstance(value, complex):
        return f"{kind} {value.real.hex()} {value.imag.hex()}"
    if isinstance(value, float):
        return f"{kind} {value.hex()}"
    if isinstance(value, bytes):
        return f"{kind} {value.hex()}"
    return f"{kind} {value:x}" if type(value) is int else f"{kind} {value}"
