"""Cluster profiles: YAML files, some of them shipped here, that say how to start or to reach a Dask cluster.

A profile names programs and shell lines that run on a cluster: trust it as you would a script.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from distributed.security import Security
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from pipeline.errors import InputError, one_line, shown
from pipeline.spec_text import load_yaml
from pipeline.validation import quoted

_FOLDER = Path(__file__).parent
_LARGEST_BYTES = 2**16
_OTHERS = 0o077


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", populate_by_name=True)


class Certificates(_Strict):
    """Paths of PEM files, relative to the profile."""

    ca: str
    cert: str
    key: str


class Adapt(_Strict):
    """Limits between which the number of workers follows the work there is."""

    minimum: Annotated[int, Field(ge=1, le=100_000)] = 1
    maximum: Annotated[int, Field(ge=1, le=100_000)]

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.maximum < self.minimum:
            raise ValueError(f"maximum {self.maximum} is below minimum {self.minimum}")
        return self


class Profile(_Strict):
    """A cluster as a YAML file describes it.

    Attributes
    ----------
    cluster_class : str or None
        Cluster class to be started, key ``class``.
    address : str or None
        Instead of that, a running scheduler.
    arguments : dict
        Of the class.
    workers : int
        Number of workers to be started.
    adapt : Adapt or None
        Instead of that, limits of their number.
    minimum : int
        Workers to wait for before cells are sent.
    timeout : float
        Seconds to wait for them.
    tls : Certificates, "temporary" or None
        Certificates of the run, or some made for it.
    """

    cluster_class: Annotated[str | None, Field(alias="class", pattern=r"^\w+(\.\w+)+$")] = None
    address: Annotated[str | None, Field(pattern=r"^(tcp|tls)://[^\s/]+:\d+$")] = None
    arguments: dict[str, Any] = {}
    workers: Annotated[int, Field(ge=1, le=100_000)] = 1
    adapt: Adapt | None = None
    minimum: Annotated[int, Field(ge=1, le=100_000)] = 1
    timeout: Annotated[float, Field(gt=0, le=30 * 86400)] = 300.0
    tls: Annotated[Certificates | Literal["temporary"] | None, Field(union_mode="left_to_right")] = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.cluster_class is None) == (self.address is None):
            raise ValueError("write either class (a cluster to be started) or address (a running scheduler)")
        if self.address is None:
            self._check_started()
            return self
        if extra := self.model_fields_set & {"arguments", "workers", "adapt"}:
            raise ValueError(f"{', '.join(sorted(extra))}: only for a class; the scheduler at address runs already")
        if self.tls is not None and not self.address.startswith("tls://"):
            raise ValueError(f"address {self.address} is not encrypted; write tls://, or no tls")
        if self.tls == "temporary":
            raise ValueError("tls: temporary is only for a class; a running scheduler has certificates: ca, cert, key")
        return self

    def _check_started(self) -> None:
        if self.adapt is not None and "workers" in self.model_fields_set:
            raise ValueError("write either workers (a fixed number) or adapt (limits)")
        first = self.adapt.minimum if self.adapt else self.workers
        if "workers" in self.model_fields_set | ({"workers"} if self.adapt else set()) and self.minimum > first:
            raise ValueError(f"minimum {self.minimum} is more than the {first} workers that are started at first")


def shipped_profiles() -> dict[str, Path]:
    """Names and paths of the profiles that come with the package."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}


def load_profile(name: str) -> Profile:
    """Read a profile by path or shipped name; its certificates' paths become absolute and are checked.

    Raises
    ------
    InputError
        If it cannot be read, or a key cannot be used as it is.
    """
    path = Path(name)
    if not path.exists():
        path = shipped_profiles().get(name, path)
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_BYTES + 1)
    except OSError as error:
        raise InputError(
            f"cluster: {name!r} is not local, local:N, tcp://host:port, a shipped profile ("
            f"{', '.join(shipped_profiles())}) or a profile that can be read ({error.strerror})"
        ) from error
    if len(content) > _LARGEST_BYTES:
        raise InputError(f"cluster: {name}: a profile has at most {_LARGEST_BYTES} bytes")
    try:
        document = load_yaml(content.decode("utf-8"), "a profile")
    except UnicodeDecodeError as error:
        raise InputError(f"cluster: {name} is not UTF-8 text ({error.reason}); name a YAML file") from error
    except InputError as error:
        raise InputError(f"cluster: {name}: {error}") from error
    try:
        profile = Profile.model_validate(document)
    except ValidationError as error:
        raise InputError(f"cluster: {name}: {_reason(error)}") from error
    if isinstance(profile.tls, Certificates):
        profile.tls = _found(profile.tls, path.resolve().parent, name)
    return profile


def _reason(error: ValidationError) -> str:
    first = error.errors()[0]
    keys = [str(key) for key in first["loc"] if key not in ("Certificates", "literal['temporary']")]
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{'.'.join(keys)}: {message}" if keys else message
    value = "" if first["type"] == "missing" else f" (it is {shown(first['input'])}){quoted(first)}"
    allowed = ", ".join(field.alias or name for name, field in Profile.model_fields.items())
    return f"{'.'.join(keys) or 'the profile'}: {message}{value}; a profile has {allowed}"


def _found(tls: Certificates, folder: Path, name: str) -> Certificates:
    """The certificates with absolute paths, once it is sure that they are read, belong together and are private."""
    paths = {key: folder / Path(value).expanduser() for key, value in tls}
    for key, path in paths.items():
        try:
            with path.open("rb"):
                pass
        except OSError as error:
            raise InputError(
                f"cluster: {name}: tls.{key}: {path} cannot be read ({error.strerror}); name a PEM file"
            ) from error
    status = paths["key"].stat()
    if status.st_uid == os.getuid() and status.st_mode & _OTHERS:
        raise InputError(f"cluster: {name}: tls.key: others can read {paths['key']}; chmod 600 {paths['key']}")
    context = ssl.create_default_context()
    try:
        context.load_verify_locations(paths["ca"])
    except ssl.SSLError as error:
        raise InputError(f"cluster: {name}: tls.ca: {paths['ca']} holds no certificate in PEM ({error})") from error
    try:
        context.load_cert_chain(paths["cert"], paths["key"], password="")  # an encrypted key would be asked for
    except (ssl.SSLError, ValueError) as error:
        raise InputError(
            f"cluster: {name}: tls: {paths['cert']} and {paths['key']} are not a certificate and its unencrypted key "
            f"({one_line(error)})"
        ) from error
    return Certificates(**{key: str(path) for key, path in paths.items()})


def security_of(profile: Profile) -> Security | None:
    """What Dask takes for the certificates of a profile; None if it has none."""
    if profile.tls is None:
        return None
    if profile.tls == "temporary":
        return Security.temporary()
    roles = {
        f"tls_{role}_{kind}": getattr(profile.tls, kind)
        for role in ("client", "scheduler", "worker")
        for kind in ("cert", "key")
    }
    return Security(require_encryption=True, tls_ca_file=profile.tls.ca, **roles)
