"""A user's own code: modules found and imported, and the digest by which a store and every worker know it."""

import hashlib
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import BYTECODE_SUFFIXES, SOURCE_SUFFIXES, all_suffixes
from importlib.metadata import packages_distributions, requires, version
from pathlib import Path
from typing import Any

from pipeline.arithmetic import import_undisturbed
from pipeline.errors import CodeError, InputError, one_line, shown
from pipeline.failure import failure_of, stops
from pipeline.own_modules import (
    PACKAGES,
    content_of,
    find_module,
    hidden_by,
    is_own,
    keep_sources,
    own_folders,
    owner_of,
)
from pipeline.syntax import Import, Source, read_source

_NAME = re.compile(r"[^.:\s]+(\.[^.:\s]+)*:[^.:\s]+")
_MOST_BESIDE = 2000  # modules in the folder of one that imports by computed names
_BYTECODE_HEAD = 16  # bytes: times and flags
_MODULES = tuple(all_suffixes())


def imported(field: str, name: str, places: str = "beside the spec, in the working directory or on PYTHONPATH") -> Any:
    """Import ``module:name``, which runs the module's code.

    From then on this process imports every module of a user's own from its source, and keeps the source.

    Parameters
    ----------
    field : str
        Of a specification, for messages.
    name : str
    places : str
        Where the module may be put, for messages.

    Raises
    ------
    InputError
        If that fails, or the module is hidden by one of Python, of an installed package or of this package.
    """
    module, _, attribute = name.partition(":")
    if not _NAME.fullmatch(name):
        raise InputError(f"{field}: {shown(name)} cannot be imported; write module:name, such as mine:f")
    try:
        if module in sys.modules and (found := find_module(module)) is not None and is_own(found.origin):
            return getattr(sys.modules[module], attribute)
        keep_sources()
        hidden = hidden_by(module.partition(".")[0], own_folders())
        if hidden is None:
            return getattr(import_undisturbed(module), attribute)
    except BaseException as error:
        if stops(error):
            raise
        reason = f"{field}: {shown(name)} cannot be imported ({one_line(failure_of(error, [module]).message, 300)})"
        raise InputError(f"{reason}; {_remedy(module, attribute, places)}") from error
    raise InputError(f"{field}: {shown(name)}: {hidden}")


def _remedy(module: str, attribute: str, places: str) -> str:
    """What to do where something cannot be imported: its module is not there, lacks it, or fails."""
    top = module.partition(".")[0]
    above, found = find_module(top), find_module(module)
    if above is not None and not is_own(above.origin) and (found is None or module in sys.modules):
        return f"{owner_of(top)}: give a module of your own another name"
    if found is None:
        return f"put {one_line(module.replace('.', '/'), 80)}.py {places}"
    place = one_line(found.origin or module)
    if module in sys.modules:
        return f"define {one_line(attribute, 80)} in {place}, or name what is there"
    return f"mend {place}, or install what it imports"


def code_digest(name: str) -> str:
    """SHA-256 of the code of ``module:name``, which is imported: of its module and of those that it imports.

    Of each module of a user's own, and of the package that it belongs to, the syntax tree as it was imported, or as it
    would be now; of one that is compiled, its bytes. Python's modules, installed ones and this package are no part of
    it; a function of one of these is known by their versions.

    Parameters
    ----------
    name : str

    Raises
    ------
    InputError
        If it cannot be told what was imported, or a module beside is hidden by another.
    """
    module, _, attribute = name.partition(":")
    top = module.partition(".")[0]
    found = find_module(top)
    if found is not None and not is_own(found.origin) and (versions := _versions_of(top)) is not None:
        return versions
    parts: dict[str, str] = {}
    waiting = [*_with_parents(module), *_with_parents(_defined_in(module, attribute))]
    while waiting:
        each = waiting.pop()
        if each not in parts and (part := _part(each, top)) is not None:
            parts[each] = part.source.digest if part.origin else ""
            waiting += _imports_of(part)
    if not parts.get(module):
        raise InputError(f"code: {module} has no source that can be read; put it in a file")
    text = "\n".join(f"{each} {digest}" for each, digest in sorted(parts.items()) if digest)
    return hashlib.sha256(text.encode()).hexdigest()


def check_code(wanted: Mapping[str, str]) -> None:
    """Import a user's own code, and compare it with what a run asks for.

    Parameters
    ----------
    wanted : mapping of str to str
        Digests, by ``module:name``.

    Raises
    ------
    CodeError
        If some cannot be imported, or is other code.
    """
    for name, digest in wanted.items():
        try:
            imported("code", name, "in the folder where this worker was started, or on its PYTHONPATH")
            same = code_digest(name) == digest
        except CodeError:
            raise
        except InputError as error:
            raise CodeError(str(error)) from error
        if not same:
            module = sys.modules[name.partition(":")[0]]
            path = one_line(getattr(module, "__file__", None) or module.__name__)
            raise CodeError(
                f"code: {name}, imported there from {path}, is not that of the run; restart workers that imported it "
                "before it changed, run again if it changed since, or give every machine the same modules"
            )


