"""Matplotlib without a user's backend and matplotlibrc, so that the same results give the same picture everywhere."""

import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

from pipeline.errors import EpsweepError, one_line

_BACKEND = "MPLBACKEND"
_OF_THE_PROCESS = ("backend", "backend_fallback", "interactive", "toolbar", "timezone", "date.epoch")


@contextmanager
def own_matplotlib(settings: Mapping[str, Any]) -> Iterator[None]:
    """Let Matplotlib draw by its defaults and some settings; what a caller has set comes back afterwards.

    Import what needs Matplotlib within it. Neither pyplot nor its state is touched.

    Parameters
    ----------
    settings : mapping of str to object
        As a matplotlibrc file has them.

    Raises
    ------
    EpsweepError
        If Matplotlib cannot be imported; one line with the cause.
    """
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # it warns of lines that do not count here and of a folder for its cache
    try:
        _import()
        import matplotlib as mpl

        own: dict[Any, Any] = {
            key: mpl.rcParamsDefault[key] for key in mpl.rcParamsDefault if key not in _OF_THE_PROCESS
        }
        with mpl.rc_context(own | dict(settings)):
            yield
    finally:
        logger.setLevel(level)


def _import() -> None:
    """Import Matplotlib, which raises at a backend that it does not know."""
    if "matplotlib" in sys.modules:
        return
    backend = os.environ.pop(_BACKEND, None)
    try:
        import matplotlib as mpl

        with suppress(ValueError):  # for the caller's pyplot, as Matplotlib would have done
            mpl.rcParams.update({"backend": backend} if backend else {})
    except Exception as error:
        cause = one_line(f"{type(error).__name__}: {error}")
        raise EpsweepError(f"Matplotlib cannot be imported ({cause}); mend its matplotlibrc or installation") from error
    finally:
        if backend is not None:
            os.environ[_BACKEND] = backend
