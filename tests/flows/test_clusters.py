"""Clusters other than the default one: a running scheduler, and a profile."""

import pytest
import xarray as xr
from distributed import LocalCluster

from flows.clusters import check_cluster, local_workers, reaches_loopback
from pipeline.errors import InputError

LOOPBACK = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "worker_dashboard_address": "127.0.0.1:0"}


def test_running_scheduler_takes_a_sweep_with_a_deadly_cell(write_spec, workspace, epsweep, monkeypatch):
    monkeypatch.chdir(workspace)  # the workers import the user's module from where they were started
    spec = write_spec(function="[gaussian, 'mine:deadly']", m="[2, 3]", seeds="1")
    with LocalCluster(n_workers=2, threads_per_worker=1, **LOOPBACK) as cluster:
        done = epsweep("run", spec, "--cluster", cluster.scheduler_address)
    assert done.returncode == 1, done.stderr
    assert "done: 3 of 4 cells, 1 failed" in done.stdout
    assert "function=mine:deadly, sampling=ball-independent, m=3" in done.stderr


def test_profile_starts_the_cluster_that_it_names(write_spec, workspace, epsweep):
    arguments = ", ".join(f"{key}: '{value}'" for key, value in LOOPBACK.items())
    (workspace / "profile.yaml").write_text(
        f"class: distributed.LocalCluster\narguments: {{n_workers: 0, {arguments}}}\nworkers: 2\n"
    )
    done = epsweep("run", write_spec(function="[gaussian]"), "--cluster", "profile.yaml")
    assert done.returncode == 0, done.stderr
    with xr.open_zarr(workspace / "results/small.zarr") as ds:
        assert (ds["status"] == 1).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("workers: 2", "class: Field required; a profile has class, arguments and workers"),
        ("{class: a.B, workers: 0}", "workers: "),
        ("{class: a.B, worker: 1}", "worker: "),
        ("{class: nodots}", "class: "),
        ("[", "is not valid YAML"),
    ],
)
def test_bad_profile_is_named(tmp_path, text, message):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        check_cluster(str(tmp_path / "p.yaml"))


def test_local_workers_share_the_memory_of_the_machine():
    one, four = local_workers("local:1"), local_workers("local:4")
    assert one is not None
    assert four is not None
    assert (one.count, four.count) == (1, 4)
    assert four.memory == pytest.approx(one.memory / 4)
    assert local_workers("tcp://127.0.0.1:8786") is None


@pytest.mark.parametrize(
    ("cluster", "here"),
    [("local:2", True), ("tcp://127.0.0.1:8786", True), ("tcp://10.0.0.1:8786", False), ("slurm.yaml", False)],
)
def test_only_workers_of_this_machine_reach_an_embedded_server(cluster, here):
    assert reaches_loopback(cluster) is here
