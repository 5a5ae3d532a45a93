"""Random embeddings: A Bᵀ is near (A R)(B R)ᵀ with R Gaussian, the proof of Budzinskiy's Theorem 1.3 carried out.

How near follows from the rows of A and B alone, which are features of the points: where a function has features in
closed form, even infinitely many, F itself is not needed.
"""

from collections.abc import Callable
from itertools import combinations_with_replacement
from math import comb, factorial, inf, log, prod, sqrt
from typing import Annotated, Literal

import numpy as np
import scipy.linalg
import scipy.special
from pydantic import BaseModel, ConfigDict, Field

from pipeline.arrays import FloatArray, Matrix, entries_of
from pipeline.errors import InputError
from pipeline.functions import BUILT_IN
from pipeline.matrix import FunctionMatrix
from pipeline.sampling import stream
from pipeline.svd import Decomposition, lapack_svd

Features = Literal["factorization", "fourier", "taylor"]
Embedding = tuple[FloatArray, FloatArray, float]

_STREAM_KEYS: dict[Features, int] = {"factorization": 1, "fourier": 2, "taylor": 3}
_EPS = float(np.finfo(np.float64).eps)
_LARGEST_EXPONENT = 300.0
_HIGHEST_DEGREE = 100  # powers and factorials of these stay finite
_SMALLEST_WEIGHT = 1e-3  # of the rows' root mean square; its inverse is the most by which rounding grows
_NEAR_OPTIMAL = 1.01

CLOSED_FORMS: dict[str, list[Features]] = {  # the first is the one that "auto" takes
    "exponential": ["fourier"],
    "gaussian": ["fourier", "taylor"],
    "cauchy": ["fourier"],
    "inner_product": ["taylor"],
    "attention": ["taylor", "fourier"],
}

# a and c of exp(−c|x|²) exp(a x·y) exp(−c|y|²) = exp((a/2 − c)|x|²) exp(−a|x − y|²/2) exp((a/2 − c)|y|²)
_EXPONENTIALS: dict[str, Callable[[int], tuple[float, float]]] = {
    "attention": lambda m: (sqrt(m), 0.0),
    "gaussian": lambda m: (2.0, 1.0),
}

# A frequency is a normal vector times a length of its own: so is the spectral measure of every kernel of |x − y| that
# is positive definite in all dimensions (Schoenberg, "Metric spaces and completely monotone functions", 1938).
_LENGTHS: dict[str, Callable[[np.random.Generator, int], FloatArray]] = {
    "exponential": lambda random, count: 1.0 / np.abs(random.standard_normal(count)),  # multivariate Cauchy
    "cauchy": lambda random, count: np.sqrt(2.0 * random.standard_exponential(count)),  # multivariate Laplace
}


