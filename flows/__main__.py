"""The command ``epsweep``, also as ``python -m flows``: it heeds signals from the start, while it still imports."""

import sys

if __name__ == "__main__" and not sys.flags.safe_path:  # "python -m" looks into the working directory first
    _here = __file__.rpartition("/")[0].rpartition("/")[0]
    del sys.path[0]
    sys.path[:0] = [_here] * (_here not in sys.path)

import io
import os
import signal
from importlib.machinery import PathFinder


def _stop(number: int, frame: object) -> None:
    os.write(sys.stderr.fileno(), b"epsweep: stopped; finished cells are stored: run the same command to go on\n")
    os._exit(130)  # an exception would come out of whatever is being imported


def _require_ours() -> None:
    """End with one line where a file of somebody else's has the name of a package of this project."""
    root = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120 (nothing more is imported yet)
    for name in ("pipeline", "storage"):
        found = PathFinder.find_spec(name)
        if found is None or not os.path.realpath(found.origin or "").startswith(f"{root}{os.sep}{name}{os.sep}"):
            where = (found.origin or "a folder of that name") if found else "nothing"
            sys.stderr.write(
                f"epsweep: {where} hides this package's {name}; rename it, or take its folder off PYTHONPATH\n"
            )
            sys.exit(2)


def _show_what_the_terminal_can() -> None:
    """Spell what an encoding lacks as an escape, here and in the processes that are started."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # there is none where it is closed
            stream.reconfigure(errors="backslashreplace")
    encoding, _, errors = os.environ.get("PYTHONIOENCODING", "").partition(":")
    os.environ["PYTHONIOENCODING"] = f"{encoding}:{errors or 'backslashreplace'}"


def main() -> None:
    """Run the command line; `run` handles SIGTERM itself while it has something to end."""
    _show_what_the_terminal_can()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)
    _require_ours()
    os.environ["PYTHONSAFEPATH"] = "1"  # for what this process starts: its working directory holds no libraries
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
