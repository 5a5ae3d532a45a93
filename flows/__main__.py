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
    except SystemExit as ended:  # all is said: what is left is Python's own end, which a signal may only shorten
        code = ended.code if isinstance(ended.code, int) else 1
        signal.signal(signal.SIGTERM, lambda *_: os._exit(code))
        raise
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))


if __name__ == "__main__":
    main()
