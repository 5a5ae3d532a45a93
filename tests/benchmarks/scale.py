"""How a sweep scales: two workers against one, overhead at 1 s a cell, 1,000 worker threads, start, and a large store.

workers: cells a second while the flow dispatches, of a compute-bound sweep on one and on two worker processes in turn,
rounds interleaved with the same cells in plain processes, without Dask, Prefect or store, which show what the machine
can do. Read the ratio of the medians (to be at least 1.85, on a machine with two idle cores or more).
overhead: a sweep of cells that wait 1 s each on two workers. Read the share of the workers' time that is not spent in
cells (to be at most 3 %), and the same less the last, uneven round of cells.
threads: cells that wait 1 s on a cluster of two worker processes with 500 threads each. Read the cells a second (to be
at least 500) and the memory of the flow process (RSS) at each tenth of the run: to be flat.
start: from `epsweep run` to the first cell computed, with an embedded server and an empty Prefect home (to be under
12 s), and when each stage of it was reached.
store: milliseconds of a write of 50 cells that is durable before it returns and of one that is not (no fsync), in turn,
and the seconds in which a store of 132,000 finished cells grows by a label at the end, which moves nothing, and by
one between others, which writes every chunk anew.

Each line ends with the load average of the machine, which spoils all of them. All is on loopback and in a temporary
folder.

    python tests/benchmarks/scale.py [--cells 10000 100000] [--threads 1000] [--repeat 3] [SECTION ...]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import monotonic, perf_counter, sleep, time
from unittest.mock import patch

import numpy as np
import psutil
from threadpoolctl import threadpool_limits

from pipeline.experiment import Outcome
from pipeline.experiments import EXPERIMENTS
from pipeline.grid import load_sweep, parse_sweep
from storage import Writer
from tests.benchmarks.overhead import timed_dispatch

SPEC = """
name: {name}
settings: {{certificate: {{bound: tail}}}}
grid:
  - function: ["{function}"]
    sampling: [ball-independent]
    m: {{from: 1, to: {m}, count: {m}}}
    n: [{n}]
    r: [{r}]
    method: [{method}]
    seeds: {seeds}
"""
STORE = """
name: store
grid:
  - function: [exponential, gaussian, cauchy, quartic_gaussian]
    sampling: [ball-symmetric, ball-independent]
    m: {m}
    n: {n}
    r: [1, 2, 4, 8, 16]
    method: [svd, ap, minimax]
    seeds: 5
"""
FUNCTIONS = """
import time
from pathlib import Path

import numpy as np


def waiting(x, y):
    time.sleep(1)
    return np.ones((len(x), len(y)))


def first(x, y):
    with Path(__file__).with_name("first").open("a") as log:
        log.write(f"{time.time()}\\n")
    return np.ones((len(x), len(y)))
