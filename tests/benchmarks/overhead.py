"""What a tiny cell costs on its way through flow, Dask and store.

The sweep has 10,000 cells of size n = 20, method svd: 2,000 matrices with five ranks each; a second one has 10,000
matrices with one rank. Baselines, in the same run and on the same cluster: a plain loop without any store (one
process), one Dask future a cell, one Prefect task a cell, the last two without a store and with fewer cells. Rounds
are interleaved; the table holds medians. Read the cells a second of the flow while it dispatches (at least 400, aim
1,000): from the start of its dispatcher to the last cell written. The whole flow also opens the store, plans and
summarises. Server and cluster start once, before; the first round, mostly the least, holds the workers' imports. All
is in a temporary directory and on loopback.

    python tests/benchmarks/overhead.py [--repeat 3] [--futures 2000] [--tasks 200] [--workers 2]
"""

import argparse
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from time import perf_counter

from threadpoolctl import threadpool_limits

from pipeline.grid import parse_sweep

SPEC = """
name: overhead-{name}
experiment: approximation
grid:
  - function: [exponential, gaussian]
    sampling: [ball-independent, ball-symmetric]
    m: {{from: 1, to: 10, count: 10}}
    n: [20]
    r: {ranks}
    method: [svd]
    seeds: {seeds}
"""
SHARED = SPEC.format(name="five", ranks=[1, 2, 4, 8, 16], seeds=50)
SINGLE = SPEC.format(name="one", ranks=[4], seeds=250)
WIDTH = 46


def cases_of(sweep, count=None):
    """The first cells of a sweep as cases, in the order of the box."""
    cells = [cell for cell, _ in zip(box_indices(sweep), range(count or sweep.wanted.size), strict=False)]
    return [sweep.case(cell) for cell in cells]


def box_indices(sweep):
    """Indices of all cells of a full box."""
    import numpy as np

    return np.ndindex(*sweep.wanted.shape)


def plain_loop(sweep):
    """Cells a second of a loop in this process, one BLAS thread."""
    cases = cases_of(sweep)
    with threadpool_limits(1):
        started = perf_counter()
        outcomes = list(sweep.experiment.run(cases, sweep.settings))
        seconds = perf_counter() - started
    return check(outcomes, len(cases)) / seconds


def check(outcomes, count):
    """Return the number of outcomes if all succeeded."""
    if len(outcomes) != count or any(outcome.values is None for outcome in outcomes):
        raise SystemExit("cells failed, so the rates mean nothing")
    return count


def compute_one(experiment, case, settings):
    """One cell on a worker."""
    from pipeline.experiments import EXPERIMENTS

    return next(iter(EXPERIMENTS[experiment].run([case], settings)))


def dask_futures(sweep, address, count):
    """Cells a second with one Dask future a cell."""
    from distributed import Client

    cases = cases_of(sweep, count)
    with Client(address, set_as_default=False) as client:
        started = perf_counter()
        futures = [
            client.submit(compute_one, sweep.experiment.name, case, sweep.settings, pure=False) for case in cases
        ]
        outcomes = client.gather(futures)
        return check(outcomes, count) / (perf_counter() - started)


def prefect_tasks(sweep, address, count):
    """Cells a second with one Prefect task a cell through DaskTaskRunner."""
    from prefect import flow, task
    from prefect.cache_policies import NO_CACHE
    from prefect_dask import DaskTaskRunner

    cases = cases_of(sweep, count)
    cell = task(compute_one, cache_policy=NO_CACHE, persist_result=False)

    @flow(name="a-task-a-cell", task_runner=DaskTaskRunner(address=address), persist_result=False)
    def tasks():
        started = perf_counter()
        futures = [cell.submit(sweep.experiment.name, case, sweep.settings) for case in cases]
        outcomes = [future.result() for future in futures]
        return check(outcomes, count) / (perf_counter() - started)

    return tasks()


def whole_flow(sweep, address, folder):
    """Cells a second of the product: while it dispatches, and over the whole call of the flow."""
    import flows.sweep

    spec = folder / f"{sweep.name}.yaml"
    spec.write_text(sweep.text, encoding="utf-8")
    store = folder / f"{sweep.name}-{perf_counter()}.zarr"
    with timed_dispatch(flows.sweep) as laps:
        started = perf_counter()
        summary = flows.sweep.sweep_flow(str(spec), str(store), address)
        seconds = perf_counter() - started
    if summary.done != sweep.wanted.size:
        raise SystemExit(f"{summary}: cells are missing, so the rates mean nothing")
    return summary.done / sum(laps), summary.done / seconds


@contextmanager
def timed_dispatch(module):
    """Collect the seconds of each run of the flow's dispatcher."""
    laps = []
    dispatcher = module.Dispatcher

    class TimedDispatcher(dispatcher):
        def run(self, *arguments):
            started = perf_counter()
            super().run(*arguments)
            laps.append(perf_counter() - started)

    module.Dispatcher = TimedDispatcher
    try:
        yield laps
    finally:
        module.Dispatcher = dispatcher


def measure(address, folder, arguments):
    """Run the interleaved rounds; rates by table line."""
    rates = {}
    five, one = parse_sweep(SHARED), parse_sweep(SINGLE)
    for _ in range(arguments.repeat):
        for name, sweep in (("five cells a matrix", five), ("one cell a matrix", one)):
            rates.setdefault(f"plain loop, no store, {name}", []).append(plain_loop(sweep))
            dispatching, whole = whole_flow(sweep, address, folder)
            rates.setdefault(f"flow while it dispatches, {name}", []).append(dispatching)
            rates.setdefault(f"whole flow call, {name}", []).append(whole)
        rates.setdefault("one Dask future a cell", []).append(dask_futures(one, address, arguments.futures))
        rates.setdefault("one Prefect task a cell", []).append(prefect_tasks(one, address, arguments.tasks))
    return rates


def print_table(rates):
    """Print medians, ranges and the ratio to the first line."""
    base = median(next(iter(rates.values())))
    print(f"{'':<{WIDTH}}{'cells/s':>9}{'least':>9}{'most':>9}{'/ loop':>9}")
    for name, values in rates.items():
        middle = median(values)
        print(f"{name:<{WIDTH}}{middle:>9.0f}{min(values):>9.0f}{max(values):>9.0f}{middle / base:>9.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=3, help="rounds")
    parser.add_argument("--futures", type=int, default=2000, help="cells with a Dask future each")
    parser.add_argument("--tasks", type=int, default=200, help="cells with a Prefect task each")
    parser.add_argument("--workers", type=int, default=2, help="worker processes")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PREFECT_HOME"] = folder
        os.environ.pop("PREFECT_API_URL", None)
        from flows.clusters import open_cluster
        from flows.server import prefect_server

        started = perf_counter()
        with prefect_server() as wait_for_server, open_cluster(f"local:{arguments.workers}") as running:
            wait_for_server()
            import flows.sweep  # noqa: F401 (Prefect is part of the start-up)

            print(f"start-up of server, {arguments.workers} workers and imports: {perf_counter() - started:.1f} s")
            rates = measure(running.address, Path(folder), arguments)
    print_table(rates)


if __name__ == "__main__":
    main()
