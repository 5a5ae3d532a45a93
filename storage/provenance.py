"""What is recorded of each run that writes to a store."""

import platform
import socket
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version

_LIBRARIES = ("numpy", "scipy", "xarray", "zarr", "dask", "prefect")


def now() -> str:
    """Current time, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


_version = cache(version)  # reading one takes milliseconds


def session(spec: str) -> dict[str, object]:
    """Describe a run that starts now."""
    return {
        "started": now(),
        "spec": spec,
        "epsweep": _version("epsweep"),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "host": socket.gethostname(),
        "platform": platform.platform(),
    }