@dataclass(frozen=True)
class _Part:
    """A module: its name, that of the package that relative imports start from, where it is, and what it says."""

    name: str
    package: str
    origin: str
    is_package: bool
    source: Source


def _part(name: str, top: str) -> _Part | None:
    """A module of a user's own; None for any other, and for what is not there."""
    spec = find_module(name)
    if spec is None or not (is_own(spec.origin) or name.partition(".")[0] == top):
        return None
    is_package = spec.submodule_search_locations is not None
    package = name if is_package else name.rpartition(".")[0]
    if spec.origin is None or not spec.has_location:  # a folder without a module of its own
        return _Part(name, package, "", is_package, Source(""))
    content = content_of(spec, loaded=name in sys.modules)
    if spec.origin.endswith(tuple(SOURCE_SUFFIXES)):
        return _Part(name, package, spec.origin, is_package, read_source(content))
    start = _BYTECODE_HEAD if spec.origin.endswith(tuple(BYTECODE_SUFFIXES)) else 0
    return _Part(name, package, spec.origin, is_package, Source(hashlib.sha256(content[start:]).hexdigest()))


def _imports_of(part: _Part) -> Iterator[str]:
    """Names of the modules that a module may import, and of some that are none."""
    for each in part.source.imports:
        base = _absolute(part, each)
        if not each.level:
            _check_beside(part, each)
        yield from _with_parents(base)
        names = each.names
        if "*" in names and (starred := _part(base, base.partition(".")[0])):
            names = starred.source.exported
        yield from (f"{base}.{name}" for name in names if name != "*")
    if part.source.computed:
        yield from _modules_beside(part)


def _absolute(part: _Part, statement: Import) -> str:
    if not statement.level:
        return statement.module
    parents = part.package.split(".")
    base = ".".join(parents[: len(parents) - statement.level + 1])
    return ".".join(filter(None, (base, statement.module)))


def _with_parents(name: str) -> list[str]:
    parts = [each for each in name.split(".") if each]
    return [".".join(parts[: length + 1]) for length in range(len(parts))]


def _modules_beside(part: _Part) -> Iterator[str]:
    """All modules in the folder of a module, and in folders of modules there."""
    folder, waiting = Path(part.origin).parent, [(Path(part.origin).parent, part.package)]
    count, seen = 0, {folder.resolve()}
    while waiting:
        place, package = waiting.pop()
        for path in sorted(place.iterdir()):
            name = path.name.partition(".")[0]
            full = f"{package}.{name}" if package else name
            if path.is_dir():
                if name == path.name and any(path.glob("*.py")) and path.resolve() not in seen:
                    seen.add(path.resolve())
                    waiting.append((path, full))
                    yield full
            elif path.name.endswith(_MODULES) and name != "__init__":
                yield full
            count += 1
        if count > _MOST_BESIDE:
            raise InputError(
                f"code: {part.name} imports modules by computed names, and {folder} has more than {_MOST_BESIDE} "
                "files; put it with those that it imports in a folder of their own"
            )


def _defined_in(module: str, attribute: str) -> str:
    """Name of the module in which a function or the function of an experiment is defined, if it says so."""
    found = getattr(sys.modules.get(module), attribute, None)
    found = getattr(found, "func", found)
    found = getattr(found, "__wrapped__", found)
    name = getattr(found, "__module__", None)
    return name if isinstance(name, str) else ""


def _versions_of(top: str) -> str | None:
    """What a module of Python or of a package that this one depends on is known by; None for any other."""
    if top in sys.stdlib_module_names:
        return "Python"
    needed = ["epsweep", *(requires("epsweep") or ())]
    names = {_canonical(match[0]) for each in needed if (match := re.match(r"[\w.-]+", each))}
    found = {"epsweep"} if top in PACKAGES else {_canonical(each) for each in packages_distributions().get(top, [])}
    return ", ".join(f"{each} {version(each)}" for each in sorted(found)) if found and found <= names else None


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _check_beside(part: _Part, statement: Import) -> None:
    """Refuse an import of what is not the module beside that has its name, unless what is taken of it is there."""
    top = statement.module.partition(".")[0]
    levels = part.name.count(".") + part.is_package
    if not part.origin or not (reason := hidden_by(top, [Path(part.origin).parents[levels]])):
        return
    module, names = sys.modules.get(statement.module), statement.names or ("*",)
    if module is None or ("." not in statement.module and not all(hasattr(module, name) for name in names)):
        raise InputError(f"code: {part.name} imports {top}: {reason}")
