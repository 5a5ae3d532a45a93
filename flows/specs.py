"""Specs by path or by the name of a shipped sweep."""

import sys
from importlib.resources import files
from pathlib import Path

from pipeline.errors import InputError
from pipeline.grid import Sweep, load_sweep

_SHIPPED = Path(str(files("flows") / "sweeps"))


def shipped_sweeps() -> dict[str, Path]:
    """Name and path of the sweeps that come with the package."""
    return {path.stem: path for path in sorted(_SHIPPED.glob("*.yaml"))}


def find_sweep(spec: str, *, allow_code: bool) -> tuple[Path, Sweep]:
    """Load a spec given by path or shipped name.

    Parameters
    ----------
    spec : str
    allow_code : bool
        Whether it may name a user's own code, which is imported from its folder or the working directory too.

    Raises
    ------
    InputError
        If there is no such spec or it is not valid.
    """
    path = Path(spec)
    shipped = shipped_sweeps()
    if not path.is_file():
        if spec in shipped:
            path = shipped[spec]
        elif not path.exists() and path.suffix not in (".yaml", ".yml"):
            raise InputError(f"spec: {spec!r} is neither a file nor a shipped sweep; shipped are {', '.join(shipped)}")
    if allow_code:
        import_from(path.resolve().parent, Path.cwd())
    sweep = load_sweep(path, allow_code=allow_code)
    _require_modules_beside(path, sweep)
    return path, sweep


def _require_modules_beside(path: Path, sweep: Sweep) -> None:
    """Refuse a sweep whose functions are not those of the modules beside it, but of others with their names."""
    for top in {name.partition(":")[0].partition(".")[0] for name in sweep.code}:
        used = str(getattr(sys.modules[top], "__file__", None))
        for beside in (path.resolve().parent / f"{top}.py", path.resolve().parent / top / "__init__.py"):
            if beside.is_file() and beside.resolve() != Path(used).resolve():
                raise InputError(f"{path}: {beside} is hidden by {used}, which was found first; rename one of them")


def import_from(*folders: Path) -> None:
    """Let modules of a user's own be imported from folders, in which no file shadows a library."""
    sys.path += [str(each) for each in folders if str(each) not in sys.path]


def default_store(sweep: Sweep) -> str:
    """Path of a sweep's results where none is given."""
    return str(Path("results") / f"{sweep.name}.zarr")