class EmbeddingSettings(BaseModel):
    """Which factors A and B are embedded.

    Attributes
    ----------
    features : {"auto", "factorization", "fourier", "taylor"}
        "auto" takes Fourier features for shift-invariant kernels, Taylor features for functions of the inner product,
        and a factorization of F for any other matrix.
    reweightings : int
        Most decompositions spent on a factorization with shorter rows than the balanced one.
    gram_limit : int
        Most points (n1 + n2, or n where y_i = x_i) whose Gram matrix is made for Taylor features; beyond it "auto"
        takes Fourier features. The work needs four arrays of its size.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    features: Literal["auto", "factorization", "fourier", "taylor"] = "auto"
    reweightings: Annotated[int, Field(ge=0, le=1000, strict=True)] = 4
    gram_limit: Annotated[int, Field(ge=1, strict=True)] = 6000


def promised_epsilon(n1: int, n2: int, rank: int) -> float:
    """Return the ε for which a Gaussian R gives max|F − G| ≤ ε max‖a_i‖ max‖b_j‖.

    Where r > 9 log(3 n1 n2) it is the ε of r = ⌈9 log(3 n1 n2)/ε²⌉ (Budzinskiy, Theorem 1.3). By Chernoff's bound for
    an entry, whose worst case is a_i parallel to b_j, R fails with probability at most
    2 n1 n2 exp(−r (ε − log(1 + ε))/2) ≤ (2/3)(3 n1 n2)^(−0.38); for smaller r, ε ≥ 1 makes these two equal.
    """
    epsilon = sqrt(9 * log(3 * n1 * n2) / rank)
    if epsilon < 1:
        return epsilon
    excess = epsilon**2 * (1 - log(2))  # ε − log(1 + ε), solved by Lambert's function
    return float(-1 - scipy.special.lambertw(-np.exp(-1 - excess), -1).real)


def random_embedding(
    matrix: Matrix,
    rank: int,
    settings: EmbeddingSettings,
    seed: int,
    decomposition: Callable[[], Decomposition],
    generated: FunctionMatrix | None = None,
) -> Embedding:
    """Approximate F = A Bᵀ by a random embedding of the rows of A and B in R^r; its mean is F.

    Parameters
    ----------
    matrix : array or BlockMatrix of shape (n1, n2)
        F; its entries are read for a factorization only.
    rank : int
        r, at least 1.
    settings : EmbeddingSettings
    seed : int
        Stream of the embedding; every rank, shape and kind of features has draws of its own.
    decomposition : callable
        Returns a complete decomposition of F; called for a factorization only.
    generated : FunctionMatrix, optional
        F as a function-generated matrix, where it is one.

    Returns
    -------
    left : ndarray of shape (n1, r)
    right : ndarray of shape (n2, r)
    guarantee : float
        What is promised of max|F − left @ right.T|, in the units of F: by Theorem 1.3 (for kernels Theorem 5.2) where
        r > 9 log(3 n1 n2), by the bound behind it for smaller r. Holds with probability at least
        1 − (2/3)(3 n1 n2)^(−0.38) ≥ 0.56. Zero where all features fit in r columns: exact up to rounding.

    Raises
    ------
    InputError
        If the matrix does not have the features asked for, or they overflow.

    References
    ----------
    S. Budzinskiy, "When big data actually are low-rank, or entrywise approximation of certain function-generated
    matrices": Theorem 1.3 (embedding), Theorems 5.1 and 5.2 (kernels), Theorem 3.8 (functions of the inner product).

    Examples
    --------
    >>> from pipeline.matrix import function_matrix
    >>> F = function_matrix("gaussian", "ball-independent", m=100, n=400)
    >>> left, right, guarantee = random_embedding(F, 300, EmbeddingSettings(), 0, lambda: lapack_svd(F.to_numpy()), F)
    >>> left.shape, bool(abs(F.to_numpy() - left @ right.T).max() < guarantee < 0.63)
    ((400, 300), True)
    """
    if settings.features == "auto":
        try:
            chosen = _chosen(settings, generated)
            return random_embedding(
                matrix, rank, settings.model_copy(update={"features": chosen}), seed, decomposition, generated
            )
        except InputError:  # features in closed form that overflow
            settings = settings.model_copy(update={"features": "factorization"})
    features = _chosen(settings, generated)
    random = stream("embedding", seed, _STREAM_KEYS[features], rank, *matrix.shape)
    if generated is None or features == "factorization":
        values = entries_of(matrix, slice(None), slice(None))
        return _sketched(*_factorized(values, decomposition(), rank, settings.reweightings), rank, random)
    name, x, y = generated.function.name, generated.x, generated.y
    if name == "inner_product":
        return _sketched(x, y, rank, random)
    return (_fourier if features == "fourier" else _taylor)(name, x, y, rank, random)


def _chosen(settings: EmbeddingSettings, generated: FunctionMatrix | None) -> Features:
    """Decide on the features, or refuse those that the matrix does not have."""
    known: list[Features] = ["factorization"]
    subject, why = "a matrix without generating function", ""
    if generated is not None:
        name, subject = generated.function.name, f"function {generated.function.name}"
        points = len(generated.x) + (0 if generated.points[1] is generated.points[0] else len(generated.y))
        if BUILT_IN.get(name) == generated.function:
            known = [*CLOSED_FORMS.get(name, []), *known]
        if name in _EXPONENTIALS and "taylor" in known and points > settings.gram_limit:
            known.remove("taylor")
            why = f" ({points} points are more than gram_limit = {settings.gram_limit} for 'taylor')"
    if settings.features == "auto":
        return known[0]
    if settings.features not in known:
        remedy = " or ".join(known)
        raise InputError(f"features: {settings.features!r} cannot be had for {subject}{why}; use {remedy}")
    return settings.features


def _sketched(left: FloatArray, right: FloatArray, rank: int, random: np.random.Generator) -> Embedding:
    """Multiply both by one Gaussian R with entries of variance 1/r; up to r columns are kept as they are."""
    columns = left.shape[1]
    if columns <= rank:
        padding = (0, 0), (0, rank - columns)
        return np.pad(left, padding), np.pad(right, padding), 0.0
    embedding = random.standard_normal((columns, rank)) / sqrt(rank)
    guarantee = promised_epsilon(len(left), len(right), rank) * _largest_rows(left, right)
    return left @ embedding, right @ embedding, guarantee


def _largest_rows(left: FloatArray, right: FloatArray) -> float:
    """Product of the largest row norms, ‖A‖_{2,∞} ‖B‖_{2,∞}."""
    return float(np.linalg.norm(left, axis=1).max() * np.linalg.norm(right, axis=1).max())


def _factorized(
    values: FloatArray, balanced: Decomposition, rank: int, reweightings: int
) -> tuple[FloatArray, FloatArray]:
    """Factor F with a small product of largest row norms, the constant of Theorem 1.3.

    The least product is the factorization norm γ₂(F), which is also the largest trace norm of D F E over diagonal D, E
    of Frobenius norm 1 (Linial and Shraibman, "Lower bounds in communication complexity based on factorization norms",
    2009). From D F E = U Σ Vᵀ come the factors D⁻¹ U √Σ and E⁻¹ V √Σ, at first the balanced ones of F; then rows that
    are too long get more weight, until product and trace norm nearly meet. A matrix of rank ≤ r keeps its own factors.

    Returns
    -------
    left : ndarray of shape (n1, k)
    right : ndarray of shape (n2, k)
    """
    if (kept := int(np.count_nonzero(balanced.s > max(values.shape) * _EPS * balanced.s[0]))) <= rank:
        return balanced.balanced_factors(kept)
    factors = a, b = balanced.balanced_factors(len(balanced.s))
    best, trace = _largest_rows(a, b), float(balanced.s.sum()) / sqrt(len(a) * len(b))
    for _ in range(reweightings):
        if best <= _NEAR_OPTIMAL * trace:
            break
        d, e = _row_weights(a), _row_weights(b)
        weighted = lapack_svd(d * values * e.T)
        a, b = weighted.balanced_factors(len(weighted.s))
        trace = float(weighted.s.sum())
        if (product := _largest_rows(a / d, b / e)) < best:
            best, factors = product, (a / d, b / e)
    return factors


def _row_weights(factor: FloatArray) -> FloatArray:
    """Norms of the rows as weights of Frobenius norm 1, none too near zero; shape (n, 1)."""
    norms = np.linalg.norm(factor, axis=1, keepdims=True)
    weights: FloatArray = np.maximum(norms / np.linalg.norm(norms), _SMALLEST_WEIGHT / sqrt(len(factor)))
    return weights


def _exponents(points: FloatArray, rate: float) -> FloatArray:
    """Give rate × ‖x‖² for each point, shape (n,); refused where products of its exponential would overflow."""
    exponents: FloatArray = rate * np.linalg.norm(points, axis=1) ** 2
    if (largest := float(exponents.max())) > _LARGEST_EXPONENT:
        raise InputError(
            f"features: norms of exp({largest:.0f}) overflow, at most exp({_LARGEST_EXPONENT:.0f}); "
            "use features = 'factorization'"
        )
    return exponents


def _fourier(name: str, x: FloatArray, y: FloatArray, rank: int, random: np.random.Generator) -> Embedding:
    """Fourier features of a kernel κ(x − y), κ(0) = 1: cosine and sine of r/2 frequencies (Budzinskiy, Theorem 5.1).

    At a difference z their variance is (1 + κ(2z) − 2κ(z)²)/r; that of r cosines of random phase would be
    (1 + κ(2z)/2 − κ(z)²)/r, that of a Gaussian R on ever more frequencies, as in the proof of Theorem 5.2,
    (1 + κ(z)²)/r. The first is the least for the kernels here on the unit ball, and Hoeffding's inequality gives it
    the same promise. An odd r leaves one column for a cosine of random phase.
    """
    m = x.shape[1]
    pairs, single = divmod(rank, 2)
    rate, decay = _EXPONENTIALS[name](m) if name in _EXPONENTIALS else (0.0, 0.0)
    frequencies = random.standard_normal((pairs + single, m))
    frequencies *= _LENGTHS[name](random, pairs + single)[:, None] if name in _LENGTHS else sqrt(rate)
    phase = random.uniform(0, 2 * np.pi, single)

    def features(points: FloatArray) -> tuple[FloatArray, float]:
        angles = points @ frequencies.T
        paired, rest = angles[:, :pairs], angles[:, pairs:]
        columns = np.hstack([np.cos(paired), np.sin(paired), np.cos(rest + phase)])
        weights = np.exp(_exponents(points, rate / 2 - decay))
        columns *= sqrt(2 / rank) * weights[:, None]
        return columns, float(weights.max())

    (left, left_weight), (right, right_weight) = features(x), features(y)
    return left, right, sqrt(9 * log(3 * len(x) * len(y)) / rank) * left_weight * right_weight


def _taylor(name: str, x: FloatArray, y: FloatArray, rank: int, random: np.random.Generator) -> Embedding:
    """Taylor features of exp(−c|x|²) exp(a x·y) exp(−c|y|²): the low degrees exactly, one Gaussian R for all others.

    Theorem 3.8 (Budzinskiy) truncates the series and embeds each power apart, in rank 1 + (t − 1) r. One R for the
    concatenated features keeps the promise at rank r, and needs no truncation: their images under R are Gaussian with
    the Gram matrix as covariance, so they are drawn from a root of it and no tensor x ⊗ … ⊗ x is ever formed.
    """
    rate, decay = _EXPONENTIALS[name](x.shape[1])
    points = x if y is x else np.concatenate([x, y])
    weights = np.exp(-_exponents(points, decay))
    degree = _exact_degree(_exponents(points, rate), weights, (len(x), len(y)), x.shape[1], rank)
    points = points * sqrt(rate)
    exact = weights[:, None] * _monomials(points, degree)
    gram = _exponential_tail(points @ points.T, degree)
    gram *= weights[:, None] * weights
    root = _root(gram)
    left, right, guarantee = _sketched(root[: len(x)], root[-len(y) :], rank - exact.shape[1], random)
    return np.hstack([exact[: len(x)], left]), np.hstack([exact[-len(y) :], right]), guarantee


def _exact_degree(exponents: FloatArray, weights: FloatArray, shape: tuple[int, int], m: int, rank: int) -> int:
    """Degree below which all monomials get columns, so that the promise for the other degrees is least."""
    n1, n2 = shape
    best, chosen, degree = inf, 0, 0
    while degree <= _HIGHEST_DEGREE and (columns := comb(m + degree - 1, m)) < rank:
        share = scipy.special.gammainc(degree, exponents) if degree else 1.0  # of exp(z), by the terms from there on
        norms = weights**2 * np.exp(exponents) * share
        largest = sqrt(float(norms[:n1].max() * norms[-n2:].max()))
        promise = promised_epsilon(n1, n2, rank - columns) * largest
        if promise < best:
            best, chosen = promise, degree
        if np.max(share) < _EPS:
            break
        degree += 1
    return chosen


def _monomials(points: FloatArray, degree: int) -> FloatArray:
    """Features x^γ/√γ! of all multi-indices |γ| < degree, whose products sum to Σ_{s < degree} (x·y)^s/s!."""
    columns = [
        points[:, list(chosen)].prod(axis=1) / sqrt(prod(factorial(chosen.count(a)) for a in set(chosen)))
        for s in range(degree)
        for chosen in combinations_with_replacement(range(points.shape[1]), s)
    ]
    return np.stack(columns, axis=1) if columns else np.empty((len(points), 0))


def _exponential_tail(products: FloatArray, degree: int) -> FloatArray:
    """Σ_{s ≥ degree} z^s/s! entrywise, summed until the terms vanish beside the largest entry."""
    term = products**degree / factorial(degree)
    total: FloatArray = term.copy()
    while np.abs(term).max() > _EPS * np.abs(total).max():
        degree += 1
        term *= products
        term /= degree
        total += term
    return total


def _root(gram: FloatArray) -> FloatArray:
    """A of shape (n, k) with A Aᵀ = a positive-semidefinite matrix of rank k up to rounding (pivoted Cholesky)."""
    lower, pivots, rank, _ = scipy.linalg.lapack.dpstrf(gram.T, lower=1, overwrite_a=1)
    root = np.empty((len(gram), rank))
    root[pivots - 1] = np.tril(lower[:, :rank])
    return root
