"""A store of a million cells: how fast it opens and answers, and what it costs on disk.

The store is filled through the public `Writer` with made-up outcomes, in slabs of whole functions, samplings and
methods. There is no rival here; the baseline is the requirement in the last column: under a second to open, under
0.2 s for a curve, fewer than 5,000 files. Each line is the first call in a new process, the median of several such
processes after imports; files stay in the page cache. The last lines time the writer at the size of real flushes.

    python tests/benchmarks/million.py [--repeat 5] [--store PATH]
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from flows.planning import make_plan
from pipeline.experiment import Outcome
from pipeline.grid import parse_sweep
from storage import Writer, median_curves, open_results, pending, sweep_status

SPEC = """
name: million
experiment: approximation
grid:
  - function: [exponential, quartic_gaussian]
    sampling: [ball-independent, ball-symmetric]
    m: {from: 20, to: 1000, count: 50}
    n: {from: 150, to: 3000, count: 20}
    r: {from: 4, to: 100, count: 25}
    method: [svd, ap]
    seeds: 5
"""
CURVE = {"function": "quartic_gaussian", "sampling": "ball-symmetric", "n": 1500, "r": 52, "method": "ap"}


def outcomes_of(count):
    """Made-up outcomes that do not compress to nothing."""
    random = np.random.default_rng(0)
    columns = random.random((count, 4)).tolist()
    return [
        Outcome({"epsilon": a, "lower_bound": b, "max_norm": c, "iterations": i % 900, "seconds": d})
        for i, (a, b, c, d) in enumerate(columns)
    ]


def box_cells(lengths, fixed):
    """Indices of all cells with the given positions on some axes."""
    ranges = [[fixed[axis]] if axis in fixed else range(length) for axis, length in enumerate(lengths)]
    return np.stack(np.meshgrid(*ranges, indexing="ij"), axis=-1).reshape(-1, len(lengths))


def fill(store, sweep):
    """Write every cell, a function, sampling and method at a time."""
    lengths = sweep.wanted.shape
    outcomes = outcomes_of(sweep.wanted.size // (lengths[0] * lengths[1] * lengths[5]))
    with Writer.open(store, sweep) as writer:
        for function, sampling, method in itertools.product(*(range(lengths[axis]) for axis in (0, 1, 5))):
            writer.write(box_cells(lengths, {0: function, 1: sampling, 5: method}), outcomes)


def flush_seconds(store, sweep, matrices):
    """Seconds to write the cells of some whole matrices, as a flush of the flow does."""
    lengths = sweep.wanted.shape
    chosen = np.random.default_rng(1).integers(0, [lengths[axis] for axis in (0, 1, 2, 3, 6)], (matrices, 5))
    cells = np.concatenate([box_cells(lengths, dict(zip((0, 1, 2, 3, 6), row, strict=True))) for row in chosen])
    outcomes = outcomes_of(len(cells))
    with Writer.open(store, sweep) as writer:
        started = perf_counter()
        writer.write(cells, outcomes)
        return len(cells), perf_counter() - started


def queries(store):
    """Time each query once, in this process."""
    sweep = parse_sweep(SPEC)
    seconds = {}
    started = perf_counter()

    def lap(name):
        nonlocal started
        seconds[name] = perf_counter() - started
        started = perf_counter()

    ds = open_results(store)
    lap("open_results")
    curve = median_curves(ds.sel(CURVE))
    lap("one curve")
    assert curve["epsilon"].shape == (50,)
    assert np.isfinite(curve["epsilon"]).all()
    median_curves(ds.sel(CURVE | {"n": 3000}))
    lap("the next curve")
    median_curves(ds)
    lap("all 200,000 medians")
    status = sweep_status(store, sweep)
    lap("sweep_status")
    assert not pending(sweep, status, retry_failed=False).any()
    lap("pending")
    make_plan(sweep, sweep.wanted, threads=2)
    lap("plan, all pending")
    return seconds


def in_new_processes(store, repeat):
    """Medians over processes that run `queries` once each."""
    command = [sys.executable, __file__, "--query", str(store)]
    runs = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(repeat)]
    return {name: median(run[name] for run in runs) for name in runs[0]}


def print_table(store, repeat):
    """Fill the store if it does not exist, and print what it answers."""
    sweep = parse_sweep(SPEC)
    started = perf_counter()
    if not store.exists():
        fill(store, sweep)
        print(f"filled in {perf_counter() - started:.1f} s: {sweep.wanted.size} cells")
    files = [path for path in store.rglob("*") if path.is_file()]
    limits = {"open_results": "1 s", "one curve": "0.2 s"}
    print(f"{'':<28}{'measured':>12}{'required':>12}")
    print(f"{'files':<28}{len(files):>12}{'5000':>12}")
    print(f"{'size':<28}{sum(path.stat().st_size for path in files) / 2**20:>8.1f} MiB")
    for name, seconds in in_new_processes(store, repeat).items():
        print(f"{name:<28}{seconds:>10.3f} s{limits.get(name, ''):>12}")
    for matrices in (1, 20):
        flushes = [flush_seconds(store, sweep, matrices) for _ in range(repeat)]
        label = f"write {flushes[0][0]} cells, {matrices} matrices" if matrices > 1 else f"write {flushes[0][0]} cells"
        print(f"{label:<28}{median(seconds for _, seconds in flushes):>10.3f} s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", type=int, default=5, help="processes and flushes to take the median of")
    parser.add_argument("--store", type=Path, help="keep the store here; filled if it does not exist")
    parser.add_argument("--query", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.query:
        print(json.dumps(queries(arguments.query)))
        return
    with tempfile.TemporaryDirectory() as folder:
        print_table(arguments.store or Path(folder) / "million.zarr", arguments.repeat)


if __name__ == "__main__":
    main()
