"""Batches: every pending cell once, long ones first, cells of a matrix together."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flows.batch import compute_batch
from flows.planning import BATCH_SECONDS, make_plan
from pipeline.errors import InputError
from pipeline.experiment import Outcome
from pipeline.grid import parse_sweep

SPEC = """
name: plan
settings: {certificate: {bound: tail}}
grid:
  - function: [gaussian, cauchy]
    sampling: [ball-symmetric]
    m: [2, 5]
    n: [50, 400, 2000]
    r: [2, 10, 40]
    method: [svd, ap]
    seeds: 2
"""
SWEEP = parse_sweep(SPEC)


def matrices(cells: np.ndarray) -> int:
    shared = [i for i, axis in enumerate(SWEEP.experiment.axes) if axis.name in SWEEP.experiment.shared]
    return len(np.unique(cells[:, shared], axis=0))


@settings(max_examples=40, derandomize=True, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.0, 1.0), threads=st.integers(1, 64))
def test_batches_hold_every_pending_cell_once_longest_first(seed, share, threads):
    todo = SWEEP.wanted & (np.random.default_rng(seed).random(SWEEP.wanted.shape) < share)
    plan = make_plan(SWEEP, todo, threads)
    assert plan.cells == todo.sum()
    if not plan.cells:
        assert plan.batches == []
        return
    cells = np.concatenate([batch.cells for batch in plan.batches])
    assert sorted(map(tuple, cells)) == sorted(map(tuple, np.argwhere(todo)))
    seconds = [batch.seconds for batch in plan.batches]
    assert seconds == sorted(seconds, reverse=True)
    assert sum(seconds) >= plan.seconds * (1 - 1e-9)
    assert plan.matrices == matrices(np.argwhere(todo))


def test_short_sweep_keeps_every_thread_busy_and_a_long_one_has_batches_of_a_minute():
    few = make_plan(SWEEP, SWEEP.wanted, threads=2)
    assert len(few.batches) >= 8
    long = parse_sweep(SPEC.replace("seeds: 2", "seeds: 1000"))
    plan = make_plan(long, long.wanted, threads=2)
    median = float(np.median([batch.seconds for batch in plan.batches]))
    assert BATCH_SECONDS / 2 < median < BATCH_SECONDS * 2


@pytest.mark.parametrize("threads", [2, 16])
def test_batches_shrink_with_what_is_left_so_that_all_threads_end_together(threads):
    long = parse_sweep(SPEC.replace("seeds: 2", "seeds: 500"))
    batches = make_plan(long, long.wanted, threads).batches
    free = [0.0] * threads  # each batch goes to the thread that is free first
    for batch in batches:
        free[free.index(min(free))] += batch.seconds
    assert max(free) - min(free) < 1.0
    assert len(batches) < 40 * threads + sum(batch.seconds for batch in batches) / BATCH_SECONDS


def test_cells_of_unknown_length_are_spread_by_number():
    quick = parse_sweep(SPEC.replace("[50, 400, 2000]", "[50]").replace("[2, 10, 40]", "[2]").replace("2\n", "50\n"))
    sizes = [len(batch.cells) for batch in make_plan(quick, quick.wanted, threads=4).batches]
    assert min(sizes) <= 2


def test_cells_of_a_matrix_are_split_only_where_it_is_worth_generating_it_again():
    one = parse_sweep(SPEC.replace("[2, 10, 40]", "{from: 1, to: 400, count: 400}").replace("[50, 400, 2000]", "[400]"))
    plan = make_plan(one, one.wanted, threads=2)
    assert max(batch.seconds for batch in plan.batches) < 2 * BATCH_SECONDS
    svd_only = parse_sweep(SPEC.replace("[svd, ap]", "[svd]").replace("[50, 400, 2000]", "[2000]"))
    plan = make_plan(svd_only, svd_only.wanted, threads=2)
    assert sum(matrices(batch.cells) for batch in plan.batches) == plan.matrices


def test_case_that_fits_no_worker_is_named_with_the_numbers():
    plan = make_plan(SWEEP, SWEEP.wanted, threads=2)
    assert plan.largest is not None
    assert plan.largest["n"] == 2000
    plan.require_memory(plan.peak_memory)
    with pytest.raises(InputError, match=r"a case needs 0\.\d GiB and a worker has 0\.1 GiB \(function=.*n=2000"):
        plan.require_memory(0.1 * 2**30)


def test_failed_batch_is_halved_down_to_a_condemned_cell():
    batch = make_plan(SWEEP, SWEEP.wanted, threads=1).batches[0]
    pieces = batch.pieces()
    np.testing.assert_array_equal(np.concatenate([piece.cells for piece in pieces]), batch.cells)
    while len(batch.cells) > 1:
        batch = batch.pieces()[0]
    assert [piece.condemned for piece in batch.pieces()] == [True]


def test_batch_that_was_cut_short_leaves_the_rest_in_order():
    batch = make_plan(SWEEP, SWEEP.wanted, threads=1).batches[0]
    done, rest = batch.split(1)
    assert rest is not None
    np.testing.assert_array_equal(np.concatenate([done.cells, rest.cells]), batch.cells)
    assert done.seconds + rest.seconds == pytest.approx(batch.seconds)
    assert batch.split(len(batch.cells)) == (batch, None)


@pytest.mark.parametrize(
    ("preparation", "seconds", "computed"),
    [
        (4, [5, 1, 1], 3),  # preparing again would cost more than to go on
        (4, [5, 3, 1], 2),
        (0, [1, 1, 1], 1),
        (0.5, [20, 20, 20], 1),
        (4, [5, 1, 1, 5], 3),  # the fourth has another matrix
    ],
)
def test_batch_past_its_time_returns_what_it_has_once_that_took_as_long_as_its_preparation(
    preparation, seconds, computed, monkeypatch
):
    cells = [["gaussian", "ball-symmetric", 2, 20, rank, "svd", seed] for seed in (0, 1) for rank in (1, 2, 3)]
    batch = {"experiment": "approximation", "settings": {}, "axes": list(SWEEP.labels), "cases": cells[: len(seconds)]}
    assert len(compute_batch.fn("all", json.dumps(batch | {"seconds": 60})).outcomes) == len(seconds)
    payload = json.dumps(batch | {"seconds": 0.5})
    clock = iter(np.cumsum([0, *seconds]).tolist())
    monkeypatch.setattr("flows.batch.monotonic", lambda: next(clock))
    prepared = [Outcome({}, preparation=preparation)] * len(seconds)
    monkeypatch.setattr("pipeline.experiment.Experiment.run", lambda *_: iter(prepared))
    found = compute_batch.fn("cut", payload)
    assert len(found.outcomes) == computed
    assert found.seconds == sum(seconds[:computed])
