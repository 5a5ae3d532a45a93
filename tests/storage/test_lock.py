"""The lock of a store on disk: whose it is, and that it harms no other file."""

import json
import os

import pytest

from pipeline.errors import StoreError
from storage import Writer, single_writer
from storage.holders import is_dead, is_near, myself
from tests.storage.test_results import fill, sweep


def test_lock_file_is_private_and_names_its_holder(tmp_path):
    with Writer.open(tmp_path / "s.zarr", sweep()):
        lock = tmp_path / "s.zarr.lock"
        assert lock.stat().st_mode & 0o777 == 0o600
        assert json.loads(lock.read_text())["process"] == os.getpid()


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
