"""Cells that fit no worker: the plan, passes on real workers, and a worker that dies in the middle."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster
from prefect.settings import PREFECT_API_URL, temporary_settings
from threadpoolctl import threadpool_limits

import flows.spread
from flows.launch import RESTARTING
from flows.planning import make_plan
from flows.ready import check_workers, lacking
from flows.spread import ClusterPasses, Halt, _run_length, forget_kept
from flows.spreading import spread_outcomes
from pipeline.errors import EpsweepError, InputError, Interrupted
from pipeline.failure import ReportedError, failure_of
from pipeline.files import FileRecipe
from pipeline.grid import parse_sweep
from pipeline.matrix import MatrixRecipe
from pipeline.minimax import BUDGETS, MinimaxSettings, minimax
from pipeline.passes import LocalPasses, Piece, largest_entry, max_error, times, times_and_back
from pipeline.projections import APSettings, alternating_projections, clipped_products
from pipeline.svd import randomized_svd

GIB = 2**30
METHODS = ("svd", "ap", "minimax")
SIZE = 4500
LOOPBACK = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "worker_dashboard_address": "127.0.0.1:0"}
SPEC = """
name: large
settings: {{certificate: {{bound: tail}}}}
grid:
  - function: [gaussian]
    sampling: [ball-independent]
    m: [3]
    n: {n}
    r: [10, 50]
    method: {method}
    seeds: 2
"""
FUNCTIONS = """
import asyncio
import os
import signal
import threading
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent


def tile(x, y):
    with open(HERE / "tiles.log", "a") as log:
        log.write(f"{x[0, 0]!r} {y[0, 0]!r}\\n")
    return np.exp(x @ y.T)


def deadly_once(x, y):
    if (HERE / "armed").exists():
        try:
            (HERE / "armed").unlink()
        except FileNotFoundError:
            return tile(x, y)
        os.kill(os.getpid(), signal.SIGKILL)
    return tile(x, y)


def deadly(x, y):
    os.kill(os.getpid(), signal.SIGKILL)


class Unsendable(BaseException):
    def __init__(self, text):
        super().__init__(text)
        self.lock = threading.Lock()


def raising(kind):
    def raises(x, y):
        raise kind("in a tile")
    return raises


interrupted, cancelled, exited, unsendable = map(
    raising, (KeyboardInterrupt, asyncio.CancelledError, GeneratorExit, Unsendable)
)


def wrong(x, y):
    values = x @ y.T
    values[0, 0] = np.nan
    return values
