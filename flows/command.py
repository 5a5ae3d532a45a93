"""The command ``epsweep``: the build makes a module by itself of this file, which no file named ``flows.py`` hides."""

import os
import sys
from importlib.machinery import PathFinder


def main() -> None:
    """Run the command line, or end with one line where something of somebody else's is found as ``flows``."""
    found = PathFinder.find_spec("flows")
    folders = (found.submodule_search_locations if found else None) or ()
    if not any(os.path.exists(f"{folder}/__main__.py") for folder in folders):  # noqa: PTH110 (as little as can be)
        where = (found.origin or "a folder of that name") if found else "nothing"
        sys.stderr.write(f"epsweep: {where} hides this package's flows; rename it, or take its folder off PYTHONPATH\n")
        sys.exit(2)
    from flows.__main__ import main as run

    run()
