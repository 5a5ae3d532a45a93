"""Refuting an error level: the inequality behind every certified lower bound, checked with its rounding errors.

Let G have rank at most r and max|F − G| ≤ ε. For a polynomial p without constant term the matrix p(G), taken entry by
entry, has rank at most R, the sum of binomial(r + j − 1, j) over the powers j in p: the j-th Hadamard power of
G = U Vᵀ is the product of the symmetric j-th powers of U's rows and V's rows. For weights d, e ≥ 0 and any matrix M,
Eckart and Young then give

    tail_R(M) ≤ ‖M − D p(G) E‖_F ≤ ‖max over the box of |M − d_i e_j t|‖_F,   tail_R(M)² = Σ_{k>R} σ_k(M)²,

where the box [lo_ij, hi_ij] holds p(G)_ij whatever G. A level ε at which the right side is below the left is refuted:
no approximation of rank r reaches it, so it is a lower bound of the best error.
"""

import math
from dataclasses import dataclass

import numpy as np

from pipeline.arrays import FloatArray
from pipeline.svd import lapack_svd

UNIT = float(np.finfo(np.float64).eps) / 2
"""The unit roundoff u."""
_PROMISE = 0.45  # for degree 2
_PROMISE_RATIO = 3.3  # from one degree to the next


@dataclass(frozen=True)
class Box:
    """Ends of an interval for every entry."""

    low: FloatArray
    high: FloatArray


@dataclass(frozen=True)
class HadamardPolynomial:
    """p(t) = T_k((t − centre)/width) less its constant term, applied to every entry; T_k is Chebyshev's polynomial.

    Attributes
    ----------
    degree : int
        k, from 1 to 4; 0 stands for p(t) = t on the matrix as it is.
    centre, width : float
        The Chebyshev interval; a centre of 0 leaves out every other power.

    Notes
    -----
    For k ≥ 1 the rows of G are first divided by their pivots, the entries where |F| is largest in its row. This keeps
    the rank, makes the pivots exactly 1 and the others quotients of intervals; it needs |pivot| > ε.
    """

    degree: int = 0
    centre: float = 0.0
    width: float = 1.0

    @classmethod
    def fitted(
        cls, degree: int, shifted: bool, matrix: FloatArray, level: float, wider: float
    ) -> "HadamardPolynomial | None":
        """Choose `wider` times the interval in which p(G) mostly lies at a level; None where a pivot may vanish."""
        quotients = pivot_quotients(matrix, level)
        if quotients is None:
            return None
        centre = float(np.median(quotients.low + quotients.high)) / 2 if shifted else 0.0
        return cls(degree, centre, wider * float(np.median(quotients.high - quotients.low)) / 2)

    def rank(self, rank: int) -> int:
        """Largest rank of p(G) for G of the given rank."""
        step = 2 if self.centre == 0 else 1
        return sum(math.comb(rank + power - 1, power) for power in range(max(self.degree, 1), 0, -step))

    def centre_and_radius(self, matrix: FloatArray, level: float) -> tuple[FloatArray, FloatArray]:
        """Centre and radius of the box, up to rounding; an infinite radius where a pivot may vanish."""
        if self.degree == 0:
            return matrix, np.full((1, 1), level)
        box = self.box(matrix, level)
        if box is None:
            return matrix, np.full((1, 1), math.inf)
        return (box.low + box.high) / 2, (box.high - box.low) / 2

    def box(self, matrix: FloatArray, level: float) -> Box | None:
        """Enclose p(G) for every G with max|F − G| ≤ level; None where a pivot may vanish.

        Sums, differences and quotients err by a relative u each and are widened by more; T_k is monotone between its
        extrema ±1 at cos(jπ/k), and evaluated with an error below 32 u (1 + 2|t|)^k.
        """
        if self.degree == 0:
            return Box(*_widened(matrix - level, matrix + level))
        quotients = pivot_quotients(matrix, level)
        if quotients is None:
            return None
        low, high = _widened(*((end - self.centre) / self.width for end in (quotients.low, quotients.high)))
        at_low, at_high = _chebyshev(self.degree, low), _chebyshev(self.degree, high)
        least, most = np.minimum(at_low, at_high), np.maximum(at_low, at_high)
        for j in range(1, self.degree):
            extremum = math.cos(j * math.pi / self.degree)
            inside = (low <= extremum + 8 * UNIT) & (high >= extremum - 8 * UNIT)
            if j % 2:
                least[inside] = np.minimum(least[inside], -1.0)
            else:
                most[inside] = np.maximum(most[inside], 1.0)
        at_zero = -self.centre / self.width
        constant = float(_chebyshev(self.degree, np.array(at_zero)))
        reach = np.maximum(np.maximum(np.abs(low), np.abs(high)), abs(at_zero))
        reach = 1 + 2 * reach
        error = 80 * UNIT * math.prod([reach] * self.degree)
        return Box(least - constant - error, most - constant + error)


