"""Smoothed minimax over the cores of a tensor train: the matrix solver on an unfolding whose factors are interfaces."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import cast

import numpy as np

from pipeline.active_set import polish
from pipeline.arrays import FloatArray, RealArray
from pipeline.minimax import BALANCE, BUDGETS, MinimaxSettings, Start, best_multiple, descend
from pipeline.passes import max_error
from pipeline.projections import APSettings, alternating_projections
from pipeline.smooth_maximum import Factorization, IntArray
from pipeline.tensor_train import (
    Cores,
    canonical,
    interfaces,
    left_interfaces,
    middle_bond,
    right_interfaces,
    scaled,
    tt_svd,
    unfolding,
    whole,
)

_PROJECTIONS = 60
_SMALLEST_SIZE = 1e-12  # of a singular value beside the largest, for the scale of the unknowns


@dataclass(frozen=True)
class TrainFactorization(Factorization):
    """Unknowns x, the entries of all cores in a row, and the two interfaces of a bond that they stand for.

    Attributes
    ----------
    bond : int
        Where the train is cut: the residual is that of the unfolding there.
    weights : tuple of ndarray of shape (r_{k-1}, 1, r_k)
        The cores are those of x times these.
    shape : tuple of int
        Of the tensor.
    """

    bond: int
    weights: tuple[FloatArray, ...] = field(repr=False)
    shape: tuple[int, ...]

    @classmethod
    def of(cls, shape: tuple[int, ...], values: Sequence[FloatArray]) -> "TrainFactorization":
        """Make that of a train from the singular values at its bonds, in units of max|F|.

        The powers of the values let entries of all cores move the tensor by like amounts.
        """
        inner = [
            np.maximum(each, max(_SMALLEST_SIZE * each[0], np.finfo(np.float64).tiny)) ** BALANCE for each in values
        ]
        weights = tuple(np.multiply.outer(a, b)[:, None, :] for a, b in pairwise([np.ones(1), *inner, np.ones(1)]))
        return cls(0, np.ones(1), None, middle_bond(shape), weights, shape)

    def _pieces(self, x: RealArray) -> Iterator[RealArray]:
        stop = 0
        for n, weight in zip(self.shape, self.weights, strict=True):
            start, stop = stop, stop + weight.size * n
            yield x[start:stop].reshape(weight.shape[0], n, weight.shape[2])

    def cores(self, x: RealArray) -> Cores:
        """Cores of shape (r_{k-1}, n_k, r_k), in the precision of x."""
        pairs = zip(self._pieces(x), self.weights, strict=True)
        return tuple(np.multiply(piece, weight, dtype=x.dtype) for piece, weight in pairs)

    def unknowns_of(self, cores: Sequence[FloatArray]) -> FloatArray:
        """Inverse of `cores`."""
        return np.concatenate([(core / weight).ravel() for core, weight in zip(cores, self.weights, strict=True)])

    def factors(self, x: RealArray) -> tuple[RealArray, RealArray]:
        """Left (n_1 … n_k × r_k) and right (n_{k+1} … n_d × r_k) interface."""
        return interfaces(self.cores(x), self.bond)

    def gradient(self, x: RealArray, by_left: RealArray, by_right: RealArray) -> RealArray:
        """Derivative by x, at x, from those by the interfaces."""
        cores = self.cores(x)
        lefts, rights = cores[: self.bond], cores[self.bond :]
        found: list[RealArray] = []
        for core, interface in zip(lefts[:0:-1], left_interfaces(lefts[:-1])[::-1], strict=True):
            by_left = by_left.reshape(len(interface), -1)
            found.insert(0, interface.T @ by_left)
            by_left = by_left @ core.reshape(core.shape[0], -1).T
        found.insert(0, by_left)
        outer = by_right.T
        for core, interface in zip(rights[:-1], right_interfaces(rights[1:]), strict=True):
            outer = outer.reshape(-1, interface.shape[1])
            found.append(outer @ interface.T)
            outer = core.reshape(-1, core.shape[2]).T @ outer
        found.append(outer)
        pieces = zip(found, self.weights, self.shape, strict=True)
        return np.concatenate(
            [np.multiply(each.reshape(w.shape[0], n, w.shape[2]), w, dtype=x.dtype).ravel() for each, w, n in pieces]
        )

    def derivatives(self, x: FloatArray, i: IntArray, j: IntArray) -> FloatArray:
        """Derivatives of the entries of the unfolding by the unknowns at x, shape (entries, unknowns)."""
        left, right = self.factors(x)
        found = np.empty((len(i), x.size))
        for entry, (row, column) in enumerate(zip(i, j, strict=True)):
            by_left, by_right = np.zeros_like(left), np.zeros_like(right)
            by_left[row], by_right[column] = right[column], left[row]
            found[entry] = self.gradient(x, by_left, by_right)
        return found


def minimax_train(
    tensor: FloatArray,
    rank: int,
    settings: MinimaxSettings,
    truncated: Cores,
    seed: int = 0,
    given: Cores | None = None,
) -> tuple[Cores, list[float], str]:
    """Search for the tensor train G of TT rank r with the smallest max|F − G|.

    The matrix solver on the unfolding at the middle bond; its factors are the interfaces of a train. It starts from
    what a few alternating projections find, which led to lower errors than TT-SVD for tensors far from low rank.

    Parameters
    ----------
    tensor : ndarray of shape (n_1, …, n_d)
        F, finite, not all zero, C-ordered.
    rank : int
        r.
    settings : MinimaxSettings
        `symmetric` and `warm_start` do not matter here.
    truncated : tuple of ndarray
        Cores of TT-SVD.
    seed : int
        Stream of the random part of the starts.
    given : tuple of ndarray, optional
        Cores of TT ranks of at most r to begin from as well.

    Returns
    -------
    cores : tuple of ndarray
        Never worse than TT-SVD, what was given, or zero.
    history : list of float
        Smallest max error so far after each step, in the units of the tensor.
    stopped : str
        Why the search ended.
    """
    bond = middle_bond(tensor.shape)
    matrix = unfolding(tensor, bond)
    scale = float(max(matrix.max(), -matrix.min()))
    few = APSettings(max_projections=_PROJECTIONS)
    projected, errors, _ = alternating_projections(tensor, rank, few, seed, train=True)
    starts = [_start(matrix, scale, cores, tensor.shape) for cores in (projected, *_extended(tensor, rank, given))]
    search, history = descend(matrix, scale, starts, settings, seed)
    factorization = cast("TrainFactorization", search.factorization)
    x, stopped = search.best.astype(np.float64), search.stopped
    if x.size <= BUDGETS[settings.budget].polished:
        x, stopped = polish(matrix / scale, factorization, x)
    rivals = [
        scaled(factorization.cores(x), scale),
        truncated,
        scaled(truncated, 0.0),
        *([given] if given else []),
    ]
    found = [max_error(matrix, *interfaces(cores, bond)) for cores in rivals]
    error = min(found)
    smallest = np.minimum.accumulate([*errors, *(scale * each for each in history)])
    return rivals[found.index(error)], [*np.maximum(smallest, error).tolist(), error], stopped


def _extended(tensor: FloatArray, rank: int, given: Cores | None) -> list[Cores]:
    """A train that was given, with TT-SVD of its residual for what is missing of the rank; none if it is zero."""
    if given is None:
        return []
    entries = whole(given).reshape(tensor.shape)
    missing = rank - max(core.shape[2] for core in given)
    if missing > 0:
        residual = np.ascontiguousarray(tensor - entries)
        entries = entries + whole(tt_svd(residual, missing)).reshape(tensor.shape)
    return [tt_svd(entries, rank)] if entries.any() else []


def _start(matrix: FloatArray, scale: float, cores: Cores, shape: tuple[int, ...]) -> Start[TrainFactorization]:
    """Start from (c / scale) times the tensor of a train and the best multiple c, its size shared by the bonds."""
    orthogonal, values = canonical(cores)
    values = [each / scale for each in values]
    factorization = TrainFactorization.of(shape, values)
    multiple, error = best_multiple(matrix, *interfaces(cores, factorization.bond))
    roots = [np.sqrt(np.maximum(each, _SMALLEST_SIZE * max(each[0], np.finfo(np.float64).tiny))) for each in values]
    balanced = [
        core / before[:, None, None] * after
        for core, before, after in zip(
            (*orthogonal[:-1], orthogonal[-1] / scale), [np.ones(1), *roots], [*roots, np.ones(1)], strict=True
        )
    ]
    x = factorization.unknowns_of(scaled(balanced, multiple))
    return Start(factorization, x, error / scale)
