"""Nothing finished is lost, whatever is killed and whenever."""

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
import xarray as xr

from flows.planning import make_plan
from pipeline.grid import load_sweep
from tests.support import calls

THREADS = 2
KILLS = 5
ROOT = Path(__file__).parents[2]


@pytest.fixture
def spec(write_spec):
    """About a dozen batches of a second or less."""
    return write_spec(
        "killed", function="[exponential, 'mine:counted']", m="[2, 5]", n="[60, 100]", r="[4, 8]", method="[svd, ap]"
    )


def run_until_write(k: int, folder: Path, environment: dict[str, str], spec: Path, store: str) -> int | list[int]:
    """Exit after k renames into the store; the number of renames, or the processes left behind by the kill."""
    report = folder / "report"
    command = [sys.executable, str(Path(__file__).with_name("kill_at_write.py")), str(k), str(report)]
    command += ["run", str(spec), "--store", store, "--cluster", f"local:{THREADS}"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    pids = [int(pid) for pid in report.read_text().split()]
    assert done.returncode in (0, -9), done.stderr
    return pids if done.returncode else pids[0]


def assert_equal_results(store: Path, undisturbed: Path) -> None:
    with xr.open_zarr(store) as found, xr.open_zarr(undisturbed) as expected:
        assert (found["status"] == 1).all()
        xr.testing.assert_equal(found.drop_vars("seconds"), expected.drop_vars("seconds"))


def largest_batch_matrices(spec: Path) -> int:
    sweep = load_sweep(spec, allow_code=True)
    shared = [i for i, axis in enumerate(sweep.experiment.axes) if axis.name in sweep.experiment.shared]
    batches = make_plan(sweep, sweep.wanted, THREADS).batches
    return max(len(np.unique(batch.cells[:, shared], axis=0)) for batch in batches)


def test_run_killed_at_any_write_is_completed_by_running_it_again(spec, workspace, epsweep, server_environment):
    writes = run_until_write(0, workspace, server_environment, spec, "whole.zarr")
    whole = len(calls(workspace))
    once_a_worker = THREADS * largest_batch_matrices(spec)
    assert isinstance(writes, int)
    moments = random.Random(4).sample(range(1, writes + 1), KILLS)
    for k in moments:
        (workspace / "calls.log").unlink()
        store = f"killed-{k}.zarr"
        run_until_write(k, workspace, server_environment, spec, store)
        done = epsweep("run", spec, "--store", store, "--cluster", f"local:{THREADS}")
        assert done.returncode == 0, (k, done.stderr)
        assert_equal_results(workspace / store, workspace / "whole.zarr")
        assert len(calls(workspace)) - whole <= once_a_worker, k


def test_killed_run_leaves_no_process_behind(spec, workspace, server_environment, prefect_folder):
    environment = {key: value for key, value in server_environment.items() if key != "PREFECT_API_URL"}
    left = run_until_write(40, workspace, environment | {"PREFECT_HOME": str(prefect_folder)}, spec, "k.zarr")
    assert isinstance(left, list)
    assert len(left) >= THREADS + 1  # the workers and the embedded server
    processes = [psutil.Process(pid) for pid in left if psutil.pid_exists(pid)]
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert not alive


def test_killed_worker_costs_at_most_its_batch(write_spec, workspace, epsweep):
    axes = {"m": "[2, 3, 4]", "n": "[20, 30]", "seeds": "4"}
    spec = write_spec("worker", function="['mine:deadly_once']", **axes)
    killed = epsweep("run", spec, "--store", "killed.zarr", "--cluster", f"local:{THREADS}")
    assert killed.returncode == 0, killed.stderr
    assert (workspace / "killed").exists()
    assert epsweep("run", spec, "--store", "whole.zarr").returncode == 0
    assert_equal_results(workspace / "killed.zarr", workspace / "whole.zarr")
    assert len(calls(workspace)) - 2 * 24 <= THREADS * largest_batch_matrices(spec)


def test_store_opens_at_every_moment_of_a_run(spec, workspace, server_environment):
    command = [sys.executable, "-m", "flows", "run", str(spec), "--store", "polled.zarr"]
    with subprocess.Popen(
        command, cwd=workspace, env=server_environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        opened = 0
        while process.poll() is None:
            if os.path.exists(workspace / "polled.zarr"):  # noqa: PTH110 (cheap: it is asked all the time)
                with xr.open_zarr(workspace / "polled.zarr") as ds:
                    valid = ds.where(ds["status"] == 1)
                    assert (valid["epsilon"].notnull() == (ds["status"] == 1)).all()
                opened += 1
    assert process.returncode == 0
    assert opened > 10


SIGNAL_AT_IMPORT = """
import os, signal, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "{module}":
            os.kill(os.getpid(), signal.{number})

sys.meta_path.insert(0, Finder())
"""


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("module", ["numpy", "flows.cli", "distributed"])
def test_signal_during_imports_is_told_in_one_line(module, number, spec, workspace, server_environment):
    (workspace / "sitecustomize.py").write_text(SIGNAL_AT_IMPORT.format(module=module, number=number))
    environment = server_environment | {"PYTHONPATH": f"{workspace}:{ROOT}"}
    command = [sys.executable, "-m", "flows", "run", str(spec)]
    ended = subprocess.run(command, cwd=workspace, env=environment, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout) == (130, "")
    assert ended.stderr.strip() == "epsweep: stopped; finished cells are stored: run the same command to go on"
