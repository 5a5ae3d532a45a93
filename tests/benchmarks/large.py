"""Matrices larger than a worker: the truncated SVD spread over two workers of limited memory, and against dask.array.

All on this machine, workers of one thread each, `exponential` on independent points of the ball (m = 10), r = 50.

1. Rates of one core: entries made a second, and the matrix product F @ thin with 80 columns, beside those of NumPy's
   exp and matrix product alone.
2. For each n the command `epsweep run` on two workers that Dask's nannies kill above the limit: seconds from the first
   pass to the last value, "n²" (seconds divided by n², times 10⁸), "rate" (the share of what the rates of table 1 allow
   for the passes that are made), and the peak memory of a worker and of the flow in MiB. The lower bound is the tail's.
3. The same with the methods `svd`, `ap` and `minimax` (quick) for one n.
4. One process a method, all cores in both: our passes by threads, and dask.array.linalg.svd_compressed on the same
   matrix made lazily in blocks, by Dask's threads; width of the sketch and power iterations the same. Seconds, peak
   memory, the max-norm error, and that of the 50th singular value against ours with twice as many iterations.

    python tests/benchmarks/large.py [--sizes 10000 20000 50000] [--methods 20000] [--peer 20000] [--limit 1.5GiB]
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from time import perf_counter

import dask
import dask.array as da
import numpy as np
import psutil
import scipy.linalg  # noqa: F401 (its library must be loaded to be limited)
import xarray as xr
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster
from threadpoolctl import threadpool_limits

from flows.launch import RESTARTING
from pipeline import function_matrix
from pipeline.passes import GROUP_ROWS, TILE_COLUMNS, LocalPasses, max_error
from pipeline.svd import Decomposition, SVDSettings, randomized_svd

M, RANK = 10, 50
FUNCTION, SAMPLING = "exponential", "ball-independent"
SETTINGS = SVDSettings()
CORES = CPU_COUNT
WIDTH, POWERS = SETTINGS.sketch_width(RANK), SETTINGS.power_iterations
SPEC = """
name: large
settings: {{certificate: {{bound: tail}}, minimax: {{budget: quick}}}}
grid:
  - {{function: [{function}], sampling: [{sampling}], m: [{m}], n: [{n}], r: [{r}], method: {methods}, seeds: 1}}
