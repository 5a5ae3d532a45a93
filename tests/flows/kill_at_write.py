"""Run the command line and SIGKILL it at its k-th rename into a store: kill_at_write.py K REPORT ARGUMENTS...

Even renames are killed before they happen, odd ones after. The report receives the pids of all descendants just
before the kill, or, if there are fewer renames than K, their number.
"""

import itertools
import os
import signal
import sys
from pathlib import Path
from typing import Any

import psutil


def kill_at(limit: int, report: Path) -> "itertools.count[int]":
    """Make the limit-th rename of a path into a store deadly; returns the counter of renames."""
    counter = itertools.count(1)
    rename = Path.replace

    def die() -> None:
        report.write_text(" ".join(str(child.pid) for child in psutil.Process().children(recursive=True)))
        os.kill(os.getpid(), signal.SIGKILL)

    def replace(path: Path, target: Any) -> Path:
        number = next(counter) if ".zarr" in str(target) else 0
        if number and number == limit and limit % 2 == 0:
            die()
        result = rename(path, target)
        if number and number == limit:
            die()
        return result

    Path.replace = replace  # type: ignore[method-assign,assignment]
    return counter


if __name__ == "__main__":
    renames = kill_at(int(sys.argv[1]), Path(sys.argv[2]))
    from flows.cli import main

    main(sys.argv[3:])
    Path(sys.argv[2]).write_text(str(next(renames) - 1))
