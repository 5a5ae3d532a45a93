"""The run command: growth, refusals, failing cells, interruption."""

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest
import xarray as xr
import zarr

from pipeline import approximate, approximate_tensor, function_matrix
from tests.support import calls


def test_run_writes_what_the_methods_return(write_spec, workspace, epsweep, server_environment):
    spec = write_spec(function="[exponential]", r="[2, 3]")
    done = epsweep("run", spec)
    assert done.returncode == 0, done.stderr
    assert "results/small.zarr" in done.stdout
    assert "next: epsweep curves" in done.stdout
    with xr.open_zarr(workspace / "results/small.zarr") as ds:
        matrix = function_matrix("exponential", "ball-independent", 4, 20, seed=1).to_numpy()
        u, s, vt = np.linalg.svd(matrix)
        expected = np.abs(matrix - (u[:, :3] * s[:3]) @ vt[:3]).max() / np.abs(matrix).max()
        found = ds["epsilon"].sel(m=4, n=20, r=3, seed=1).squeeze()
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        assert [session["spec"] for session in json.loads(ds.attrs["sessions"])] == [spec.read_text()]
    artifacts = httpx.post(f"{server_environment['PREFECT_API_URL']}/artifacts/filter", json={}).json()
    last = max(artifacts, key=lambda artifact: artifact["created"])["flow_run_id"]
    published = {artifact["key"]: artifact for artifact in artifacts if artifact["flow_run_id"] == last}
    assert published["sweep-progress"]["data"] == 100.0
    assert "small in results/small.zarr: 8 cells, 8 done, 0 failed" in published["sweep-summary"]["description"]
    assert len(json.loads(published["sweep-summary"]["data"])) == 4  # a median a curve point
    figures = sorted(path.name for path in (workspace / "results/small.figures").iterdir())
    assert figures == [f"epsilon-against-{axis}.{kind}" for axis in "mr" for kind in ("png", "svg")]


def test_larger_spec_computes_only_the_new_cells(write_spec, workspace, epsweep):
    assert epsweep("run", write_spec(m="[4, 5]", n="[20]", r="[3]"), "--store", "s.zarr").returncode == 0
    assert len(calls(workspace)) == 4
    larger = write_spec(m="[2, 4, 5]", n="[20, 30]", r="[2, 3]")
    assert epsweep("run", larger, "--store", "s.zarr").returncode == 0
    # 3 m, 2 n, 2 seeds; the four old matrices are generated again for the new rank
    assert len(calls(workspace)) == 4 + 12
    assert "0 to compute" in epsweep("run", larger, "--store", "s.zarr").stdout
    assert epsweep("run", larger, "--store", "fresh.zarr").returncode == 0
    with xr.open_zarr(workspace / "s.zarr") as grown, xr.open_zarr(workspace / "fresh.zarr") as fresh:
        axes = ["m", "n", "r"]
        xr.testing.assert_equal(grown.drop_vars("seconds").sortby(axes), fresh.drop_vars("seconds").sortby(axes))


def test_other_constants_are_refused_for_a_store(write_spec, workspace, epsweep):
    axes = {"method": "[ap]", "m": "[2]", "seeds": "1"}
    assert epsweep("run", write_spec(**axes), "--store", "s.zarr").returncode == 0
    refused = epsweep(
        "run", write_spec(settings="{ap: {tolerance: 0.02}, certificate: {bound: tail}}", **axes), "--store", "s.zarr"
    )
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert "settings.ap.tolerance = 0.01, this spec says 0.02; use another --store" in refused.stderr
    assert len(calls(workspace)) == 1


