"""Real processes for tests of faults: a Prefect server, Dask workers, a sweep on them, and a reader of its store."""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import httpx
import numpy as np
import psutil
import xarray as xr
from distributed import Client

from pipeline.sampling import get_sampling

ROOT = Path(__file__).parents[2]
SIZE = 40
WORKERS, THREADS = 2, 4
LONGEST = 240.0  # seconds that a run may take whatever happens
MOST_LINES = 20  # on standard error
COMPLETE, STOPPED = "complete", "stopped"
POISON = 77
STARTUP = -0.25  # moments from here to 0 are before the first cell, those to 1 after

SPEC = """
name: {name}
settings: {{certificate: {{bound: tail}}}}
grid:
  - function: ["mine:{function}"]
    sampling: [ball-independent]
    m: {{from: 1, to: {m}, count: {m}}}
    n: [{size}]
    r: [4]
    method: [svd]
    seeds: {seeds}
"""
FUNCTIONS = """
import os
import signal
import time
from pathlib import Path

import numpy as np
from scipy.spatial.distance import cdist


def counted(x, y):
    with Path(__file__).with_name("calls.log").open("a") as log:
        log.write(f"{x.shape[1]} {x[0, 0]!r}\\n")
    return np.exp(-cdist(x, y))


def slow(x, y):
    time.sleep(WAIT)
    return counted(x, y)


def poisonous(x, y):
    if x.shape[1] == POISON:
        os.kill(os.getpid(), signal.SIGKILL)
    return counted(x, y)
"""


