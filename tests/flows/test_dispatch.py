"""The dispatcher on real workers: what a batch has finished is stored while it goes on, whatever ends it."""

import os
import threading
from collections import deque
from time import monotonic
from uuid import UUID, uuid4

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster
from prefect import flow
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.batch import task_key
from flows.dispatch import Dispatcher, _Sent
from flows.handover import Handed, HandOver
from flows.launch import RESTARTING
from flows.planning import Batch
from flows.progress import Tally
from pipeline.errors import InputError, Interrupted
from pipeline.experiment import Outcome
from pipeline.grid import parse_sweep
from storage import Status, Writer, open_results, sweep_status
from tests.support import calls, within_flow

LOOPBACK = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "worker_dashboard_address": "127.0.0.1:0"}
PATIENCE = 120  # seconds, of a test that would hang
FUNCTIONS = """
import os
import signal
from pathlib import Path

HERE = Path(__file__).parent


def counted(x, y):
    with open(HERE / "calls.log", "a") as log:
        log.write(f"{x.shape[1]} {x[0, 0]!r}\\n")
    return x @ y.T


def waiting(x, y):
    if x.shape[1] == 9:
        (HERE / "arrived").touch()
        (HERE / "go").open("r").close()
    return counted(x, y)


def deadly_once(x, y):
    if x.shape[1] == 9 and not (HERE / "killed").exists():
        (HERE / "go").open("r").close()
        (HERE / "killed").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return counted(x, y)


def own_raiser(x, y):
    raise (KeyboardInterrupt, GeneratorExit, SystemExit)[x.shape[1] % 3]
"""
SPEC = """
name: dispatched
settings: {{certificate: {{bound: tail}}}}
grid:
  - function: ["{module}:{function}"]
    sampling: [ball-independent]
    m: [2, 3, 4, 5, 9]
    n: [8]
    r: [2]
    method: [svd]
    seeds: 2
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Own functions in a module of a name of its own, which workers started here can import."""
    name = f"own_{uuid4().hex[:8]}"
    (tmp_path / f"{name}.py").write_text(FUNCTIONS)
    os.mkfifo(tmp_path / "go")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    return name


@pytest.fixture
def cluster(module):
    with dask.config.set(RESTARTING), LocalCluster(n_workers=1, threads_per_worker=1, **LOOPBACK) as cluster:
        yield cluster


@flow(name="dispatch", persist_result=False)
def dispatch():
    """Is sent to the workers with each batch, so that it must not hold what cannot be sent."""
    from tests.support import within_flow

    within_flow.pop()()


class Run:
    """A flow run of one batch of all cells of a sweep, in this process; looked at a few times a second."""

    def __init__(self, sweep, store, address, environment):
        self.sweep, self.store, self._address = sweep, store, address
        self._url = environment["PREFECT_API_URL"]
        self.tally, self.stop = Tally(int(sweep.wanted.sum())), threading.Event()

    def __call__(self, look):
        """Run until the end; `look` is called with the run. Returns what ended it, if anything did."""
        began, ended = monotonic(), []

        def watch():
            if monotonic() > began + PATIENCE:
                raise TimeoutError(f"{self.tally} after {PATIENCE} s")
            look(self)

        def work():
            cells = np.argwhere(self.sweep.wanted)
            batch = Batch(cells, np.full(len(cells), 1e-3))
            with Writer.open(self.store, self.sweep) as writer, Client(self._address, set_as_default=False) as client:
                try:
                    Dispatcher(self.sweep, writer, client, self.tally, watch, self.stop).run([batch])
                except Interrupted as error:
                    ended.append(error)

        with temporary_settings({PREFECT_API_URL: self._url}):
            within_flow.append(work)
            dispatch()
        return ended

    def done(self):
        return int((sweep_status(self.store, self.sweep) == Status.DONE).sum())


@pytest.fixture
def run(module, cluster, tmp_path, server_environment):
    def make(function):
        sweep = parse_sweep(SPEC.format(module=module, function=function), allow_code=True)
        return Run(sweep, tmp_path / "store.zarr", cluster.scheduler_address, server_environment)

    return make


