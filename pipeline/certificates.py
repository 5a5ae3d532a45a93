"""Certified lower bounds of the max-norm error of every approximation of rank at most r."""

import math
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from pipeline.arithmetic import own_state
from pipeline.arrays import FloatArray, MatrixLike, as_matrix
from pipeline.errors import InputError, shown
from pipeline.hadamard_bounds import Certificate, HadamardPolynomial, by_welch_bound, promising
from pipeline.svd import Decomposition, Decompositions, SVDSettings, lapack_svd

_ROUNDING = 4 * float(np.finfo(np.float64).eps)
_UNDERFLOW = 1e-302  # nothing is proved from singular values that may have lost digits to underflow
_MOST_ENTRIES = 1500**2
_FEWEST = 15  # iterations, below which a smaller block is taken …
_SMALLER = math.sqrt(0.5)  # … with sides by this factor
_STEP = 4.0  # λ of the Douglas–Rachford iterations
_RELAXATION = 1.5
_URGE = 1.5  # the power in the steps on the weights falls from 1 + this to 1 …
_CALM = 0.9  # … by this factor a step
_SMALLEST_WEIGHT = 1e-6
_PATIENCE = 20  # iterations without progress
_WIDER = (1.06, 1.03, 1.12, 1.015)  # of the interval in which a polynomial is bounded
_FIRST = 8  # iterations with p(t) = t before polynomials of higher degree are tried
_POLYNOMIAL_COST = 2.2  # of one of their iterations, in plain ones
_GAIN = 1.08  # beyond what more plain iterations would reach


RELIANCE = "where singular values alone give it, LAPACK's backward stability is trusted"
"""What a lower bound rests on that is not verified, for descriptions of quantities."""


class CertificateSettings(BaseModel):
    """How lower bounds are found.

    Attributes
    ----------
    bound : {"best", "tail"}
        "tail" needs the singular values only and trusts LAPACK with them; "best" is never below it and costs more. What
        "best" gains beyond it is verified afresh with every rounding error.
    iterations : "auto" or int
        Upper limit for the iterations of "best". "auto" stands for what takes one to two times a default run of the
        minimax method, from a count of the operations of both, but at most 100; for small ranks of large matrices a
        leading block is worked on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bound: Literal["best", "tail"] = "best"
    iterations: Literal["auto"] | Annotated[int, Field(ge=0, le=100_000, strict=True)] = "auto"

    def plan(self, shape: tuple[int, int], rank: int) -> tuple[int, int, int]:
        """Rows and columns of the leading block that is worked on, and the iterations it gets.

        One iteration costs about 3e-4 + 4e-8 n1 n2 + 1.9e-10 n1² n2 seconds (n1 ≤ n2: overhead, passes over the
        entries, eigenvectors of a Gram matrix), what is outside them five times that. The minimax method takes
        0.06 + (1.4e-6 + 6e-8 r) n1 n2 seconds, three quarters of that where the matrix is symmetric. Where fewer than
        15 iterations are allowed, more of them on a smaller block give more. Of a wide or tall matrix (the unfolding of
        a tensor) with more entries than one of order 1500, a narrower block is taken, since some 20 such arrays are
        held.
        """
        side = max(min(shape), _MOST_ENTRIES // min(shape))
        rows, columns = min(shape[0], side), min(shape[1], side)
        if self.iterations != "auto":
            return rows, columns, self.iterations
        allowed = 0.03 + rows * columns * (2e-6 + 9e-8 * rank)
        while min(rows, columns) > rank:
            short, long = sorted((rows, columns))
            one = 3e-4 + 4e-8 * short * long + 1.9e-10 * short**2 * long
            if (iterations := int(allowed / one) - 5) >= _FEWEST:
                return rows, columns, min(iterations, 100)
            rows, columns = int(rows * _SMALLER), int(columns * _SMALLER)
        return *shape, 0


def tail_bound(decomposition: Decomposition, rank: int) -> float:
    """Lower bound from the singular values beyond the rank.

    Proof: for G of rank ≤ r, Eckart and Young give Σ_{k>r} σ_k² ≤ ‖F − G‖_F² ≤ n1 n2 ‖F − G‖_max². The computed
    singular values are off by at most a small multiple of (n1 + n2) u ‖F‖_F in the 2-norm of their vector, which is
    taken off. That is LAPACK's backward stability, which is relied on here alone: to verify a decomposition, its
    residual and the orthogonality of both bases, takes 4 n³ operations, a quarter of its time.

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
    if largest < _UNDERFLOW:
        return 0.0
    s = s / largest  # its squares neither overflow nor vanish
    tail = float(np.linalg.norm(s[rank:])) - _ROUNDING * (n1 + n2) * float(np.linalg.norm(s))
    return math.nextafter(max(0.0, tail * (1 - _ROUNDING)) / math.sqrt(n1 * n2) * largest, 0.0)