"""


def sweep(n: str, method: str = "[svd]"):
    return parse_sweep(SPEC.format(n=n, method=method))


# --- the plan


def test_cells_that_fit_no_worker_are_spread_matrix_by_matrix():
    mixed = sweep("[100, 20000]")
    plan = make_plan(mixed, mixed.wanted, 2, 1.5 * GIB)
    assert plan.cells == 8
    assert plan.matrices == 4
    assert sum(len(batch.cells) for batch in plan.batches) == 4
    assert {mixed.case(cell)["n"] for batch in plan.batches for cell in batch.cells} == {100}
    assert [len(batch.cells) for batch in plan.spread] == [2, 2]
    for batch in plan.spread:
        assert len({(mixed.case(cell)["n"], mixed.case(cell)["seed"]) for cell in batch.cells}) == 1
    assert plan.peak_memory < 1.5 * GIB
    plan.require_memory(1.5 * GIB, 4 * GIB)


def test_cells_that_fit_are_not_spread():
    fitting = sweep("[100, 3000]")
    assert make_plan(fitting, fitting.wanted, 2, 8 * GIB).spread == []
    assert make_plan(fitting, fitting.wanted, 2).spread == []


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("[svd, random_embedding]", ""),
        ("[ap]", ", ap: {projection: exact}"),
        ("[svd, minimax]", ", minimax: {warm_start: rank}"),
        ("[svd]", ", svd: {driver: lapack}"),
    ],
)
def test_cell_of_a_method_that_cannot_be_spread_is_refused_with_the_numbers(method, settings):
    text = SPEC.format(n="[20000]", method=method).replace("}}\n", "}" + settings + "}\n", 1)
    large = parse_sweep(text)
    plan = make_plan(large, large.wanted, 2, 1.5 * GIB)
    with pytest.raises(
        InputError, match=r"^grid: a case needs \d+\.\d GiB and a worker has 1\.5 GiB \(.*n=20000.*method="
    ):
        plan.require_memory(1.5 * GIB)


def test_cells_of_iterative_methods_are_spread_with_their_matrix():
    large = sweep("[20000]", "[svd, ap, minimax]")
    plan = make_plan(large, large.wanted, 2, 1.5 * GIB)
    assert [len(batch.cells) for batch in plan.spread] == [6, 6]
    assert plan.batches == []
    plan.require_memory(1.5 * GIB, 4 * GIB)
    alone = [make_plan(each, each.wanted, 2, 1.5 * GIB) for each in (sweep("[20000]", f"[{m}]") for m in METHODS)]
    assert sum(each.seconds for each in alone) > plan.seconds  # the decomposition is computed once for svd and minimax
    assert plan.seconds > max(each.seconds for each in alone)


def test_cell_that_is_too_large_even_when_spread_is_refused():
    huge = sweep("[2000000]")
    plan = make_plan(huge, huge.wanted, 2, 1.5 * GIB)
    with pytest.raises(InputError, match=r"a case needs \d+\.\d GiB and a worker has 1\.5 GiB"):
        plan.require_memory(1.5 * GIB)
    large = sweep("[100000]")
    plan = make_plan(large, large.wanted, 2, 2 * GIB)
    with pytest.raises(
        InputError, match=r"spread over the cluster needs \d\.\d GiB on the machine of the flow, which has 0\.5"
    ):
        plan.require_memory(2 * GIB, 0.5 * GIB)


# --- passes on workers


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's functions under a name of their own, which workers started here can import."""
    name = f"tiles_of_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(FUNCTIONS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    return name


@pytest.fixture
def client(module):
    """Two workers; this process computes on one core as they do, so that products are rounded alike."""
    with (
        threadpool_limits(1),
        dask.config.set(RESTARTING),
        LocalCluster(n_workers=2, threads_per_worker=1, **LOOPBACK) as cluster,
        Client(cluster) as client,
    ):
        yield client


def recipe(function: str, n: int = SIZE, sampling: str = "ball-independent") -> MatrixRecipe:
    return MatrixRecipe(function, sampling, 3, n, 0)


@pytest.mark.parametrize("sampling", ["ball-independent", "ball-symmetric"])
def test_workers_find_what_this_process_finds_bit_for_bit(client, sampling):
    there = ClusterPasses(client, recipe("gaussian", sampling=sampling), threading.Event())
    here = LocalPasses(there.matrix)
    assert there.shape == here.shape == (SIZE, SIZE)
    found, expected = (randomized_svd(passes, 30, 1) for passes in (there, here))
    assert found.u.tobytes() == expected.u.tobytes()
    assert found.s.tobytes() == expected.s.tobytes()
    factors = expected.balanced_factors(12)
    assert max_error(there, *factors) == max_error(here, *factors)


def test_blocks_of_a_file_are_read_where_they_are_used(client, tmp_path):
    values = np.random.default_rng(0).standard_normal((2500, 1700))
    np.save(tmp_path / "data.npy", values)
    there = ClusterPasses(client, FileRecipe.of(str(tmp_path / "data.npy")), threading.Event())
    assert there.shape == values.shape
    thin = np.random.default_rng(1).standard_normal((1700, 8))
    assert there.run(times, [thin]).rows.tobytes() == LocalPasses(values).run(times, [thin]).rows.tobytes()
    found, expected = (randomized_svd(passes, 20, 1) for passes in (there, LocalPasses(values)))
    assert found.vt.tobytes() == expected.vt.tobytes()


