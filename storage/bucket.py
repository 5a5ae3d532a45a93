"""A store in an object server that speaks S3."""

import asyncio
import atexit
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, cached_property
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies_environment

import botocore.session
from botocore import exceptions as boto
from botocore.config import Config
from s3fs import S3FileSystem
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.core.sync import sync
from zarr.storage import FsspecStore

from pipeline.errors import StoreError, one_line, shown
from pipeline.loopback import on_loopback
from storage.lease import RENEWAL_SECONDS, RENEWALS, lease
from storage.location import COPY, ROOT, Confirm, Location

_PATIENCE_SECONDS = 60.0
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_KEY_PART = re.compile(r"(?!\.{1,2}$)[\w.+=,()!' -]+")
_CONNECTION: dict[str, Any] = {
    "connect_timeout": 5,  # seconds
    "read_timeout": 30,
    "retries": {"total_max_attempts": 3, "mode": "standard"},
}
_REFUSALS = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthFailure", "401")
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired")
_OTHER_REGION = ("PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "301", "307")
_DENIED = ("AccessDenied", "AllAccessDisabled", "403")
_PERMISSIONS = {
    "HeadObject": "GetObject",
    "ListObjectsV2": "ListBucket",
    "ListObjects": "ListBucket",
}  # others as named
_NOT_ALLOWED = re.compile(r"not authorized to perform: (s3:\w+)")
_PASSING = ("InternalError", "ServiceUnavailable", "SlowDown", "RequestTimeout", "RequestTimeTooSkewed")


def parse_url(text: str) -> "Bucket":
    """Find the bucket of ``s3://bucket/key``; StoreError for any other text, of which no secret is repeated."""
    if "@" in text:
        raise StoreError(
            "store: the URL holds credentials; give s3://bucket/key and set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    if "?" in text or "#" in text:
        raise StoreError("store: the URL has a query or a fragment; give s3://bucket/key alone")
    bucket, _, key = text.partition("://")[2].partition("/")
    key = key.removesuffix("/")
    if not _BUCKET.fullmatch(bucket):
        raise StoreError(f"store: {shown(bucket)} is not the name of a bucket; give s3://bucket/key")
    if not key or not all(_KEY_PART.fullmatch(part) for part in key.split("/")):
        raise StoreError(
            f"store: {shown(key)} will not do as a key; give s3://bucket/key of letters, digits and ._- without '..'"
        )
    return Bucket(bucket, key)


class Bucket(Location):
    """A store in an object server that speaks S3, found by the usual environment variables or profile."""

    def __init__(self, bucket: str, key: str) -> None:
        super().__init__(f"s3://{bucket}/{key}")
        self._bucket, self._key = bucket, key
        self.limit = RENEWAL_SECONDS * RENEWALS / 2  # what is left of the lease when it has just been confirmed

    def exists(self) -> bool:
        """Whether something is there."""
        if self.read(ROOT) is not None or self.read(COPY) is not None:
            return True
        self._has(self._key)  # a bucket that is missing would look like a store that is
        return False

    def publish(self, documents: Mapping[str, bytes]) -> None:
        """Write the root document last: without it there is no store."""
        arrays = {key.partition("/")[0] for key in documents if "/" in key}
        left = [key for key in self.names() if key.partition("/")[0] in arrays]
        if _chunked(left) - _chunked(documents):
            raise StoreError(
                f"store: {self.name} has values but no {ROOT}, which is damage; restore that, or remove what is there"
            )
        self.delete(left)  # of a creation that was killed; it would be read as data
        self.write({key: content for key, content in documents.items() if key != ROOT})
        self.write({ROOT: documents[ROOT]})

    @contextmanager
    def _hold(self) -> Iterator[Confirm]:
        self._has(self._key)
        with lease(self, f"{self._key}.lock", self.name, self._server) as confirm:
            yield confirm

    def _patience(self) -> float:
        return _PATIENCE_SECONDS

    def tidy(self) -> None:
        """Remove what writes left behind that were killed."""
        # an object that was not written to its end does not exist

    def same(self, other: Location) -> bool:
        """Whether another location is this one."""
        return isinstance(other, Bucket) and self.name == other.name

    def get(self, key: str) -> tuple[bytes, str] | None:
        """Content and tag of an object of the bucket; None if there is none."""
        found = self._call("get_object", "read", Key=key)
        return None if found is None else (found["Body"], found["ETag"])

    def put(self, key: str, content: bytes, tag: str | None) -> str | None:
        """Write if the object still has the tag, or with None if there is none; new tag, None if refused."""
        condition = {"IfNoneMatch": "*"} if tag is None else {"IfMatch": tag}
        done = self._call("put_object", "written", Key=key, Body=content, **condition)
        return None if done is None else str(done["ETag"])

    def remove(self, key: str, tag: str) -> None:
        """Delete an object if it still has the tag."""
        self._call("delete_object", "written", Key=key, IfMatch=tag)

    def _call(self, operation: str, action: str, **arguments: Any) -> Any:
        """Ask the server; None where an object is not there, or a condition does not hold."""
        try:
            answer = getattr(self._client, operation)(Bucket=self._bucket, **arguments)
            return answer | {"Body": answer["Body"].read()} if "Body" in answer else answer
        except (boto.BotoCoreError, boto.ClientError, OSError) as error:
            code = _code(error)
            if code in ("NoSuchKey", "PreconditionFailed", "ConditionalRequestConflict", "412", "409"):
                return None
            if operation == "get_object" and code in _DENIED and not self._has(arguments["Key"]):
                return None  # S3 says so of what is not there, where the right to list is limited to a prefix
            raise StoreError(f"store: {self.name} cannot be {action} ({self.reason(error)})") from error

    def _has(self, key: str) -> bool:
        """Whether a key is there; StoreError if that is not for these credentials to know, or there is no bucket."""
        found = self._call("list_objects_v2", "read", Prefix=key, MaxKeys=1).get("Contents", [])
        return any(each["Key"] == key for each in found)

    @cached_property
    def _client(self) -> Any:
        try:
            return _client(_settings())
        except ValueError as error:  # it is not repeated, since it may hold a secret
            raise StoreError(f"store: {self.name} cannot be reached; AWS_ENDPOINT_URL is not a valid URL") from error
        except boto.BotoCoreError as error:  # no such profile, say
            raise StoreError(f"store: {self.name} cannot be reached ({one_line(error)}); mend that setting") from error

    @property
    def _server(self) -> str:
        """Server as messages name it, without what may be a secret."""
        parts = urlsplit(self._client.meta.endpoint_url)
        return f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")

    async def _listed(self) -> set[str]:
        return await asyncio.to_thread(self._list)

    def _list(self) -> set[str]:
        """All keys; s3fs would ask for an object of the store's name where there are none, which may be denied."""
        prefix = f"{self._key}/"
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix)
        return {each["Key"].removeprefix(prefix) for page in pages for each in page.get("Contents", [])}

    def _zarr(self, *, read_only: bool) -> Store:
        filesystem = _filesystem(self._client.meta.endpoint_url, _settings())
        store = _Objects(filesystem, read_only=read_only, path=f"{self._bucket}/{self._key}")
        store.listed = lambda key: self._has(f"{self._key}/{key}")
        return store

    def reason(self, error: Exception) -> str | None:
        """One line for an error of this kind of place; None for any other."""
        causes = _causes(error)
        code = _code(error)
        if code in ("NoSuchBucket", "404"):
            return f"there is no bucket {self._bucket!r} at {self._server}; create it, or correct the name"
        if code in _OTHER_REGION:
            region = _answer(error).get("Error", {}).get("Region") or "that of the bucket"
            return (
                f"bucket {self._bucket!r} is in another region; set AWS_DEFAULT_REGION to {region}, or AWS_ENDPOINT_URL"
            )
        if code in _EXPIRED:
            return "the session token has expired; renew the credentials and AWS_SESSION_TOKEN"
        if code == "InvalidToken":
            return "the session token is not that of the key; set AWS_SESSION_TOKEN to its own, or unset it"
        if code == "RequestTimeTooSkewed":
            return f"the clock of this machine is not that of {self._server}; set the clock"
        if code in _DENIED:
            return self._denial(error)
        if code in _REFUSALS or any(
            isinstance(each, boto.NoCredentialsError | boto.PartialCredentialsError) for each in causes
        ):
            return (
                f"{self._server} takes no such credentials ({code or 'there are none'}); check AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
            )
        if code in ("NotImplemented", "501"):
            return f"{self._server} knows no conditional writes; use a server that does"
        if any(isinstance(each, boto.SSLError) for each in causes):
            return f"the certificate of {self._server} is not trusted; check AWS_CA_BUNDLE"
        if any(isinstance(each, boto.ConnectionError | boto.HTTPClientError | TimeoutError) for each in causes):
            return f"{self._server} does not answer; check AWS_ENDPOINT_URL and that the server runs"
        if code or isinstance(error, boto.BotoCoreError | OSError):
            return f"{self._server}: {one_line(code or error)}"
        return None

    def _denial(self, error: Exception) -> str:
        """Which permission credentials lack that the server knows."""
        answer, operation = _answer(error), _operation(error)
        said = str(answer.get("Error", {}).get("Message", ""))
        named = _NOT_ALLOWED.search(said)
        permission = named[1] if named else f"s3:{_PERMISSIONS.get(operation, operation)}"
        policy = ", which a policy denies" if "explicit deny" in said else ""
        advice = {
            "s3:ListBucket": f"grant it for bucket {self._bucket!r}, or correct the name of that",
            "s3:PutObject": "grant it, or use another --store; a policy on conditional writes (If-None-Match) denies "
            "them too",
        }.get(permission, "grant it, or use another --store")
        return f"the credentials lack {permission}{policy}; {advice}"

    def _may_pass(self, error: Exception) -> bool:
        code, causes = _code(error), _causes(error)
        if code or any(isinstance(each, boto.SSLError) for each in causes):
            return code in _PASSING or code.startswith("5")
        return any(isinstance(each, boto.ConnectionError | boto.HTTPClientError | OSError) for each in causes)


class _Objects(FsspecStore):
    """Objects of which one that may not be read is there."""

    listed: Callable[[str], bool]

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        try:
            return await super().get(key, prototype, byte_range)
        except PermissionError as error:
            if _code(error) in _DENIED and not await asyncio.to_thread(self.listed, key):
                return None
            raise


def _settings() -> frozenset[tuple[str, str]]:
    return frozenset(item for item in os.environ.items() if item[0].startswith("AWS_"))


@cache
def _client(settings: frozenset[tuple[str, str]]) -> Any:
    """One client for each environment; botocore reads that, the profile it names, or what the machine provides."""
    session = botocore.session.Session()
    client = session.create_client("s3", config=Config(**_CONNECTION))
    if not getproxies_environment():
        return client
    return session.create_client("s3", config=Config(**_connection(client.meta.endpoint_url)))


def _connection(endpoint: str) -> dict[str, Any]:
    """How to connect: to this machine's loopback without the proxies of the environment."""
    return _CONNECTION | ({"proxies": {}} if on_loopback(endpoint) else {})


@cache
def _filesystem(endpoint: str, settings: frozenset[tuple[str, str]]) -> S3FileSystem:
    """One connection pool for each server and environment."""
    filesystem = S3FileSystem(
        asynchronous=True,
        skip_instance_cache=True,
        endpoint_url=endpoint,
        config_kwargs=_connection(endpoint),
        use_listings_cache=False,
        max_concurrency=1,  # more would ask for the size of an object before each read
    )
    atexit.register(_close, filesystem)
    return filesystem


def _close(filesystem: S3FileSystem) -> None:
    """Close the connections in the loop that opened them."""
    if filesystem._s3creator is not None:
        sync(filesystem._s3creator.__aexit__(None, None, None))


def _chunked(keys: Iterable[str]) -> set[str]:
    """Arrays of which there are chunks."""
    return {key.partition("/")[0] for key in keys if key.partition("/")[2].startswith(("c/", "c."))}


def _causes(error: BaseException) -> list[BaseException]:
    """An error and what led to it."""
    found = [error]
    while (cause := found[-1].__cause__ or found[-1].__context__) is not None and cause not in found:
        found.append(cause)
    return found


def _code(error: BaseException) -> str:
    """Code that the server gave; empty if none."""
    return str(_answer(error).get("Error", {}).get("Code", ""))


def _answer(error: BaseException) -> Mapping[str, Any]:
    """What the server answered; empty if it did not."""
    return next((each.response for each in _causes(error) if isinstance(each, boto.ClientError)), {})


def _operation(error: BaseException) -> str:
    return next((str(each.operation_name) for each in _causes(error) if isinstance(each, boto.ClientError)), "")
