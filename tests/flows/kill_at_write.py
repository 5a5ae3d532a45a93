"""Run the command line and SIGKILL it at its k-th rename into a store: kill_at_write.py K REPORT ARGUMENTS...

Even renames are killed before they happen, odd ones after. The report receives the pids of all descendants just
before the kill, or, if there are fewer renames than K, their number.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import psutil

limit, report = int(sys.argv[1]), Path(sys.argv[2])
seen = 0
real_replace = Path.replace


def die() -> None:
    report.write_text(" ".join(str(child.pid) for child in psutil.Process().children(recursive=True)))
    os.kill(os.getpid(), signal.SIGKILL)


def replace(path: Path, target: Any) -> Path:
    global seen
    if ".zarr" in str(target):
        seen += 1
        if seen == limit and limit % 2 == 0:
            die()
    result = real_replace(path, target)
    if seen == limit and limit % 2 == 1:
        die()
    return result


if __name__ == "__main__":
    Path.replace = replace  # type: ignore[method-assign,assignment]
    from flows.cli import main

    main(sys.argv[3:])
    report.write_text(str(seen))
