"""One store of a group: its members take turns, and who may only read it reads."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.storage.test_results import assert_holds, fill, sweep

ROOT = Path(__file__).parents[2]
GROUP = 54321
USER = """
import io, os, sys
from contextlib import redirect_stderr, redirect_stdout
from flows.cli import main
from tests.storage.test_results import fill, sweep

warm, store, user, group, *arguments = sys.argv[1:]

def act(path):
    if arguments[0] == "fill":
        return print(fill(path, sweep(m=arguments[1])))
    sys.argv = ["epsweep", *(each.replace("STORE", path) for each in arguments)]
    return main()

with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
    try:
        act(warm)  # imports everything, which may be out of the reach of a made-up user
    except SystemExit:
        pass
os.umask(0o002)
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(int(group))
    os.setuid(int(user))
act(store)
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


def act(tmp_path, store, user, group, *arguments) -> subprocess.CompletedProcess[str]:
    """Do something as a user; the same is done before to a store of the test's own, to import what it takes."""
    warm = tmp_path / f"warm-{user}.zarr"
    fill(warm, sweep())
    return subprocess.run(
        [sys.executable, "-c", USER, str(warm), str(store), str(user), str(group), *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_two_users_of_a_group_take_turns(shared, tmp_path):
    """Where the tests run as an ordinary user, both are that user, and the modes are what is shown."""
    store = shared / "s.zarr"
    for user, m, cells in [(50001, "[2, 5]", "12"), (50002, "[2, 5, 9]", "6"), (50001, "[2, 3, 5, 9]", "6")]:
        done = act(tmp_path, store, user, GROUP, "fill", m)
        assert (done.returncode, done.stdout.strip()) == (0, cells), done.stderr
    assert_holds(store, sweep(m="[2, 3, 5, 9]"))
    for each in [Path(f"{store}.lock"), *store.rglob("*")]:
        assert each.stat().st_mode & stat.S_IWGRP, each
