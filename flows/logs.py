"""Structured logs of a run: one JSON object a line."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from pythonjsonlogger.core import RESERVED_ATTRS
from pythonjsonlogger.json import JsonFormatter

LOGGER = logging.getLogger("epsweep")


class _Formatter(JsonFormatter):
    """Time in ISO 8601 UTC, level, event, its fields, and the message for people."""

    def __init__(self) -> None:
        super().__init__(
            "{asctime}{levelname}{message}",
            style="{",
            rename_fields={"asctime": "time", "levelname": "level"},
            reserved_attrs=[*RESERVED_ATTRS, "send_to_api"],  # for Prefect's handler
        )

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802 (overrides)
        return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


@contextmanager
def log_file(path: Path | None) -> Iterator[None]:
    """Append what the run logs to a file, if one is given; each line is written at once.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    LOGGER.setLevel(logging.INFO)
    LOGGER.propagate = False  # the terminal has its own lines
    if path is None:
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(_Formatter())
    LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        handler.close()
