"""Formulas of the generating functions, evaluated on all combinations of point sets."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import scipy.special
from scipy.spatial.distance import cdist

from pipeline.arrays import FloatArray

_DIRECT_DIMENSION = 7  # up to here direct differences cost no more than the product formula, where many pairs are close
_CLOSE = 1e-2  # squared distances below this share of ‖x‖² + ‖y‖² are recomputed from differences
_GATHER_BYTES = 8 * 2**20

EntryFunction = Callable[..., FloatArray]


def squared_distances(x: FloatArray, y: FloatArray) -> FloatArray:
    """Squared Euclidean distances between all pairs, accurate for close points.

    In many dimensions ‖x‖² + ‖y‖² − 2 x·y costs one matrix product but cancels for close points; those pairs are
    recomputed from differences, so equal points are at distance exactly zero.

    Parameters
    ----------
    x : ndarray of shape (n1, m)
    y : ndarray of shape (n2, m)

    Returns
    -------
    ndarray of shape (n1, n2)
    """
    m = x.shape[1]
    if m <= _DIRECT_DIMENSION:
        return cdist(x, y, "sqeuclidean")
    scale = np.add.outer(np.einsum("ij,ij->i", x, x), np.einsum("ij,ij->i", y, y))
    squares: FloatArray = x @ (-2.0 * y).T
    squares += scale
    if squares.min(initial=np.inf) >= _CLOSE * scale.max(initial=0.0):
        return squares
    scale *= _CLOSE
    close_x, close_y = np.nonzero(squares < scale)
    step = max(1, _GATHER_BYTES // (8 * m))
    for start in range(0, len(close_x), step):
        i, j = close_x[start : start + step], close_y[start : start + step]
        difference = x[i] - y[j]
        squares[i, j] = np.einsum("ij,ij->i", difference, difference)
    return squares


def multilinear_product(*points: FloatArray) -> FloatArray:
    """Multilinear products of all combinations of points, sums over a of x_a y_a z_a … (Budzinskiy, section 6).

    Parameters
    ----------
    *points : ndarray of shape (n_k, m)
        Two or more point sets.

    Returns
    -------
    ndarray of shape (n_1, n_2, …)

    Examples
    --------
    >>> import numpy as np
    >>> multilinear_product(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0]]), np.array([[5.0, 6.0], [1.0, 1.0]]))
    array([[[63., 11.]]])
    """
    first, second, *others = points
    if not others:
        product: FloatArray = first @ second.T
        return product
    return np.stack([multilinear_product(point * second, *others) for point in first])


def of_distance(profile: Callable[[FloatArray], FloatArray]) -> EntryFunction:
    """Make f(x, y) = profile(‖x − y‖² / scale²), which may be computed in place."""

    def entries(x: FloatArray, y: FloatArray, *, scale: float = 1.0) -> FloatArray:
        squares = squared_distances(x, y)
        if scale != 1.0:
            squares /= scale**2
        return profile(squares)

    return entries


def exp_of_minus(exponents: FloatArray) -> FloatArray:
    """exp(−t), computed in place."""
    np.negative(exponents, out=exponents)
    return np.exp(exponents, out=exponents)


def of_product(profile: Callable[[FloatArray], FloatArray]) -> EntryFunction:
    """Make f(x, y, …) = profile(sum of x_a y_a …), which may be computed in place."""
    return lambda *points: profile(multilinear_product(*points))


def attention(*points: FloatArray) -> FloatArray:
    """exp(<q, k, …>/√m) with q = √m x, k = √m y and so on."""
    product = multilinear_product(*points)
    product *= np.sqrt(points[0].shape[1]) ** (len(points) - 1)
    return np.exp(product, out=product)


def polynomial(x: FloatArray, y: FloatArray, *, degree: int = 2, offset: float = 1.0) -> FloatArray:
    """(offset + x·y)^degree."""
    product = multilinear_product(x, y)
    product += offset
    product **= degree
    return product


def exponential_polynomial(x: FloatArray, y: FloatArray, *, degree: int = 2, offset: float = 0.0) -> FloatArray:
    """exp((offset + x·y)^degree)."""
    power = polynomial(x, y, degree=degree, offset=offset)
    np.exp(power, out=power)
    return power


def piecewise(x: FloatArray, y: FloatArray, *, pieces: int = 2) -> FloatArray:
    """exp(−(1 + |a − b|) |x − y|²), a and b the parts of a quadrant that x and y lie in by their first coordinates."""
    steps = np.abs(np.subtract.outer(_parts(x, pieces), _parts(y, pieces)))
    return exp_of_minus((1.0 + steps) * squared_distances(x, y))


def _parts(points: FloatArray, pieces: int) -> npt.NDArray[np.intp]:
    """Number 0, …, pieces − 1 of the sector of a quadrant; of one coordinate alone, of the part of a unit interval."""
    alone = points.shape[1] == 1
    turns = points[:, 0] if alone else np.arctan2(points[:, 1], points[:, 0]) / (np.pi / 2)
    return np.minimum((turns % 1.0 * pieces).astype(np.intp), pieces - 1)


def minimum_graphon(x: FloatArray, y: FloatArray) -> FloatArray:
    """Mean over the coordinates of min(x_a, y_a), by which uniform attachment grows (Lovász 2012, section 11.4)."""
    total = np.zeros((len(x), len(y)))
    for a in range(x.shape[1]):
        total += np.minimum.outer(x[:, a], y[:, a])
    total /= x.shape[1]
    return total


def block_graphon(
    x: FloatArray, y: FloatArray, *, blocks: int = 3, within: float = 0.8, between: float = 0.2
) -> FloatArray:
    """Probability `within` where the first coordinates share one of equal parts of [0, 1], else `between`."""
    first, second = (np.clip((points[:, 0] * blocks).astype(np.intp), 0, blocks - 1) for points in (x, y))
    return np.where(np.equal.outer(first, second), within, between)


def block_softmax(x: FloatArray, y: FloatArray, *, side: int = 4) -> FloatArray:
    """Softmax over each block of side × side inner products; blocks at the border are smaller."""
    product = multilinear_product(x, y)
    rows, cols = (np.arange(0, length, side) for length in product.shape)
    tops = np.maximum.reduceat(np.maximum.reduceat(product, rows, axis=0), cols, axis=1)
    product -= _repeated(tops, product.shape, side)
    np.exp(product, out=product)
    totals = np.add.reduceat(np.add.reduceat(product, rows, axis=0), cols, axis=1)
    product /= _repeated(totals, product.shape, side)
    return product


def _repeated(blocks: FloatArray, shape: tuple[int, ...], side: int) -> FloatArray:
    """One value a block, given to each of its entries."""
    return np.repeat(np.repeat(blocks, side, axis=0), side, axis=1)[: shape[0], : shape[1]]


def white_noise(x: FloatArray, y: FloatArray) -> FloatArray:
    """Independent standard normal entries for distinct points: a function that mixes all bits of the points."""
    with np.errstate(over="ignore"):
        mixed = _mixed(_keys(x)[:, None] ^ _mixed(_keys(y) + _GOLDEN)[None, :])
    uniform = ((mixed >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    normal: FloatArray = scipy.special.ndtri(uniform)
    return normal


_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Finalizer of SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _keys(points: FloatArray) -> npt.NDArray[np.uint64]:
    """A key for each point, of all bits of its coordinates."""
    keys = np.zeros(len(points), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for bits in np.ascontiguousarray(points + 0.0).view(np.uint64).T:
            keys = _mixed((keys ^ bits) + _GOLDEN)
    return keys
