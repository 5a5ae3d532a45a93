"""Truncated singular value decompositions: LAPACK's, and a blocked randomized one for large matrices."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
import scipy.linalg
from pydantic import BaseModel, ConfigDict, Field
from scipy.linalg.blas import dger, idamax
from threadpoolctl import threadpool_limits

from pipeline.arrays import FloatArray, Matrix, RealArray, entries_of
from pipeline.passes import STORED_BYTES, Passes, as_passes, times, times_and_back
from pipeline.sampling import stream

_CURVE_TILE = 256
_HARMLESS = 300  # powers of two up to which a matrix may be multiplied by its transpose over and over


class SVDSettings(BaseModel):
    """How singular value decompositions are computed.

    Attributes
    ----------
    driver : {"auto", "lapack", "randomized"}
        "auto" takes LAPACK up to `dense_limit`.
    dense_limit : int
        Largest min(n1, n2) that "auto" gives to LAPACK.
    oversampling : int
        Columns of the random sketch beyond the rank.
    power_iterations : int
        Products with F Fᵀ that sharpen the sketch.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    driver: Literal["auto", "lapack", "randomized"] = "auto"
    dense_limit: Annotated[int, Field(ge=1, le=100_000)] = 1500
    oversampling: Annotated[int, Field(ge=0, le=10_000)] = 16
    power_iterations: Annotated[int, Field(ge=0, le=1000)] = 6

    def uses_lapack(self, smaller_side: int, entries: float, rank: int) -> bool:
        """Whether a matrix whose smaller side is given is decomposed in full by LAPACK at this rank."""
        if self.driver == "randomized":
            return self.sketch_width(rank) >= smaller_side
        if self.driver == "lapack":
            return True
        return 8 * entries <= STORED_BYTES and smaller_side <= max(self.dense_limit, self.basis_size(rank))

    def sketch_width(self, rank: int) -> int:
        """Columns of the sketch for a rank: the next power of two (at least 64) and the oversampling.

        Ranks up to the same power of two share a decomposition, and each gets the same values alone.
        """
        return max(64, 1 << (rank - 1).bit_length()) + self.oversampling

    def basis_size(self, rank: int) -> int:
        """Columns of the basis that the sketch and its power iterations span."""
        return (self.power_iterations + 1) * self.sketch_width(rank)


@dataclass(frozen=True)
class Decomposition:
    """Leading singular triplets, largest first.

    Attributes
    ----------
    u : ndarray of shape (n1, k)
    s : ndarray of shape (k,)
    vt : ndarray of shape (k, n2)
    complete : bool
        Whether k = min(n1, n2), so that `s` holds every singular value.
    """

    u: FloatArray
    s: FloatArray
    vt: FloatArray
    complete: bool

    def balanced_factors(self, rank: int) -> tuple[FloatArray, FloatArray]:
        """Factors U √Σ (n1 × r) and V √Σ (n2 × r) of the truncated decomposition."""
        root = np.sqrt(self.s[:rank])
        return self.u[:, :rank] * root, self.vt[:rank].T * root


def lapack_svd(matrix: RealArray) -> Decomposition:
    """Decompose a stored matrix in full (LAPACK ``gesdd``, or ``gesvd`` where that fails to converge)."""
    if matrix.shape[0] < matrix.shape[1] / 2:  # four times faster for the tall transpose
        tall = lapack_svd(matrix.T)
        return Decomposition(tall.vt.T, tall.s, tall.u.T, complete=True)
    try:
        u, s, vt = scipy.linalg.svd(matrix, full_matrices=False, check_finite=False)
    except scipy.linalg.LinAlgError:
        u, s, vt = scipy.linalg.svd(matrix, full_matrices=False, check_finite=False, lapack_driver="gesvd")
    return Decomposition(u, s, vt, complete=True)