@own_state()
def lower_bound(matrix: MatrixLike, rank: int, bound: Literal["best", "tail"] = "best") -> float:
    """Certified lower bound of min max|F − G| over all G of rank at most r.

    Parameters
    ----------
    matrix : array_like of shape (n1, n2) or FunctionMatrix
        F, real and finite.
    rank : int
        r ≥ 1.
    bound : {"best", "tail"}
        The best known bound, or the cheap one from the singular values, which rests on LAPACK's backward stability, as
        the other does where it is no better.

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
    0.5
    """
    values = as_matrix(matrix)
    settings = CertificateSettings(bound=checked_bound(bound))
    if not isinstance(rank, int | np.integer) or isinstance(rank, bool) or rank < 1:
        raise InputError(f"rank: {shown(rank)} is not a positive integer")
    return certified_bound(Decompositions(values, SVDSettings(driver="lapack")), int(rank), settings)


def checked_bound(bound: object) -> Literal["best", "tail"]:
    """Return a kind of lower bound, or one clear line."""
    if bound == "best" or bound == "tail":
        return bound
    raise InputError(f"bound: {shown(bound)} is not known; use 'best' or 'tail'")


def certified_bound(decompositions: Decompositions, rank: int, settings: CertificateSettings) -> float:
    """Certified lower bound of min max|F − G| for a matrix whose decompositions are at hand.

    The largest level ε that is refuted by the inequality of `pipeline.hadamard_bounds`: for rank G ≤ r, max|F − G| ≤ ε
    and any weights d, e ≥ 0 and matrix M = D W E,

        tail_R(D W E)² ≤ Σ d_i² e_j² (|W_ij − centre_ij| + radius_ij)²    (Eckart–Young for D p(G) E, of rank ≤ R).

    With p(t) = t (centre F, radius ε, R = r: bound U) the weights 1 and W = F give the tail bound, other weights the
    scaled tails, multiples of a fixed W the trace and Welch bounds. Polynomials of degree 2 to 4 of the rows divided by
    their pivots (bound P) help near the identity. W, d and e are searched for; whatever they are, the bound holds.

    Parameters
    ----------
    decompositions : Decompositions
        Of F; the bound of a leading block is one for F, since rank and max norm do not grow in a submatrix.
    rank : int
        r ≥ 1.
    settings : CertificateSettings

    Returns
    -------
    float
        In the units of the matrix; never below the tail bound. Where it is above that it is verified; where it is that
        bound, it rests on LAPACK's backward stability.
    """
    tail = tail_bound(decompositions.for_bound(), rank)
    if settings.bound == "tail" or tail == 0:
        return tail
    whole = decompositions.bound_values()
    rows, columns, iterations = settings.plan((whole.shape[0], whole.shape[1]), rank)
    matrix = whole[:rows, :columns]
    start = tail if matrix.shape == whole.shape else tail_bound(lapack_svd(matrix), rank)
    if iterations == 0 or start == 0:
        return tail
    exponent = math.frexp(float(np.abs(matrix).max()))[1]
    scaled = np.ldexp(matrix if len(matrix) <= matrix.shape[1] else matrix.T, -exponent)
    found = _search(scaled, rank, math.ldexp(start, -exponent), iterations)
    level = found.certificate.level(scaled, rank, found.level)
    return max(tail, math.nextafter(math.ldexp(level, exponent), 0.0))


