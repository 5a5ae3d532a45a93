"""Real S3 servers on loopback: SeaweedFS, which honours conditions, and rclone, which does not."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from time import monotonic, sleep

import botocore.session
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

BIN = Path(sys.executable).parent
KEY, SECRET, BUCKET = "epsweep-test", "only-for-this-test", "results"
LIMITED = {"without-list": ["Read", "Write"], "without-write": ["Read", "List"], "without-read": ["Write", "List"]}
_DEADLINE = 60.0


@dataclass
class Server:
    """An S3 server that may be stopped and started again on the same ports and folder."""

    command: list[str]
    port: int
    folder: Path
    sockets: tuple[Path, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a user sets to reach the server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    @cached_property
    def client(self):
        config = Config(
            retries={"max_attempts": 1}, s3={"addressing_style": "path"}, connect_timeout=2, read_timeout=10
        )
        return botocore.session.get_session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            config=config,
        )

    def start(self) -> None:
        """Start the server and wait until an object can be written; the bucket is made if it is not there."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command, cwd=self.folder, stdout=log, stderr=log)
        client, deadline = self.client, monotonic() + _DEADLINE
        while True:
            try:
                with suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
                    client.create_bucket(Bucket=BUCKET)
                with suppress(client.exceptions.NoSuchKey):
                    client.get_object(Bucket=BUCKET, Key="ready")["Body"].read()  # what was there can be read again
                client.put_object(Bucket=BUCKET, Key="ready", Body=b"there")
            except (BotoCoreError, ClientError) as error:
                if self.process.poll() is not None or monotonic() > deadline:
                    raise AssertionError((self.folder / "log").read_text()[-3000:]) from error
                sleep(0.1)
            else:
                return

    def kill(self) -> None:
        """End it as a crash does; what it had confirmed is on disk."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        for path in self.sockets:
            path.unlink(missing_ok=True)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def _running(make: Callable[[Path], Server], folder: Path) -> Iterator[Server]:
    server = make(folder)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextmanager
def weed(folder: Path) -> Iterator[Server]:
    """SeaweedFS: master, volume, filer and S3 gateway in one process."""
    yield from _running(_weed, folder)


def _weed(folder: Path) -> Server:
    identity = {"name": "epsweep", "credentials": [{"accessKey": KEY, "secretKey": SECRET}]}
    actions = ["Admin", "Read", "Write", "List", "Tagging"]
    others = [
        {"name": name, "credentials": [{"accessKey": name, "secretKey": SECRET}], "actions": allowed}
        for name, allowed in LIMITED.items()
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": [identity | {"actions": actions}, *others]}))
    (folder / "s3.json").chmod(0o600)
    s3, s3_grpc, master, master_grpc, volume, volume_grpc, filer, filer_grpc = free_ports(8)
    options = {
        "dir": folder,
        "ip": "127.0.0.1",
        "ip.bind": "127.0.0.1",
        "filer": "true",
        "s3": "true",
        "s3.config": folder / "s3.json",
        "s3.iam": "false",
        "s3.autoCreateBucket": "false",
        "s3.port": s3,
        "s3.port.grpc": s3_grpc,
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        "s3.localSocket": folder / "s3.sock",
        "master.port": master,
        "master.port.grpc": master_grpc,
        "master.telemetry": "false",
        "master.electionTimeout": "1s",
        "master.volumeSizeLimitMB": 64,
        "volume.port": volume,
        "volume.port.grpc": volume_grpc,
        "volume.max": 100,
        "volume.preStopSeconds": 0,
        "filer.port": filer,
        "filer.port.grpc": filer_grpc,
        "filer.localSocket": folder / "filer.sock",
    }
    command = [str(BIN / "weed"), "server", *(f"-{name}={value}" for name, value in options.items())]
    grpc = {"s3": s3_grpc, "master": master_grpc, "volume": volume_grpc, "filer": filer_grpc}
    sockets = tuple(Path(f"/tmp/seaweedfs-{name}-grpc-{port}.sock") for name, port in grpc.items())  # a fixed place
    return Server(command, s3, folder, sockets)


@contextmanager
def rclone(folder: Path) -> Iterator[Server]:
    """Rclone serving a folder; it ignores If-None-Match and If-Match."""
    yield from _running(_rclone, folder)


def _rclone(folder: Path) -> Server:
    (port,) = free_ports(1)
    data = folder / "data"
    data.mkdir(exist_ok=True)
    command = [str(BIN / "rclone"), "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", f"{KEY},{SECRET}"]
    return Server([*command, "--config", os.devnull, "--vfs-cache-mode", "off", str(data)], port, folder)
