"""Blocks kept on disk: the entries of F / scale whatever the disk does, and read where that is the faster."""

import gc
import math
import os
import shutil
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Barrier, Event, Thread

import numpy as np
import pytest

import pipeline.kept
from pipeline import function_matrix
from pipeline.errors import InputError
from pipeline.kept import ScaledMatrix
from pipeline.passes import LocalPasses, Transposed, max_error, max_norm

SHAPE = 30, 50
VALUES = np.random.default_rng(3).standard_normal(SHAPE)
SCALE = float(np.abs(VALUES).max())
BLOCKS = [(slice(top, top + 10), slice(left, left + 25)) for top in range(0, 30, 10) for left in (0, 25)]
Usage = namedtuple("Usage", "total used free")


class Logged:
    """A block matrix that notes which blocks are made."""

    def __init__(self, values, during=lambda: None):
        self.values, self.made, self.during = values, [], during

    @property
    def shape(self):
        return self.values.shape

    def block(self, rows, cols):
        self.made.append((rows, cols))
        self.during()
        return self.values[rows, cols]


class Clock:
    """Time that passes only where a test says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def kept(values=VALUES, scale=SCALE, dtype=np.float32, *, reading=True, **arguments):
    """A matrix of which blocks are always read where they can be, or never."""
    inner = Logged(values, **arguments)
    scaled = ScaledMatrix(inner, scale, dtype)
    if reading:
        scaled._making = math.inf
    else:
        scaled._reading = math.inf
    return inner, scaled


def assert_right(scaled, blocks=BLOCKS, values=VALUES, scale=SCALE):
    for rows, cols in blocks:
        found = scaled.block(rows, cols)
        assert found.dtype == scaled.dtype
        assert found.tobytes() == (values[rows, cols] / scale).astype(scaled.dtype).tobytes()


# --- entries


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("exponent", [-300, -200, -30, 0, 30, 200, 300])
def test_entries_are_the_quotients_rounded_once_when_made_and_when_read(dtype, exponent):
    values = VALUES * 10.0**exponent
    scale = float(np.abs(values).max())
    inner, scaled = kept(values, scale, dtype)
    for _ in range(3):
        assert_right(scaled, BLOCKS, values, scale)
    assert inner.made == BLOCKS
    assert (scaled.shape, scaled.dtype) == (SHAPE, np.dtype(dtype))
    assert os.fstat(scaled._file.fileno()).st_size == VALUES.size * np.dtype(dtype).itemsize


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_quotients_too_small_for_the_precision_are_rounded_as_numpy_does(dtype):
    values = VALUES * np.logspace(0, -330, VALUES.size).reshape(SHAPE)
    inner, scaled = kept(values, SCALE, dtype)
    for _ in range(2):
        assert_right(scaled, BLOCKS, values)
    assert inner.made == BLOCKS


def test_block_is_kept_under_its_very_bounds():
    inner, scaled = kept()
    overlapping = [
        (slice(0, 10), slice(0, 20)),
        (slice(0, 10), slice(0, 21)),
        (slice(0, 20), slice(0, 10)),
        (slice(5, 15), slice(0, 20)),
        (slice(0, 30), slice(0, 50)),
        (slice(29, 30), slice(49, 50)),
        (slice(0, 10), slice(10, 20)),
    ]
    for _ in range(2):
        assert_right(scaled, overlapping)
        assert_right(scaled, overlapping[::-1])
    assert inner.made == overlapping


@pytest.mark.parametrize("arranged", [np.asfortranarray, lambda a: np.repeat(a, 2, axis=1)[:, ::2], np.flip])
def test_order_of_entries_in_memory_does_not_matter(arranged):
    values = arranged(VALUES)
    inner, scaled = kept(values)
    for _ in range(2):
        assert_right(scaled, BLOCKS, values)
    assert inner.made == BLOCKS


def test_transposes_of_kept_blocks_and_kept_blocks_of_a_transpose():
    _, scaled = kept()
    _, other = kept(VALUES.T)
    of_transpose = ScaledMatrix(Transposed(Logged(VALUES)), SCALE, np.float32)
    for rows, cols in BLOCKS * 2:
        expected = (VALUES[rows, cols] / SCALE).astype(np.float32).T
        for matrix in (Transposed(scaled), other, of_transpose):
            assert np.array_equal(matrix.block(cols, rows), expected)


def test_what_is_returned_may_be_written_to():
    _, scaled = kept()
    for _ in range(3):
        for rows, cols in BLOCKS:
            scaled.block(rows, cols)[:] = np.nan
    assert_right(scaled)


def test_passes_over_a_function_matrix_and_over_kept_blocks_find_the_same():
    matrix = function_matrix("gaussian", "ball-independent", 3, 300, seed=1)
    whole = matrix.to_numpy()
    passes = LocalPasses(ScaledMatrix(matrix, 2.0, np.float64))
    left, right = (np.random.default_rng(0).standard_normal((300, 3)) for _ in range(2))
    for _ in range(3):
        assert max_norm(passes) == np.abs(whole / 2).max()
        assert max_error(passes, left, right) == max_error(whole / 2, left, right)


def test_file_has_no_name_and_is_in_the_folder_that_is_given(tmp_path):
    inner = Logged(VALUES)
    scaled = ScaledMatrix(inner, SCALE, np.float32, str(tmp_path))
    assert_right(scaled)
    assert os.fstat(scaled._file.fileno()).st_size == 4 * VALUES.size
    assert os.fstat(scaled._file.fileno()).st_dev == tmp_path.stat().st_dev
    assert list(tmp_path.iterdir()) == []


def test_folder_that_cannot_be_written_to_is_done_without(tmp_path):
    inner = Logged(VALUES)
    scaled = ScaledMatrix(inner, SCALE, np.float32, str(tmp_path / "none"))
    for _ in range(2):
        assert_right(scaled)
    assert inner.made == BLOCKS * 2


def test_block_that_another_thread_could_not_write_is_not_taken_for_kept(monkeypatch):
    """The first write fails only after a second one, begun later, has succeeded."""
    first_writes, second_done = Event(), Event()
    write = os.pwritev

    def pwritev(file, buffers, place):
        if place == 0:
            first_writes.set()
            second_done.wait(10)
            return 0
        return write(file, buffers, place)

    _, scaled = kept()
    monkeypatch.setattr(os, "pwritev", pwritev)
    scaled._making = math.inf  # reading counts as the faster
    first = Thread(target=lambda: scaled.block(*BLOCKS[0]))
    first.start()
    assert first_writes.wait(10)
    scaled.block(*BLOCKS[1])
    second_done.set()
    first.join()
    for _ in range(2):
        assert_right(scaled)


def test_file_is_closed_with_the_matrix():
    """Without a warning that nobody did, which would be an error here."""
    _, scaled = kept()
    assert_right(scaled)
    file = scaled._file
    assert not file.closed
    del scaled
    gc.collect()
    assert file.closed


# --- errors of what makes the blocks


def test_block_that_cannot_be_made_is_not_kept_and_tried_again():
    failures = [InputError("entry [3, 4] is nan"), ValueError("other")]

    def during():
        if failures:
            raise failures.pop(0)

    inner, scaled = kept(during=during)
    with pytest.raises(InputError, match=r"\[3, 4\] is nan"):
        scaled.block(*BLOCKS[0])
    with pytest.raises(ValueError, match="other"):
        scaled.block(*BLOCKS[1])
    assert os.fstat(scaled._file.fileno()).st_size == 0
    for _ in range(2):
        assert_right(scaled)
    assert inner.made == [*BLOCKS[:2], *BLOCKS]


# --- disks


def test_disk_without_room_keeps_nothing(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(10**9, 10**9, 0))
    inner, scaled = kept()
    for _ in range(3):
        assert_right(scaled)
    assert inner.made == BLOCKS * 3
    assert os.fstat(scaled._file.fileno()).st_size == 0


@pytest.mark.parametrize("room", [1, 2, 4, 5, 7, 100])
def test_quarter_of_the_free_space_is_left(monkeypatch, room):
    """A disk with room for so many blocks when the file is made."""
    inner, scaled = kept()
    size = 4 * 250

    def usage(_):
        taken = os.fstat(scaled._file.fileno()).st_size
        return Usage(10**9, 10**9 - room * size + taken, room * size - taken)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    scaled._free = room * size
    for _ in range(2):
        assert_right(scaled)
    fit = min(len(BLOCKS), math.ceil(0.75 * room) - 1)
    assert os.fstat(scaled._file.fileno()).st_size == fit * size <= 0.75 * room * size
    assert inner.made == BLOCKS + BLOCKS[fit:]


def test_room_is_asked_for_where_the_file_is(monkeypatch, tmp_path):
    asked = []
    usage = shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: asked.append(str(path)) or usage(path))
    assert_right(ScaledMatrix(Logged(VALUES), SCALE, np.float32, str(tmp_path)), BLOCKS[:1])
    assert asked == [str(tmp_path)] * 2


@pytest.mark.parametrize("failing", [0, 1, 4, 5])
@pytest.mark.parametrize("how", ["error", "short", "nothing", "unknown room"])
def test_disk_that_fails_leaves_right_entries(monkeypatch, failing, how):
    """The blocks written before are read, the one that failed and those after it are made each time."""
    write, usage = os.pwritev, shutil.disk_usage
    count = iter(range(-1 if how == "unknown room" else 0, 1000))  # it is asked for when the file is made, too

    def pwritev(file, buffers, place):
        if next(count) != failing:
            return write(file, buffers, place)
        if how == "error":
            raise OSError(28, "No space left on device")
        return write(file, [buffers[0].cast("B")[:100]], place) if how == "short" else 0

    def disk_usage(path):
        if next(count) == failing:
            raise PermissionError(13, "Permission denied")
        return usage(path)

    name, module, patch = ("disk_usage", shutil, disk_usage) if how == "unknown room" else ("pwritev", os, pwritev)
    monkeypatch.setattr(module, name, patch)
    inner, scaled = kept()
    for _ in range(3):
        assert_right(scaled)
    assert inner.made == BLOCKS + 2 * BLOCKS[failing:]


@pytest.mark.parametrize("got", [0, 100])
def test_block_that_is_read_in_part_is_made_again(monkeypatch, got):
    inner, scaled = kept()
    assert_right(scaled)
    read = os.preadv
    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", lambda file, buffers, place: read(file, [buffers[0].cast("B")[:got]], place))
        assert_right(scaled)
    assert inner.made == BLOCKS * 2
    assert_right(scaled)
    assert inner.made == BLOCKS * 2
    assert os.fstat(scaled._file.fileno()).st_size == 4 * VALUES.size  # not kept twice


# --- the faster of making and reading


def test_block_is_made_again_while_reading_is_slower():
    inner, scaled = kept(reading=False)
    for _ in range(4):
        assert_right(scaled)
    assert inner.made == BLOCKS * 4
    assert os.fstat(scaled._file.fileno()).st_size == 4 * VALUES.size
    scaled._reading = 0.0
    scaled._making = math.inf
    assert_right(scaled)
    assert inner.made == BLOCKS * 4


def test_reading_that_was_slow_is_tried_again_and_kept_to_once_it_is_fast(monkeypatch):
    """Making takes one second an entry, reading two, and later half a second."""
    clock, speed, read = Clock(), {"reading": 2.0}, os.preadv

    def preadv(file, buffers, place):
        clock.now += speed["reading"] * 250
        return read(file, buffers, place)

    def made():
        clock.now += 250

    monkeypatch.setattr(pipeline.kept, "perf_counter", clock)
    monkeypatch.setattr(os, "preadv", preadv)
    inner = Logged(VALUES, made)
    scaled = ScaledMatrix(inner, SCALE, np.float32)

    def reads(calls):
        found = []
        for call in range(calls):
            before = len(inner.made)
            assert_right(scaled, BLOCKS[:1])
            if len(inner.made) == before:
                found.append(call)
        return found

    slow = reads(300)
    assert slow[0] == 1  # at once, since nothing is known of it
    assert len(slow) > 3
    assert len(slow) < 100
    assert all(later - sooner > 5 for sooner, later in pairwise(slow))
    speed["reading"] = 0.5
    fast = reads(300)
    assert fast[-200:] == list(range(100, 300))


def test_reading_that_becomes_slow_is_given_up(monkeypatch):
    clock, speed, read = Clock(), {"reading": 0.1}, os.preadv

    def preadv(file, buffers, place):
        clock.now += speed["reading"] * 250
        return read(file, buffers, place)

    def made():
        clock.now += 250

    monkeypatch.setattr(pipeline.kept, "perf_counter", clock)
    monkeypatch.setattr(os, "preadv", preadv)
    inner = Logged(VALUES, made)
    scaled = ScaledMatrix(inner, SCALE, np.float32)
    for _ in range(100):
        assert_right(scaled, BLOCKS[:1])
    assert len(inner.made) == 1
    speed["reading"] = 20.0
    for _ in range(10):
        assert_right(scaled, BLOCKS[:1])
    assert len(inner.made) >= 8


# --- threads


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_threads_that_want_the_same_blocks_get_right_ones(dtype):
    values = np.random.default_rng(1).standard_normal((200, 300))
    blocks = [(slice(i, i + 20), slice(j, j + 30)) for i in range(0, 200, 20) for j in range(0, 300, 30)]
    inner, scaled = kept(values, SCALE, dtype)
    together = Barrier(6)

    def work(number):
        together.wait(timeout=60)
        for _ in range(3):
            order = np.random.default_rng(number).permutation(len(blocks))
            assert_right(scaled, [blocks[index] for index in order], values)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    made = len(inner.made)
    assert len(blocks) <= made <= 6 * len(blocks)
    assert_right(scaled, blocks, values)
    assert len(inner.made) == made


def test_block_made_by_several_threads_at_once_is_kept_right():
    together = Barrier(4)
    inner, scaled = kept(during=lambda: together.wait(timeout=60))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: assert_right(scaled, BLOCKS[:1]), range(4)))
    assert inner.made == BLOCKS[:1] * 4
    for _ in range(3):
        assert_right(scaled, BLOCKS[:1])
    assert len(inner.made) == 4


def test_disk_that_fills_while_threads_write_leaves_right_entries(monkeypatch):
    """Every thread is in the middle of writing when there is no more room."""
    together, write = Barrier(4), os.pwritev

    def pwritev(file, buffers, place):
        together.wait(timeout=60)
        return 0 if place else write(file, buffers, place)

    inner, scaled = kept()
    with monkeypatch.context() as patch, ThreadPoolExecutor(4) as pool:
        patch.setattr(os, "pwritev", pwritev)
        list(pool.map(lambda block: assert_right(scaled, [block]), BLOCKS[:4]))
    for _ in range(2):
        assert_right(scaled)
    assert len(inner.made) >= 4 + len(BLOCKS) - 1
