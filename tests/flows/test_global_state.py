"""A flow runs on the cluster that was checked, and leaves the state of its process as it was."""

import json
import subprocess
import sys

import pytest

from tests.support import calls

SCRIPT = '''
import contextvars, json, logging, os, signal, sys, threading
from collections import Counter
import dask
from distributed import Client, LocalCluster, default_client
from distributed.diagnostics.plugin import SchedulerPlugin
from flows.sweep import sweep_flow

LOOPBACK = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "worker_dashboard_address": "127.0.0.1:0"}
batches = Counter()


class Count(SchedulerPlugin):
    """Counts the batches that a scheduler is given."""

    def __init__(self, label):
        self.label = label

    def transition(self, key, start, finish, *args, **kwargs):
        if finish == "memory" and "sweep_flow" not in str(key):
            batches[self.label] += 1


def state():
    names = ("", "epsweep", "distributed", "distributed.client", "asyncio")
    loggers = {name: logging.getLogger(name) for name in names}
    return {
        "dask": json.dumps(dask.config.config, default=str, sort_keys=True),
        "environment": dict(os.environ),
        "levels": {name: [each.level, each.propagate, len(each.handlers)] for name, each in loggers.items()},
        "raise": logging.raiseExceptions,
        "signals": [str(signal.getsignal(each)) for each in (signal.SIGINT, signal.SIGTERM)],
        "client": default_client().id,
    }


def flow(name, cluster):
    return str(sweep_flow(sys.argv[1], f"{name}.zarr", cluster))


with (
    LocalCluster(n_workers=1, threads_per_worker=1, processes=False, protocol="tcp://", **LOOPBACK) as a,
    LocalCluster(n_workers=1, threads_per_worker=1, processes=False, protocol="tcp://", **LOOPBACK) as b,
    LocalCluster(n_workers=1, threads_per_worker=1, processes=False, protocol="tcp://", **LOOPBACK) as c,
    Client(a) as client,
    dask.config.set({"scheduler": "distributed", "scheduler-address": a.scheduler_address}),
):
    os.environ["DASK_SCHEDULER_ADDRESS"] = a.scheduler_address
    for cluster, label in ((a, "a"), (b, "b"), (c, "c")):
        cluster.scheduler.add_plugin(Count(label), name="count")
    flow("warm", c.scheduler_address)  # Prefect makes its own loggers with the first flow
    batches.clear()
    before, found = state(), {}
    with client.as_current():
        places = {"one": b.scheduler_address, "two": c.scheduler_address}
        threads = [
            threading.Thread(
                target=contextvars.copy_context().run, args=(lambda n=n, p=p: found.update({n: flow(n, p)}),)
            )
            for n, p in places.items()
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    after = state()
    inside = client.submit(flow, "inside", b.scheduler_address, key="sweep_flow").result()
    print(json.dumps([batches, found, inside, [key for key in before if before[key] != after[key]]]))
'''


@pytest.fixture
def outcome(write_spec, workspace, server_environment):
    """What the script prints: batches by cluster, summaries of two threads and of a task, and what was left changed."""
    (workspace / "script.py").write_text(SCRIPT)
    spec = write_spec(m="[2]", seeds="1")
    done = subprocess.run(
        [sys.executable, "script.py", str(spec)],
        cwd=workspace,
        env=server_environment | {"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_flows_run_on_the_cluster_that_was_checked_and_leave_no_trace(outcome, workspace):
    """Two flows in two threads, and one in a task of cluster A, where A is the default of everything that Dask has."""
    batches, threads, inside, changed = outcome
    assert batches == {"b": 2, "c": 1}  # the unchanged code: all on a
    good = "1 cells, 1 done, 0 failed, 0 missing"
    assert (threads, inside) == ({"one": good, "two": good}, good)
    assert changed == []
    assert len(calls(workspace)) == 4
