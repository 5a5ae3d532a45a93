"""The smooth maximum of an entrywise residual as a function of low-rank factors."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.sparse

from pipeline.arrays import FloatArray, Matrix, RealArray, row_panels
from pipeline.passes import PANEL_ROWS, TILE_COLUMNS, Passes, Piece, largest_residual, panels, tiles

_SPARSE = 0.015  # share of entries up to which sparse products are the faster ones
_DRIFT = 4.0  # exponents further than this above M leave too little of what weighs
_HIGHEST = 60.0  # exponents above this would overflow in single precision
_LOWEST = -100.0  # powers of two below this are slow to compute, and weigh nothing

IntArray: TypeAlias = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Factorization:
    """Unknowns x of shape (n1 + n2, r), or (n, r) for a symmetric G = U diag(signs) Uᵀ, and the factors they stand for.

    Attributes
    ----------
    rows : int
        n1.
    scale : ndarray of shape (r,)
        The columns of the factors are those of x times these: a negative power of the singular values lets the
        directions of large and of small ones be searched at like speed.
    signs : ndarray of shape (r,) or None
        Signs of the eigenvalues of a symmetric G.
    """

    rows: int
    scale: FloatArray
    signs: FloatArray | None

    def factors(self, x: RealArray) -> tuple[RealArray, RealArray]:
        """Left (n1 × r) and right (n2 × r) factors, in the precision of x."""
        y: RealArray = np.multiply(x, self.scale, dtype=x.dtype)
        if self.signs is None:
            return y[: self.rows], y[self.rows :]
        left: RealArray = np.multiply(y, self.signs, dtype=x.dtype)
        return left, y

    def unknowns(self, left: FloatArray, right: FloatArray) -> FloatArray:
        """Inverse of `factors`."""
        stacked: FloatArray = (np.concatenate([left, right]) if self.signs is None else right) / self.scale
        return stacked

    def gradient(self, x: RealArray, by_left: RealArray, by_right: RealArray) -> RealArray:
        """Derivative by x, at x, from those by the factors; where G is symmetric that by left is enough."""
        stacked = np.concatenate([by_left, by_right]) if self.signs is None else by_left
        weights = self.scale if self.signs is None else 2 * self.scale * self.signs
        gradient: RealArray = np.multiply(stacked, weights, dtype=by_left.dtype)
        return gradient

    def derivatives(self, x: FloatArray, i: IntArray, j: IntArray) -> FloatArray:
        """Derivatives of the entries G[i, j] by the unknowns at x, shape (entries, unknowns)."""
        left, right = self.factors(x)
        derivatives = np.zeros((len(i), *x.shape))
        entry = np.arange(len(i))
        if self.signs is None:
            derivatives[entry, i] = right[j] * self.scale
            derivatives[entry, self.rows + j] = left[i] * self.scale
        else:
            derivatives[entry, i] = left[j] * self.scale
            derivatives[entry, j] += left[i] * self.scale
        return derivatives.reshape(len(i), x.size)


class Objective(ABC):
    """S_β(E) = M + (1/β) log Σ exp(β(|E_ij| − M)) with M = max|E|, E = G − F, and its gradient by the unknowns.

    Attributes
    ----------
    factorization : Factorization
    dtype : dtype
        Of all products.
    flops : float
        Additions and multiplications of all products so far.
    """

    def __init__(self, factorization: Factorization, dtype: npt.DTypeLike) -> None:
        self.factorization = factorization
        self.dtype = np.dtype(dtype)
        self.flops = 0.0

    @abstractmethod
    def maximum(self, x: RealArray) -> float:
        """M in the working precision."""

    @abstractmethod
    def _weighed(
        self, left: RealArray, right: RealArray, beta: float, near: float
    ) -> tuple[float, float, RealArray, RealArray]:
        """M, the sum of the weights exp(β(|E| − near)), and their products with right and left.

        Where M is far above `near` it is enough to give a value as far; where G is symmetric the product with left may
        be left out.
        """

    def __call__(self, x: RealArray, beta: float, near: float) -> tuple[float, float, RealArray]:
        """Return M, S_β(E) and the gradient of S_β at x.

        `near` is a value near M, such as the last one; far above it S_β counts as infinite.
        """
        maximum, mass, by_left, by_right = self._weighed(*self.factorization.factors(x), beta, near)
        if not beta * (maximum - near) < _HIGHEST:
            return maximum, np.inf, x
        if beta * (near - maximum) > _DRIFT:
            return self(x, beta, maximum)
        gradient = self.factorization.gradient(x, by_left, by_right)
        gradient /= gradient.dtype.type(mass)
        return maximum, near + float(np.log(mass)) / beta, gradient


class SmoothMaximum(Objective):
    """The smooth maximum for a stored matrix: one pass in row panels makes the residual, its weights and products.

    Parameters
    ----------
    matrix : ndarray of shape (n1, n2)
        F, in the precision in which all products are made.
    factorization : Factorization
    """

    def __init__(self, matrix: RealArray, factorization: Factorization) -> None:
        super().__init__(factorization, matrix.dtype)
        self._matrix = matrix
        self._panels = row_panels(matrix)
        self._panel = _Panel(matrix[self._panels[0]].size, matrix.dtype, matrix.size)

    def maximum(self, x: RealArray) -> float:
        """M in the working precision."""
        left, right = self.factorization.factors(x)
        return float(np.max([self._residual(rows, left, right)[1].max() for rows in self._panels]))

    def _weighed(
        self, left: RealArray, right: RealArray, beta: float, near: float
    ) -> tuple[float, float, RealArray, RealArray]:
        by_left, by_right = np.empty_like(left), np.zeros_like(right)
        total = maximum = 0.0
        for rows in self._panels:
            residual, size = self._residual(rows, left, right)
            maximum = max(maximum, largest := float(size.max()))
            if not beta * (largest - near) < _HIGHEST:
                return largest, total, by_left, by_right
            weights, share = self._panel.weigh(residual, size, beta, near)
            total += share
            by_left[rows] = weights @ right
            products = 1
            if self.factorization.signs is None:
                by_right += weights.T @ left[rows]
                products = 2
            self.flops += 2.0 * products * weights.size * left.shape[1]
        return maximum, total, by_left, by_right

    def _residual(self, rows: slice, left: RealArray, right: RealArray) -> tuple[RealArray, RealArray]:
        residual, size = self._panel.residual(self._matrix[rows], left[rows], right)
        self.flops += 2.0 * residual.size * left.shape[1]
        return residual, size


class PassesMaximum(Objective):
    """The smooth maximum by passes over a matrix that is not stored.

    Parameters
    ----------
    passes : Passes
        Over F, in the precision in which all products are made.
    factorization : Factorization
    """

    def __init__(self, passes: Passes, factorization: Factorization) -> None:
        super().__init__(factorization, passes.dtype)
        self._passes = passes

    def maximum(self, x: RealArray) -> float:
        """M in the working precision."""
        left, right = self.factorization.factors(x)
        self.flops += 2.0 * len(left) * right.size
        return self._passes.run(largest_residual, [right], [left]).largest

    def _weighed(
        self, left: RealArray, right: RealArray, beta: float, near: float
    ) -> tuple[float, float, RealArray, RealArray]:
        both = self.factorization.signs is None
        found = self._passes.run(weighed_products, [right, np.array([beta, near, both])], [left])
        sums, *by_right = found.totals
        self.flops += 2.0 * left.shape[1] * (len(left) * len(right) + (1 + both) * sums[1])
        return found.largest, float(sums[0]), found.rows, by_right[0].astype(self.dtype) if both else right


def weighed_products(
    matrix: Matrix, rows: slice, shared: tuple[RealArray, ...], by_rows: tuple[RealArray, ...]
) -> Piece:
    """Kernel of the weights of the residual: their products with right, and in sum with left, their sum and number."""
    right, (beta, near, both) = shared
    (left,) = by_rows
    part = _Panel(PANEL_ROWS * TILE_COLUMNS, right.dtype, matrix.shape[0] * matrix.shape[1])
    by_left, by_right, sums = np.zeros_like(left), np.zeros_like(right), np.zeros(2)
    maximum = 0.0
    for panel in panels(rows):
        within = slice(panel.start - rows.start, panel.stop - rows.start)
        for _, cols, entries in tiles(matrix, panel):
            residual, size = part.residual(entries, left[within], right[cols])
            maximum = float(np.max([maximum, size.max()]))
            if not beta * (maximum - near) < _HIGHEST:
                return Piece(by_left, maximum, (sums, by_right)[: 1 + bool(both)])
            weights, share = part.weigh(residual, size, beta, near)
            by_left[within] += weights @ right[cols]
            if both:
                by_right[cols] += weights.T @ left[within]
            sums += share, weights.size
    return Piece(by_left, maximum, (sums, by_right)[: 1 + bool(both)])


class _Panel:
    """Part of the residual and its weights, in memory that is used again and again.

    Parameters
    ----------
    size : int
        Most entries.
    dtype : dtype
    entries : int
        Of the whole matrix.
    """

    def __init__(self, size: int, dtype: np.dtype[Any], entries: int) -> None:
        self._residual, self._weights = np.empty(size, dtype), np.empty(size, dtype)
        self._ones = np.ones(size, dtype)
        self._reach = float(np.log(entries)) + 4  # entries further than this / β below M hardly weigh anything
        self._bits = np.dtype(f"u{dtype.itemsize}")
        self._sign_bit = self._bits.type(1 << (8 * dtype.itemsize - 1))

    def residual(self, entries: RealArray, left: RealArray, right: RealArray) -> tuple[RealArray, RealArray]:
        """E = left @ right.T − entries and |E|."""
        residual = np.matmul(left, right.T, out=self._residual[: entries.size].reshape(entries.shape))
        residual -= entries
        return residual, np.abs(residual, out=self._weights[: entries.size].reshape(entries.shape))

    def weigh(self, residual: RealArray, size: RealArray, beta: float, near: float) -> tuple[Any, float]:
        """Weights exp(β(|E| − near)) with the signs of E, and the sum of their absolute values."""
        above = size > size.dtype.type(near - self._reach / beta)
        if np.count_nonzero(above) <= _SPARSE * size.size:
            at = np.flatnonzero(above)
            few = np.exp((size.ravel()[at] - size.dtype.type(near)) * size.dtype.type(beta))
            row_starts = np.searchsorted(at, np.arange(len(size) + 1) * size.shape[1])
            signed = np.copysign(few, residual.ravel()[at])
            return scipy.sparse.csr_array((signed, at % size.shape[1], row_starts), size.shape), float(few.sum())
        size -= size.dtype.type(near)
        size *= size.dtype.type(beta / np.log(2))
        np.maximum(size, size.dtype.type(_LOWEST), out=size)
        np.exp2(size, out=size)
        total = float(size.ravel() @ self._ones[: size.size])
        signs = residual.view(self._bits)
        signs &= self._sign_bit
        bits = size.view(self._bits)
        bits |= signs  # as copysign, four times faster
        return size, total
