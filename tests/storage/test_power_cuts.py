"""Power cuts: system calls of a writer are recorded, and each state that a disk may be in afterwards is opened.

A disk may have lost what was not synced: contents of files, and entries of folders (creations, renames, removals).
"""

import errno
import os
import random
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from storage import Status, damaged_cells, open_results
from storage.disk import Disk
from tests.storage.test_results import assert_holds, fill, sweep, synthetic

ROOT = Path(__file__).parents[2]
FIRST, SECOND = sweep(m="[5, 9]", seeds="1"), sweep(m="[2, 5]", seeds="[0, 3]")
WRITER = """
import sys
from pathlib import Path
from tests.storage.test_power_cuts import FIRST, SECOND
from tests.storage.test_results import fill

folder = Path(sys.argv[1])
for name, spec in (("first", FIRST), ("second", SECOND)):
    fill(folder / "s.zarr", spec)
    (folder / name).mkdir()  # a mark
"""
Entries = dict[str, "File | Folder"]


@dataclass(eq=False)
class File:
    """A file: its content, and what of it is on the disk."""

    content: bytes = b""
    synced: bytes = b""


@dataclass(eq=False)
class Folder:
    """A folder: its entries, and those that are on the disk."""

    entries: Entries = field(default_factory=dict)
    synced: Entries = field(default_factory=dict)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> tuple[Path, bytes]:
    """The folder of a writer that filled a store twice, the second time between its labels, and what it did."""
    folder, library = tmp_path_factory.mktemp("recorded"), tmp_path_factory.mktemp("recorder") / "recorder.so"
    source = Path(__file__).with_name("recorder.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    log = library.with_name("log")
    environment = os.environ | {"LD_PRELOAD": str(library), "RECORD_BELOW": str(folder), "RECORD_TO": str(log)}
    subprocess.run([sys.executable, "-c", WRITER, str(folder)], check=True, cwd=ROOT, env=environment)
    return folder, log.read_bytes()


def records(log: bytes) -> Iterator[tuple[str, int, bytes, bytes]]:
    place = 0
    while place < len(log):
        kind, inode, first, second = struct.unpack_from("=cQQQ", log, place)
        place += 25
        yield kind.decode(), inode, log[place : place + first], log[place + first : place + first + second]
        place += first + second


@dataclass
class Computer:
    """Files below a folder, as processes see them and as they are on the disk."""

    below: str
    root: Folder = field(default_factory=Folder)
    by_inode: dict[int, File] = field(default_factory=dict)

    def find(self, path: str) -> "File | Folder":
        found: File | Folder = self.root
        for part in filter(None, path.removeprefix(self.below).split("/")):
            assert isinstance(found, Folder)
            found = found.entries[part]
        return found

    def place(self, path: bytes) -> tuple[Entries, str]:
        parent, _, name = path.decode().rpartition("/")
        folder = self.find(parent + "/")
        assert isinstance(folder, Folder)
        return folder.entries, name

    def step(self, kind: str, inode: int, first: bytes, second: bytes) -> None:
        if kind == "o":
            entries, name = self.place(first)
            found = entries.setdefault(name, File())
            assert isinstance(found, File)
            found.content, self.by_inode[inode] = b"", found
        elif kind == "w":
            self.by_inode[inode].content += first
        elif kind == "d":
            entries, name = self.place(first)
            entries[name] = Folder()
        elif kind == "u":
            entries, name = self.place(first)
            del entries[name]
        elif kind == "r":
            (source, old), (target, new) = self.place(first), self.place(second)
            target[new] = source.pop(old)
        elif isinstance(found := self.find(first.decode()), Folder):
            found.synced = dict(found.entries)
        else:
            found.synced = found.content


def write_disk(folder: Folder, target: Path, *, entries: float, contents: float, chance: random.Random) -> None:
    """Write what is on the disk, with a share of what may or may not be."""
    target.mkdir()
    for name in sorted({*folder.entries, *folder.synced}):
        newer = chance.random() < entries
        found = (folder.entries if newer else folder.synced).get(name)
        if isinstance(found, Folder):
            write_disk(found, target / name, entries=entries, contents=contents, chance=chance)
        elif found is not None:
            (target / name).write_bytes(found.content if chance.random() < contents else found.synced)


def assert_nothing_lost(store: Path, marks: set[str]) -> None:
    """What a run has reported as finished is done, and no cell holds another value than its own."""
    if "first" in marks:
        assert_holds(store, FIRST)
    if "second" in marks:
        assert_holds(store, SECOND)
    if not store.exists():
        return
    ds = open_results(store).load()
    axes = [str(axis) for axis in ds["status"].dims]
    for cell in np.argwhere((ds["status"] == Status.DONE).values):
        labels = {
            axis: ds[axis].values[i].item() if ds[axis].dtype.kind != "T" else str(ds[axis].values[i])
            for axis, i in zip(axes, cell, strict=True)
        }
        assert ds["epsilon"].values[tuple(cell)] == synthetic(labels).values["epsilon"]
    assert damaged_cells(store) == []


@pytest.mark.parametrize(
    ("entries", "contents"),
    [(0.0, 0.0), (1.0, 0.0), (0.5, 0.0), (0.5, 0.5)],
    ids=["nothing", "names", "some names", "some"],
)
def test_no_power_cut_loses_a_finished_cell_or_the_store(recorded, tmp_path, entries, contents):
    """What was not synced is gone: all of it, contents only, or a part."""
    folder, log = recorded
    computer, marks, chance = Computer(str(folder)), set(), random.Random(5)
    steps = list(records(log))
    cuts = {number for number, step in enumerate(steps) if step[0] == "s" or step[0] == "r"}
    opened = 0
    for number, step in enumerate(steps):
        computer.step(*step)
        if step[0] == "d" and step[2].decode().rpartition("/")[2] in ("first", "second"):
            marks.add(step[2].decode().rpartition("/")[2])
        elif number in cuts and chance.random() < 0.08:
            disk = tmp_path / str(number)
            write_disk(computer.root, disk, entries=entries, contents=contents, chance=chance)
            assert_nothing_lost(disk / "s.zarr", marks)
            opened += 1
            if opened % 6 == 0:
                fill(disk / "s.zarr", SECOND)
                assert_holds(disk / "s.zarr", SECOND)
    assert marks == {"first", "second"}
    assert opened > 15


def test_write_that_is_under_way_when_its_batch_fails_leaves_nothing(tmp_path):
    """As on a full disk, where the others of a batch go on in their threads."""
    begun, over = threading.Event(), threading.Event()

    class Slow:
        def as_buffer_like(self) -> bytes:
            begun.set()
            over.wait()
            return b"late"

    disk, errors = Disk(), []

    def put() -> None:
        try:
            disk.put(tmp_path / "late", Slow())
        except OSError as error:
            errors.append(error.errno)

    def fail_beside(writing: threading.Thread) -> None:
        with disk.batch():
            writing.start()
            begun.wait()
            raise OSError(errno.ENOSPC, "full")

    writing = threading.Thread(target=put)
    with pytest.raises(OSError, match="full"):
        fail_beside(writing)
    over.set()
    writing.join()
    assert errors == [errno.ECANCELED]
    assert list(tmp_path.iterdir()) == []
