"""Modules of a user's own: where they are, whose name hides them, and what each was imported from."""

import importlib
import os
import site
import sys
import sysconfig
import threading
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.machinery import ExtensionFileLoader, ModuleSpec, PathFinder, SourceFileLoader, SourcelessFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.errors import CodeError, InputError, one_line

PACKAGES = ("pipeline", "storage", "flows")
"""Those of epsweep."""
_OURS = Path(__file__).parent.parent
_KEPT = "epsweep_content"  # attribute of a loader: what its module was imported from
_INSTALLED = ("site-packages", "dist-packages")
_SLACK_SECONDS = 1.0  # of the clock by which a process knows when it began
_FINDING = threading.Lock()


def find_module(name: str) -> ModuleSpec | None:
    """Specification of a module: as it was imported, or as it would be, without importing its parents."""
    if isinstance(module := sys.modules.get(name), ModuleType):  # or what a module has put in its place
        return spec_of(name, module)
    parent, _, _ = name.rpartition(".")
    path: Sequence[str] | None = None
    if parent:
        found = find_module(parent)
        if found is None or found.submodule_search_locations is None:
            return None
        path = found.submodule_search_locations
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        try:
            spec = None if find is None else find(name, path)
        except KeyError:  # of a folder without a module of its own, for which Python asks the parent, if it is imported
            spec = _folder_spec(name, path or ())
        if spec is not None:
            return spec  # type: ignore[no-any-return]
    return None


def _folder_spec(name: str, path: Sequence[str]) -> ModuleSpec:
    """Specification of a folder without a module of its own."""
    spec = ModuleSpec(name, None, is_package=True)
    folders = [Path(each) / name.rpartition(".")[2] for each in path]
    spec.submodule_search_locations = [str(each) for each in folders if each.is_dir()]
    return spec


def spec_of(name: str, module: ModuleType) -> ModuleSpec:
    """Specification of a module that is imported, made up for a script, which has none."""
    if module.__spec__ is not None:
        return module.__spec__
    file = getattr(module, "__file__", None)  # a script
    spec = ModuleSpec(name, SourceFileLoader(name, file) if file else None, origin=file)
    spec.has_location = True
    return spec


@lru_cache(maxsize=4096)
def is_own(origin: str | None) -> bool:
    """Whether a file is a user's own: neither Python's nor this package's nor installed."""
    if origin is None:
        return True
    if origin in ("built-in", "frozen"):
        return False
    path = os.path.realpath(origin)
    return not any(path.startswith(each) for each in _foreign()) and not set(_INSTALLED) & set(Path(path).parts)


@cache
def _foreign() -> tuple[str, ...]:
    """Folders of Python, of installed packages and of this package, each with a separator at its end."""
    paths = [sysconfig.get_path(each) for each in ("stdlib", "platstdlib", "purelib", "platlib")]
    paths += [*site.getsitepackages(), site.getusersitepackages(), *(str(_OURS / each) for each in PACKAGES)]
    return tuple(f"{os.path.realpath(each)}{os.sep}" for each in paths)


def own_folders() -> list[Path]:
    """Folders in which modules of a user's own are looked for."""
    folders = [Path(each or os.curdir).resolve() for each in sys.path]
    return [each for each in folders if each.is_dir() and is_own(str(each / "x"))]


def hidden_by(top: str, folders: Sequence[Path]) -> str | None:
    """Why a module of a user's own is not the one that its name imports; None if it is, or there is none."""
    found = find_module(top)
    if found is None or is_own(found.origin):
        return None
    for folder in folders:
        for path in (folder / f"{top}.py", folder / top / "__init__.py"):
            if path.is_file() and os.path.realpath(path) != os.path.realpath(str(found.origin)):
                installed = top not in sys.stdlib_module_names and top not in PACKAGES
                remedy = "rename the file" + ", or uninstall the package" * installed
                return f"{one_line(path)} is hidden by {owner_of(top)}; {remedy}"
    return None


def content_of(spec: ModuleSpec, *, loaded: bool) -> bytes:
    """What a module was imported from, or would be now."""
    kept = getattr(spec.loader, _KEPT, None)
    if loaded and isinstance(kept, bytes):
        return kept
    origin = str(spec.origin)
    try:
        if loaded:
            _require_unchanged(spec.name, str(getattr(spec.loader, "archive", origin)))
        content: bytes = spec.loader.get_data(origin)  # type: ignore[union-attr]
    except (OSError, AttributeError) as error:
        raise InputError(
            f"code: {spec.name} has no source that can be read ({one_line(error)}); put it in a file"
        ) from error
    return content


def _require_unchanged(name: str, origin: str) -> None:
    """Refuse a module that was imported before sources were kept, if its file is younger than this process."""
    state = Path(origin).stat()
    if max(state.st_mtime, state.st_ctime) > _started() + _SLACK_SECONDS:
        raise CodeError(
            f"code: {name} was imported before {one_line(origin)} was changed, or just after: restart this process"
        )


@cache
def _started() -> float:
    import psutil  # only where a module was imported by others

    return float(psutil.Process().create_time())


def owner_of(top: str) -> str:
    """Whose a module is that is no user's own."""
    if top in sys.stdlib_module_names:
        return f"Python's own module {top}"
    return f"a package of epsweep, {top}" if top in PACKAGES else f"the installed package {top}"


class _KeepingFinder:
    """Finder ahead of Python's: modules of a user's own are loaded from their sources, which are kept."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As the finders after this one find it."""
        for finder in sys.meta_path[sys.meta_path.index(self) + 1 :]:
            find = getattr(finder, "find_spec", None)
            if find is not None and (spec := find(name, path, target)) is not None:
                if spec.has_location and is_own(spec.origin):
                    _keep(spec)
                return spec  # type: ignore[no-any-return]
        return None


def _keep(spec: ModuleSpec) -> None:
    """Have a module's loader keep what it loads."""
    if type(spec.loader) is SourceFileLoader:
        spec.loader = _KeepingLoader(spec.loader.name, spec.loader.path)
    elif isinstance(spec.loader, ExtensionFileLoader | SourcelessFileLoader):
        setattr(spec.loader, _KEPT, spec.loader.get_data(str(spec.origin)))


class _KeepingLoader(SourceFileLoader):
    """Loader from source alone: a cache of bytecode may be that of an earlier source of the same second."""

    def get_code(self, fullname: str) -> Any:
        """Compile what is kept."""
        content = self.get_data(self.path)
        setattr(self, _KEPT, content)
        return self.source_to_code(content, self.path)


def keep_sources() -> None:
    """From now on have this process import modules of a user's own from their sources, and keep these."""
    with _FINDING:
        if not any(isinstance(each, _KeepingFinder) for each in sys.meta_path):
            finders: list[Any] = sys.meta_path
            finders.insert(finders.index(PathFinder) if PathFinder in finders else len(finders), _KeepingFinder())
    importlib.invalidate_caches()