def singular_values(matrix: FloatArray) -> FloatArray:
    """Singular values of a stored matrix, largest first (LAPACK ``gesdd``).

    The matrix is reflected in a random vector on either side before. Of one with few different rows and columns, such
    as signs, LAPACK's Householder steps leave remainders of remainders down to subnormal numbers, with which processors
    are slow: twelve times at n = 2000.

    Parameters
    ----------
    matrix : ndarray of shape (n1, n2)
        Not all of it zero; it is overwritten.

    Returns
    -------
    ndarray of shape (min(n1, n2),)
    """
    scale = power_of_two(float(np.abs(matrix).max()))  # as LAPACK does; exact
    matrix /= scale
    for side, values in enumerate((matrix.T, matrix)):
        normal = stream("reflection", side).standard_normal(len(values))
        normal /= np.linalg.norm(normal)
        values -= np.outer(2 * normal, normal @ values)
    return scale * np.asarray(scipy.linalg.svdvals(matrix, overwrite_a=True, check_finite=False))


def power_of_two(size: float) -> float:
    """The largest power of two that is at most a positive number, and neither it nor its inverse out of range."""
    return math.ldexp(1.0, min(max(math.frexp(size)[1] - 1, -1020), 1020) if math.isfinite(size) else 1020)


def orthonormal(columns: RealArray) -> RealArray:
    """Orthonormal basis of the span of the columns, shape kept (Householder QR)."""
    own = np.array(columns, order="F")  # LAPACK's order: one copy in place of one for each of its calls
    q: RealArray = scipy.linalg.qr(own, overwrite_a=True, mode="economic", check_finite=False)[0]
    return q


