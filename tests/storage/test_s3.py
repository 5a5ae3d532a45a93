"""Stores in an object store: the same guarantees as on disk, on real servers."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic, sleep
from urllib.parse import parse_qs, urlsplit

import numpy as np
import psutil
import pytest
import xarray as xr
from botocore.exceptions import ClientError

from pipeline.errors import StoreError
from storage import (
    Status,
    Writer,
    damage_report,
    damaged_cells,
    export,
    failures,
    median_curves,
    merge,
    open_results,
    pending,
    reserved,
    single_writer,
    store_experiment,
    sweep_status,
)
from storage.holders import myself
from storage.location import locate
from tests.storage.servers import BUCKET, KEY, SECRET, Server, rclone, weed
from tests.storage.test_results import assert_holds, fill, sweep, synthetic

ROOT = Path(__file__).parents[2]
HOLDER = """
import sys
import numpy as np
import storage.lease
from storage import Writer
from tests.storage.test_results import sweep, synthetic

storage.lease.RENEWAL_SECONDS = float(sys.argv[2])
spec = sweep()
cells = np.argwhere(spec.wanted)
with Writer.open(sys.argv[1], spec) as writer:
    print("held", flush=True)
    sys.stdin.readline()
    try:
        writer.write(cells, [synthetic(spec.case(cell)) for cell in cells])
    except Exception as error:
        print(type(error).__name__, error, flush=True)
    else:
        print("written", flush=True)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Server:
    with weed(tmp_path_factory.mktemp("weed")) as server:
        yield server


@pytest.fixture(autouse=True)
def environment(request, monkeypatch):
    """What a user sets, where a test uses the server."""
    if "server" in request.fixturenames:
        for name, value in request.getfixturevalue("server").environment.items():
            monkeypatch.setenv(name, value)


@pytest.fixture
def url(server, request) -> str:
    return f"s3://{BUCKET}/{request.function.__name__}/s.zarr"


def key(url: str, name: str = "") -> dict[str, str]:
    return {"Bucket": BUCKET, "Key": url.removeprefix(f"s3://{BUCKET}/") + name}


def objects(server: Server, url: str) -> list[str]:
    prefix = key(url)["Key"]
    found = server.client.list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
    return [each["Key"].removeprefix(prefix) for each in found]


