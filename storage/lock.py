"""The lock that keeps a store to one writer."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from storage.location import locate


@contextmanager
def single_writer(store: str | Path) -> Iterator[None]:
    """Hold the lock of a store, local or ``s3://bucket/key``.

    Raises
    ------
    StoreError
        If another process holds it; the message names that process.
    """
    with locate(store).lock():
        yield