def randomized_svd(matrix: Matrix | Passes, width: int, power_iterations: int, seed: int = 0) -> Decomposition:
    """Randomized decomposition by passes over a matrix.

    A Gaussian sketch and its power iterations, each orthonormalised (Halko, Martinsson and Tropp, "Finding structure
    with randomness", 2011, algorithm 4.4), all of which span the basis (block Krylov iteration: Musco and Musco,
    "Randomized block Krylov methods", 2015, algorithm 2). An iteration is one pass, which multiplies by F and by Fᵀ;
    with the projection on the basis there are 2 + `power_iterations`, and the matrix is never held.

    Parameters
    ----------
    matrix : array, BlockMatrix or Passes of shape (n1, n2)
    width : int
        Columns of the sketch.
    power_iterations : int
    seed : int
        Stream of the Gaussian sketch.
    """
    passes = as_passes(matrix)
    width = min(width, *passes.shape)
    powers = min(power_iterations, (min(passes.shape) - 1) // width)  # no more than fill the space
    forth = stream("sketch", seed).standard_normal((passes.shape[1], width))
    found = passes.run(times_and_back if powers else times, [forth])
    scale = power_of_two(size) if (size := float(np.abs(found.rows).max())) else 1.0
    if abs(math.log2(scale)) > _HARMLESS:
        scaled = randomized_svd(passes.scaled(scale, np.float64), width, power_iterations, seed)
        return replace(scaled, s=scale * scaled.s)
    blocks = []
    for power in range(powers):
        if power:
            found = passes.run(times_and_back, [forth])
        blocks.append(orthonormal(found.rows))
        forth = orthonormal(found.totals[0])
    blocks.append(orthonormal(passes.run(times, [forth]).rows if powers else found.rows))
    q = orthonormal(np.hstack(blocks))
    del blocks
    projected = lapack_svd(passes.run(times, [q], transposed=True).rows)
    complete = q.shape[1] >= min(passes.shape)
    kept = slice(0, q.shape[1] if complete else width)  # the others are not accurate
    return Decomposition(q @ projected.vt[kept].T, projected.s[kept], projected.u[:, kept].T.copy(), complete=complete)


class Decompositions:
    """The decompositions of one matrix, each computed once and shared by ranks and methods.

    Parameters
    ----------
    matrix : array, BlockMatrix or Passes of shape (n1, n2)
    settings : SVDSettings
    seed : int
        Stream of the randomized sketch.
    """

    def __init__(self, matrix: Matrix | Passes, settings: SVDSettings | None = None, seed: int = 0) -> None:
        self.passes = as_passes(matrix)
        self.matrix = self.passes.matrix
        self.settings = settings or SVDSettings()
        self._seed = seed
        self._randomized: dict[int, Decomposition] = {}

    def for_rank(self, rank: int) -> Decomposition:
        """Return the decomposition that serves a rank; the same one whatever was asked before."""
        if self._lapack(rank):
            return self._complete
        width = self.settings.sketch_width(rank)
        if width not in self._randomized:
            powers = self.settings.power_iterations
            self._randomized[width] = randomized_svd(self.passes, width, powers, self._seed)
        return self._randomized[width]

    def for_bound(self) -> Decomposition:
        """Return a complete decomposition: the matrix's, or for a large one that of its leading block.

        A lower bound for a submatrix holds for the matrix: rank and max norm do not grow when rows or columns go.
        """
        return self._complete if self._lapack(1) else self._leading

    def bound_values(self) -> FloatArray:
        """Return the values that `for_bound` decomposes: the matrix, or its leading block."""
        return self._block(None if self._lapack(1) else self.settings.dense_limit)

    def complete(self) -> Decomposition:
        """Return LAPACK's decomposition of the whole matrix, whatever its size."""
        return self._complete

    def _lapack(self, rank: int) -> bool:
        return self.settings.uses_lapack(min(self.matrix.shape), math.prod(self.matrix.shape), rank)

    @cached_property
    def _complete(self) -> Decomposition:
        return lapack_svd(self._block(None))

    @cached_property
    def _leading(self) -> Decomposition:
        return lapack_svd(self._block(self.settings.dense_limit))

    def _block(self, limit: int | None) -> FloatArray:
        """The leading limit × limit block, or everything."""
        block = slice(0, limit)
        return entries_of(self.matrix, block, block)


def truncation_errors(matrix: Matrix, decomposition: Decomposition) -> FloatArray:
    """Max-norm errors of every truncation of a decomposition (Udell and Townsend, section 5, μ_r).

    The rank-one terms are subtracted one after the other from a tile of the matrix that stays in the cache. For a whole
    decomposition this costs about as much as LAPACK's.

    Parameters
    ----------
    matrix : array or BlockMatrix of shape (n1, n2)
    decomposition : Decomposition
        Of the matrix, with k triplets.

    Returns
    -------
    ndarray of shape (k + 1,)
        μ_r = max |F − [F]_r| for r = 0, …, k.
    """
    left = np.asfortranarray(decomposition.u * decomposition.s)
    right = np.asfortranarray(decomposition.vt.T)
    errors = np.zeros(len(decomposition.s) + 1)
    with threadpool_limits(1):  # the products are too small to be shared
        _subtract_terms(matrix, left, right, errors)
    return errors


def _subtract_terms(matrix: Matrix, left: FloatArray, right: FloatArray, errors: FloatArray) -> None:
    """Raise each error to the largest of what is left after as many terms, tile by tile."""
    for top in range(0, matrix.shape[0], _CURVE_TILE):
        for start in range(0, matrix.shape[1], _CURVE_TILE):
            rows, cols = slice(top, top + _CURVE_TILE), slice(start, start + _CURVE_TILE)
            tile = np.array(entries_of(matrix, rows, cols), dtype=np.float64, order="F")
            entries = tile.reshape(-1, order="F")
            errors[0] = max(errors[0], abs(entries[idamax(entries)]))
            for r in range(1, len(errors)):
                dger(-1.0, left[rows, r - 1], right[cols, r - 1], a=tile, overwrite_a=True)
                errors[r] = max(errors[r], abs(entries[idamax(entries)]))
