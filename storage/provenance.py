"""What is recorded of each run that writes to a store."""

import platform
import socket
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from types import MappingProxyType

_LIBRARIES = ("numpy", "scipy", "xarray", "zarr", "dask", "prefect")


def now() -> str:
    """Current time, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


_version = cache(version)  # reading one takes milliseconds


def session(spec: str, accepted_code: Mapping[str, str | None] = MappingProxyType({})) -> dict[str, object]:
    """Describe a run that starts now.

    Parameters
    ----------
    spec : str
    accepted_code : mapping of str to str or None
        Digests of a user's own code that the store had before the run was allowed to go on with other code.
    """
    accepted = {"accepted_code": dict(accepted_code)} if accepted_code else {}
    return {
        "started": now(),
        "spec": spec,
        "epsweep": _version("epsweep"),
        "python": platform.python_version(),
        "libraries": {name: _version(name) for name in _LIBRARIES},
        "host": socket.gethostname(),
        "platform": platform.platform(),
        **accepted,
    }
