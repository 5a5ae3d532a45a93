"""Diagnostics of low-rank factors: compression, spectral gap, angles of subspaces, non-negative factors.

References
----------
.. [1] Björck and Golub, "Numerical methods for computing angles between linear subspaces", 1973.
.. [2] Knyazev and Argentati, "Principal angles between subspaces in an A-based scalar product", 2002.
.. [3] Wedin, "Perturbation bounds in connection with singular value decomposition", 1972.
.. [4] Cichocki and Phan, "Fast local algorithms for large scale nonnegative matrix and tensor factorizations", 2009.
.. [5] Boutsidis and Gallopoulos, "SVD based initialization: a head start for nonnegative matrix factorization", 2008.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy.linalg

from pipeline.approximation import checked_rank, checked_seed
from pipeline.arithmetic import own_state
from pipeline.arrays import ROUNDING_LEVEL, BlockMatrix, FloatArray, as_matrix
from pipeline.containers import plain_array
from pipeline.errors import InputError, shown
from pipeline.svd import Decomposition, lapack_svd
from pipeline.tensor_train import bond_ranks


@dataclass(frozen=True)
class SpectralGap:
    """How far a singular value lies above the next.

    Attributes
    ----------
    absolute : float
        σ_r − σ_{r+1}.
    relative : float
        (σ_r − σ_{r+1})/σ_r, between 0 and 1; 0 where σ_r = 0.
    """

    absolute: float
    relative: float


@dataclass(frozen=True)
class NonnegativeFactorization:
    """Non-negative factors of a matrix F ≈ W Hᵀ, and what they lose against the truncated SVD of the same rank.

    Attributes
    ----------
    left : ndarray of shape (n1, r)
        W ≥ 0.
    right : ndarray of shape (n2, r)
        H ≥ 0.
    epsilon : float
        max|F − W Hᵀ| / max|F|.
    frobenius_error : float
        ‖F − W Hᵀ‖ / ‖F‖ in the Frobenius norm, which the factors were made to minimise.
    svd_epsilon, svd_frobenius_error : float
        The same of the truncated SVD; the second is the least of any factors (Eckart and Young).
    iterations : int
    converged : bool
        Whether the tolerance was met before the last iteration, or nothing but rounding is left.
    """

    left: FloatArray
    right: FloatArray
    epsilon: float
    frobenius_error: float
    svd_epsilon: float
    svd_frobenius_error: float
    iterations: int
    converged: bool


def compression(shape: Sequence[int], rank: int) -> float:
    """Entries by parameters: n1 n2/(r (n1 + n2)) for a matrix, n_1 … n_d by the size of the cores for a tensor train.

    Parameters
    ----------
    shape : sequence of int
        Of the matrix or tensor, order 2 or more.
    rank : int
        Of the factors, or largest TT rank.

    Returns
    -------
    float
        Below 1 where factors take more than the entries themselves.

    Raises
    ------
    InputError
        If a size is below 1, or the rank is not between 1 and the largest there is.

    Examples
    --------
    >>> compression((1000, 1000), 50)
    10.0
    >>> compression((100, 100, 100), 10)
    83.33333333333333
    """
    sizes = [int(size) for size in shape if isinstance(size, int | np.integer) and size >= 1]
    if len(sizes) < 2 or len(sizes) < len(shape):
        raise InputError(f"shape: {shown(tuple(shape))} is not that of a matrix or tensor; give two or more sizes")
    checked_rank(rank, max(bond_ranks(sizes, math.prod(sizes))), f"the largest rank of shape {tuple(sizes)}")
    ranks = [1, *bond_ranks(sizes, int(rank)), 1]
    return math.prod(sizes) / sum(ranks[k] * size * ranks[k + 1] for k, size in enumerate(sizes))


@own_state()
def singular_value_gap(values: npt.ArrayLike, rank: int) -> SpectralGap:
    """Gap after the leading `rank` singular values; after the last one, σ_{r+1} = 0.

    Parameters
    ----------
    values : array_like of shape (k,)
        All singular values of a matrix, or more than `rank` of them, largest first.
    rank : int
        Between 1 and k.

    Returns
    -------
    SpectralGap

    Raises
    ------
    InputError
        If the values are not finite, of at least 0 and in that order, or there is no such rank.

    Examples
    --------
    >>> singular_value_gap([4.0, 1.0, 0.5], 1)
    SpectralGap(absolute=3.0, relative=0.75)
    """
    spectrum = as_matrix(np.atleast_2d(plain_array(values, "values")), "values")
    if len(spectrum) > 1 or spectrum[0, -1] < 0 or np.any(np.diff(spectrum) > 0):
        raise InputError(f"values: {shown(values)} are not singular values; give numbers of at least 0, largest first")
    checked_rank(rank, spectrum.size, "the number of values")
    here, after = (float(value) for value in np.append(spectrum, 0.0)[rank - 1 : rank + 1])
    return SpectralGap(here - after, (here - after) / here if here > 0 else 0.0)


@own_state()
def principal_angles(a: npt.ArrayLike, b: npt.ArrayLike) -> FloatArray:
    """Principal angles between the column spaces of A and B, in radians, smallest first.

    The cosines are the singular values of Q_aᵀ Q_b and the sines those of Q_b − Q_a Q_aᵀ Q_b (Björck and Golub [1]_),
    for the basis Q_b with fewer columns. Cosines do not resolve small angles, nor sines those near π/2 (Knyazev and
    Argentati [2]_); the arc tangent of both does both. ``scipy.linalg.subspace_angles`` pairs its sines with cosines in
    reverse order, and so loses small angles beside large ones.

    Parameters
    ----------
    a : array_like of shape (n, ra)
    b : array_like of shape (n, rb)
        Both of independent columns.

    Returns
    -------
    ndarray of shape (min(ra, rb),)
        Between 0 and π/2.

    Raises
    ------
    InputError
        If the matrices differ in rows or have dependent columns.

    Examples
    --------
    >>> principal_angles([[1.0], [0.0], [0.0]], [[1.0], [1.0], [0.0]]).round(4)
    array([0.7854])
    """
    wide, narrow = _basis("a", a), _basis("b", b)
    if len(wide) != len(narrow):
        raise InputError(f"b: {len(narrow)} rows do not fit the {len(wide)} of a; pass as many")
    if wide.shape[1] < narrow.shape[1]:
        wide, narrow = narrow, wide
    products = wide.T @ narrow
    cosines, sines = scipy.linalg.svdvals(products), scipy.linalg.svdvals(narrow - wide @ products)
    angles: FloatArray = np.arctan2(sines[::-1], cosines)
    return angles


@own_state()
def mean_sine(angles: npt.ArrayLike) -> float:
    """Sum of the sines of principal angles by their number: 0 for the same subspace, 1 for orthogonal ones.

    Examples
    --------
    >>> mean_sine([0.0, math.pi / 2])
    0.5
    """
    return float(np.mean(np.sin(angles)))


@own_state()
def leading_subspace_angles(f1: npt.ArrayLike | BlockMatrix, f2: npt.ArrayLike | BlockMatrix, rank: int) -> FloatArray:
    """Principal angles between the spans of the leading left singular vectors of two matrices with the same rows.

    It measures what of the factors is identifiable: F(X, Y₁) and F(X, Y₂) for the same row points X and column points
    drawn anew share a subspace as far as that belongs to X and the function. By Wedin's theorem [3]_ an angle of
    F + E to F has sin θ ≤ ‖E‖₂/(σ_r(F + E) − σ_{r+1}(F)), so where `singular_value_gap` is nought the subspace is
    arbitrary and large angles tell nothing.

    Parameters
    ----------
    f1 : array_like or BlockMatrix of shape (n, n1)
    f2 : array_like or BlockMatrix of shape (n, n2)
    rank : int
        Dimension of the subspaces.

    Returns
    -------
    ndarray of shape (rank,)
        In radians, smallest first.

    Raises
    ------
    InputError
        If the matrices differ in rows, or the rank exceeds a side of them.

    Examples
    --------
    >>> leading_subspace_angles(np.diag([3.0, 2.0, 1.0]), np.diag([3.0, 1.0, 2.0]), 2).round(4)
    array([0.    , 1.5708])
    """
    first, second = as_matrix(f1, "f1"), as_matrix(f2, "f2")
    if len(first) != len(second):
        raise InputError(f"f2: {len(second)} rows do not fit the {len(first)} of f1; pass as many")
    smallest = min(*first.shape, *second.shape)
    checked_rank(rank, smallest, f"min({first.shape} and {second.shape})")
    return principal_angles(lapack_svd(first).u[:, :rank], lapack_svd(second).u[:, :rank])


@own_state()
def nonnegative_error(
    matrix: npt.ArrayLike | BlockMatrix,
    rank: int,
    seed: int = 0,
    max_iter: int = 1000,
    tol: float = 1e-4,
    decomposition: Decomposition | None = None,
) -> NonnegativeFactorization:
    """Factor a non-negative matrix into non-negative factors, and compare with the truncated SVD.

    Coordinate descent on the Frobenius norm (Cichocki and Phan [4]_; scikit-learn's ``NMF``) from the SVD's
    non-negative parts (Boutsidis and Gallopoulos [5]_). It finds a local minimum: the errors are upper bounds for the
    best non-negative factors, the more so `epsilon`, which is not what is minimised.

    Parameters
    ----------
    matrix : array_like or BlockMatrix of shape (n1, n2)
        Entries of at least 0, not all 0.
    rank : int
    seed : int
        Of the sketch for the SVD of the start, on which little depends.
    max_iter : int
        Most iterations.
    tol : float
        Part of the first iteration's violation of the optimality conditions at which to stop.
    decomposition : Decomposition, optional
        Of the matrix, to at least the rank, where it is known.

    Returns
    -------
    NonnegativeFactorization

    Raises
    ------
    InputError
        If an entry is negative, all are 0, or another argument is out of range.

    Examples
    --------
    >>> found = nonnegative_error([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0]], 1)
    >>> found.converged, found.epsilon < 1e-12
    (True, True)
    """
    values = as_matrix(matrix)
    checked_rank(rank, min(values.shape), f"min{values.shape}")
    checked_seed(seed)
    if values.min() < 0:
        place = np.unravel_index(values.argmin(), values.shape)
        raise InputError(
            f"matrix: entry [{', '.join(map(str, place))}] is {values.min()}; non-negative factors need entries ≥ 0"
        )
    if (largest := float(values.max())) == 0:
        raise InputError("matrix: all entries are 0, which leaves relative errors undefined; pass another matrix")
    if not isinstance(max_iter, int | np.integer) or max_iter < 1:
        raise InputError(f"max_iter: {shown(max_iter)} is out of range; give a whole number of at least 1")
    if not 0 < tol < 1:
        raise InputError(f"tol: {shown(tol)} is out of range; give a number strictly between 0 and 1")
    scaled = values / largest  # the start cuts entries below an absolute 1e-6
    left, right, iterations = _nonnegative_factors(scaled, rank, seed, max_iter, tol)
    decomposition = decomposition or lapack_svd(values)
    epsilon, frobenius_error = _relative_errors(scaled, left, right)
    u, v = decomposition.balanced_factors(rank)
    svd_epsilon, svd_frobenius_error = _relative_errors(scaled, u / largest, v)
    return NonnegativeFactorization(
        left * largest,
        right,
        epsilon,
        frobenius_error,
        svd_epsilon,
        svd_frobenius_error,
        iterations,
        iterations < max_iter or frobenius_error < ROUNDING_LEVEL,
    )


def _basis(name: str, columns: npt.ArrayLike) -> FloatArray:
    """Orthonormal basis of the span of independent columns."""
    matrix = as_matrix(columns, name)
    basis: FloatArray = scipy.linalg.orth(matrix)
    if basis.shape[1] < matrix.shape[1]:
        raise InputError(
            f"{name}: its {matrix.shape[1]} columns span {basis.shape[1]} dimensions; pass independent columns"
        )
    return basis


def _nonnegative_factors(
    values: FloatArray, rank: int, seed: int, max_iter: int, tol: float
) -> tuple[FloatArray, FloatArray, int]:
    from sklearn.decomposition import NMF  # takes a second to load
    from sklearn.exceptions import ConvergenceWarning

    state = int(np.random.SeedSequence(seed).generate_state(1)[0])  # of the 32 bits that it takes
    model = NMF(rank, init="nndsvda", solver="cd", max_iter=max_iter, tol=tol, random_state=state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        left = model.fit_transform(values)
    return left, model.components_.T, int(model.n_iter_)


def _relative_errors(values: FloatArray, left: FloatArray, right: FloatArray) -> tuple[float, float]:
    """Errors of left rightᵀ, relative in the max norm and in the Frobenius norm."""
    errors = values - left @ right.T
    frobenius = float(np.linalg.norm(errors) / np.linalg.norm(values))
    return float(np.abs(errors).max() / np.abs(values).max()), frobenius