def test_tasks_have_several_groups_where_there_are_many_and_find_the_same(client, monkeypatch):
    monkeypatch.setattr(flows.spread, "_RUNS_A_THREAD", 1)
    passes = ClusterPasses(client, recipe("gaussian"), threading.Event())
    assert [_run_length(5, 2), _run_length(20, 2), _run_length(20, 64)] == [2, 8, 1]
    thin = np.random.default_rng(0).standard_normal((SIZE, 5))
    found, expected = (each.run(times_and_back, [thin], []) for each in (passes, LocalPasses(passes.matrix)))
    assert found.rows.tobytes() == expected.rows.tobytes()
    assert found.totals[0].tobytes() == expected.totals[0].tobytes()
    left, right = thin[:, :2], thin[:, 2:4]
    assert max_error(passes, left, right) == max_error(LocalPasses(passes.matrix), left, right)


def test_worker_that_reads_another_file_is_named_before_cells_are_sent(client, tmp_path):
    np.save(tmp_path / "data.npy", np.ones((6, 4)))
    recipe = FileRecipe.of(str(tmp_path / "data.npy"))
    assert set(client.run(lacking, [(recipe, "of a file of another stamp")], {}).values()) == {""}
    (other,) = set(client.run(lacking, [(replace(recipe, stamp=0), "0")], {}).values())
    assert other.startswith(f"file: {tmp_path / 'data.npy'} has other contents here than where the run was started; ")
    text = "name: t\ngrid:\n  - {function: {file: data.npy}, r: [2], method: [svd], seeds: 1}\n"
    mine = parse_sweep(text, folder=tmp_path)
    check_workers(client, mine)
    gone = tmp_path / "gone.npy"
    mine.settings.files["data.npy"] = str(gone)
    np.save(gone, np.ones((6, 4)))
    unlinked = FileRecipe.of(str(gone))
    gone.unlink()
    problems = set(client.run(lacking, [(unlinked, "0")], {}).values())
    assert len(problems) == 1
    assert problems.pop().startswith(f"file: {gone} cannot be read (FileNotFoundError")
    with pytest.raises(InputError, match="cannot be read"):
        check_workers(client, mine)


@pytest.mark.parametrize("in_place", [True, False])
def test_file_that_was_changed_is_read_anew_by_workers_that_stay(client, tmp_path, in_place):
    path = tmp_path / "data.npy"
    thin, epsilon = np.ones((40, 1)), np.array([0.0])

    def sums() -> list[float]:
        passes = ClusterPasses(client, FileRecipe.of(str(path)), threading.Event())
        scaled = passes.scaled(1.0, np.float64)
        zero = np.zeros((60, 1)), np.zeros((40, 1))
        clipped = scaled.run(clipped_products, [zero[1], thin, epsilon], [zero[0]]).rows
        return [float(passes.run(times, [thin]).rows.sum()), float(clipped.sum())]

    np.save(path, np.ones((60, 40)))
    assert sums() == [2400.0, 2400.0]
    if not in_place:
        path.unlink()
    np.save(path, np.full((60, 40), 2.0))
    os.utime(path, ns=(0, 1))  # as a clock that stands still in between would not
    assert sums() == [4800.0, 4800.0]


@pytest.mark.parametrize("sampling", ["ball-independent", "ball-symmetric"])
def test_iterative_methods_find_there_what_they_find_here_bit_for_bit(client, sampling, monkeypatch):
    monkeypatch.setitem(BUDGETS, "quick", replace(BUDGETS["quick"], stages=(15, 190), steps=4))
    there = ClusterPasses(client, recipe("gaussian", 2100, sampling), threading.Event())
    here = LocalPasses(there.matrix)
    decomposition = randomized_svd(here, 20, 1)
    few = APSettings(max_projections=8, warm_up=2)
    (found, errors, _), (expected, same, _) = (alternating_projections(each, 4, few, 1) for each in (there, here))
    assert errors == same
    assert [each.tobytes() for each in found] == [each.tobytes() for each in expected]
    quick = MinimaxSettings(budget="quick")
    found, expected = (minimax(each, 3, quick, decomposition) for each in (there, here))
    assert found.history == expected.history
    assert found.left.tobytes() == expected.left.tobytes()
    assert found.right.tobytes() == expected.right.tobytes()
    assert found.history[-1] == max_error(here, found.left, found.right)
    assert found.history[-1] < max_error(here, *decomposition.balanced_factors(3))


