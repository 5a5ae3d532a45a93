"""Tensor trains G(i_1, …, i_d) = A_1(i_1) A_2(i_2) … A_d(i_d) and the truncated decomposition of a tensor as one.

The format and TT-SVD are those of Oseledets, "Tensor-train decomposition", 2011. A train of d cores is also a matrix
in factored form, for each bond k that cuts it in two: the unfolding with the first k modes as rows equals
left @ right.T, with the left interface (n_1 … n_k × r_k) and the right interface (n_{k+1} … n_d × r_k).
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

import numpy as np

from pipeline.arrays import RealArray
from pipeline.svd import Decomposition, lapack_svd, orthonormal

Cores: TypeAlias = tuple[RealArray, ...]
"""Cores A_k of shape (r_{k-1}, n_k, r_k) with r_0 = r_d = 1."""


def unfolding(tensor: RealArray, bond: int) -> RealArray:
    """Matrix of a C-ordered tensor with the first `bond` modes as rows; a view."""
    return tensor.reshape(math.prod(tensor.shape[:bond]), -1)


def bond_ranks(shape: Sequence[int], rank: int) -> list[int]:
    """TT ranks r_1, …, r_{d-1}: `rank`, or less where an unfolding has fewer rows or columns."""
    bonds = range(1, len(shape))
    return [min(rank, math.prod(shape[:bond]), math.prod(shape[bond:])) for bond in bonds]


def middle_bond(shape: Sequence[int]) -> int:
    """The bond whose unfolding has the fewest rows and columns together; of two the one with more rows."""
    bonds = reversed(range(1, len(shape)))
    return min(bonds, key=lambda bond: math.prod(shape[:bond]) + math.prod(shape[bond:]))


def left_interfaces(cores: Sequence[RealArray]) -> list[RealArray]:
    """Left interfaces of the bonds after each core, shapes (n_1 … n_k, r_k)."""
    found: list[RealArray] = []
    for core in cores:
        before = found[-1] if found else np.ones((1, 1), core.dtype)
        found.append((before @ core.reshape(core.shape[0], -1)).reshape(-1, core.shape[2]))
    return found


def right_interfaces(cores: Sequence[RealArray]) -> list[RealArray]:
    """Transposed right interfaces of the bonds before each core, shapes (r_{k-1}, n_k … n_d)."""
    found: list[RealArray] = []
    for core in reversed(cores):
        after = found[-1] if found else np.ones((1, 1), core.dtype)
        found.append((core.reshape(-1, core.shape[2]) @ after).reshape(core.shape[0], -1))
    return found[::-1]


def interfaces(cores: Sequence[RealArray], bond: int) -> tuple[RealArray, RealArray]:
    """Left (n_1 … n_k × r_k) and right (n_{k+1} … n_d × r_k) interface of a bond."""
    return left_interfaces(cores[:bond])[-1], right_interfaces(cores[bond:])[0].T


def whole(cores: Sequence[RealArray]) -> RealArray:
    """All entries of the unfolding at the middle bond."""
    left, right = interfaces(cores, middle_bond(tuple(core.shape[1] for core in cores)))
    return left @ right.T


def random_train(shape: Sequence[int], rank: int, random: np.random.Generator) -> Cores:
    """Gaussian cores with variances 1/r, 1/r², …, 1/r (Budzinskiy, section 7.1)."""
    sizes = [1, *bond_ranks(shape, rank), 1]
    return tuple(
        random.standard_normal((before, n, after)) / math.sqrt(before * after)
        for (before, after), n in zip(pairwise(sizes), shape, strict=True)
    )


def right_orthogonal(cores: Sequence[RealArray]) -> Cores:
    """The same tensor in cores whose right interfaces, but for the first core's, have orthonormal columns."""
    found, rest = [], cores[-1]
    for before in reversed(cores[:-1]):
        q, r = np.linalg.qr(rest.reshape(rest.shape[0], -1).T)
        found.append(q.T.reshape(-1, *rest.shape[1:]))
        rest = before @ r.T
    return (rest, *found[::-1])


