"""The lock of a store on disk: whose it is, and that it harms no other file."""

import fcntl
import json
import os
from pathlib import Path

import pytest

from pipeline.errors import StoreError
from storage import Writer, export, open_results, reserved, single_writer
from storage.holders import is_dead, is_near, myself
from tests.storage.test_results import fill, sweep


def test_lock_file_names_its_holder(tmp_path):
    with Writer.open(tmp_path / "s.zarr", sweep()):
        assert json.loads((tmp_path / "s.zarr.lock").read_text())["process"] == os.getpid()


@pytest.mark.parametrize("umask", [0o002, 0o022, 0o077])
def test_modes_of_store_lock_and_export_follow_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        fill(tmp_path / "s.zarr", sweep())
        for name in ("s.csv", "s.parquet", "s.nc", "t.zarr"):
            export(open_results(tmp_path / "s.zarr"), tmp_path / name)
    finally:
        os.umask(before)
    for path in tmp_path.rglob("*"):
        whole = 0o777 if path.is_dir() else 0o666
        assert path.stat().st_mode & 0o777 == whole & ~umask, path


@pytest.mark.parametrize("mode", [0o600, 0o640])
def test_lock_file_of_an_older_version_opens_to_whoever_may_write_the_store(tmp_path, mode):
    fill(tmp_path / "s.zarr", sweep())
    lock, root = tmp_path / "s.zarr.lock", tmp_path / "s.zarr" / "zarr.json"
    lock.chmod(mode)
    root.chmod(0o664)
    fill(tmp_path / "s.zarr", sweep())
    assert lock.stat().st_mode & 0o777 == 0o664
    lock.chmod(0o666)
    fill(tmp_path / "s.zarr", sweep())
    assert lock.stat().st_mode & 0o777 == 0o666  # nothing is taken from anybody


def test_reserved_store_is_written_by_one_writer_of_its_process_and_by_no_other_process(tmp_path):
    store, other = tmp_path / "s.zarr", tmp_path / "other.zarr"
    with reserved(store):
        assert_locked(store)
        with Writer.open(str(store), sweep()):
            assert_locked(store)
            with pytest.raises(StoreError, match=f"is being written by process {os.getpid()} of"):
                fill(store, sweep())
        assert_locked(store)  # no gap between two writers, and after a failure
        with pytest.raises(ZeroDivisionError), Writer.open(store, sweep()):
            1 / 0  # noqa: B018
        assert fill(store, sweep()) == 12
        assert fill(other, sweep()) == 12
        assert_locked(store)
    with Writer.open(store, sweep()), pytest.raises(StoreError, match="is being written by"), reserved(store):
        pass
    assert fill(store, sweep(m="[2, 5, 9]")) == 6


def assert_locked(store) -> None:
    """The operating system gives the lock to nobody else, whether of this process or another."""
    with Path(f"{store}.lock").open("r+") as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("link", ["symbolic", "hard"])
def test_link_in_the_place_of_the_lock_is_not_written_through(tmp_path, link):
    victim = tmp_path / "victim"
    victim.write_text("somebody else's")
    lock = tmp_path / "s.zarr.lock"
    if link == "symbolic":
        lock.symlink_to(victim)
    else:
        lock.hardlink_to(victim)
    with pytest.raises(StoreError, match=r"s.zarr.lock (cannot be locked \(it is a link\)|is not a lock file)"):
        fill(tmp_path / "s.zarr", sweep())
    assert victim.read_text() == "somebody else's"
    assert not (tmp_path / "s.zarr").exists()


def test_store_that_links_to_a_file_leaves_it_and_its_folder_alone(tmp_path):
    (tmp_path / "home").mkdir()
    victim = tmp_path / "home" / "victim"
    victim.write_text("somebody else's")
    (tmp_path / "s.zarr").symlink_to(victim)
    with pytest.raises(StoreError, match="is a file, not a result store"), single_writer(tmp_path / "s.zarr"):
        pass
    assert [path.name for path in victim.parent.iterdir()] == ["victim"]
    assert victim.read_text() == "somebody else's"


def test_process_is_dead_only_where_it_can_be_seen(tmp_path):
    me = myself()
    assert is_near(me)
    assert not is_dead(me)
    assert is_dead(me | {"started": "1"})  # its number was given to another process
    assert not is_near(me | {"machine": "another boot, or another container"})
    assert not is_near({})