def hold(server: Server, url: str, renewal: float = 1000.0) -> subprocess.Popen[str]:
    """A process that holds the lock of a store."""
    command = [sys.executable, "-c", HOLDER, url, str(renewal)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=os.environ | server.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    return process


def elsewhere() -> bytes:
    """The lock of a process on another host."""
    return json.dumps(myself() | {"host": "elsewhere", "machine": "another", "token": "its"}).encode()


def test_store_lives_in_a_bucket_as_on_disk(url, server, tmp_path):
    assert (sweep_status(url, sweep()) == Status.MISSING).all()
    assert fill(url, sweep(where="r < 4 or m == 5")) == 9
    assert fill(url, sweep(m="[1, 2, 5]")) == 9
    assert_holds(url, sweep(m="[1, 2, 5]"))
    with xr.open_zarr(url) as plain:  # warnings are errors here
        assert plain["m"].values.tolist() == [1, 2, 5]
        assert (plain["status"] == Status.DONE).all()
    ds = open_results(url)
    assert np.isfinite(median_curves(ds)["epsilon"]).all()
    assert export(ds, tmp_path / "cells.csv") == 18
    assert failures(url) == []
    assert store_experiment(url).name == "approximation"
    with single_writer(url):
        assert ".lock" in objects(server, url)
    assert ".lock" not in objects(server, url)
    assert SECRET not in json.dumps(ds.attrs)


def test_lost_object_is_computed_again(url, server):
    fill(url, sweep())
    chunk = next(name for name in objects(server, url) if name.startswith("/epsilon/c/"))
    server.client.delete_object(**key(url, chunk))
    assert [each.array for each in damaged_cells(url)] == ["epsilon"]
    assert fill(url, sweep()) == 12
    assert_holds(url, sweep())


def test_leftovers_of_a_killed_creation_are_not_read_as_data(url, server):
    fill(url, sweep())
    names = [name for name in objects(server, url) if name.startswith("/status/c/")]
    stale = server.client.get_object(**key(url, names[0]))["Body"].read()
    for name in objects(server, url):
        server.client.delete_object(**key(url, name))
    server.client.put_object(**key(url, names[0]), Body=stale)
    server.client.put_object(**key(url, "/status/c/9/0/0/0/0/0/0"), Body=stale)
    assert fill(url, sweep()) == 12
    assert_holds(url, sweep())
    assert "/status/c/9/0/0/0/0/0/0" not in objects(server, url)


def test_values_without_their_root_document_are_not_swept_away(url, server):
    fill(url, sweep())
    server.client.delete_object(**key(url, "/zarr.json"))
    assert "zarr.json: not as it was written; its copy was read" in damage_report(url)[0]
    assert fill(url, sweep()) == 0
    for name in ("/zarr.json", "/status/zarr.json.copy"):
        server.client.delete_object(**key(url, name))
    with pytest.raises(StoreError, match=r"has values but no zarr.json, which is damage; restore that"):
        fill(url, sweep())
    assert any(name.startswith("/epsilon/c/") for name in objects(server, url))


def test_second_writer_is_refused_and_a_killed_one_followed_at_once(url, server, monkeypatch):
    monkeypatch.setattr("storage.lease.RENEWAL_SECONDS", 1000.0)  # to wait for a lease would take too long
    process = hold(server, url)
    with pytest.raises(StoreError, match=rf"is being written by process {process.pid} of .* on .* since .*; wait"):
        fill(url, sweep())
    process.kill()
    process.communicate()
    assert fill(url, sweep()) == 12


def test_holder_elsewhere_is_followed_only_when_it_gives_no_sign_of_life(url, server, monkeypatch):
    monkeypatch.setattr("storage.lease.RENEWAL_SECONDS", 0.2)
    server.client.put_object(**key(url, ".lock"), Body=elsewhere())
    ended = threading.Event()

    def renew() -> None:
        client, count = server.client, 0
        while not ended.wait(0.1):
            count += 1
            client.put_object(**key(url, ".lock"), Body=elsewhere() + b" " * count)

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(StoreError, match=r"is being written by process .* on elsewhere since"):
            fill(url, sweep())
    finally:
        ended.set()
        thread.join()
    assert fill(url, sweep()) == 12


def test_lock_that_may_not_be_deleted_is_given_back_all_the_same(url, server, monkeypatch):
    """As by credentials without s3:DeleteObject, seen from another machine, which would have to watch it for long."""
    monkeypatch.setattr("storage.lease.RENEWAL_SECONDS", 1000.0)
    monkeypatch.setattr("storage.lease.is_near", lambda holder: False)

    def refuse(self, key, tag):
        raise StoreError("store: cannot be written (AccessDenied)")

    monkeypatch.setattr("storage.bucket.Bucket.remove", refuse)
    for _ in range(2):
        with single_writer(url):
            pass


def test_holder_that_was_suspended_past_its_lease_writes_no_more(url, server, monkeypatch):
    process = hold(server, url, renewal=0.2)
    process.send_signal(signal.SIGSTOP)
    deadline = monotonic() + 30
    while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
        assert monotonic() < deadline
        sleep(0.01)
    monkeypatch.setattr("storage.lease.RENEWAL_SECONDS", 0.2)
    monkeypatch.setattr("storage.holders._machine", lambda: "another")
    monkeypatch.setattr("storage.lease.is_near", lambda holder: holder["machine"] == "another")
    with Writer.open(url, sweep()):
        process.send_signal(signal.SIGCONT)
        said, _ = process.communicate("\n", timeout=60)
        assert f"is now being written by process {os.getpid()}" in said
        assert said.startswith("StoreError")
        assert len(said.splitlines()) == 1
        assert (sweep_status(url, sweep()) == Status.MISSING).all()
    assert fill(url, sweep()) == 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, r"http://127.0.0.1:9 does not answer; check AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL": f"{SECRET}"}, "AWS_ENDPOINT_URL is not a valid URL"),
        ({"AWS_PROFILE": "nobody"}, r"profile \(nobody\) could not be found"),
        ({"AWS_SECRET_ACCESS_KEY": "a-wrong-one"}, "takes no such credentials"),
        ({"AWS_ACCESS_KEY_ID": "a-wrong-one"}, "takes no such credentials"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, r"takes no such credentials \(there are none\)"),
    ],
)
def test_server_that_cannot_be_used_is_named_in_one_line(url, server, monkeypatch, tmp_path, changes, message):
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    for using in (open_results, lambda url: fill(url, sweep()), lambda url: sweep_status(url, sweep())):
        with pytest.raises(StoreError, match=message) as refused:
            using(url)
        assert SECRET not in str(refused.value)
        assert "a-wrong-one" not in str(refused.value)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("user", "permission"),
    [("without-list", "s3:ListBucket"), ("without-write", "s3:PutObject"), ("without-read", "s3:GetObject")],
)
def test_permission_that_credentials_lack_is_named(url, server, monkeypatch, user, permission):
    fill(other := url.replace("/s.zarr", "/other.zarr"), sweep())
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", user)
    with pytest.raises(StoreError, match=rf"the credentials lack {permission}; grant it") as refused:
        fill(url, sweep())
    assert "\n" not in str(refused.value)
    if user != "without-read":
        assert_holds(other, sweep())  # what may be read is read