"""


def best(call, count=5):
    """Smallest number of seconds of several calls."""
    seconds = []
    for _ in range(count):
        started = perf_counter()
        call()
        seconds.append(perf_counter() - started)
    return min(seconds)


def rates():
    """Print the first table; return seconds an entry made, and an entry times column."""
    matrix = function_matrix(FUNCTION, SAMPLING, M, 8192)
    block = slice(0, GROUP_ROWS), slice(0, TILE_COLUMNS)
    entries = matrix.block(*block)
    thin = np.random.default_rng(0).standard_normal((TILE_COLUMNS, WIDTH))
    points = np.random.default_rng(0).standard_normal((256, M))
    tile = np.ascontiguousarray(entries[:256, :256])
    made = best(lambda: matrix.block(*block)) / entries.size
    product = best(lambda: entries @ thin) / (entries.size * WIDTH)
    exp = best(lambda: np.exp(tile), 50) / tile.size
    distances = best(lambda: points @ points.T, 50) / 256**2
    print(
        f"entry made {made * 1e9:.2f} ns; of which exp {exp * 1e9:.2f} ns, product of points {distances * 1e9:.2f} ns"
    )
    print(f"product {product * 1e12:.1f} ps an entry and column ({2e-9 / product:.1f} GFlop/s)")
    return made, product


def allowed(n, made, product):
    """Seconds of one core for all passes over a matrix at the measured rates."""
    passes = 4 + POWERS  # two for the max norm and the error
    columns = (1 + 2 * POWERS) * WIDTH + (1 + POWERS) * WIDTH + RANK
    return n * n * (passes * made + columns * product)


class Peak(threading.Thread):
    """Largest resident memory of processes, in MiB, looked at all the time."""

    def __init__(self, find):
        super().__init__(daemon=True)
        self._find, self._end, self.most = find, threading.Event(), 0.0

    def run(self):
        while not self._end.wait(0.05):
            with suppress(psutil.Error):  # it may have ended
                self.most = max(self.most, *(process.memory_info().rss / 2**20 for process in self._find()))

    def stop(self):
        self._end.set()
        self.join()
        return self.most


def spread(n, methods, limit, folder):
    """Run a sweep; return what it found of each method, and the peak memory of a worker and of the flow in MiB."""
    spec = folder / f"large-{n}.yaml"
    spec.write_text(SPEC.format(function=FUNCTION, sampling=SAMPLING, m=M, n=n, r=RANK, methods=methods))
    loopback = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "worker_dashboard_address": "127.0.0.1:0"}
    with (
        dask.config.set(RESTARTING),
        LocalCluster(n_workers=2, threads_per_worker=1, memory_limit=limit, **loopback) as cluster,
        Client(cluster) as client,
    ):
        workers = [psutil.Process(pid) for pid in client.run(os.getpid).values()]
        store = folder / f"large-{n}-{len(methods)}.zarr"
        command = [sys.executable, "-m", "flows", "run", str(spec), "--store", str(store)]
        command += ["--cluster", cluster.scheduler_address]
        environment = os.environ | {"PREFECT_HOME": str(folder / "prefect"), "OPENBLAS_NUM_THREADS": "1"}
        with (folder / "log").open("w") as log:
            run = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        peaks = [Peak(lambda: workers), Peak(lambda: [psutil.Process(run.pid)])]
        for peak in peaks:
            peak.start()
        code = run.wait()
        memory = [peak.stop() for peak in peaks]
    if code:
        raise SystemExit(f"n = {n}: the run ended with {code}\n{(folder / 'log').read_text()}")
    with xr.open_zarr(store) as ds:
        found = {
            method: [float(ds[name].sel({"method": method}).squeeze()) for name in ("seconds", "epsilon", "iterations")]
            for method in methods
        }
    return found, memory


def sizes(numbers, made, product, limit, folder):
    """Print the second table."""
    print(f"\n{'n':>7}{'seconds':>9}{'n²':>8}{'rate':>7}{'worker':>9}{'flow':>9}{'epsilon':>11}")
    for n in numbers:
        found, memory = spread(n, ["svd"], limit, folder)
        seconds, epsilon, _ = found["svd"]
        share = allowed(n, made, product) / 2 / seconds
        print(f"{n:>7}{seconds:>9.1f}{seconds / n**2 * 1e8:>8.2f}{share:>7.0%}", end="")
        print(f"{memory[0]:>9.0f}{memory[1]:>9.0f}{epsilon:>11.6f}", flush=True)


def methods(n, limit, folder):
    """Print the third table."""
    found, memory = spread(n, ["svd", "ap", "minimax"], limit, folder)
    print(f"\n{'method':>10}{'seconds':>9}{'steps':>8}{'epsilon':>11}   (n = {n})")
    for method, (seconds, epsilon, steps) in found.items():
        print(f"{method:>10}{seconds:>9.1f}{steps:>8.0f}{epsilon:>11.6f}")
    print(f"peak memory of a worker {memory[0]:.0f}, of the flow {memory[1]:.0f} MiB", flush=True)


def ours(n, powers):
    """Passes over blocks, in this process."""
    return randomized_svd(LocalPasses(function_matrix(FUNCTION, SAMPLING, M, n), CORES), WIDTH, powers)


def theirs(n, powers):
    """The compressed SVD of dask.array on a lazily made array."""
    matrix = function_matrix(FUNCTION, SAMPLING, M, n)

    def block(block_info):
        rows, cols = block_info[None]["array-location"]
        return matrix.block(slice(*rows), slice(*cols))

    side = [GROUP_ROWS] * (n // GROUP_ROWS) + [n % GROUP_ROWS] * (n % GROUP_ROWS > 0)
    lazy = da.map_blocks(block, chunks=(tuple(side), tuple(side)), dtype=float, meta=np.empty((0, 0)))
    u, s, vt = da.linalg.svd_compressed(lazy, RANK, n_power_iter=powers, n_oversamples=WIDTH - RANK, seed=0)
    return Decomposition(*dask.compute(u, s, vt, scheduler="threads", num_workers=CORES), complete=False)


def alone(n, method, powers):
    """Print a line of the fourth table for this process."""
    with threadpool_limits(1):
        started = perf_counter()
        found = (ours if method == "ours" else theirs)(n, powers)
        seconds = perf_counter() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        exact = ours(n, 2 * powers).s[RANK - 1]
        error = max_error(LocalPasses(function_matrix(FUNCTION, SAMPLING, M, n), CORES), *found.balanced_factors(RANK))
    print(
        f"n = {n}, power iterations {powers}, {method:<16} {seconds:7.1f} s, peak {peak:6.0f} MiB, error {error:.6f}, "
        f"of a singular value {abs(found.s[RANK - 1] / exact - 1):.0e}",
        flush=True,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10_000, 20_000, 50_000])
    parser.add_argument("--methods", type=int, nargs="*", default=[20_000])
    parser.add_argument("--peer", type=int, default=20_000)
    parser.add_argument("--powers", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--limit", default="1.5GiB", help="memory of a worker")
    parser.add_argument("--alone", help="only one method of the fourth table, in this process")
    arguments = parser.parse_args()
    if arguments.alone:
        alone(arguments.peer, arguments.alone, *arguments.powers)
        return
    with threadpool_limits(1):
        made, product = rates()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.sizes:
            sizes(arguments.sizes, made, product, arguments.limit, Path(folder))
        for n in arguments.methods:
            methods(n, arguments.limit, Path(folder))
    print()
    for powers in arguments.powers:
        for method in ("svd_compressed", "ours"):
            command = [sys.executable, __file__, "--peer", str(arguments.peer), "--powers", str(powers)]
            subprocess.run([*command, "--alone", method], check=True)


if __name__ == "__main__":
    main()