def test_matrices_and_tensors_in_files_are_swept_with_every_method(workspace, epsweep):
    random = np.random.default_rng(0)
    values = {
        "tall.npy": (random.standard_normal((90, 4)) @ random.standard_normal((4, 40))).astype(np.float32),
        "deep.npy": random.standard_normal((9, 12, 10)),
        "wide.zarr": random.standard_normal((30, 70)),
    }
    (workspace / "data").mkdir()
    for name, array in values.items():
        if name.endswith("npy"):
            np.save(workspace / "data" / name, array)
        else:
            zarr.create_array(workspace / "data" / name, data=array, chunks=(16, 16))
    blocks = [
        "{function: {file: tall.npy}, r: [2, 4], method: [svd, ap, minimax, random_embedding], seeds: 2}",
        "{function: {file: deep.npy}, r: [3], method: [svd, ap, minimax], seeds: 1}",
        "{function: {file: wide.zarr}, r: [5], method: [svd, minimax], seeds: 1}",
        "{function: [gaussian], sampling: [ball-symmetric], m: [2], n: [40], r: [2], method: [svd], seeds: 1}",
    ]
    spec = workspace / "data" / "files.yaml"
    spec.write_text("name: files\nsettings: {minimax: {budget: quick}}\ngrid:\n  - " + "\n  - ".join(blocks))
    done = epsweep("run", spec)
    assert done.returncode == 0, done.stderr
    assert "done: 22 of 22 cells" in done.stdout
    with xr.open_zarr(workspace / "results/files.zarr") as ds:
        assert int((ds["status"] == 1).sum()) == 22
        given = ds["epsilon"].sel(sampling="given", m=0)
        tall = given.sel(function="tall.npy", n=40)
        for method in ("svd", "ap", "minimax", "random_embedding"):
            settings = {"budget": "quick"} if method == "minimax" else {}
            for r, seed in ((2, 0), (4, 1)):
                expected = approximate(values["tall.npy"], r, method, seed=seed, **settings).max_error
                found = float(tall.sel({"method": method, "r": r, "seed": seed})) * np.abs(values["tall.npy"]).max()
                assert found == pytest.approx(expected, rel=1e-6, abs=1e-12)
        assert float(tall.sel({"method": "svd", "r": 4, "seed": 0})) < 1e-6
        wide = float(given.sel({"function": "wide.zarr", "n": 30, "r": 5, "method": "svd", "seed": 0}))
        assert wide == pytest.approx(
            approximate(values["wide.zarr"], 5, "svd").max_error / largest_entry(values["wide.zarr"])
        )
        deep = float(given.sel({"function": "deep.npy", "n": 9, "r": 3, "method": "svd", "seed": 0}))
        assert deep == pytest.approx(
            approximate_tensor(values["deep.npy"], 3, "svd").max_error / largest_entry(values["deep.npy"])
        )
        digest = hashlib.sha256((workspace / "data/tall.npy").read_bytes()).hexdigest()
        assert json.loads(ds.attrs["settings"])["tall.npy"] == {"sha256": digest}
    assert "0 to compute" in epsweep("run", spec).stdout
    np.save(workspace / "data/tall.npy", values["tall.npy"] + 1)
    changed = epsweep("run", spec)
    assert changed.returncode == 2
    assert changed.stderr.startswith("epsweep: store: results/files.zarr was computed with other contents of tall.npy")
    assert len(changed.stderr.splitlines()) == 1


def largest_entry(values):
    return float(np.abs(values).max())


def test_failing_cells_are_named_and_retried_alone(write_spec, workspace, epsweep):
    functions = "['mine:counted', 'mine:picky', 'mine:undefined', 'mine:deadly']"
    spec = write_spec("faulty", function=functions, m="[2, 3]", seeds="1")
    failed = epsweep("run", spec, "--log", "run.log")
    assert failed.returncode == 1
    assert "done: 5 of 8 cells, 3 failed" in failed.stdout
    events = [json.loads(line) for line in (workspace / "run.log").read_text().splitlines()]
    (picky,) = [event for event in events if "no m = 3 here" in event["message"]]
    assert picky["message"].endswith(": ValueError: no m = 3 here (mine.py, line 23)")
    assert picky["traceback"].splitlines()[-1] == "ValueError: no m = 3 here"
    assert "mine:picky, sampling=ball-independent, m=3, n=20, r=2, method=svd, seed=0: ValueError: no m = 3 here" in (
        failed.stderr
    )
    assert "entry [1, 2] is nan" in failed.stderr
    assert "mine:deadly, sampling=ball-independent, m=3, n=20, r=2, method=svd, seed=0: its worker process died" in (
        failed.stderr
    )
    assert "Traceback" not in failed.stderr
    again = epsweep("run", spec)
    assert again.returncode == 1
    assert "0 to compute" in again.stdout
    before = len(calls(workspace))
    (workspace / "cured").touch()
    retried = epsweep("run", spec, "--retry-failed")
    assert retried.returncode == 0, retried.stderr
    assert len(calls(workspace)) == before + 3
    with xr.open_zarr(workspace / "results/faulty.zarr") as ds:
        assert (ds["status"] == 1).all()
        assert (ds["message"] == "").all()


