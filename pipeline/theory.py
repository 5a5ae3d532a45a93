"""Bounds of rank and error from the literature, to plot beside measurements.

n, ε, m, C and M broadcast against each other; what comes back has the broadcast shape. Ranks are whole numbers
as float64, inf where they overflow. A number out of range raises InputError. ‖f‖ = sup|f|; h has one variable.

References
----------
Budzinskiy, "When big data actually are low-rank, or entrywise approximation of certain function-generated matrices".
Udell and Townsend, "Why are big data matrices approximately low rank?".
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import scipy.optimize
import scipy.special

from pipeline import checked
from pipeline.arithmetic import own_state
from pipeline.arrays import FloatArray
from pipeline.checked import Numbers
from pipeline.errors import InputError, shown
from pipeline.functions import BUILT_IN, name_and_parameters
from pipeline.growth import Domain, Growth, Theorem, constants

RankOf: TypeAlias = Callable[[FloatArray], FloatArray]

_OVERFLOWING = 514  # n choose k overflows for any larger k ≤ n/2
_LARGEST_DIMENSION = 143  # beyond it m^m overflows
_LARGEST_EXPONENT = 709.0
_GROUPS = 4000  # of terms in the series of Lemma 4.3; where the sum is finite, all beyond vanish
_MORE_TERMS = 40  # beyond these e^−t is lost in rounding
_LARGEST_SIZE = 2.0**1000
_TINY = float(np.finfo(np.float64).tiny)


@own_state()
def embedding_rank(n1: Numbers, n2: Numbers, epsilon: Numbers) -> FloatArray:
    """Rank ⌈9 log(3 n1 n2)/ε²⌉ for an error of ε max‖a_i‖ max‖b_j‖ of A Bᵀ (Budzinskiy, Theorem 1.3).

    Parameters
    ----------
    n1, n2 : array_like of int
        Rows and columns.
    epsilon : array_like of float
        Between 0 and 1.

    Returns
    -------
    ndarray

    Raises
    ------
    InputError
        If a size is below 1 or ε is not between 0 and 1.

    Examples
    --------
    >>> embedding_rank([10**5, 10**7, 10**9], [10**5, 10**7, 10**9], 0.1)
    array([21713., 30002., 38291.])
    """
    return _over_square(9 * _logarithm(n1, n2), epsilon)


@own_state()
def embedding_error(n1: Numbers, n2: Numbers, rank: Numbers) -> FloatArray:
    """Least ε for which `embedding_rank` is at most a rank; NaN where there is none below 1.

    Parameters and errors are those of `embedding_rank`.
    """
    error = np.sqrt(9 * _logarithm(n1, n2) / checked.whole("rank", rank))
    return np.where(error < 1, error, np.nan)


def _logarithm(n1: Numbers, n2: Numbers) -> FloatArray:
    """log(3 n1 n2)."""
    logarithm: FloatArray = math.log(3) + np.log(checked.whole("n1", n1)) + np.log(checked.whole("n2", n2))
    return logarithm


@own_state()
def kernel_rank(n1: Numbers, n2: Numbers, epsilon: Numbers) -> FloatArray:
    """Rank for an error of ε of a continuous shift-invariant positive-definite kernel with κ(0) = 1, on any points.

    Budzinskiy, Theorem 5.2. Parameters and errors are those of `embedding_rank`.
    """
    return embedding_rank(n1, n2, epsilon)


@own_state()
def tensor_embedding_rank(shape: Sequence[Numbers], epsilon: Numbers, constant: Numbers) -> FloatArray:
    """TT rank ⌈c_d log(2e n_1 … n_d)/ε²⌉ for an error of ε ∏_j max‖row of A_j‖ of a CP decomposition.

    Budzinskiy, Theorem 6.1, equation (6.2). `shape` are the d sizes. `constant` is c_d, of which the text knows no
    value: "the provable estimates of c_d grow at least as d^d". Other parameters and errors as in `embedding_rank`.
    """
    if not isinstance(shape, Sequence | np.ndarray) or len(shape) < 2:
        raise InputError(f"shape: {shown(shape)} is not a list of two sizes or more; give one for each mode")
    sizes = [np.log(checked.whole(f"n{k + 1}", size)) for k, size in enumerate(shape)]
    return _over_square(checked.positive("constant", constant) * (math.log(2 * math.e) + sum(sizes)), epsilon)


@own_state()
def spectral_norm_rank(n: Numbers, epsilon: Numbers) -> FloatArray:
    """Rank ⌈72 log(2n + 1)/ε²⌉ for an error of ε‖F‖₂ of any n × n matrix F.

    Udell and Townsend, Theorem 1.0. Parameters and errors are those of `embedding_rank`.
    """
    return _over_square(72 * np.log1p(2 * checked.whole("n", n)), epsilon)


@own_state()
def analytical_rank(epsilon: Numbers, m: Numbers, growth: Growth) -> FloatArray:
    """Rank (m + ρ − 1 choose m), ρ = ⌈max(log(C/ε), e² m M)⌉, for an error of ε‖f‖ whatever n (Budzinskiy, (1.1)).

    Parameters
    ----------
    epsilon : array_like of float
        Between 0 and 1.
    m : array_like of int
        Latent dimension.
    growth : Growth
        Of the partial derivatives in the unit ball, C ≥ 1: those of "Example 1.2".

    Returns
    -------
    ndarray

    Raises
    ------
    InputError
        If a number is out of range.
    """
    epsilon, m, (factor, rate) = checked.tolerance(epsilon), checked.whole("m", m), _in_ball(growth)
    terms = np.ceil(np.maximum(np.log(factor / epsilon), math.e**2 * m * rate))
    return _binomial(m + terms - 1, m)


@own_state()
def taylor_factorization_rank(epsilon: Numbers, m: Numbers, growth: Growth, radius: Numbers = 1.0) -> FloatArray:
    """Rank (K + 1) m^K, K = ⌈max(2e m R M, log₂(C/ε))⌉, for an error of ε‖f‖ in the ball of radius R.

    Udell and Townsend, Lemma 4.3; Budzinskiy, Lemma 2.2. They state K ≤ max(…) + 1, the proof takes any K ≥ max(…).
    Other parameters and errors are those of `analytical_rank`.
    """
    epsilon, m, (factor, rate) = checked.tolerance(epsilon), checked.whole("m", m), _in_ball(growth)
    terms = np.ceil(np.maximum(2 * math.e * m * checked.positive("radius", radius) * rate, np.log2(factor / epsilon)))
    with np.errstate(over="ignore"):
        rank: FloatArray = (terms + 1) * m**terms
    return rank


@own_state()
def latent_constants(m: Numbers, growth: Growth, radius: Numbers = 1.0) -> tuple[FloatArray, FloatArray]:
    """C_u and C_v, which bound ‖u_i‖²/‖f‖ and ‖v_j‖²/‖f‖ of the Taylor factorization f ≈ u·v in the ball of radius R.

    C_u = C² Σ_s (m + s)^m M^{2s}/⌊s/m⌋! and C_v = Σ_s (m + s)^m R^{2s}/s! (Udell and Townsend, proof of Lemma 4.3), so
    C_u > C² m^m and C_v > m^m. Other parameters and errors are those of `analytical_rank`.
    """
    m, (factor, rate) = checked.whole("m", m), _in_ball(growth)
    with np.errstate(over="ignore"):
        return factor**2 * _series(m, rate, m), _series(m, checked.positive("radius", radius), 1.0)


@own_state()
def latent_variable_rank(n1: Numbers, n2: Numbers, epsilon: Numbers, c_u: Numbers, c_v: Numbers) -> FloatArray:
    """Rank ⌈8 log(n1 + n2 + 1) (1 + 2(C_u + C_v + 1)/ε)²⌉ for an error of ε‖f‖, with `latent_constants`.

    Udell and Townsend, Theorem 4.2; Budzinskiy, Theorem 2.1. Other parameters and errors as in `embedding_rank`.
    """
    epsilon, norms = checked.tolerance(epsilon), checked.norms("c_u", c_u) + checked.norms("c_v", c_v) + 1
    logarithm: FloatArray = np.log1p(checked.whole("n1", n1) + checked.whole("n2", n2))
    with np.errstate(over="ignore"):
        return np.ceil(8 * logarithm * (1 + 2 * norms / epsilon) ** 2)


@own_state()
def taylor_embedding_error(epsilon: Numbers, m: Numbers, growth: Growth) -> FloatArray:
    """Error ε C e^{m(1 + M²)/2}, in units of ‖f‖, at the rank of `embedding_rank`.

    Budzinskiy, Theorem A.1. Parameters and errors are those of `analytical_rank`.
    """
    m, (factor, rate) = checked.whole("m", m), _in_ball(growth)
    with np.errstate(over="ignore"):
        return checked.tolerance(epsilon) * factor * np.exp(m * (1 + rate**2) / 2)


@own_state()
def taylor_embedding_rank(n1: Numbers, n2: Numbers, epsilon: Numbers, m: Numbers, growth: Growth) -> FloatArray:
    """Rank ⌈9 log(3 n1 n2) C² e^{m(1 + M²)}/ε²⌉ for an error of ε‖f‖ (Budzinskiy, Theorem A.1, section B.2)."""
    epsilon = checked.tolerance(epsilon)
    return embedding_rank(n1, n2, np.maximum(epsilon / (taylor_embedding_error(epsilon, m, growth) / epsilon), _TINY))


@own_state()
def hadamard_power_rank(rank: Numbers, t: Numbers, p: int) -> FloatArray:
    """R_r(t, p), the rank for the t-th Hadamard power of A Bᵀ plus p matrices of rank one (Budzinskiy, Lemma 4.1).

    R(0, 0) = 1, R(t, 0) = r and R(t, p) = 1 + Σ_{s=1..t} R(s, p − 1): (t+p−1 choose p−1) + r (t+p−1 choose p).
    `rank` is r, that of `embedding_rank`; t and p are whole and at least 0.
    """
    t, rank, p = checked.whole("t", t, 0), checked.norms("rank", rank), checked.one_whole("p", p, 0)
    with np.errstate(over="ignore", invalid="ignore"):
        sums = scipy.special.binom(t + p - 1, p - 1) + rank * scipy.special.binom(t + p - 1, p)
    return np.where(t > 0, sums, 1.0)


@dataclass(frozen=True)
class TaylorBound:
    """A theorem that cuts the Taylor series of h after t ≥ e² M a terms and embeds each power apart.

    It gives rank R_r(t − 1, p) and error C(e^−t + ε(e^{Mb} − 1)), where r and ε are those of the embedding. Errors are
    in the units of C.

    Attributes
    ----------
    reach : float
        a, how far the series reaches from its centre.
    spread : float
        b, the product of the row norms of A and B and those of the matrices of rank one added to it.
    depth : int
        p; 1 stands for the rank 1 + (t − 1) r.
    """

    reach: float
    spread: float
    depth: int

    def terms(self, growth: Growth) -> FloatArray:
        """Smallest t."""
        return np.maximum(np.ceil(math.e**2 * np.asarray(growth.rate) * self.reach), 1)

    def rank(self, rank: Numbers, t: Numbers) -> FloatArray:
        """Rank with t terms, from r."""
        return hadamard_power_rank(rank, checked.whole("t", t) - 1, self.depth)

    def error(self, epsilon: Numbers, t: Numbers, growth: Growth) -> FloatArray:
        """Error with t terms; InputError if t is below `terms` or beyond the order of `growth`."""
        epsilon, t, least = checked.tolerance(epsilon), checked.whole("t", t), self.terms(growth)
        if np.any((t < least) | (t > growth.order)):
            raise InputError(f"t: {shown(t.tolist())} is out of range; give {np.max(least):.0f} to {growth.order:g}")
        with np.errstate(over="ignore"):
            return growth.factor * (np.exp(-t) + epsilon * np.expm1(np.asarray(growth.rate) * self.spread))

    def rank_for_error(self, error: Numbers, embedding: RankOf, growth: Growth) -> FloatArray:
        """Least rank over all t for which the theorem promises an error.

        `embedding` maps ε to r, such as ``lambda epsilon: embedding_rank(n1, n2, epsilon)``.
        """
        relative = np.maximum(checked.positive("error", error) / growth.factor, _TINY)
        first = np.maximum(self.terms(growth), np.floor(-np.log(relative)) + 1)
        best: FloatArray = np.array(np.inf)
        with np.errstate(over="ignore"):
            powers = np.expm1(np.asarray(growth.rate) * self.spread)
        for t in (first + more for more in range(_MORE_TERMS + 1)):
            epsilon = np.clip((relative - np.exp(-t)) / powers, _TINY, 1 - 2.0**-53)
            best = np.minimum(best, np.where(t <= growth.order, self.rank(embedding(epsilon), t), np.inf))
        return best

    def analytical_rank(self, error: Numbers, m: Numbers, growth: Growth) -> FloatArray:
        """Rank without embedding, whatever n: that of the cut series itself.

        It is a polynomial of degree below t in the m products x_a y_a and, for distances, in ‖x‖² and ‖y‖² (Budzinskiy,
        section 4, with ρ = t − 1).
        """
        variables = checked.whole("m", m) + (2 if self.depth > 1 else 0)
        t = np.maximum(self.terms(growth), np.ceil(-np.log(checked.positive("error", error) / growth.factor)))
        return np.where(t <= growth.order, _binomial(variables + t - 1, variables), np.inf)


@own_state()
def inner_product_bound(norm: float = 1.0, radius: float = 1.0) -> TaylorBound:
    """For f = h(xᵀ W y), ‖W‖₂ = `norm`, ‖x‖, ‖y‖ ≤ R; h on [−‖W‖R², ‖W‖R²] (Budzinskiy, Theorem 3.8)."""
    square = checked.one_positive("norm", norm) * checked.one_positive("radius", radius) ** 2
    return TaylorBound(reach=square, spread=square, depth=1)


@own_state()
def distance_bound(norm: float = 1.0, radius: float = 1.0) -> TaylorBound:
    """For f = h((x − y)ᵀ W (x − y)); h on [−4‖W‖R², 4‖W‖R²] (Budzinskiy, Theorem 4.5)."""
    square = inner_product_bound(norm, radius).spread
    return TaylorBound(reach=4 * square, spread=4 * square, depth=3)


@own_state()
def localized_distance_bound(width: float | None = None, norm: float = 1.0, radius: float = 1.0) -> TaylorBound:
    """For the same; h on the interval, of length `width`, of the squared distances (Budzinskiy, Corollary 4.8).

    Where nothing is known of the points they may lie anywhere from 0 to 4‖W‖R².
    """
    square = inner_product_bound(norm, radius).spread
    reach = 2 * square if width is None else checked.one_positive("width", width) / 2
    return TaylorBound(reach=reach, spread=8 * square, depth=4)


@own_state()
def multilinear_bound(d: int, radius: float = 1.0) -> TaylorBound:
    """For f = h(<x, y, z, …>) of d points and TT ranks; h on [−R^d, R^d] (Budzinskiy, Theorem 6.5)."""
    power = checked.one_positive("radius", radius) ** checked.one_whole("d", d)
    return TaylorBound(reach=power, spread=power, depth=1)


BUILT_IN_BOUNDS: dict[Theorem, TaylorBound] = {  # in the unit ball, W = I
    "Theorem 3.8": inner_product_bound(),
    "Theorem 4.5": distance_bound(),
    "Corollary 4.8": localized_distance_bound(),
    "Theorem 6.5": multilinear_bound(3),
}
_KERNELS = frozenset({"exponential", "gaussian", "cauchy"})
_SEMIDEFINITE = frozenset({"inner_product", "identity", "square", "cube", "attention"})

_CONTINUOUS = frozenset({  # in |x − y| or in x·y, and the same function whatever m
    *_KERNELS, "quartic_gaussian", "inner_product", "polynomial", "exponential_polynomial",
    "identity", "tanh", "relu", "abs", "square", "cube", "cos", "sin",
})  # fmt: skip


@own_state()
def is_kernel(label: str) -> bool:
    """Whether `kernel_rank` holds for a function, whatever its scale (Budzinskiy, section 5)."""
    known = name_and_parameters(label)
    return known is not None and known[0] in _KERNELS


@own_state()
def is_semidefinite(label: str, domain: str) -> bool:
    """Whether F = A Aᵀ for symmetric draws, so that max‖a_i‖² = max|F|, on its diagonal (Budzinskiy, Remark 5.3).

    Powers of the inner product with coefficients that are not negative are (Schur), as are kernels; a mean of minima
    where no coordinate is negative; and blocks if an entry within one is at least one between two.
    """
    known = name_and_parameters(label)
    if known is None:
        return False
    match known:
        case "polynomial" | "exponential_polynomial", {"offset": offset}:
            return offset >= 0
        case "block_graphon", {"within": within, "between": between}:
            return within >= between
        case "minimum_graphon", _:
            return domain == "cube"
    return known[0] in _KERNELS | _SEMIDEFINITE


@own_state()
def polynomial_rank(label: str, m: Numbers) -> FloatArray:
    """Bound of the rank of a built-in function that is a polynomial of x·y, its number of monomials; else inf."""
    m = checked.whole("m", m)
    match name_and_parameters(label):
        case "inner_product" | "identity", _:
            return m
        case "square" | "cube" as name, _:
            degree = 2 if name == "square" else 3
            return _binomial(m + degree - 1, np.asarray(degree))
        case "polynomial", {"degree": degree, "offset": offset}:
            return _binomial(m + degree - (0 if offset else 1), np.asarray(degree))
    return np.full(m.shape, np.inf)


@own_state()
def least_analytical_rank(label: str, m: Numbers, epsilon: Numbers, domain: Domain = "ball") -> FloatArray:
    """Least rank for an error of ε‖f‖ whatever n that a theorem promises for a built-in function of two points.

    Parameters and errors are those of `analytical_rank` and `growth.constants`.
    """
    epsilon, least = checked.tolerance(epsilon), polynomial_rank(label, m)
    if growth := constants(label, "Example 1.2", m, domain):
        least = np.minimum(least, analytical_rank(epsilon, m, growth))
    terms = math.ceil(-np.log(epsilon.min(initial=1.0))) + 1
    for theorem in ("Theorem 3.8", "Theorem 4.5", "Corollary 4.8"):
        if growth := constants(label, theorem, m, domain, terms):
            least = np.minimum(least, BUILT_IN_BOUNDS[theorem].analytical_rank(epsilon, m, growth))
    return least + np.zeros(epsilon.shape)


@own_state()
def identity_error(n: Numbers, rank: Numbers) -> FloatArray:
    """Lower bound w/(1 + w), w = √((n − r)/(r(n − 1))), of the error of rank r ≤ n of the n × n identity.

    A matrix G of rank r with a unit diagonal has n² = (tr G)² ≤ r‖G‖_F², hence an entry of at least w beside it; an
    error of ε leaves ε/(1 − ε) there once rows are divided by the diagonal. Attained where n equiangular lines make a
    tight frame of R^r. Parameters and errors are those of `embedding_rank`.

    Examples
    --------
    >>> identity_error(16, 6)
    array(0.25)
    """
    n, rank = checked.whole("n", n), checked.whole("rank", rank)
    with np.errstate(divide="ignore", invalid="ignore"):
        coherence = np.where(rank < n, np.sqrt(np.maximum(n - rank, 0) / (rank * (n - 1))), 0.0)
    return np.asarray(coherence / (1 + coherence), dtype=np.float64)


@own_state()
def limit_error(label: str, n: Numbers, rank: Numbers) -> FloatArray:
    """Lower bound of the relative error of rank r as m → ∞, for symmetric draws from the ball or the sphere.

    All pairs of points become orthonormal, so F → c 11ᵀ + (d − c) I with d = f(x, x) and c = f(x, y), and an
    approximation of rank r of F is one of rank r + 1 of (d − c) I. NaN for functions without such a limit. Other
    parameters and errors are those of `embedding_rank`.

    Examples
    --------
    >>> float(limit_error("exponential", 200, 20).round(4))
    0.1298
    """
    error = identity_error(n, checked.whole("rank", rank) + 1)
    known = name_and_parameters(label)
    if known is None or known[0] not in _CONTINUOUS:
        return np.full(error.shape, np.nan)
    name, parameters = known
    diagonal, beside = BUILT_IN[name].entries(np.eye(2), np.eye(2), **parameters)[0]
    return np.asarray(abs(diagonal - beside) / max(abs(diagonal), abs(beside)) * error, dtype=np.float64)


@own_state()
def second_stage(rank: RankOf) -> FloatArray:
    """Smallest n from which a bound for n × n matrices is at most n; inf where there is none.

    Parameters
    ----------
    rank : callable
        Maps n to the bound, elementwise; concave but for rounding up.

    Returns
    -------
    ndarray of the shape of ``rank(1)``

    Examples
    --------
    >>> float(second_stage(lambda n: embedding_rank(n, n, 0.1)))
    18694.0
    """
    return _smallest(lambda n: rank(n) <= n)


@own_state()
def third_stage(rank: RankOf, analytical: FloatArray | float) -> FloatArray:
    """Smallest n from which a bound, as in `second_stage`, exceeds an analytical one; inf where it never does."""
    analytical = checked.norms("analytical", analytical)
    return _smallest(lambda n: rank(n) > analytical)


@own_state()
def three_stages(n: Numbers, rank: RankOf, analytical: FloatArray | float) -> FloatArray:
    """Bound min(n, β₁ log n, β₂) of the ε-rank of n × n matrices (Budzinskiy, Figure 1)."""
    n = checked.whole("n", n)
    return np.minimum(np.minimum(n, rank(n)), checked.norms("analytical", analytical))


@own_state()
def latent_variable_threshold(m: Numbers) -> FloatArray:
    """M below which `latent_variable_rank` exceeds `analytical_rank` for all n: (m² − e)/e³ (Budzinskiy, B.1)."""
    return (checked.whole("m", m) ** 2 - math.e) / math.e**3


TAYLOR_EMBEDDING_THRESHOLD = float(scipy.optimize.brentq(lambda rate: rate**2 - np.log1p(math.e**2 * rate), 1, 2))
"""M above which `taylor_embedding_rank` exceeds `analytical_rank` for all n and m: 1.597 (Budzinskiy, B.2)."""


def _smallest(holds: Callable[[FloatArray], npt.NDArray[np.bool_]]) -> FloatArray:
    """Smallest n from which a condition holds that stays true once it is, by doubling and bisection."""
    high = np.ones_like(holds(np.array(1.0)), dtype=np.float64)
    while (unmet := ~holds(high) & (high < _LARGEST_SIZE)).any():
        high = np.where(unmet, 2 * high, high)
    low = np.floor(high / 2)
    while (wide := high - low > np.maximum(1, np.spacing(high))).any():
        middle = np.where(wide, np.floor(low + (high - low) / 2), high)
        met = holds(middle)
        low, high = np.where(wide & ~met, middle, low), np.where(met, middle, high)
    return np.where(holds(high), high, np.inf)


def _over_square(numerator: FloatArray, epsilon: Numbers) -> FloatArray:
    """⌈numerator/ε²⌉."""
    epsilon = checked.tolerance(epsilon)
    with np.errstate(over="ignore"):
        return np.ceil(numerator / epsilon / epsilon)


def _binomial(n: FloatArray, k: FloatArray) -> FloatArray:
    """N choose k, correctly rounded (SciPy's has ten digits); inf where it overflows."""

    def one(n: float, k: float) -> float:
        try:
            return math.inf if min(k, n - k) > _OVERFLOWING else float(math.comb(int(n), int(k)))
        except OverflowError:
            return math.inf

    found: FloatArray = np.vectorize(one, otypes=[np.float64])(n, k)
    return found


def _series(m: FloatArray, base: FloatArray, group: Numbers) -> FloatArray:
    """Σ_s (m + s)^m base^{2s}/⌊s/group⌋!."""

    def one(m: float, base: float, group: float) -> float:
        if m > _LARGEST_DIMENSION or 2 * group * math.log(base) > math.log(_LARGEST_EXPONENT):
            return math.inf
        s = np.arange(group * _GROUPS)
        logarithms = m * np.log(m + s) + 2 * s * math.log(base) - scipy.special.gammaln(s // group + 1)
        total: float = np.exp(scipy.special.logsumexp(logarithms))
        return total

    found: FloatArray = np.vectorize(one, otypes=[np.float64])(m, base, group)
    return found


def _in_ball(growth: Growth) -> tuple[FloatArray, FloatArray]:
    """C and M as Example 1.2 has them."""
    if not math.isinf(growth.order):
        raise InputError(f"order: {growth.order:g} is finite; this bound takes derivatives of every order")
    return checked.numbers("factor", growth.factor, lambda c: c >= 1, "give a C of at least 1"), np.asarray(growth.rate)
