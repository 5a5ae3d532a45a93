"""The command ``epsweep``, also as ``python -m flows``: it heeds signals from the start, while it still imports."""

import os
import signal
import sys


def _stop(number: int, frame: object) -> None:
    os.write(sys.stderr.fileno(), b"epsweep: stopped; finished cells are stored: run the same command to go on\n")
    os._exit(130)  # an exception would come out of whatever is being imported


def main() -> None:
    """Run the command line; `run` handles SIGTERM itself while it has something to end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    from flows.cli import main as run

    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run()
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the end is said, and Python would take its own handler away


if __name__ == "__main__":
    main()
