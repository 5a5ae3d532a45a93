"""The smooth maximum of an entrywise residual as a function of low-rank factors."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.sparse

from pipeline.arrays import FloatArray, RealArray, row_panels

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


class SmoothMaximum:
    """S_β(E) = M + (1/β) log Σ exp(β(|E_ij| − M)) with M = max|E|, E = G − F, and its gradient by the unknowns.

    One pass over the matrix in row panels makes the residual, its weights and their products with the factors.

    Parameters
    ----------
    matrix : ndarray of shape (n1, n2)
        F, in the precision in which all products are made.
    factorization : Factorization
    """

    def __init__(self, matrix: RealArray, factorization: Factorization) -> None:
        self.matrix = matrix
        self.factorization = factorization
        self.flops = 0.0
        self._panels = row_panels(matrix)
        self._residual = np.empty_like(matrix[self._panels[0]])
        self._weights = np.empty_like(self._residual)
        self._ones = np.ones(self._residual.size, matrix.dtype)
        self._reach = float(np.log(matrix.size)) + 4  # entries further than this / β below M hardly weigh anything
        self._bits = np.dtype(f"u{matrix.itemsize}")
        self._sign_bit = self._bits.type(1 << (8 * matrix.itemsize - 1))

    def maximum(self, x: RealArray) -> float:
        """M in the working precision."""
        return float(np.max([size.max() for _, _, size in self._residuals(*self.factorization.factors(x))]))

    def __call__(self, x: RealArray, beta: float, near: float) -> tuple[float, float, RealArray]:
        """Return M, S_β(E) and the gradient of S_β at x.

        `near` is a value near M, such as the last one; far above it S_β counts as infinite.
        """
        left, right = self.factorization.factors(x)
        by_left, by_right = np.empty_like(left), np.zeros_like(right)
        total = maximum = 0.0
        for rows, residual, size in self._residuals(left, right):
            maximum = max(maximum, largest := float(size.max()))
            if not beta * (largest - near) < _HIGHEST:
                return largest, np.inf, x
            weights, share = self._weigh(residual, size, beta, near)
            total += share
            by_left[rows] = weights @ right
            products = 1
            if self.factorization.signs is None:
                by_right += weights.T @ left[rows]
                products = 2
            self.flops += 2.0 * products * weights.size * left.shape[1]
        if beta * (near - maximum) > _DRIFT:
            return self(x, beta, maximum)
        gradient = self.factorization.gradient(x, by_left, by_right)
        gradient /= gradient.dtype.type(total)
        return maximum, near + float(np.log(total)) / beta, gradient

    def _residuals(self, left: RealArray, right: RealArray) -> Iterator[tuple[slice, RealArray, RealArray]]:
        """Row range, E and |E| of each panel."""
        for rows in self._panels:
            part = left[rows]
            residual = np.matmul(part, right.T, out=self._residual[: len(part)])
            residual -= self.matrix[rows]
            self.flops += 2.0 * residual.size * part.shape[1]
            yield rows, residual, np.abs(residual, out=self._weights[: len(part)])

    def _weigh(self, residual: RealArray, size: RealArray, beta: float, near: float) -> tuple[Any, float]:
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
