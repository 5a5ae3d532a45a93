"""Function-generated tensors F[i_1, …, i_d] = f(x_i1, y_i2, …), made in blocks."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.arithmetic import own_state
from pipeline.arrays import BlockArray, FloatArray, bounds_of, check_finite
from pipeline.blas import one_blas_thread
from pipeline.errors import InputError, shown
from pipeline.functions import FunctionLike, GeneratingFunction, as_function
from pipeline.ranges import MAX_INTEGER
from pipeline.sampling import HELD_BYTES, SampledPoints, Sampling, get_sampling

_TILES = {2: 256, 3: 64, 4: 32}  # entries are always computed in whole tiles, so a block's size never changes a value
_SMALLEST_TILE = 16
_Index: TypeAlias = tuple[int, ...]


def tile_side(order: int) -> int:
    """Side of the tiles in which entries are computed, by the order of the tensor."""
    return _TILES.get(order, _SMALLEST_TILE)


@dataclass(frozen=True, repr=False)
class FunctionTensor(BlockArray):
    """The n × … × n tensor of a generating function on sampled points.

    Entries are computed when asked for, in whole tiles by one thread each: an entry of a built-in function has the same
    value whatever block it is asked for in and however many threads there are, and that of a symmetric function on a
    symmetric draw is the same in any order of its indices. A user's own function is given the same tiles, of which it
    may make what it likes.

    Attributes
    ----------
    function : GeneratingFunction
    points : tuple of ndarray, or of SampledPoints, of shape (n, m)
        One set a mode; all the same object under symmetric sampling.
    """

    function: GeneratingFunction
    points: tuple[FloatArray | SampledPoints, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each mode."""
        return tuple(map(len, self.points))

    @own_state()
    def block(self, *ranges: slice) -> FloatArray:
        """Compute the entries of a contiguous range of every mode.

        Parameters
        ----------
        *ranges : slice
            One a mode, with step 1; the usual meaning of None and of negative bounds.

        Returns
        -------
        ndarray of as many dimensions

        Raises
        ------
        InputError
            If a step is not 1, there are not as many ranges as modes, or an entry is NaN or infinite.
        """
        bounds = bounds_of(ranges, self.shape)
        block = np.empty([max(stop - start, 0) for start, stop in bounds])
        side = tile_side(len(bounds))
        images: dict[_Index, list[_Index]] = {}  # of each tile that has to be computed
        if block.size:
            for index in product(*(range(start // side, -(-stop // side)) for start, stop in bounds)):
                images.setdefault(self._canonical(index), []).append(index)

        def fill(canonical: _Index) -> None:
            tile = self._tile(canonical)
            for index in images[canonical]:
                places = [_overlap(i * side, start, stop) for i, (start, stop) in zip(index, bounds, strict=True)]
                part = tile.transpose(_order_of(index, canonical))[tuple(inside for _, inside in places)]
                corners = [corner for corner, _ in places]
                block[tuple(slice(at, at + size) for at, size in zip(corners, part.shape, strict=True))] = part

        with one_blas_thread() as threads:
            _for_each(fill, images, threads if self.function.built_in else 1)
        check_finite(block, f"function {self.function.name}", [start for start, _ in bounds])
        return block

    def __repr__(self) -> str:
        sides = " × ".join(map(str, self.shape))
        return f"{type(self).__name__}({self.function.name}, {sides}, m = {self.points[0].shape[1]})"

    @property
    def _mirrored(self) -> bool:
        """Whether the entries are the same in any order of their indices."""
        return self.function.symmetric and all(each is self.points[0] for each in self.points)

    def _canonical(self, index: _Index) -> _Index:
        """The tile that has to be computed for one: that with its indices in order, if all orders are the same."""
        return tuple(sorted(index)) if self._mirrored else index

    def _tile(self, index: _Index) -> FloatArray:
        """The tile with the given index in each mode."""
        side = tile_side(len(index))
        held: dict[tuple[int, int], FloatArray] = {}  # equal points in one array: how products are made depends on that
        for i, x in zip(index, self.points, strict=True):
            held.setdefault((id(x), i), x[i * side : (i + 1) * side])
        tile = self.function(*(held[id(x), i] for i, x in zip(index, self.points, strict=True)))
        return _symmetrised(tile, index) if self._mirrored and len(held) < len(index) else tile


def _for_each(do: Callable[[_Index], None], indices: Iterable[_Index], threads: int) -> None:
    """Call a function with each, some at a time."""
    indices = list(indices)
    if threads == 1 or len(indices) < 2:
        for index in indices:
            do(index)
        return
    with ThreadPoolExecutor(min(threads, len(indices))) as pool:
        for _ in pool.map(do, indices):  # raises what was raised there
            pass


def _order_of(index: _Index, canonical: _Index) -> list[int]:
    """Axes of the canonical tile in the order that makes them those of another one."""
    ranks = np.argsort(np.argsort(index, kind="stable"), kind="stable")
    return list(range(len(index))) if index == canonical else [int(rank) for rank in ranks]


def _symmetrised(tile: FloatArray, index: _Index) -> FloatArray:
    """A tile with the entry whose indices are in order in place of those in any other, among modes of one index."""
    return tile.ravel().take(_in_order(tile.shape, tuple(map(index.index, index))))


@lru_cache(maxsize=16)
def _in_order(shape: tuple[int, ...], alike: _Index) -> npt.NDArray[np.intp]:
    """For each entry the place of the one with the same indices in order, among modes that are alike."""
    places = np.indices(shape, dtype=np.intp)
    for mode in set(alike):
        modes = [k for k, other in enumerate(alike) if other == mode]
        places[modes] = np.sort(places[modes], axis=0)
    return np.asarray(np.ravel_multi_index(tuple(places), shape))


def _overlap(origin: int, start: int, stop: int) -> tuple[int, slice]:
    """Where a tile that begins at `origin` lies in the range start … stop, and which part of it."""
    return max(origin - start, 0), slice(max(start - origin, 0), stop - origin)


def function_tensor(function: FunctionLike, sampling: str | Sampling, m: int, n: int, seed: int = 0) -> FunctionTensor:
    """Make the function-generated tensor of a sampled dataset; its order is the function's.

    Parameters
    ----------
    function : str, mapping, callable or GeneratingFunction
        A built-in name such as ``"sinh_product"``, or ``module:name``; with parameters ``{"name": …, "scale": 2}``; or
        a function of d arrays of points, shape (n, m), that returns the entries, shape (n, …, n).
    sampling : str or Sampling
        A sampling scheme, such as ``"ball-independent"``.
    m : int
        Latent dimension.
    n : int
        Size; the tensor is n × … × n.
    seed : int
        Trial number.

    Returns
    -------
    FunctionTensor

    Raises
    ------
    InputError
        If a name is unknown or a number is out of range.

    Examples
    --------
    >>> F = function_tensor("sinh_product", "ball-independent", m=10, n=50, seed=0)
    >>> F.shape, F.block(slice(3), slice(4), slice(5)).shape
    ((50, 50, 50), (3, 4, 5))
    """
    function = as_function(function)
    return FunctionTensor(function, sample_points(sampling, m, n, seed, function.order))


@dataclass(frozen=True)
class TensorRecipe:
    """What a function tensor is made of, as `function_tensor` takes it."""

    function: str
    sampling: str
    m: int
    n: int
    seed: int

    def make(self) -> FunctionTensor:
        """The tensor."""
        return function_tensor(self.function, self.sampling, self.m, self.n, self.seed)


def sample_points(
    sampling: str | Sampling, m: int, n: int, seed: int, order: int
) -> tuple[FloatArray | SampledPoints, ...]:
    """Draw n points of R^m for each of `order` modes; sets beyond `HELD_BYTES` are drawn where they are used.

    Raises
    ------
    InputError
        If the scheme is unknown or a number is out of range.
    """
    for name, value, least in (("m", m, 1), ("n", n, 1), ("seed", seed, 0)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < least:
            raise InputError(f"{name}: {shown(value)} is not an integer of at least {least}")
        if value > MAX_INTEGER and name != "seed":
            raise InputError(f"{name}: {shown(value)} is too large; give at most {MAX_INTEGER}")
    sampling = sampling if isinstance(sampling, Sampling) else get_sampling(sampling)
    sides = [
        SampledPoints(sampling, side, int(m), int(seed), int(n)) for side in range(1 if sampling.symmetric else order)
    ]
    points: list[FloatArray | SampledPoints] = list(sides)
    if 8 * n * m <= HELD_BYTES:
        points = [each[:] for each in sides]
    return tuple(points * order if sampling.symmetric else points)