def canonical(cores: Sequence[RealArray]) -> tuple[Cores, list[RealArray]]:
    """The same tensor in cores with orthonormal left interfaces, but for the last, and its singular values by bond."""
    first, *others = right_orthogonal(cores)
    found, values = [], []
    rest = first
    for core in others:
        u, s, vt = np.linalg.svd(rest.reshape(-1, rest.shape[2]), full_matrices=False)
        found.append(u.reshape(*rest.shape[:2], -1))
        values.append(s)
        rest = ((s[:, None] * vt) @ core.reshape(core.shape[0], -1)).reshape(-1, *core.shape[1:])
    return (*found, rest), values


def scaled(cores: Sequence[RealArray], factor: float) -> Cores:
    """Cores of `factor` ≥ 0 times the tensor, each with its share of it."""
    return tuple(core * factor ** (1 / len(cores)) for core in cores)


def tt_svd(tensor: RealArray, rank: int, first: Decomposition | None = None) -> Cores:
    """Truncated decomposition as a tensor train (Oseledets 2011, algorithm 1).

    Its Frobenius error is at most √(d − 1) times the least one of a train of these ranks (ibid., corollary 2.4).

    Parameters
    ----------
    tensor : ndarray of shape (n_1, …, n_d)
        C-ordered.
    rank : int
        Largest TT rank.
    first : Decomposition, optional
        Of the first unfolding, which serves every rank.

    Returns
    -------
    tuple of ndarray
        Cores, all but the last with orthonormal left interfaces.
    """
    shape = tensor.shape
    cores: list[RealArray] = []
    rest = unfolding(tensor, 1)
    for k, after in enumerate(bond_ranks(shape, rank)):
        found = first if k == 0 and first is not None else lapack_svd(rest)
        after = min(after, len(found.s))
        cores.append(found.u[:, :after].reshape(-1, shape[k], after))
        rest = (found.s[:after, None] * found.vt[:after]).reshape(after * shape[k + 1], -1)
    return (*cores, rest.reshape(-1, shape[-1], 1))


def from_left(tensor: RealArray, cores: Sequence[RealArray]) -> Cores:
    """One sweep of subspace iteration: cores of a quasi-best train, from one with orthonormal right interfaces.

    The orthonormal basis of each unfolding's columns is taken of its product with the right interface, within the span
    of the basis before it, and the last core is the projection on it; at order 2 this is subspace iteration for the
    truncated SVD. The whole tensor takes part in two products, with the last core and with the last basis.

    Returns
    -------
    tuple of ndarray
        With orthonormal left interfaces.
    """
    last = unfolding(tensor, tensor.ndim - 1)
    products = [last @ cores[-1].reshape(-1, tensor.shape[-1]).T]
    for core in reversed(cores[1:-1]):
        contracted = core.reshape(core.shape[0], -1)
        products.append(products[-1].reshape(-1, contracted.shape[1]) @ contracted.T)
    found: list[RealArray] = []
    left = np.ones((1, 1), tensor.dtype)
    for core, product in zip(cores, reversed(products), strict=False):
        basis = orthonormal((left.T @ product.reshape(len(left), -1)).reshape(-1, core.shape[2]))
        found.append(basis.reshape(core.shape))
        left = (left @ basis.reshape(core.shape[0], -1)).reshape(-1, core.shape[2])
    return (*found, (left.T @ last).reshape(cores[-1].shape))


def from_right(tensor: RealArray, cores: Sequence[RealArray]) -> Cores:
    """The same as `from_left` from the other end, from a train with orthonormal left interfaces to one with right."""
    first = unfolding(tensor, 1)
    products = [cores[0].reshape(len(first), -1).T @ first]
    for core in cores[1:-1]:
        contracted = core.reshape(-1, core.shape[2])
        products.append(contracted.T @ products[-1].reshape(len(contracted), -1))
    found: list[RealArray] = []
    right = np.ones((1, 1), tensor.dtype)
    for core, product in zip(reversed(cores), reversed(products), strict=False):
        basis = orthonormal((product.reshape(-1, right.shape[1]) @ right.T).reshape(core.shape[0], -1).T)
        found.append(basis.T.reshape(core.shape))
        right = (basis.T.reshape(-1, core.shape[2]) @ right).reshape(core.shape[0], -1)
    return ((first @ right.T).reshape(cores[0].shape), *found[::-1])
