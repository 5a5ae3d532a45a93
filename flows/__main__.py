"""``python -m flows`` is the command ``epsweep``."""

from flows.cli import main

main()