def let_go(folder):
    """Let the function that waits go on, if it is there by now."""
    try:
        os.close(os.open(folder / "go", os.O_WRONLY | os.O_NONBLOCK))
    except OSError:  # nobody reads
        return


def test_cells_of_a_batch_that_is_under_way_are_stored_while_it_waits_and_named_in_dask(run, cluster, module, tmp_path):
    """The last two cells wait until the others are in the store."""
    this, seen = run("waiting"), set()

    def look(this):
        seen.update(cluster.scheduler.task_prefixes)
        if this.done() == 8:
            let_go(tmp_path)

    assert this(look) == []
    assert this.done() == 10
    assert len(calls(tmp_path)) == 10
    assert f"approximation {module}:waiting ball_independent svd" in seen


def test_stop_stores_what_the_batch_at_hand_has_finished_and_no_more(run, tmp_path):
    """What no event has brought yet is asked for."""
    this = run("waiting")

    def look(this):
        if (tmp_path / "arrived").exists():
            this.stop.set()

    assert [str(error).partition(":")[0] for error in this(look)] == ["stopped; finished cells are stored"]
    assert this.done() == len(calls(tmp_path)) == 8
    assert this.tally.done == 8


def test_worker_that_dies_costs_the_cell_at_hand_only(run, tmp_path):
    this = run("deadly_once")

    def look(this):
        if this.tally.done == 8:
            let_go(tmp_path)

    assert this(look) == []
    assert (tmp_path / "killed").exists()
    assert this.done() == len(calls(tmp_path)) == 10


def test_exceptions_that_end_processes_are_failed_cells_of_a_run_that_goes_on(run):
    this = run("own_raiser")
    assert this(lambda this: None) == []
    assert (this.tally.done, this.tally.failed) == (0, 10)


# --- without workers


def sweep_of(function="gaussian"):
    text = SPEC.format(module="", function="").replace('":"', function)
    return parse_sweep(text)


class _Key:
    """A task that is out."""

    def __init__(self, key):
        self.key = key


@pytest.fixture
def dispatcher(tmp_path):
    sweep = sweep_of()
    with Writer.open(tmp_path / "s.zarr", sweep) as writer:
        yield Dispatcher(sweep, writer, None, Tally(10), lambda: None)


def outcomes(dispatcher, count, value):
    names = [quantity.name for quantity in dispatcher.sweep.experiment.quantities if not quantity.optional]
    return [Outcome(dict.fromkeys(names, value), elapsed=1.0) for _ in range(count)]


def test_cell_that_comes_twice_keeps_its_first_outcome(dispatcher):
    """Kind: events again from another worker, out of order, of a task that is not out, then the whole result."""
    cells = np.argwhere(dispatcher.sweep.wanted)
    sent = _Sent(Batch(cells, np.ones(10)), np.zeros(10, dtype=bool))
    dispatcher._running = {_Key("a-1"): sent}
    names = dispatcher._quantities

    def take(key, first, count, value):
        dispatcher._take([Handed(key, first, outcomes(dispatcher, count, value)).message(names)])

    take("a-1", 4, 3, 1.0)
    take("a-1", 0, 2, 2.0)
    take("a-1", 1, 5, 3.0)
    take("b-1", 7, 3, 4.0)
    assert sent.left is not None
    assert sent.left.cells.tolist() == cells[7:].tolist()
    dispatcher._keep(sent, 0, outcomes(dispatcher, 9, 5.0))
    dispatcher._record.write()
    assert sent.left.cells.tolist() == cells[9:].tolist()
    assert dispatcher.tally.done == 9
    ds = open_results(dispatcher.writer._file._location.path)
    found = ds["epsilon"].values[tuple(cells.T)]
    assert found[:9].tolist() == [2.0, 2.0, 3.0, 3.0, 1.0, 1.0, 1.0, 5.0, 5.0]
    assert np.isnan(found[9])