def waiting_run(write_spec, workspace, environment):
    """Start a run that waits in the middle of its last matrix; returns once it is there."""
    spec = write_spec("waiting", function="['mine:waiting']", m="[2, 3]", seeds="1")
    for pipe in ("arrived", "go"):
        os.mkfifo(workspace / pipe)
    process = subprocess.Popen(
        [sys.executable, "-m", "flows", "run", str(spec), "--cluster", "local:1"],
        cwd=workspace,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    (workspace / "arrived").open().close()
    return spec, process


def test_second_run_on_a_store_is_refused_and_the_first_unharmed(write_spec, workspace, epsweep, server_environment):
    spec, first = waiting_run(write_spec, workspace, server_environment)
    second = epsweep("run", spec)
    assert second.returncode == 2
    assert f"is being written by process {first.pid} of" in second.stderr
    assert second.stderr.count("\n") == 1
    (workspace / "go").open("w").close()
    output, errors = first.communicate(timeout=120)
    assert first.returncode == 0, errors
    assert "done: 2 of 2 cells" in output


def test_interrupt_stops_cleanly_and_says_how_to_go_on(write_spec, workspace, epsweep, server_environment):
    spec, process = waiting_run(write_spec, workspace, server_environment)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == "epsweep: stopped; finished cells are stored: run the same command to go on"
    assert "Traceback" not in errors
    with xr.open_zarr(workspace / "results/waiting.zarr") as ds:
        assert (ds["status"] != 2).all()
    spec.write_text(spec.read_text().replace("mine:waiting", "mine:counted"))
    assert epsweep("run", spec).returncode == 0


def test_damage_is_named_and_computed_again_and_two_stores_become_one(write_spec, workspace, epsweep):
    spec, store = write_spec(m="[2]", r="[2]"), Path("of mine (1)", "a.zarr")  # names that a shell would take apart
    assert epsweep("run", spec, "--store", store, "--log", "run.log").returncode == 0
    events = [json.loads(line) for line in (workspace / "run.log").read_text().splitlines()]
    assert [event["event"] for event in (*events[:3], events[-1])] == ["cluster_ready", "start", "plan", "end"]
    assert sum(event["cells"] for event in events if event["event"] == "batch") == 2
    chunk = next(path for path in (workspace / store / "epsilon/c").rglob("*") if path.is_file())
    intact = chunk.read_bytes()
    chunk.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    status = epsweep("status", store)
    assert "2 missing, 0 done" in status.stdout
    assert "damaged:  epsilon, chunk 0/0/0/0/0/0/0: 2 finished cells" in status.stderr
    shown = epsweep("curves", store)
    command, _, told = shown.stderr.strip().rpartition("; see ")[2].partition(" ")
    assert f"{command} {told}" == f"epsweep status {shlex.quote(str(store))}"
    assert "damaged: 1 chunks read as missing" in shown.stderr
    mended = epsweep("run", spec, "--store", store)
    assert mended.returncode == 0
    assert "damaged: epsilon, chunk 0/0/0/0/0/0/0: 2 finished cells are missing now" in mended.stderr
    assert chunk.read_bytes() == intact
    following = mended.stdout.splitlines()[-1].removeprefix("next: ")
    assert epsweep(*shlex.split(following)[1:]).stdout.count("\n") > 1
    assert epsweep("run", write_spec(m="[4]", r="[2]"), "--store", "b.zarr").returncode == 0
    before = len(calls(workspace))
    merged = epsweep("merge", store, "b.zarr")
    assert f"2 done and 0 failed cells copied, 0 were done in both: {store}" in merged.stdout
    both = epsweep("run", write_spec(m="[2, 4]", r="[2]"), "--store", store)
    assert f"4 cells, 4 in {store}, 0 to compute" in both.stdout
    assert len(calls(workspace)) == before


def test_doctor_finds_what_a_run_would_lack(write_spec, workspace, epsweep):
    found = epsweep("doctor", write_spec(), "--cluster", "local:1")
    assert found.returncode == 0, found.stdout + found.stderr
    assert [line[:13] for line in found.stdout.splitlines()] == [
        f"ok  {subject}:".ljust(13) for subject in ("packages", "prefect", "cluster", "sweep", "figures")
    ]
    assert "4 cells to compute" in found.stdout
    bad = epsweep("doctor", write_spec(n="[30000]"), "--cluster", "nowhere.yaml", "--store", "/proc/none/x.zarr")
    assert bad.returncode == 1
    assert "BAD cluster:  'nowhere.yaml' is not local" in bad.stdout
    assert "BAD sweep:    store: /proc/none/x.zarr" in bad.stdout
    assert "Traceback" not in bad.stdout + bad.stderr