def _widened(low: FloatArray, high: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Move the ends of intervals outward by more than a relative 4 u."""
    return low - 8 * UNIT * np.abs(low), high + 8 * UNIT * np.abs(high)


def _chebyshev(degree: int, t: FloatArray) -> FloatArray:
    """T_k(t) for k from 1 to 4."""
    if degree == 1:
        return t
    square = t * t
    if degree == 3:
        cubic: FloatArray = t * (4 * square - 3)
        return cubic
    value: FloatArray = 2 * square - 1
    return value if degree == 2 else 2 * value * value - 1


def pivot_quotients(matrix: FloatArray, level: float) -> Box | None:
    """Enclose the rows of G divided by their pivots; None where a pivot may vanish."""
    rows = np.arange(len(matrix))
    columns = np.abs(matrix).argmax(axis=1)
    pivots = matrix[rows, columns][:, np.newaxis]
    if float(np.abs(pivots).min()) <= level * (1 + 4 * UNIT):
        return None
    turned = matrix * np.sign(pivots)
    least, most = np.abs(pivots) - level, np.abs(pivots) + level
    low, high = turned - level, turned + level
    low, high = _widened(np.minimum(low / least, low / most), np.maximum(high / least, high / most))
    low[rows, columns] = high[rows, columns] = 1.0
    return Box(low, high)


def by_welch_bound(size: int, rank: int) -> list[tuple[int, bool]]:
    """Degrees above 1 and whether the interval is shifted, those first that bound the identity best.

    There T_k(G) has a diagonal T_k(1/w) and other entries in [−1, 1]; by Welch's argument its trace is at most
    √R times its Frobenius norm, which bounds w.
    """
    bounds = {}
    for degree in (2, 3, 4):
        for shifted in (False, True):
            count = HadamardPolynomial(degree, float(shifted)).rank(rank)
            if count < 0.97 * size:
                diagonal = math.sqrt(max(1.0, (size - 1) * count / (size - count)))
                bounds[degree, shifted] = math.cosh(math.acosh(diagonal) / degree)
    return sorted(bounds, key=lambda each: bounds[each])


def promising(matrix: FloatArray, rank: int, degree: int, shifted: bool, level: float) -> HadamardPolynomial | None:
    """Polynomial fitted to a level, if the tail of its box's centre is large enough against the radius."""
    polynomial = HadamardPolynomial.fitted(degree, shifted, matrix, level, wider=1.0)
    if polynomial is None:
        return None
    centre, radius = polynomial.centre_and_radius(matrix, level)
    squares = np.linalg.eigvalsh(centre @ centre.T)[: len(matrix) - polynomial.rank(rank)]
    promise = math.sqrt(max(0.0, float(squares.sum()))) / float(np.linalg.norm(radius))
    return polynomial if promise > _PROMISE * _PROMISE_RATIO ** (degree - 2) else None


@dataclass(frozen=True)
class Certificate:
    """What proves a lower bound: a polynomial, weights and a matrix.

    Attributes
    ----------
    polynomial : HadamardPolynomial
    rows : ndarray of shape (n1,)
    columns : ndarray of shape (n2,)
        Weights d and e, which hold numbers of single precision, so that products d_i e_j are exact.
    target : ndarray of shape (n1, n2)
        M.
    """

    polynomial: HadamardPolynomial
    rows: FloatArray
    columns: FloatArray
    target: FloatArray

    def tail(self, rank: int) -> float:
        """Lower bound of tail_R(M) from a computed decomposition M ≈ U S Vᵀ that is not trusted.

        Proof: tail_R changes by at most ‖M − U S Vᵀ‖_F, and σ_k(U S Vᵀ) ≥ σ_min(U) S_k σ_min(V) with
        σ_min(U)² ≥ 1 − ‖UᵀU − I‖_F. A computed product A B of inner dimension k errs by at most
        (k + 2) u ‖A‖_F ‖B‖_F, whatever the order of its sums.
        """
        size = self.polynomial.rank(rank)
        if size >= min(self.target.shape):
            return 0.0
        found = lapack_svd(self.target)
        count = len(found.s)
        rounding = 1.1 * (sum(self.target.shape) + 8) * UNIT
        residual = norm(self.target - (found.u * found.s) @ found.vt)
        residual += rounding * (math.sqrt(count) * norm(found.s[np.newaxis]) + norm(self.target))
        product = 1.0
        for basis in (found.u.T, found.vt):
            defect = norm(basis @ basis.T - np.eye(count)) + rounding * (count + 1)
            product *= max(0.0, 1 - 1.1 * defect)
        tail = norm(found.s[np.newaxis, size:]) * (1 - rounding) * math.sqrt(product)
        return max(0.0, tail - 1.1 * residual)

    def deviation(self, matrix: FloatArray, level: float) -> float:
        """Upper bound of ‖M − D p(G) E‖_F over every G with max|F − G| ≤ level."""
        box = self.polynomial.box(matrix, level)
        if box is None:
            return math.inf
        weights = np.outer(self.rows, self.columns)
        worst = np.maximum(self.target - weights * box.low, weights * box.high - self.target)
        reach = np.maximum(np.abs(box.low), np.abs(box.high))
        reach *= weights
        allowance = 8 * UNIT * (norm(self.target) + norm(reach))
        return (norm(worst) + allowance) * (1 + 1.1 * (sum(matrix.shape) + 8) * UNIT)

    def level(self, matrix: FloatArray, rank: int, guess: float) -> float:
        """Largest level tried that is refuted, from a guess downward; 0 where none is.

        Parameters
        ----------
        matrix : ndarray of shape (n1, n2)
            F, scaled to a max norm in [1/2, 1), so that underflow is far below the allowances.
        rank : int
        guess : float
            About the level at which the inequality turns.
        """
        tail = self.tail(rank)
        for bits in range(46, 0, -2):
            if self.deviation(matrix, guess) < tail:
                return guess
            guess *= 1 - 2.0**-bits
        return 0.0


def norm(array: FloatArray) -> float:
    """Frobenius norm, summed row by row: its relative error is below (n1 + n2 + 4) u."""
    return float(np.sqrt(np.square(np.sqrt(np.square(array).sum(axis=1))).sum()))
