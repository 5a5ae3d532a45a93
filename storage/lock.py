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


@contextmanager
def reserved(store: str | Path) -> Iterator[None]:
    """Hold the lock of a store until a writer of this process takes it over, and again after that.

    So a run holds it from its check to its end. A second writer of the same process is refused as any other is.

    Raises
    ------
    StoreError
        If another process holds it, which the message names, or the store cannot be written.
    """
    with locate(store).reserve():
        yield
