"""Certified lower bounds of the max-norm error of every approximation of rank at most r."""

import math

import numpy as np
import numpy.typing as npt

from pipeline.arrays import as_matrix
from pipeline.errors import InputError
from pipeline.svd import Decomposition, lapack_svd

_ROUNDING = 4 * float(np.finfo(np.float64).eps)


def tail_bound(decomposition: Decomposition, rank: int) -> float:
    """Lower bound from the singular values beyond the rank.

    Proof: for G of rank ≤ r, Eckart and Young give Σ_{k>r} σ_k² ≤ ‖F − G‖_F² ≤ n1 n2 ‖F − G‖_max². The computed
    singular values are off by at most a small multiple of (n1 + n2) u ‖F‖_F in the 2-norm of their vector, which is
    taken off.

    Parameters
    ----------
    decomposition : Decomposition
        A complete one.
    rank : int

    Returns
    -------
    float
        In the units of the matrix; 0 where the bound says nothing.
    """
    n1, n2 = len(decomposition.u), int(decomposition.vt.shape[1])
    s = decomposition.s
    largest = float(s[0])
    if largest == 0:
        return 0.0
    s = s / largest  # its squares neither overflow nor vanish
    tail = float(np.linalg.norm(s[rank:])) - _ROUNDING * (n1 + n2) * float(np.linalg.norm(s))
    return max(0.0, tail * (1 - _ROUNDING)) / math.sqrt(n1 * n2) * largest


def lower_bound(matrix: npt.ArrayLike, rank: int) -> float:
    """Certified lower bound of min max|F − G| over all G of rank at most r.

    Parameters
    ----------
    matrix : array_like of shape (n1, n2)
        F, real and finite.
    rank : int
        r ≥ 1.

    Returns
    -------
    float
        In the units of the matrix; 0 for r ≥ min(n1, n2).

    Raises
    ------
    InputError
        If the matrix is not real, finite and two-dimensional, or the rank is below 1.

    Examples
    --------
    >>> import numpy as np
    >>> round(lower_bound(np.eye(4), 1), 6)
    0.433013
    """
    values = as_matrix(matrix)
    if not isinstance(rank, int | np.integer) or isinstance(rank, bool) or rank < 1:
        raise InputError(f"rank: {rank!r} is not a positive integer")
    return tail_bound(lapack_svd(values), rank)
