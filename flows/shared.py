"""State that is one for the whole process, such as Dask's configuration, while flows in several threads change it."""

import logging
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from threading import Lock
from typing import Any

import dask

_LOCK = Lock()
_changes: dict[Hashable, tuple[int, Callable[[], None]]] = {}  # by what is changed: who needs it, and what undoes it


@contextmanager
def changed(what: Hashable, change: Callable[[], Callable[[], None]]) -> Iterator[None]:
    """Keep the process changed while any thread is in this context: the first one changes it, the last one undoes it.

    Parameters
    ----------
    what : hashable
        Names the change.
    change : callable
        Makes it; returns what undoes it.
    """
    with _LOCK:
        count, undo = _changes.pop(what, (0, None))
        _changes[what] = count + 1, undo or change()
    try:
        yield
    finally:
        with _LOCK:
            count, undo = _changes.pop(what)
            if count > 1:
                _changes[what] = count - 1, undo
            else:
                undo()


@contextmanager
def dask_settings(settings: Mapping[str, Any]) -> Iterator[None]:
    """Hold settings in Dask's configuration."""

    def change(key: str, value: Any) -> Callable[[], None]:
        stack = ExitStack()
        stack.enter_context(dask.config.set({key: value}))
        return stack.close

    with ExitStack() as stack:
        for key, value in settings.items():
            stack.enter_context(changed(("dask", key), partial(change, key, value)))
        yield


@contextmanager
def logger_level(level: int, *names: str) -> Iterator[None]:
    """Hold loggers at a level."""

    def change(name: str) -> Callable[[], None]:
        logger = logging.getLogger(name)
        before = logger.level
        logger.setLevel(level)
        return partial(logger.setLevel, before)

    with ExitStack() as stack:
        for name in names:
            stack.enter_context(changed(("logger", name), partial(change, name)))
        yield
