"""One store of a group: its members take turns."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.storage.test_results import assert_holds, sweep

ROOT = Path(__file__).parents[2]
GROUP = 54321
USER = """
import os, sys
from tests.storage.test_results import fill, sweep

warm, store, user, group, m = sys.argv[1:]
fill(warm, sweep(m=m))  # imports everything, which may be out of the reach of a made-up user
os.umask(0o002)
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(int(group))
    os.setuid(int(user))
print(fill(store, sweep(m=m)))
"""


@pytest.fixture
def shared():
    """A folder with a space in its name that every user reaches, of the group."""
    top = Path(tempfile.mkdtemp(prefix="epsweep shared "))  # pytest's own folder is closed to others
    top.chmod(0o755)
    folder = top / "of group"
    folder.mkdir()
    if os.geteuid() == 0:
        os.chown(folder, -1, GROUP)
    folder.chmod(0o2775)
    yield folder
    for each in [folder, *folder.rglob("*")]:
        each.chmod(each.stat().st_mode | stat.S_IRWXU)
    shutil.rmtree(top)


def fill_as(user, store, m, tmp_path) -> subprocess.CompletedProcess[str]:
    """Fill a store as a user, after one of the test's own to import what it takes."""
    return subprocess.run(
        [sys.executable, "-c", USER, str(tmp_path / f"{user}.zarr"), str(store), str(user), str(GROUP), m],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_two_users_of_a_group_take_turns(shared, tmp_path):
    """Where the tests run as an ordinary user, both are that user, and the modes are what is shown."""
    store = shared / "s.zarr"
    for user, m, cells in [(50001, "[2, 5]", "12"), (50002, "[2, 5, 9]", "6"), (50001, "[2, 3, 5, 9]", "6")]:
        done = fill_as(user, store, m, tmp_path)
        assert (done.returncode, done.stdout.strip()) == (0, cells), done.stderr
    assert_holds(store, sweep(m="[2, 3, 5, 9]"))
    for each in [Path(f"{store}.lock"), *store.rglob("*")]:
        assert each.stat().st_mode & stat.S_IWGRP, each
