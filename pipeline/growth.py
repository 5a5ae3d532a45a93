"""How fast derivatives of the generating functions grow: the constants C and M of the theorems."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import scipy.special

from pipeline import checked
from pipeline.arithmetic import own_state
from pipeline.arrays import FloatArray
from pipeline.checked import Numbers
from pipeline.errors import InputError, shown
from pipeline.functions import BUILT_IN, name_and_parameters

Theorem = Literal["Example 1.2", "Theorem 3.8", "Theorem 4.5", "Corollary 4.8", "Theorem 6.5"]
Domain = Literal["ball", "sphere"]

_MOST_TERMS = 10_000  # of a Taylor series whose constants hold up to an order
_LARGEST = math.log(_MOST_TERMS)  # of log M, as t ≥ e² M
_MOST_EXPONENT = 700.0


@dataclass(frozen=True)
class Growth:
    """How fast derivatives grow: sup|h⁽ˢ⁾| ≤ C Mˢ ‖f‖, and sup|∂^γ f| likewise for partial derivatives in y, |γ| = s.

    Where it holds for every s the function is entire and of exponential type: few are.

    Attributes
    ----------
    factor : array_like of float
        C, in units of ‖f‖. (Assumption 3.5 of Budzinskiy absorbs the norm: its C is this times ‖f‖.)
    rate : array_like of float
        M.
    order : float
        Largest s for which it holds; no more terms of a Taylor series may be used (Budzinskiy, Remark 3.4).
    """

    factor: FloatArray | float
    rate: FloatArray | float
    order: float = math.inf

    def __post_init__(self) -> None:
        object.__setattr__(self, "factor", checked.positive("factor", self.factor))
        object.__setattr__(self, "rate", checked.positive("rate", self.rate))
        object.__setattr__(self, "order", checked.one_number("order", self.order))


@own_state()
def constants(name: str, theorem: Theorem, m: Numbers = 1, domain: Domain = "ball", terms: int = 1) -> Growth | None:
    """C and M of a built-in function for a theorem of Budzinskiy; None where it has none.

    Those of the Gaussian for the first two are of exp(2x·y/s²), the other factors of which are of rank one.

    Parameters
    ----------
    name : str
        Label of a built-in function, such as ``gaussian`` or ``gaussian(scale=2)``.
    theorem : {"Example 1.2", "Theorem 3.8", "Theorem 4.5", "Corollary 4.8", "Theorem 6.5"}
        The first is for `theory.analytical_rank` and all that take m and a `Growth`, the others for
        `theory.BUILT_IN_BOUNDS`.
    m : array_like of int
        Latent dimension.
    domain : {"ball", "sphere"}
        Of the points, of radius 1.
    terms : int
        Least order of derivatives up to which they hold, for functions of which they do not hold for every order.

    Returns
    -------
    Growth or None

    Raises
    ------
    InputError
        If the function is not built in, the theorem or domain is not one of these, or m is below 1.
    """
    known = name_and_parameters(name) if isinstance(name, str) else None
    if known is None:
        raise InputError(f"function: {shown(name)} has no known constants; give a Growth, or use {', '.join(BUILT_IN)}")
    for field, value, allowed in (("theorem", theorem, Theorem), ("domain", domain, Domain)):
        if value not in get_args(allowed):
            raise InputError(f"{field}: {shown(value)} is not known here; use one of {', '.join(get_args(allowed))}")
    m, least, (function, parameters) = checked.whole("m", m), checked.one_whole("terms", terms), known
    match theorem:
        case "Theorem 4.5" | "Corollary 4.8" if function in _OF_DISTANCE:
            return _OF_DISTANCE[function](theorem, least, **parameters)
        case "Theorem 6.5" if function in _OF_THREE_POINTS:
            return _OF_THREE_POINTS[function](m)
        case "Theorem 3.8" | "Example 1.2" if function in _OF_PRODUCT:
            growth = _OF_PRODUCT[function](m, domain == "sphere", least, **parameters)
            return growth if growth and (theorem == "Theorem 3.8" or math.isinf(growth.order)) else None
    return None


def _grows(exponent: float, rate: float, order: float = math.inf) -> Growth | None:
    """C = e^exponent and M; None where C or M is beyond all use."""
    return Growth(math.exp(exponent), rate, order) if max(exponent, rate) < _MOST_EXPONENT else None


def _gaussian_of_product(m: FloatArray, sphere: bool, terms: int, scale: float) -> Growth | None:
    """On the sphere h(z) = exp(2(z − 1)/s²) ≤ 1 (section 3).

    In the ball exp(−‖x‖²/s²) and exp(−‖y‖²/s²) are of rank one and at most 1 (section 4): h(z) = exp(2z/s²) ≤ e^(2/s²).
    """
    rate = 2 / scale**2
    return _grows(0.0 if sphere else rate, rate)


def _gaussian_of_distance(theorem: Theorem, terms: int, scale: float) -> Growth | None:
    """h(d) = exp(−d/s²) is at most e^(4/s²) on [−4, 4] and 1 on [0, 4]."""
    rate = 1 / scale**2
    return _grows(4 * rate if theorem == "Theorem 4.5" else 0.0, rate)


def _quartic_of_distance(theorem: Theorem, terms: int, scale: float) -> Growth | None:
    """h(d) = exp(−(d/s²)²): |h⁽ˢ⁾| = s^−2s |H_s| h ≤ √(2ˢ s!)/s^2s (Cramér; Indritz, 1961).

    That is at most Mˢ for orders up to t if M = √2 (t!)^{1/2t}/s²; t is the smallest that is at least e² M a.
    """
    reach = 4 if theorem == "Theorem 4.5" else 2
    t = np.arange(terms, _MOST_TERMS + 1)
    rates = math.sqrt(2) * np.exp(scipy.special.gammaln(t + 1) / (2 * t)) / scale**2
    enough = np.flatnonzero(t >= math.e**2 * reach * rates)
    return _grows(0.0, rates[enough[0]], t[enough[0]]) if len(enough) else None


def _exp_of_power(terms: int, degree: int, offset: float) -> Growth | None:
    """h(z) = exp((o + z)^d) has |h⁽ˢ⁾| ≤ s! a_s h on [−1, 1] (Faà di Bruno), with s a_s = Σ_j j p_j a_{s−j}.

    p is the power series of (|o| + z)^d at 1, whose derivatives are the largest. Orders up to t are at most Mˢ if M is
    the greatest (s! a_s)^{1/s}; t is the smallest that is at least e² M.
    """
    if degree == 1:
        return Growth(1.0, 1.0)
    top = 1 + abs(offset)
    powers = [math.comb(degree, j) * top ** (degree - j) for j in range(1, degree + 1)]
    series, exponent = [1.0], -math.inf
    for s in range(1, _MOST_TERMS + 1):
        series.append(sum(j * p * a for j, (p, a) in enumerate(zip(powers, series[::-1], strict=False), 1)) / s)
        if series[-1] <= 0 or (exponent := max(exponent, (math.log(series[-1]) + math.lgamma(s + 1)) / s)) > _LARGEST:
            return None
        if s >= max(terms, math.exp(2 + exponent)):
            return _grows(0.0, math.exp(exponent), s)
    return None


# Without constants for any theorem: exponential, not analytic at x = y (Corollary 4.8 has some where no distance is
# near 0, up to an order); cauchy and tanh, whose derivatives grow as s! by their poles, faster than Mˢ up to any order
# of e² M a; sign, step, relu, abs and minimum_graphon, not smooth; piecewise and block_graphon, smooth within pieces
# alone; block_softmax and white_noise, no functions of two points. quartic_gaussian has none for Example 1.2: at x = y
# its partial derivatives of even order s grow as s!/(s/4)!.
_OF_PRODUCT: dict[
    str, Callable[..., Growth | None]
] = {  # f = h(x·y) but for factors of rank one, h on [−1, 1]; ∂^γ f = x^γ h⁽ˢ⁾(x·y), |x^γ| ≤ 1
    # h(z) = z, 1, 0, …
    "inner_product": lambda m, sphere, terms: Growth(1.0, 1.0),
    "identity": lambda m, sphere, terms: Growth(1.0, 1.0),
    # the derivatives of z^d are at most d, d(d − 1), … ≤ dˢ
    "square": lambda m, sphere, terms: Growth(1.0, 2.0),
    "cube": lambda m, sphere, terms: Growth(1.0, 3.0),
    # those of (o + z)^d at most dˢ (1 + |o|)^(d − s), ‖f‖ = (1 + |o|)^d
    "polynomial": lambda m, sphere, terms, degree, offset: Growth(1.0, degree / (1 + abs(offset))),
    "exponential_polynomial": lambda m, sphere, terms, degree, offset: _exp_of_power(terms, degree, offset),
    # sine and cosine by turns, ‖f‖ = 1 and sin 1
    "cos": lambda m, sphere, terms: Growth(1.0, 1.0),
    "sin": lambda m, sphere, terms: Growth(1 / math.sin(1), 1.0),
    # h(z) = exp(√m z) ≤ ‖f‖ = e^√m
    "attention": lambda m, sphere, terms: Growth(1.0, np.sqrt(m)),
    "gaussian": _gaussian_of_product,
}
_OF_DISTANCE: dict[str, Callable[..., Growth | None]] = {
    "gaussian": _gaussian_of_distance,
    "quartic_gaussian": _quartic_of_distance,
}
_OF_THREE_POINTS: dict[str, Callable[[FloatArray], Growth]] = {
    # sinh and cosh by turns are at most cosh 1 on [−1, 1], ‖f‖ = sinh 1
    "sinh_product": lambda m: Growth(1 / math.tanh(1), 1.0),
    # f = exp(m <x, y, z>): h(z) = exp(m z) ≤ ‖f‖ = e^m on [−1, 1]
    "tensor_attention": lambda m: Growth(1.0, m),
}