@contextmanager
def behind_a_policy(server: Server, prefix: str) -> Iterator[str]:
    """The server as a policy shows it that limits listing to a prefix: what is not there is denied."""

    class Policy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            parts = urlsplit(self.path)
            connection = HTTPConnection("127.0.0.1", server.port)
            connection.request(self.command, self.path, content, dict(self.headers))
            answer = connection.getresponse()
            status, found = answer.status, answer.read()
            listed = parse_qs(parts.query).get("prefix", [""])[0] if "list-type" in parts.query else prefix
            if (status == 404 and b"NoSuchBucket" not in found) or not listed.startswith(prefix):
                status, found = 403, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
                denied.add(self.command)
            self.send_response(status)
            for name, value in answer.getheaders():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            without = self.command == "HEAD"
            self.send_header("Content-Length", answer.headers["Content-Length"] if without else str(len(found)))
            self.end_headers()
            self.wfile.write(b"" if without else found)
            connection.close()

        do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = answer  # noqa: N815 (names that the server asks for)

        def log_message(self, *arguments: object) -> None:
            pass

    denied: set[str] = set()
    with ThreadingHTTPServer(("127.0.0.1", 0), Policy) as policy:
        threading.Thread(target=policy.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{policy.server_port}"
        finally:
            policy.shutdown()
    assert "GET" in denied  # or nothing was shown


def test_what_is_not_there_may_be_denied(url, server, monkeypatch):
    """As Amazon's S3 answers where credentials may list no more than the prefix of their store."""
    with behind_a_policy(server, key(url)["Key"].removesuffix("s.zarr")) as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        assert (sweep_status(url, sweep()) == Status.MISSING).all()
        assert fill(url, sweep(where="r < 4 or m == 5")) == 9
        assert fill(url, sweep(m="[1, 2, 5]")) == 9
        assert_holds(url, sweep(m="[1, 2, 5]"))
        server.client.delete_object(**key(url, "/zarr.json"))
        assert_holds(url, sweep(m="[1, 2, 5]"))  # by the copy
        with pytest.raises(StoreError, match=r"lack s3:ListBucket; grant it for bucket 'results'"):
            open_results(f"s3://{BUCKET}/elsewhere/s.zarr")


@pytest.mark.parametrize(
    ("code", "operation", "message", "reason"),
    [
        ("ExpiredToken", "GetObject", "", "has expired; renew"),
        ("InvalidToken", "GetObject", "", "not that of the key"),
        ("PermanentRedirect", "PutObject", "", "is in another region; set AWS_DEFAULT_REGION"),
        ("AuthorizationHeaderMalformed", "GetObject", "", "is in another region"),
        ("RequestTimeTooSkewed", "GetObject", "", "set the clock"),
        ("NoSuchBucket", "ListObjectsV2", "", "there is no bucket"),
        ("AccessDenied", "ListObjectsV2", "", "lack s3:ListBucket; grant it for bucket"),
        ("AccessDenied", "DeleteObject", "", "lack s3:DeleteObject; grant it"),
        ("AccessDenied", "GetObject", "is not authorized to perform: s3:ListBucket on", "lack s3:ListBucket"),
        ("AccessDenied", "PutObject", "with an explicit deny in a policy", "lack s3:PutObject, which a policy denies"),
        ("SignatureDoesNotMatch", "GetObject", "", "takes no such credentials"),
    ],
)
def test_each_refusal_of_a_server_has_its_reason(server, code, operation, message, reason):
    error = ClientError({"Error": {"Code": code, "Message": message}}, operation)
    assert reason in locate("s3://bucket/s.zarr").reason(error)


def test_reserved_store_of_a_bucket_is_written_under_the_lock_that_is_held(url, server):
    with reserved(url):
        tag = server.client.head_object(**key(url, ".lock"))["ETag"]
        assert fill(url, sweep()) == 12
        assert server.client.head_object(**key(url, ".lock"))["ETag"] == tag
        with Writer.open(url, sweep()), pytest.raises(StoreError, match="is being written by process"):
            fill(url, sweep())
    assert ".lock" not in objects(server, url)


def test_missing_bucket_is_named(server):
    for using in (open_results, lambda url: fill(url, sweep()), lambda url: sweep_status(url, sweep())):
        with pytest.raises(StoreError, match=r"there is no bucket 'nowhere' at http://127.0.0.1:\d+; create it"):
            using("s3://nowhere/s.zarr")


def test_stores_on_disk_and_in_a_bucket_are_merged(url, server, tmp_path):
    path = tmp_path / "s.zarr"
    fill(path, sweep(m="[2]"))
    fill(url, sweep(m="[2, 5]"))
    assert (merge(path, url).copied, merge(path, url).copied) == (6, 0)
    assert_holds(path, sweep())
    fill(path, sweep(m="[9]"))
    assert merge(url, path).copied == 6
    assert_holds(url, sweep(m="[2, 5, 9]"))


def test_writer_waits_for_a_server_that_is_restarted(url, server):
    spec = sweep()
    cells = np.argwhere(spec.wanted)
    with Writer.open(url, spec) as writer:
        server.kill()
        starting = threading.Thread(target=server.start)
        starting.start()
        writer.write(cells, [synthetic(spec.case(cell)) for cell in cells])
        starting.join()
    assert_holds(url, spec)
    assert not pending(spec, sweep_status(url, spec), retry_failed=False).any()


def write_to_a_dead_server(url: str, server: Server) -> None:
    with Writer.open(url, sweep()) as writer:
        server.kill()
        writer.write(np.zeros((1, 7), dtype=int), [synthetic(sweep().case([0] * 7))])


def test_writer_gives_up_a_server_that_stays_away_and_the_next_goes_on(url, server, monkeypatch):
    monkeypatch.setattr("storage.bucket._PATIENCE_SECONDS", 0.5)
    fill(url, sweep(m="[2]"))
    with pytest.raises(StoreError, match=r"does not answer.*; finished cells are safe: mend that and run the same"):
        write_to_a_dead_server(url, server)
    server.start()
    assert fill(url, sweep()) == 6  # in spite of the lock that could not be given back
    assert_holds(url, sweep())


def test_server_that_ignores_conditions_is_refused(tmp_path, monkeypatch):
    with rclone(tmp_path) as ignorant:
        for name, value in ignorant.environment.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(StoreError, match=rf"{ignorant.endpoint} ignores conditional writes .* or a local --store"):
            fill(f"s3://{BUCKET}/s.zarr", sweep())
        assert objects(ignorant, f"s3://{BUCKET}/s.zarr") == []


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (f"s3://{KEY}:{SECRET}@bucket/key", "the URL holds credentials"),
        (f"s3://{KEY}:s/{SECRET}@bucket/key", "the URL holds credentials"),
        (f"s3://bucket/key?X-Amz-Signature={SECRET}", "has a query"),
        ("s3://bucket/key#part", "has a query or a fragment"),
        ("s3://bucket/../other", "will not do as a key"),
        ("s3://bucket/a/./b", "will not do as a key"),
        ("s3://bucket/a//b", "will not do as a key"),
        ("s3://bucket/a*", "will not do as a key"),
        ("s3://bucket/", "will not do as a key"),
        ("s3://bucket", "will not do as a key"),
        ("s3:///key", "is not the name of a bucket"),
        ("s3:/bucket/key", "spelt s3://bucket/key"),
        (Path("s3://bucket/key"), "a Path loses a slash"),
        (f"https://{KEY}:{SECRET}@host/key", "https:// cannot hold a store; give a local path, or s3://bucket/key"),
        ("gs://bucket/key", "gs:// cannot hold a store"),
        ("file:///tmp/s.zarr", "file:// cannot hold a store"),
        ("", "names nothing"),
        ("a\0b", "names nothing"),
    ],
)
def test_name_that_is_no_store_is_refused_without_repeating_a_secret(name, message):
    with pytest.raises(StoreError, match=message) as refused:
        locate(name)
    assert SECRET not in str(refused.value)


