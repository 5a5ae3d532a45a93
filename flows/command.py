"""The command ``epsweep`` as it is installed: a module by itself, which nothing of the same name is likely to hide.

The build copies it beside the packages, of which it imports nothing before it knows that they are ours.
"""

import os
import sys
from importlib.machinery import PathFinder


def require_ours() -> None:
    """End with one line where a file of somebody else's has the name of a package of this project."""
    root = ""
    for name in ("flows", "pipeline", "storage"):
        found = PathFinder.find_spec(name)
        folder = next(iter(found.submodule_search_locations or ()), "") if found else ""
        if not root and os.path.exists(f"{folder}/__main__.py"):  # noqa: PTH110 (signals are not yet heeded: be quick)
            root = os.path.dirname(os.path.realpath(folder))  # noqa: PTH120
        if not root or os.path.realpath(folder) != os.path.join(root, name):  # noqa: PTH118
            where = (found.origin or "a folder of that name") if found else "nothing"
            sys.stderr.write(
                f"epsweep: {where} hides this package's {name}; rename it, or take its folder off PYTHONPATH\n"
            )
            sys.exit(2)


def main() -> None:
    """Run the command line."""
    require_ours()
    from flows.__main__ import main as run

    run()