def test_entries_stay_with_the_worker_that_made_them_until_it_dies(client, module, tmp_path):
    passes = ClusterPasses(client, recipe(f"{module}:deadly_once"), threading.Event())
    scaled = passes.scaled(2.0, np.float32)
    thin = np.random.default_rng(0).standard_normal((SIZE, 4)).astype(np.float32)
    factors = thin[:, :2], thin[:, 2:]
    log = tmp_path / "tiles.log"

    def tiles_made() -> int:
        count = len(log.read_text().splitlines()) if log.exists() else 0
        log.unlink(missing_ok=True)
        return count

    def one_pass() -> Piece:
        return scaled.run(clipped_products, [factors[1], thin[:, :2], np.array([0.1])], [factors[0]])

    first = one_pass()
    assert tiles_made() >= 18 * 18
    second = one_pass()
    assert tiles_made() == 0
    kill_one_worker(client)
    third = one_pass()
    assert 0 < tiles_made() < 18 * 18
    client.run(forget_kept)
    fourth = one_pass()
    assert tiles_made() >= 18 * 18
    for found in (second, third, fourth):
        assert found.rows.tobytes() == first.rows.tobytes()
        assert found.totals[0].tobytes() == first.totals[0].tobytes()
        assert found.largest == first.largest


def kill_one_worker(client: Client) -> None:
    pids = client.run(os.getpid)
    os.kill(sorted(pids.values())[0], signal.SIGKILL)


def test_worker_that_dies_costs_its_groups_only(client, module, tmp_path):
    passes = ClusterPasses(client, recipe(f"{module}:deadly_once"), threading.Event())
    thin = np.random.default_rng(0).standard_normal((SIZE, 4))
    expected = LocalPasses(passes.matrix).run(times, [thin]).rows
    tiles = len((tmp_path / "tiles.log").read_text().splitlines())
    assert tiles == 18 * 18
    (tmp_path / "tiles.log").unlink()
    (tmp_path / "armed").touch()
    found = passes.run(times, [thin]).rows
    assert found.tobytes() == expected.tobytes()
    assert not (tmp_path / "armed").exists()
    again = len((tmp_path / "tiles.log").read_text().splitlines()) - tiles
    assert 0 <= again <= 2 * 4 * 18  # a group has 4 × 18 tiles; the worker had one at work and perhaps one to hand over


def test_group_that_kills_every_worker_ends_the_pass_with_a_clear_line(client, module):
    passes = ClusterPasses(client, recipe(f"{module}:deadly", n=1000), threading.Event())
    with pytest.raises(EpsweepError, match=r"^rows 0 to 1000: the worker died each time they were computed"):
        passes.run(largest_entry)


def test_error_of_a_function_is_told_as_it_is(client, module):
    passes = ClusterPasses(client, recipe(f"{module}:wrong"), threading.Event())
    with pytest.raises(InputError, match=r"entry \[\d+, \d+\] is nan; every entry must be finite"):
        passes.run(largest_entry)


def test_exception_that_would_end_a_worker_or_cannot_be_sent_is_told_with_its_place(client, module):
    line = FUNCTIONS.splitlines().index('        raise kind("in a tile")') + 1
    kinds = {
        "interrupted": "KeyboardInterrupt",
        "cancelled": "CancelledError",
        "exited": "GeneratorExit",
        "unsendable": "Unsendable",
    }
    for function, kind in kinds.items():
        passes = ClusterPasses(client, recipe(f"{module}:{function}", n=40), threading.Event())
        with pytest.raises(ReportedError) as raised:
            passes.run(largest_entry)
        assert str(raised.value) == f"{kind}: in a tile ({module}.py, line {line})"
        assert f"line {line}, in raises" in failure_of(raised.value).traceback


def test_lost_scheduler_is_no_fault_of_the_case(client):
    """The client is closed between two passes, as it is when the scheduler does not come back."""
    other = Client(client.scheduler.address, set_as_default=False)
    passes = ClusterPasses(other, recipe("gaussian"), threading.Event())
    assert passes.run(largest_entry).largest > 0
    other.close()
    with pytest.raises(Halt, match="the scheduler is gone"):
        passes.run(largest_entry)