def test_server_on_loopback_is_asked_without_a_proxy(url):
    """By botocore, which looks at the lock, and by Zarr's file system, whatever proxies the environment names."""
    script = (
        "import sys\n"
        "from storage import single_writer\n"
        "from storage.location import locate\n"
        "place = locate(sys.argv[1])\n"
        "with single_writer(place):\n"
        "    place.write({'zarr.json': b'{}'})\n"
        "    assert place.read('zarr.json') == b'{}'\n"
    )
    dead = "http://127.0.0.1:9"
    for proxies in (
        {"HTTP_PROXY": dead, "ALL_PROXY": "socks5://127.0.0.1:9"},
        {"http_proxy": dead, "no_proxy": "[::1]"},
    ):
        command, environment = [sys.executable, "-c", script, url], os.environ | proxies
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr


def test_server_elsewhere_is_asked_through_the_proxy(monkeypatch):
    answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    asked = []

    def serve() -> None:
        for _ in range(2):
            connection, _ = proxy.accept()
            with connection:
                asked.append(connection.recv(4096).partition(b" HTTP")[0].decode())
                connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as proxy:
        threading.Thread(target=serve, daemon=True).start()
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.getsockname()[1]}")
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://192.0.2.1:1")  # nobody's
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
            monkeypatch.setenv(name, "x")
        place = locate("s3://bucket/key")
        with pytest.raises(StoreError):  # by botocore
            place.get("lock")
        assert place.read("zarr.json") is None  # by Zarr's file system
    assert asked == [f"GET http://192.0.2.1:1/bucket/{each}" for each in ("lock", "key/zarr.json")]
