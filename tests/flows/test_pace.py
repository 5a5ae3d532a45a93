"""Measured seconds of finished cells correct what is left, and with it how batches are cut."""

from collections import deque

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows import pace as pace_module
from flows.pace import Pace
from flows.planning import BATCH_SECONDS, Batch, make_plan
from pipeline.grid import parse_sweep

SPEC = """
name: pace
settings: {certificate: {bound: tail}}
grid:
  - function: [gaussian, cauchy]
    sampling: [ball-symmetric]
    m: [2, 5]
    n: [50, 400]
    r: [2, 10]
    method: [svd, ap, minimax]
    seeds: 60
"""
SWEEP = parse_sweep(SPEC)
THREADS = 2


def truth(sweep, factors):
    """How much longer than predicted cells take, by method."""
    methods = list(sweep.labels["method"])
    axis = [each.name for each in sweep.experiment.axes].index("method")
    factors = np.array([factors[name] for name in methods])
    return lambda batch: batch.costs * factors[batch.cells[:, axis]]


def simulate(sweep, seconds_of):
    """Run a plan on threads that take their own seconds, as dispatcher and workers do; returns what happened."""
    batches = make_plan(sweep, sweep.wanted, THREADS).batches
    pace, waiting = Pace(sweep, batches), deque(batches)
    free, lasted, cells, estimates = [0.0] * THREADS, [], [], []
    while waiting:
        thread = int(np.argmin(free))
        batch, limit = pace.take(waiting, THREADS)
        seconds = seconds_of(batch)
        count = int(np.searchsorted(np.cumsum(seconds), limit)) + 1  # a worker stops past its limit
        done, rest = batch.split(min(count, len(seconds)))
        if rest is not None:
            waiting.appendleft(rest)
        spent = seconds_of(done)
        pace.record(done.cells, done.costs, spent)
        free[thread] += spent.sum()
        lasted.append(float(spent.sum()))
        cells.append(done.cells)
        left = sum(float(seconds_of(each).sum()) for each in waiting)
        estimates.append((min(free), pace.left, left))
    return np.concatenate(cells), np.array(lasted), np.array(estimates), free


@pytest.mark.parametrize("factor", [10.0, 1.0, 0.02])
def test_batches_last_a_minute_of_measured_time_whatever_was_predicted(factor):
    """Kind: predictions ten times too low, right, and fifty times too high."""
    long = parse_sweep(SPEC.replace("seeds: 60", f"seeds: {int(400 / factor**0.5)}"))
    cells, lasted, _, free = simulate(long, truth(long, dict.fromkeys(["svd", "ap", "minimax"], factor)))
    assert sorted(map(tuple, cells)) == sorted(map(tuple, np.argwhere(long.wanted)))
    assert lasted[0] <= 2 * BATCH_SECONDS / 3  # the first ones are short
    assert max(lasted) < 1.5 * BATCH_SECONDS
    total = lasted.sum()
    assert len(lasted) < 30 * THREADS + 2 * total / BATCH_SECONDS
    assert max(free) - min(free) < 10


@pytest.mark.parametrize("factors", [{"svd": 3, "ap": 10, "minimax": 5}, {"svd": 0.1, "ap": 8, "minimax": 1}])
def test_time_left_is_right_once_each_method_has_been_measured(factors):
    _, _, estimates, _ = simulate(SWEEP, truth(SWEEP, factors))
    total = estimates[0, 2]
    late = (estimates[:, 0] > 60) & (estimates[:, 2] > 0.05 * total)
    assert late.any()
    np.testing.assert_allclose(estimates[late, 1], estimates[late, 2], rtol=0.35)


def test_methods_are_corrected_apart_and_unmeasured_ones_by_all():
    cells = np.argwhere(SWEEP.wanted)
    axis = [each.name for each in SWEEP.experiment.axes].index("method")
    pace = Pace(SWEEP, [Batch(cells, np.ones(len(cells)))])
    svd, ap = (cells[cells[:, axis] == number] for number in (0, 1))
    pace.record(svd[:100], np.ones(100), np.full(100, 2.0))
    pace.record(ap[:100], np.ones(100), np.full(100, 20.0))
    for place in (0, -1):  # a function that was measured, and one that was not
        ones = [cells[cells[:, axis] == number][[place]] for number in range(3)]
        found = [float(pace.seconds(Batch(one, np.ones(1)))[0]) for one in ones]
        assert found == pytest.approx([2.0, 20.0, 11.0], rel=0.1)


def test_time_left_counts_the_time_in_which_threads_were_not_at_cells(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(pace_module, "monotonic", lambda: now[0])
    cells = np.argwhere(SWEEP.wanted)[:40]
    pace = Pace(SWEEP, [Batch(cells, np.ones(40))])
    assert pace.wall_seconds(2) is None
    now[0] = 40.0
    pace.supply(2)
    pace.record(cells[:20], np.ones(20), np.full(20, 2.0))
    assert pace.left == pytest.approx(40.0)
    assert pace.wall_seconds(2) == pytest.approx(40.0)  # threads were busy half of the time
    assert pace.wall_seconds(4) == pytest.approx(20.0)
    pace.record(cells[20:], np.ones(20), np.full(20, 2.0))
    assert pace.wall_seconds(2) == 0.0


@settings(max_examples=30, derandomize=True, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), threads=st.integers(1, 64), factor=st.floats(1e-3, 1e3))
def test_whatever_was_measured_every_cell_is_taken_once_and_no_batch_is_empty(seed, threads, factor):
    random = np.random.default_rng(seed)
    todo = SWEEP.wanted & (random.random(SWEEP.wanted.shape) < 0.2)
    batches = make_plan(SWEEP, todo, threads).batches
    pace, waiting, taken = Pace(SWEEP, batches), deque(batches), []
    while waiting:
        batch, limit = pace.take(waiting, threads)
        assert len(batch.cells)
        assert 0 < limit <= BATCH_SECONDS
        taken.append(batch.cells)
        pace.record(batch.cells, batch.costs, batch.costs * factor * random.random(len(batch.cells)))
    assert sorted(map(tuple, np.concatenate(taken))) == sorted(map(tuple, np.argwhere(todo)))
