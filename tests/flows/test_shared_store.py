"""One store of a group: its members take turns, and who may only read it can use all that reads."""

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
READER = """
import os, sys
from flows.cli import main
from flows.server import find_server
from pipeline.errors import InputError

def ran(*arguments):
    try:
        main(list(arguments))
    except SystemExit as ended:
        return ended.code
    return 0

warm, top, user = sys.argv[1:]
commands = lambda store, spec, out: [
    ("status", store),
    ("curves", store),
    ("export", store, f"{out}/cells.csv"),
    ("export", store, f"{out}/cells.nc"),
    ("plot", store, "--out", f"{out}/figures"),
    ("report", store, "--out", f"{out}/report"),
    ("run", spec, "--store", store),
    ("plan", spec, "--store", store),
]
os.makedirs(f"{warm}/out")
find_server(loopback=True)
for arguments in commands(f"{warm}/s.zarr", f"{warm}/s.yaml", f"{warm}/out"):
    assert ran(*arguments) == 0, arguments  # imports all that is out of the reach of a made-up user
os.chmod(os.environ["PREFECT_HOME"], 0o755)  # Prefect goes on looking at it
print("READER", flush=True)
if os.geteuid() == 0:
    os.setgroups([])
    os.setgid(int(user))
    os.setuid(int(user))
os.chdir(f"{top}/home")
for arguments in commands("../of group/s.zarr", "../of group/s.yaml", "out"):
    print("RAN", arguments[0], ran(*arguments), flush=True)
os.environ["PREFECT_HOME"] = f"{top}/closed/prefect"
try:
    find_server(loopback=True)
except InputError as error:
    print("NAMED", error)
del os.environ["PREFECT_HOME"]
os.environ["HOME"] = f"{top}/closed"  # as sudo leaves it
print("TEMPORARY", find_server(loopback=True).text)
"""
READER_COMMANDS = ["status", "curves", "export", "export", "plot", "report", "run", "plan"]


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
    for each, _, _ in os.walk(top):  # from the top, so that what is opened is entered
        Path(each).chmod(0o700)
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


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_who_may_only_read_a_store_can_use_all_that_reads(shared, tmp_path):
    """Where the tests run as an ordinary user, that user has the store without the right to write."""
    home = shared.parent / "home"
    for folder in (shared, tmp_path):
        fill(folder / "s.zarr", sweep())
        (folder / "s.yaml").write_text(sweep().text)
    (home / "out").mkdir(parents=True)
    for each in (home, home / "out"):
        if os.geteuid() == 0:
            os.chown(each, 50003, 50003)
    (shared.parent / "closed/prefect").mkdir(parents=True)
    (shared.parent / "closed/prefect").chmod(0)
    (shared.parent / "closed").chmod(0)
    before = contents(shared)
    for each in [*shared.rglob("*"), shared]:
        each.chmod(0o555 if each.is_dir() else 0o444)
    done = subprocess.run(
        [sys.executable, "-c", READER, str(tmp_path), str(shared.parent), "50003"],
        cwd=ROOT,
        env=os.environ | {"PREFECT_HOME": str(home / "prefect")},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    output = done.stdout.partition("READER\n")[2]
    results = [line.split()[1:] for line in output.splitlines() if line.startswith("RAN ")]
    assert results == [[name, "0"] for name in READER_COMMANDS], output + done.stderr
    assert "nothing to compute" in output
    assert "figures: none (" in output  # beside the store
    assert f"NAMED Prefect: {shared.parent}/closed/prefect/profiles.toml cannot be used (Permission denied)" in output
    assert "TEMPORARY a server of its own for each run, its database in " in output
    assert {"cells.csv", "cells.nc", "figures", "report"} == {each.name for each in (home / "out").iterdir()}
    assert list((home / "out/figures").glob("*.png"))
    assert contents(shared) == before
