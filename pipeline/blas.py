"""The number of threads of the libraries for linear algebra, which decides how their sums are rounded."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any

import numpy as np  # noqa: F401 (its library must be loaded to be limited)
from threadpoolctl import ThreadpoolController


class _OneThread:
    """A limit that holds from the first of several threads that need it to the last: libraries know but one number."""

    def __init__(self) -> None:
        self._libraries = ThreadpoolController().select(user_api="blas").lib_controllers
        self._lock, self._users, self._before = Lock(), 0, [1]

    @contextmanager
    def held(self) -> Iterator[int]:
        with self._lock:
            if not self._users:
                self._before = [each.num_threads or 1 for each in self._libraries]
                self._set([1] * len(self._libraries))
                threads = max(self._before, default=1)
            else:
                threads = 1
            self._users += 1
        try:
            yield threads
        finally:
            with self._lock:
                self._users -= 1
                if not self._users:
                    self._set(self._before)

    def _set(self, numbers: list[int]) -> None:
        for library, number, before in zip(self._libraries, numbers, self._before, strict=True):
            if before != 1:
                self._release(library)
                library.set_num_threads(number)
                self._release(library)

    @staticmethod
    def _release(library: Any) -> None:
        """Newer versions of threadpoolctl let but one thread set the number, until it is released."""
        if hasattr(library, "clear_controlling_thread"):
            library.clear_controlling_thread(force=True)


_FINDING = Lock()


@cache
def _found() -> _OneThread:
    return _OneThread()


def _one_thread() -> _OneThread:
    with _FINDING:
        return _found()


@contextmanager
def one_blas_thread() -> Iterator[int]:
    """Products of matrices are made by one thread each, so that they are rounded alike however many there may be.

    Yields
    ------
    int
        How many threads there were, for work that can be divided in another way; 1 where others are within.
    """
    with _one_thread().held() as threads:
        yield threads