@pytest.mark.parametrize("change", ["other contents", "gone", "touched"])
def test_cells_of_a_file_that_changes_during_the_run_are_not_stored(tmp_path, change):
    """They may be of either contents, and the store is one of those at the start; all others are written."""
    path = tmp_path / "data.npy"
    np.save(path, np.eye(6))
    block = "  - {function: FILE r: [2], method: [svd], seeds: 1}\n"
    text = "name: t\ngrid:\n" + block.replace("FILE", "{file: data.npy},")
    text += block.replace("FILE", "[gaussian], sampling: [ball-symmetric], m: [2], n: [6],")
    sweep = parse_sweep(text, folder=tmp_path)
    cells = np.argwhere(sweep.wanted)
    with Writer.open(tmp_path / "s.zarr", sweep) as writer:
        this = Dispatcher(sweep, writer, None, Tally(2), lambda: None)
        this._record.add(cells, outcomes(this, 2, 1.0))
        if change == "touched":
            os.utime(path, ns=(0, 1))
            this._record.write()
        else:
            np.save(path, np.ones((6, 6))) if change == "other contents" else path.unlink()
            with pytest.raises(InputError, match=r"^file: data.npy has changed during the run; .* another --store$"):
                this._record.write()
    done = open_results(tmp_path / "s.zarr")["status"] == Status.DONE
    assert this.tally.done == int(done.sum()) == (2 if change == "touched" else 1)
    assert bool(done.sel(function="gaussian").any())


def test_batch_of_a_dead_worker_is_set_aside_without_what_it_had_handed_over(dispatcher):
    cells = np.argwhere(dispatcher.sweep.wanted)
    sent, suspects = _Sent(Batch(cells, np.ones(10)), np.zeros(10, dtype=bool)), deque()
    dispatcher._keep(sent, 0, outcomes(dispatcher, 7, 1.0))
    dispatcher._set_aside(sent, "w", suspects, alone=False)
    assert [batch.cells.tolist() for batch in suspects] == [cells[7:].tolist()]
    suspects.clear()
    dispatcher._set_aside(sent, "w", suspects, alone=True)
    assert [len(batch.cells) for batch in suspects] == [1, 2]
    dispatcher._keep(sent, 7, outcomes(dispatcher, 3, 1.0))
    suspects.clear()
    dispatcher._set_aside(sent, "w", suspects, alone=True)
    assert not suspects


def handed_over(valid):
    """What a batch of two cells hands over, on a worker."""
    with HandOver(["epsilon"], lambda: valid) as hand_over:
        for value in (0.5, 0.25):
            hand_over.put(Outcome({"epsilon": value}))
        return [len(Handed.of(message, ["epsilon"]).outcomes) for message in hand_over.last()]


def test_outcomes_that_may_not_be_stored_are_not_handed_over():
    """Kind: code that changes on a worker while a batch is under way, which is found at the end of the batch."""
    local = LocalCluster(n_workers=1, processes=False, protocol="tcp://", **LOOPBACK)
    with local, Client(local) as client:
        assert client.submit(handed_over, True).result() == [2]
        assert client.submit(handed_over, False).result() == []


def test_message_brings_outcomes_as_they_are():
    given = [
        Outcome({"a": 1.5, "b": -0.0}, elapsed=0.25),
        Outcome(None, "ValueError: x", elapsed=3.0, traceback="Traceback"),
        Outcome({"b": 1e-320}),
    ]
    found = Handed.of(Handed("k", 3, given).message(["a", "b", "c"]), ["a", "b", "c"])
    assert (found.key, found.first, found.outcomes) == ("k", 3, given)
    assert [each.elapsed for each in found.outcomes] == [0.25, 3.0, 0.0]
    assert found.outcomes[1].traceback == "Traceback"


@pytest.mark.parametrize("name", ["approximation my-module:f ball-independent", "a b", "gaussian(scale=-1)"])
def test_dask_shows_the_whole_name_of_a_task(name):
    from dask.utils import key_split

    for number in (0, 2**128 - 1, 0xABCDEFAB << 96):
        assert key_split(task_key(name, UUID(int=number))) == name.replace("-", "_")