def test_pass_that_is_stopped_ends_at_once(client):
    stop = threading.Event()
    passes = ClusterPasses(client, recipe("gaussian"), stop)
    stop.set()
    with pytest.raises(Halt):
        passes.run(largest_entry)


# --- cells of which each needs all workers


def test_stop_between_two_passes_ends_at_once_with_what_is_finished(server_environment):
    """The second matrix is never done: its passes are waited for until the test lets them go."""
    two = parse_sweep(SPEC.format(n="[60]", method="[svd]").replace("[10, 50]", "[10]"))
    payload = {
        "experiment": "approximation",
        "settings": two.settings.model_dump(),
        "axes": list(two.labels),
        "cases": [[label for _, label in two.case(cell).labels] for cell in np.argwhere(two.wanted)],
    }
    stop, hold, begun = threading.Event(), threading.Event(), []

    def passes(recipe):
        begun.append(recipe)
        if len(begun) > 1:
            hold.wait()
        return LocalPasses(recipe.make())

    def look():
        if len(begun) > 1:
            stop.set()

    with temporary_settings({PREFECT_API_URL: server_environment["PREFECT_API_URL"]}):
        try:
            outcomes = spread_outcomes("two", json.dumps(payload), passes, stop, look)
            found = [next(outcomes)]
            with pytest.raises(Interrupted, match="finished cells are stored"):
                next(outcomes)
        finally:
            hold.set()
    assert len(begun) == 2
    assert [outcome.message for outcome in found] == [""]


# --- the command


def test_sweep_with_cells_that_fit_no_worker_equals_one_that_holds_them(workspace, epsweep):
    (workspace / "large.yaml").write_text(SPEC.format(n="[300, 3500]", method="[svd]"))
    with (
        dask.config.set(RESTARTING),
        LocalCluster(n_workers=2, threads_per_worker=1, memory_limit="0.55GiB", **LOOPBACK) as cluster,
    ):
        plan = epsweep("plan", "large.yaml", "--cluster", cluster.scheduler_address)
        done = epsweep("run", "large.yaml", "--store", "spread.zarr", "--cluster", cluster.scheduler_address)
    assert plan.returncode == 0, plan.stderr
    assert done.returncode == 0, done.stderr
    assert "done: 8 of 8 cells" in done.stdout
    local = epsweep("run", "large.yaml", "--store", "whole.zarr")
    assert local.returncode == 0, local.stderr
    with xr.open_zarr(workspace / "spread.zarr") as found, xr.open_zarr(workspace / "whole.zarr") as expected:
        for name in ("epsilon", "lower_bound", "max_norm"):
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-10)


def test_interrupt_of_a_spread_cell_stops_cleanly_and_is_made_good(workspace, epsweep, server_environment, monkeypatch):
    monkeypatch.chdir(workspace)  # the workers import the user's module from where they were started
    spec = SPEC.format(n="[3500]", method="[svd]").replace("gaussian", "'mine:waiting'").replace("seeds: 2", "seeds: 1")
    (workspace / "large.yaml").write_text(spec)
    for pipe in ("arrived", "go"):
        os.mkfifo(workspace / pipe)
    with (
        dask.config.set(RESTARTING),
        LocalCluster(n_workers=1, threads_per_worker=1, memory_limit="0.55GiB", **LOOPBACK) as cluster,
    ):
        command = [sys.executable, "-m", "flows", "run", "large.yaml", "--cluster", cluster.scheduler_address]
        process = subprocess.Popen(
            command, cwd=workspace, env=server_environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        (workspace / "arrived").open().close()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 130, errors
        assert errors.splitlines()[-1] == "epsweep: stopped; finished cells are stored: run the same command to go on"
        assert "Traceback" not in errors
    (workspace / "large.yaml").write_text(spec.replace("mine:waiting", "mine:counted"))
    again = epsweep("run", "large.yaml")
    assert again.returncode == 0, again.stderr
    with xr.open_zarr(workspace / "results/large.zarr") as ds:
        assert (ds["status"].sel(function="mine:counted") == 1).all()
        assert (ds["status"].sel(function="mine:waiting") == 0).all()