"""
SIZE, RANK = 10, 2


def load():
    """Load average of the last minute, as it ends a line."""
    return f"load {os.getloadavg()[0]:.1f}"


def write_spec(folder, name, function, cells, n=SIZE, r=RANK, method="svd"):
    """Write the spec of a sweep of many cells, a matrix each."""
    m = next(m for m in range(int(cells**0.5), 0, -1) if cells % m == 0)
    path = folder / f"{name}.yaml"
    path.write_text(SPEC.format(name=name, function=function, m=m, n=n, r=r, method=method, seeds=cells // m))
    return path


def dispatch_seconds(spec, store, address):
    """Run the flow in this process; seconds from the start of its dispatcher to the last cell written."""
    import flows.sweep

    cells = int(load_sweep(spec, allow_code=True).wanted.sum())
    with timed_dispatch(flows.sweep) as laps:
        summary = flows.sweep.sweep_flow(str(spec), str(store), address)
    if summary.done != cells:
        raise SystemExit(f"{summary}: cells are missing, so the rates mean nothing")
    return sum(laps)


def plain_rate(spec, count):
    """Cells a second in plain processes."""
    sweep = load_sweep(spec)
    cells = [sweep.case(cell) for cell in np.argwhere(sweep.wanted)]
    with ProcessPoolExecutor(count, get_context("spawn")) as pool:
        list(pool.map(_compute, [sweep.settings] * 2 * count, cells))  # start and import
        began = monotonic()
        list(pool.map(_compute, [sweep.settings] * len(cells), cells))
        return len(cells) / (monotonic() - began)


def _compute(settings, case):
    with threadpool_limits(1):
        return list(EXPERIMENTS["approximation"].run([case], settings))


def workers(folder, arguments):
    """Two workers against one."""
    from flows.clusters import open_cluster

    cells = 120
    spec = write_spec(folder, "compute", "exponential", cells, n=400, r=20, method="minimax")
    rates = {(kind, count): [] for count in (1, 2) for kind in ("workers", "plain processes")}
    for turn in range(arguments.repeat):
        for (kind, count), found in rates.items():
            if kind == "workers":
                with open_cluster(f"local:{count}") as running:
                    store = folder / f"compute-{turn}-{count}.zarr"
                    found.append(cells / dispatch_seconds(spec, store, running.address))
            else:
                found.append(plain_rate(spec, count))
    for (kind, count), found in rates.items():
        print(f"{count} {kind}: {median(found):.2f} cells/s ({min(found):.2f} to {max(found):.2f}); {load()}")
    for kind in ("workers", "plain processes"):
        print(f"two {kind} against one: {median(rates[kind, 2]) / median(rates[kind, 1]):.2f} (at least 1.85)")
    sys.stdout.flush()


def overhead(folder, arguments):
    """Overhead at 1 s a cell."""
    from flows.clusters import open_cluster

    cells = 200
    spec = write_spec(folder, "overhead", "mine:waiting", cells)
    with open_cluster("local:2") as running:
        for turn in range(arguments.repeat):
            seconds = dispatch_seconds(spec, folder / f"overhead-{turn}.zarr", running.address)
            share = 200 * seconds / cells - 100
            print(f"{cells} cells of 1 s on 2 workers: {seconds:.1f} s, overhead {share:.1f} % (at most 3 %); {load()}")


@contextmanager
def many_threads(folder, count):
    """A scheduler and two worker processes with many threads each; yields the scheduler's address."""
    from distributed import Client

    from flows.launch import environment as worker_environment
    from tests.benchmarks.fault_site import Service, free_port

    loopback = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    environment = dict(os.environ) | worker_environment() | {"PYTHONPATH": f"{folder}:{Path(__file__).parents[2]}"}
    commands = [
        ["scheduler", "--port", str(port)],
        *[["worker", address, "--nthreads", str(count // 2)]] * 2,
    ]
    with ExitStack() as stack:
        for number, command in enumerate(commands):
            service = Service(
                [sys.executable, "-m", "dask", *command, *loopback], folder / f"dask-{number}.log", environment
            )
            service.start()
            stack.callback(service.kill)
        with Client(address, timeout=60, set_as_default=False) as client:
            client.wait_for_workers(2, timeout=120)
        yield address


def threads(folder, arguments):
    """Cells that only wait, on many worker threads."""
    with many_threads(folder, arguments.threads) as address:
        for cells in arguments.cells:
            spec = write_spec(folder, f"threads-{cells}", "mine:waiting", cells)
            memory, ended = [], threading.Event()
            watch = threading.Thread(target=_watch_memory, args=(memory, ended))
            watch.start()
            try:
                seconds = dispatch_seconds(spec, folder / f"threads-{cells}.zarr", address)
            finally:
                ended.set()
                watch.join()
            print(f"{cells} cells of 1 s on {arguments.threads} threads: {seconds:.1f} s, ", end="")
            print(f"{cells / seconds:.0f} cells/s (at least 500); {load()}")
            tenths = [memory[int(part * (len(memory) - 1) / 10)] / 2**20 for part in range(11)]
            print("MiB of the flow process at each tenth: " + " ".join(f"{size:.0f}" for size in tenths), flush=True)


def _watch_memory(memory, ended):
    process = psutil.Process()
    while not ended.wait(0.2):
        memory.append(process.memory_info().rss)


def start(folder, arguments):
    """From the command to the first cell."""
    spec = write_spec(folder, "start", "mine:first", 4)
    for turn in range(arguments.repeat):
        environment = dict(os.environ) | {"PREFECT_HOME": str(folder / f"empty-{turn}"), "EPSWEEP_ALLOW_CODE": "1"}
        environment.pop("PREFECT_API_URL", None)
        store = folder / f"start-{turn}.zarr"
        (folder / "first").unlink(missing_ok=True)
        command = [sys.executable, "-m", "flows", "run", str(spec), "--store", str(store), "--cluster", "local:2"]
        began, clock = monotonic(), time()
        with subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True) as process:
            stages = _stages(process, store, environment["PREFECT_HOME"], began)
            process.communicate()
        if process.returncode:
            raise SystemExit(f"the sweep ended with exit code {process.returncode}")
        first = float((folder / "first").read_text().split()[0]) - clock
        shown = ", ".join(f"{name} {seconds:.1f}" for name, seconds in sorted(stages.items(), key=lambda item: item[1]))
        print(f"first cell after {first:.1f} s (under 12): {shown}; {load()}", flush=True)


def _stages(process, store, home, began):
    """Seconds until each stage of a starting run could be seen from outside, until the store has been made."""
    stages = {}
    seen = {
        "server started": lambda family: any("flows.server" in command for command in family),
        "database made": lambda family: any(Path(home).glob("*.db")),
        "workers started": lambda family: sum("spawn_main" in command for command in family) >= 2,
        "store made": lambda family: store.exists(),
    }
    while process.poll() is None and len(stages) < len(seen):
        family = []
        with suppress(psutil.Error):
            family = [" ".join(child.cmdline()) for child in psutil.Process(process.pid).children(recursive=True)]
        for name, holds in seen.items():
            if name not in stages and holds(family):
                stages[name] = monotonic() - began
        sleep(0.05)
    return stages


def store(folder, arguments):
    """What durability costs, and growth of a large store."""
    values = dict.fromkeys(("epsilon", "lower_bound", "max_norm", "iterations", "seconds"), 0.5)
    small, rates = parse_sweep(STORE.format(m=[1, 2], n=[100])), {"durable": [], "not durable": []}
    cells = np.argwhere(small.wanted)
    for _ in range(arguments.repeat):
        for name, synced in (("durable", nullcontext()), ("not durable", patch("os.fsync"))):
            path = folder / f"{name} {perf_counter()}.zarr"
            with synced, Writer.open(path, small) as writer:
                writer.write(cells[:50], [Outcome(values)] * 50)
                for at in range(50, len(cells), 50):
                    began = perf_counter()
                    writer.write(cells[at : at + 50], [Outcome(values)] * len(cells[at : at + 50]))
                    rates[name].append(1e3 * (perf_counter() - began))
    for name, found in rates.items():
        print(f"{name:<12} {median(found):6.1f} ms a write of 50 cells, median of {len(found)}")
    ms, ns = list(range(1, 61, 3)), [100 * each for each in range(1, 12)]
    large = parse_sweep(STORE.format(m=ms, n=ns))
    cells = np.argwhere(large.wanted)
    path = folder / "large.zarr"
    with Writer.open(path, large) as writer:
        for part in np.array_split(cells, 66):
            writer.write(part, [Outcome(values)] * len(part))
    for name, more in (("at the end", [99]), ("between", [2, 99])):
        began = perf_counter()
        with Writer.open(path, parse_sweep(STORE.format(m=sorted(ms + more), n=ns))):
            pass
        print(f"grows {name}: {perf_counter() - began:.2f} s with {len(cells):,} finished cells; {load()}", flush=True)


SECTIONS = {section.__name__: section for section in (workers, overhead, threads, start, store)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, "all"], default="all", help="default: all")
    parser.add_argument("--cells", type=int, nargs="+", default=[10_000, 100_000], help="of threads")
    parser.add_argument("--threads", type=int, default=1000, help="of the two workers together")
    parser.add_argument("--repeat", type=int, default=3, help="rounds of the other sections")
    arguments = parser.parse_args()
    cpuinfo = Path("/proc/cpuinfo").read_text().splitlines()
    print(next((line.partition(": ")[2] for line in cpuinfo if line.startswith("model name")), "unknown processor"))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "mine.py").write_text(FUNCTIONS)
        sys.path.append(str(folder))
        os.environ |= {"PREFECT_HOME": str(folder / "prefect"), "EPSWEEP_ALLOW_CODE": "1"}
        os.environ.pop("PREFECT_API_URL", None)
        from flows.server import prefect_server

        chosen = SECTIONS if "all" in arguments.sections else arguments.sections
        with prefect_server() as wait_for_server:
            wait_for_server()
            for section in (section for section in chosen if section != "start"):
                print(f"\n{section}: {SECTIONS[section].__doc__}", flush=True)
                SECTIONS[section](folder, arguments)
        if "start" in chosen:
            print(f"\nstart: {start.__doc__}", flush=True)
            start(folder, arguments)


if __name__ == "__main__":
    main()