def _search(matrix: FloatArray, rank: int, start: float, iterations: int) -> "_Ascent":
    """Share the iterations between p(t) = t and the polynomials of higher degree that promise more."""
    plain = _Ascent(matrix, rank, HadamardPolynomial(), start)
    left = iterations - plain.run(min(_FIRST, iterations))
    best = plain
    for degree, shifted in by_welch_bound(len(matrix), rank):
        if left <= _POLYNOMIAL_COST:
            break
        left -= 1
        polynomial = promising(matrix, rank, degree, shifted, best.level)
        if polynomial is not None:
            ascent = _Ascent(matrix, rank, polynomial, best.level)
            left -= math.ceil(_POLYNOMIAL_COST * ascent.run(int(left / _POLYNOMIAL_COST)))
            best = max(best, ascent, key=lambda each: each.level)
    if best.level < _GAIN * plain.level:
        plain.run(left)
    return max(plain, best, key=lambda each: each.level)


class _Ascent:
    """Douglas–Rachford iterations on M and multiplicative steps on the weights.

    For given weights and level the certificate gains most at the M that maximises the concave function
    −K_R(M)²/2 + <M, C> − <|M − C|, ρ>, with C and ρ the weighted centre and radius of the box and
    K_R(M)² = ‖M‖_F² − tail_R(M)². Every iterate is a certificate, and the level rises to the best one's. The search
    may be inexact: what it finds is certified afresh. It starts from a positive level known to be refuted.
    """

    def __init__(self, matrix: FloatArray, rank: int, polynomial: HadamardPolynomial, level: float) -> None:
        self.level = self._fitted_at = level
        self._matrix, self._polynomial, self._rank = matrix, polynomial, polynomial.rank(rank)
        self._rows, self._columns = np.ones(matrix.shape[0]), np.ones(matrix.shape[1])
        self._weights = np.ones(matrix.shape)
        self.certificate = Certificate(polynomial, self._rows, self._columns, matrix)
        self._shadow: FloatArray | None = None
        self._size = self._trust = 1.0
        self._urge = _URGE

    def run(self, iterations: int) -> int:
        """Iterate until the level stagnates; return the number of iterations."""
        idle = 0
        for count in range(iterations):
            self._refit(idle)
            centre, radius = self._polynomial.centre_and_radius(self._matrix, self.level)
            if not math.isfinite(float(np.max(radius))):
                return count
            level = self.level
            self._step(self._weights * centre, self._weights * radius)
            idle = 0 if self.level > level * (1 + 1e-9) else idle + 1
            if idle == _PATIENCE:
                return count + 1
        return iterations

    def _refit(self, idle: int) -> None:
        """Fit a polynomial's interval to a level that has risen; try other widths at one that has not."""
        if self._polynomial.degree == 0 or (self.level <= 1.003 * self._fitted_at and idle % 3 != 2):
            return
        shifted, wider = self._polynomial.centre != 0, _WIDER[(idle + 1) // 3 % len(_WIDER)]
        fitted = HadamardPolynomial.fitted(self._polynomial.degree, shifted, self._matrix, self.level, wider)
        if fitted is not None:
            self._polynomial, self._fitted_at = fitted, self.level

    def _step(self, centre: FloatArray, radius: FloatArray) -> None:
        size = float(np.linalg.norm(centre))
        first = self._shadow is None
        shadow = centre.copy() if self._shadow is None else self._shadow
        if self._polynomial.degree > 0 and not first:
            shadow *= size / self._size  # a polynomial fitted anew has other units
        self._size = size
        inner = shadow + _STEP * centre
        left, s, x, share = _shrunk(inner, self._rank)
        right = left.T @ inner
        point = inner - (left * (1 - x / s)) @ right
        squares = float(np.vdot(point, point)) - float(np.sum(x[: self._rank] ** 2))
        deviation = point - centre
        reflected = deviation + point - shadow
        np.abs(deviation, out=deviation)
        self._raise_level(point, deviation, radius, squares)
        reflected -= np.clip(reflected, -_STEP * radius, _STEP * radius)
        shadow += _RELAXATION * (reflected + centre - point)
        self._shadow = shadow
        if not first:
            deviation += radius
            top = share * x**2
            self._reweight(point, deviation, np.square(left) @ top, (top / s**2) @ np.square(right))

    def _raise_level(self, point: FloatArray, deviation: FloatArray, radius: FloatArray, squares: float) -> None:
        """Raise the level to where this M turns: the root of a quadratic, for radii that are multiples of the level."""
        a = float(np.vdot(radius, radius))
        b = float(np.vdot(radius, deviation))
        c = float(np.vdot(deviation, deviation)) - squares
        if not 0 <= a + 2 * b < -c:
            return
        root = self.level * min(-c / (b + math.sqrt(b * b - a * c)), 1.3)
        trial = Certificate(self._polynomial, self._rows, self._columns, point)
        if self._polynomial.degree > 0:  # the radii grow faster
            rise = root - self.level
            for _ in range(3):
                root = self.level + self._trust * rise
                if trial.deviation(self._matrix, root) ** 2 < squares:
                    self._trust = min(1.0, 1.5 * self._trust)
                    break
                self._trust /= 2
            else:
                return
        if root > self.level:
            self.level, self.certificate = root, trial

    def _reweight(self, point: FloatArray, bound: FloatArray, top_rows: FloatArray, top_columns: FloatArray) -> None:
        """Weigh those rows and columns more whose share of the tail is above that of its bound.

        At the best weights both are equal. The weights are numbers of single precision.
        """
        power = 1 + self._urge if self._polynomial.degree == 0 else 0.25
        self._urge *= _CALM
        weights = []
        tails, bounds = np.square(point), np.square(bound)
        for old, axis, top in ((self._rows, 1, top_rows), (self._columns, 0, top_columns)):
            ratio = np.maximum(tails.sum(axis=axis) - top, 0) / np.maximum(bounds.sum(axis=axis), 1e-300)
            new = np.maximum(old * np.clip(ratio**power, 0.5, 2), _SMALLEST_WEIGHT)
            weights.append((new / math.sqrt(np.mean(new**2))).astype(np.float32).astype(np.float64))
        products = np.outer(*weights)
        if self._shadow is not None:
            self._shadow *= products / self._weights
        self._size *= float(np.linalg.norm(products)) / float(np.linalg.norm(self._weights))
        self._rows, self._columns, self._weights = weights[0], weights[1], products


def _shrunk(matrix: FloatArray, rank: int) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Singular values of the proximal point of λ K_r²/2.

    The r largest are divided by 1 + λ; then smaller ones among them rise to an edge, larger ones among the others fall
    to it. Returned are the left vectors (n1 × k) of the k values that change or are among the r largest, these values
    before and after (k,), and the part of each direction, between 0 and 1, that counts among the r largest (k,).
    """
    values, vectors = np.linalg.eigh(matrix @ matrix.T)
    s = np.sqrt(np.maximum(values[::-1], 1e-300))
    top, rest = s[:rank] / (1 + _STEP), s[rank:]
    grid = np.sort(np.concatenate([top, rest]))[:, np.newaxis]
    raised = (1 + _STEP) * np.maximum(grid - top, 0).sum(axis=1)
    lowered = np.maximum(rest - grid, 0).sum(axis=1)
    edge = float(np.interp(0.0, raised - lowered, grid[:, 0]))
    count = max(rank, int(np.count_nonzero(s > edge)))
    before = s[:count]
    after = np.minimum(before, edge)
    after[:rank] = np.maximum(top, edge)
    share = np.clip((before - after) / (_STEP * after), 0, 1)
    return vectors[:, ::-1][:, :count], before, after, share
