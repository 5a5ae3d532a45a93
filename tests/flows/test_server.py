"""The embedded server: it is restarted when it dies, ends with its run, and its files are its owner's.

Its run is one in a folder whose files have the names of modules.
"""

import os
import re
import select
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing

import psutil

DEADLINE = 180
MIGRATE = """
import asyncio
from prefect.server.database import provide_database_interface
asyncio.run(provide_database_interface().create_db())
"""


def test_run_survives_the_death_of_its_server(write_spec, workspace, server_environment, tmp_path_factory):
    spec = write_spec("waiting", function="['mine:waiting']", m="[2, 3]", seeds="1")
    for name in ("storage", "pipeline", "queue", "random", "json", "distributed", "dask", "click"):
        (workspace / f"{name}.py").write_text("raise SystemExit('imported from the folder')\n")  # by no process
    for pipe in ("arrived", "go"):
        os.mkfifo(workspace / pipe)
    home = tmp_path_factory.mktemp("home") / "prefect"
    environment = {key: value for key, value in server_environment.items() if key != "PREFECT_API_URL"}
    with subprocess.Popen(
        [sys.executable, "-m", "flows", "run", str(spec), "--cluster", "local:1"],
        cwd=workspace,
        env=environment | {"PREFECT_HOME": str(home)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        arrived = os.open(workspace / "arrived", os.O_RDONLY | os.O_NONBLOCK)
        poller = select.poll()
        poller.register(arrived, select.POLLHUP)
        assert poller.poll(1000 * DEADLINE)
        os.close(arrived)
        children = psutil.Process(process.pid).children()
        (server,) = [child for child in children if "flows.server" in child.cmdline()]
        server.kill()
        (workspace / "go").open("w").close()
        output, errors = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0, errors
    assert "done: 2 of 2 cells" in output
    lines = errors.splitlines()
    assert lines[:2] == ["epsweep: starting Prefect", "epsweep: starting workers"]
    assert all(" of 2 cells" in line for line in lines[2:]), errors  # progress, and no word of the server
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    readable = [path for path in home.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]
    assert (home / "prefect.db").exists()
    assert not readable


def test_made_database_is_what_all_of_prefects_migrations_make(server_environment, tmp_path):
    tables = {}
    for name, before in {"made": "from flows.server import _make_database; _make_database()", "migrated": ""}.items():
        home = tmp_path / name
        home.mkdir()
        environment = server_environment | {"PREFECT_HOME": str(home)}
        if before:
            (home / "prefect.db-wal").write_bytes(b"of a database that was deleted")
            subprocess.run([sys.executable, "-c", before], env=environment, check=True, timeout=DEADLINE)
            assert [path.name for path in home.iterdir()] == ["prefect.db"]
        subprocess.run([sys.executable, "-c", MIGRATE], env=environment, check=True, timeout=DEADLINE)
        with closing(sqlite3.connect(home / "prefect.db")) as database:
            # words of each statement: the order of a table's constraints is not the same twice
            tables[name] = sorted(sorted(re.findall(r"[^\s,()]+", statement)) for statement in database.iterdump())
    assert len(tables["made"]) > 100
    assert tables["made"] == tables["migrated"]