def free_port():
    """A port of loopback that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def wait_until(holds, seconds, what):
    """Poll a condition until it holds."""
    deadline = monotonic() + seconds
    while not holds():
        if monotonic() > deadline:
            raise TimeoutError(f"{what} took more than {seconds:.0f} s")
        sleep(0.05)


class Service:
    """A server process that can be killed with its children and started again."""

    def __init__(self, command, log, environment):
        self._arguments = {"args": command, "env": environment, "start_new_session": True, "stdin": subprocess.DEVNULL}
        self._log = log
        self.process = None

    def start(self):
        if self.process is None or self.process.poll() is not None:
            self.kill()  # what a dead parent may have left
            with self._log.open("ab") as log:
                self.process = subprocess.Popen(**self._arguments, stdout=log, stderr=log, cwd=self._log.parent)

    def kill(self):
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Reader(threading.Thread):
    """Opens a store all the time with plain xarray, from its first appearance on, and notes whatever is not right."""

    def __init__(self, store, whole=None):
        super().__init__(daemon=True)
        self.store, self.options, self.whole = store, None, whole  # storage options of xarray
        self.polls, self.troubles, self.mistaken = 0, [], 0
        self.done = None  # cells that have been seen done
        self.excused = threading.Event()  # while the store's server is down
        self._end, self._lock = threading.Event(), threading.Lock()

    def run(self):
        while not self._end.wait(0.1):
            if self.done is not None or self._exists():
                self.look()

    def end(self):
        self._end.set()
        self.join()

    def _exists(self):
        if "://" not in str(self.store):
            return Path(self.store).exists()
        with suppress(Exception):  # plain open_zarr looks twice, and warns where a store appears in between
            xr.open_zarr(str(self.store), storage_options=self.options, consolidated=True).close()
            return True
        return False

    def _open(self):
        return xr.open_zarr(str(self.store), storage_options=self.options)

    def done_now(self):
        """Look once more and return the cells that are done."""
        if self.done is not None or self._exists():
            self.look()
        return np.zeros(0, dtype=bool) if self.done is None else self.done

    def look(self):
        """Read the whole store, status first: values are written before it."""
        with self._lock, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            excused = self.excused.is_set()
            try:
                with self._open() as ds:
                    ds["status"].load()
                    self._judge(ds.load())
                trouble = "; ".join(str(warning.message) for warning in caught)
            except Exception as error:
                trouble = f"{type(error).__name__}: {error}"
            if trouble and not excused and not self.excused.is_set():
                self.troubles.append(trouble)
            self.polls += 1

    def _judge(self, ds):
        done = ds["status"].values == 1
        if self.done is not None and (self.done & ~done).any():
            self.troubles.append(f"{(self.done & ~done).sum()} cells are no longer done")
        self.done = done if self.done is None else self.done | done
        if wrong := self._wrong(ds, done):
            self.mistaken = max(self.mistaken, wrong)

    def _wrong(self, ds, done):
        """Number of done cells that differ from the undisturbed run in anything but their seconds."""
        if self.whole is None:
            return 0
        differ = np.zeros(done.shape, dtype=bool)
        for name in self.whole.data_vars.keys() - {"seconds"}:
            found, expected = ds[name].values, self.whole[name].values
            differ |= (found != expected) & ~((found != found) & (expected != expected))
        return int((differ & done).sum())


class Site:
    """Folder, Prefect server, Dask scheduler and workers that many runs share, and what the sweep yields undisturbed.

    Parameters
    ----------
    folder : Path
        An empty one.
    cells : int
        Of the sweep; even.
    wait : float
        Seconds that a cell takes at least.
    """

    def __init__(self, folder, cells=64, wait=0.7):
        self.folder, self.cells, self.log = folder, cells, folder / "calls.log"
        (folder / "mine.py").write_text(FUNCTIONS.replace("WAIT", str(wait)).replace("POISON", str(POISON)))
        self.spec = self.write_spec("faults", "slow", cells // 2, 2)
        points = get_sampling("ball-independent").points
        self._cell_of = {
            f"{m} {points(0, m, seed, 0, SIZE)[0, 0]!r}": (m - 1, seed)
            for m in range(1, cells // 2 + 1)
            for seed in (0, 1)
        }
        server, scheduler = free_port(), free_port()
        self.address = f"tcp://127.0.0.1:{scheduler}"
        self.url = f"http://127.0.0.1:{server}/api"
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")} | {
            "DO_NOT_TRACK": "1",
            "EPSWEEP_ALLOW_CODE": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PYTHONPATH": f"{folder}:{ROOT}",
        }
        loopback = ["--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0"]
        worker = ["dask", "worker", self.address, *loopback, "--nthreads", str(THREADS)]
        commands = {
            "prefect": ["prefect", "server", "start", "--host", "127.0.0.1", "--port", str(server)],
            "scheduler": ["dask", "scheduler", *loopback, "--port", str(scheduler)],
            **{f"worker-{number}": worker for number in range(WORKERS)},
        }
        self.services = {
            name: Service([sys.executable, "-m", *command], folder / f"{name}.log", self.environment)
            for name, command in commands.items()
        }

    def write_spec(self, name, function, m, seeds):
        path = self.folder / f"{name}.yaml"
        path.write_text(SPEC.format(name=name, function=function, m=m, size=SIZE, seeds=seeds))
        return path

    def __enter__(self):
        with ExitStack() as stack:
            stack.callback(self.__exit__)
            self.restore()
            run = Run(self, "whole.zarr", Setting())
            run.start()
            run.reader.start()
            wait_until(lambda: run.cells_done() or run.process.poll() is not None, LONGEST, "the first cell")
            self.startup = monotonic() - run.started
            run.wait()
            self.seconds = monotonic() - run.started
            run.reader.end()
            if run.process.returncode or run.cells_done() < self.cells or run.reader.troubles:
                raise RuntimeError(f"the undisturbed run failed: {run.errors()} {run.reader.troubles}")
            self.whole = xr.open_zarr(run.store).load()
            stack.pop_all()
        return self

    def __exit__(self, *_):
        for service in self.services.values():
            service.kill()

    def restore(self):
        """Start what does not run and wait until all of it answers."""
        self._start()
        wait_until(self._prefect_answers, LONGEST, "the Prefect server")
        with Client(self.address, timeout=60, set_as_default=False) as client:

            def all_there():
                self._start()  # workers end a few seconds after their scheduler
                return len(client.nthreads()) == WORKERS

            wait_until(all_there, LONGEST, "the workers")

    def _start(self):
        for service in self.services.values():
            service.start()

    def _prefect_answers(self):
        with suppress(httpx.HTTPError):
            return httpx.get(f"{self.url}/health", timeout=5).is_success
        return False

    def calls(self):
        """Cells that have been computed, in order."""
        return [self._cell_of[line] for line in self.log.read_text().splitlines()] if self.log.exists() else []


@dataclass(frozen=True)
class Setting:
    """What a run is started with.

    Attributes
    ----------
    cluster : str or None
        The site's own scheduler if None.
    embedded : bool
        Whether the run starts a Prefect server of its own.
    prepare, clear : callable
        Of a run, before it starts and after all; the first may change its environment.
    place : callable
        From site and name to the store of a run.
    """

    cluster: str | None = None
    embedded: bool = False
    prepare: Callable[["Run"], object] = lambda run: None
    clear: Callable[["Run"], object] = lambda run: None
    place: Callable[["Site", str], object] = lambda site, name: site.folder / name


class Run:
    """One sweep into a store of its own, and the command that is run until it is complete.

    Attributes
    ----------
    process : subprocess.Popen
        The command, as last started.
    reader : Reader
    random : random.Random
    """

    def __init__(self, site, name, setting, seed=0, *, spec=None, whole=None):
        self.site, self.setting, self.store = site, setting, setting.place(site, name)
        self.random = random.Random(seed)
        self.reader = Reader(self.store, whole)
        arguments = ["--store", str(self.store), "--cluster", setting.cluster or site.address]
        self.command = [sys.executable, "-m", "flows", "run", str(spec or site.spec), *arguments]
        self.environment = dict(site.environment)
        if setting.embedded:
            self.environment["PREFECT_HOME"] = str(site.folder / "embedded")
        else:
            self.environment["PREFECT_API_URL"] = site.url
        self._errors = site.folder / "errors"
        self.process = None

    def start(self):
        self.started = monotonic()
        with self._errors.open("wb") as errors:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                cwd=self.site.folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                start_new_session=True,
            )

    def wait(self):
        """Wait for the end of the command; False if it does not come."""
        try:
            self.process.wait(LONGEST)
        except subprocess.TimeoutExpired:
            self.kill()
            return False
        return True

    def kill(self):
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def errors(self):
        return self._errors.read_text(errors="replace").splitlines()

    def cells_done(self):
        return 0 if self.reader.done is None else int(self.reader.done.sum())

    def children(self, text):
        """Child processes of the command, by what their command line contains."""
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(self.process.pid).children(recursive=True)
            return [child for child in family if text in " ".join(command_line(child))]
        return []

    def wait_for(self, moment):
        """Wait until a share of the run is over: of its start-up if negative, of its cells if positive."""
        if moment < 0:
            sleep((1 - moment / STARTUP) * self.site.startup)
            return
        target = int(moment * self.site.cells)
        wait_until(lambda: self.cells_done() > target or self.process.poll() is not None, LONGEST, "progress")
        sleep(self.random.uniform(0, 0.2))

    def verdict(self, *, killed=False):
        """Wait for the end of the command: "complete", "stopped", or what was wrong with that."""
        ended = self.wait()
        lines = self.errors()
        if not ended:
            return f"no end within {LONGEST:.0f} s: {lines[-3:]}"
        if killed and self.process.returncode == -signal.SIGKILL:
            return STOPPED  # whatever it was saying just then
        if any("Traceback" in line for line in lines):
            return f"a traceback: {lines[-3:]}"
        if len(lines) > MOST_LINES:
            return f"{len(lines)} lines on standard error: {lines[-3:]}"
        if self.process.returncode == 0:
            return COMPLETE
        if self.process.returncode > 0 and lines and lines[-1].startswith("epsweep: "):
            return STOPPED
        return f"exit code {self.process.returncode} without a clear line: {lines[-3:]}"


def command_line(process):
    with suppress(psutil.Error):
        return process.cmdline()
    return []
