"""Fits of a measured quantity along one axis, with intervals from the spread of its trials.

A trial is one growing dataset, so its values at different points belong together: each trial is fitted alone, and
only the trials, which are independent, count as repetitions. Every fit is by least squares on logarithms.

The estimate is fitted to the curve of medians, which is what figures show. The interval is Student's for the mean of
the powers of single trials: it has that mean, not the estimate, as its centre, and is to be quoted with it. Its level
is exact for normal logarithms, whatever their correlation along the axis; for the curve of medians of five trials
nothing as simple is known. Both have the same target where the noise has one distribution, up to scale, at all points,
but the curve of medians is the less certain: a few times where trials differ more in level than in shape, for then it
jumps between trials. The estimate leaves the interval of five trials in about 1 % of cases without such offsets, in
8 % where they are three times the noise. An interval tells of the spread between trials alone, not of a law that
does not hold: for that there is the misfit.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import scipy.stats

from pipeline.arithmetic import own_state
from pipeline.arrays import FloatArray
from pipeline.checked import floats
from pipeline.errors import InputError, shown

Model = Literal["constant", "logarithmic", "power"]

_FEWEST = 3  # points: any two lie on a curve of each growing model


@dataclass(frozen=True)
class Fit:
    """A power p fitted to a quantity, quantity ≈ factor · baseᵖ, where the base is x or log n.

    Attributes
    ----------
    estimate : float
        p of the curve of medians.
    low, high : float
        Ends of the interval for p, centred at `mean`; NaN with one trial.
    mean : float
        Mean of the p of single trials, the better known of the two.
    factor : float
        Of the curve of medians, in the units of the quantity.
    misfit : float
        Root mean square of the residuals of the log medians; 0.02 stands for departures of about 2 %.
    points, trials : int
    level : float
        Probability that the interval is to cover p with.
    """

    estimate: float
    low: float
    high: float
    mean: float
    factor: float
    misfit: float
    points: int
    trials: int
    level: float


@dataclass(frozen=True)
class Flatness:
    """How far a quantity is from constant along x.

    Attributes
    ----------
    change : Fit
        Its power is the change of log₁₀ of the quantity per decade of x; 0 is flat.
    ratio : float
        Largest median by smallest median.
    """

    change: Fit
    ratio: float


@dataclass(frozen=True)
class Comparison:
    """Three models of growth: constant c, logarithmic c (log n)ᵖ, and power c nᵖ.

    Attributes
    ----------
    logarithmic, power : Fit
    residuals : dict of str to float
        Sum of the squared residuals of the log medians, by model. The constant has one parameter less than the
        others, and so never the least of these.
    best : {"constant", "logarithmic", "power"} or None
        The model that describes the medians best of the three, none of which need be true; None where the trials
        cannot tell.
    """

    logarithmic: Fit
    power: Fit
    residuals: dict[Model, float]
    best: Model | None


@own_state()
def power_law(x: npt.ArrayLike, values: npt.ArrayLike, level: float = 0.95) -> Fit:
    """Fit the power p in value ≈ c xᵖ, the slope of the log of the value in log x.

    Parameters
    ----------
    x : array_like of shape (points,)
        At least two positive numbers in increasing order.
    values : array_like of shape (trials, points)
        Positive.
    level : float
        Of the interval, between 0 and 1.

    Returns
    -------
    Fit

    Raises
    ------
    InputError
        If a shape, an order, a value or the level is not as said.

    References
    ----------
    Student, "The probable error of a mean", 1908.

    Examples
    --------
    >>> fit = power_law([5, 20, 80], [[0.4, 0.2, 0.1], [0.8, 0.4, 0.2], [0.5, 0.25, 0.125]])
    >>> round(fit.estimate, 6), round(fit.low, 6), round(fit.high, 6)
    (-0.5, -0.5, -0.5)
    """
    points, quantity = _measured("x", x, values)
    return _fit("x", np.log(points), quantity, level)


@own_state()
def log_growth(n: npt.ArrayLike, values: npt.ArrayLike, level: float = 0.95) -> Fit:
    """Fit the power p in value ≈ c (log n)ᵖ, log the natural logarithm.

    Parameters, results and errors are those of `power_law`; every n is above 1.

    Examples
    --------
    >>> round(log_growth([10, 100, 1000], [[3.0, 6.0, 9.0]]).estimate, 6)
    1.0
    """
    sizes, quantity = _measured("n", n, values)
    if (least := float(sizes.min())) <= 1:
        raise InputError(f"n: {least} has no positive logarithm; give sizes above 1")
    return _fit("n", np.log(np.log(sizes)), quantity, level)


@own_state()
def flatness(x: npt.ArrayLike, values: npt.ArrayLike, level: float = 0.95) -> Flatness:
    """Change of log₁₀ of the value per decade of x, which is the power of `power_law`, and the range of the medians.

    Parameters and errors are those of `power_law`.

    Examples
    --------
    >>> flat = flatness([1, 10, 100], [[0.2, 0.25, 0.2], [0.3, 0.25, 0.3], [0.25, 0.25, 0.25]])
    >>> flat.change.estimate, flat.ratio
    (0.0, 1.0)
    """
    change = power_law(x, values, level)
    _, quantity = _measured("x", x, values)
    with np.errstate(over="ignore"):
        return Flatness(change, float(np.exp(np.ptp(_log_medians(quantity)))))


@own_state()
def local_slopes(n: npt.ArrayLike, values: npt.ArrayLike, level: float = 0.95) -> tuple[Fit, ...]:
    """Fit the slope of the log of the value in log n between each size and the next.

    Parameters and errors are those of `power_law`. Each interval holds at its level for its own slope, not for all at
    once.

    Returns
    -------
    tuple of Fit
        One fewer than the sizes.

    Examples
    --------
    >>> [round(fit.estimate, 6) for fit in local_slopes([100, 200, 400], [[10, 20, 20]])]
    [1.0, 0.0]
    """
    sizes, quantity = _measured("n", n, values)
    pairs = [slice(k, k + 2) for k in range(len(sizes) - 1)]
    return tuple(_fit("n", np.log(sizes[pair]), quantity[:, pair], level) for pair in pairs)


@own_state()
def compare_growth(
    n: npt.ArrayLike, values: npt.ArrayLike, level: float = 0.95, flat_factor: float = 1.25
) -> Comparison:
    """Compare a constant, c (log n)ᵖ and c nᵖ as models of a quantity.

    Growth is established if the interval for the power of n leaves out 0. Of the two growing models, which have equally
    many parameters, the one of less residual is then taken if the trials agree: if the interval for the excess of the
    other's sum of squared residuals, trial by trial, lies above 0. Where growth is not established the constant is
    taken if the same interval rules out more than a small change over all sizes; a wide interval is no evidence for it.
    One trial, or two sizes, cannot tell.

    Parameters
    ----------
    n : array_like of shape (points,)
        At least two sizes above 1 in increasing order.
    values : array_like of shape (trials, points)
        Positive.
    level : float
        Of all intervals, between 0 and 1.
    flat_factor : float
        Change over all sizes that still passes for none; above 1.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        If a shape, an order, a value, the level or the factor is not as said.

    Examples
    --------
    >>> import numpy as np
    >>> n, trials = 100 * 2 ** np.arange(8), np.array([[1.0], [1.02], [0.99]])
    >>> compare_growth(n, trials * np.log(n)).best
    'logarithmic'
    >>> compare_growth(n[:2], trials * np.log(n[:2])).best is None
    True
    """
    if not 1 < flat_factor < math.inf:
        raise InputError(f"flat_factor: {shown(flat_factor)} is out of range; give a finite number above 1")
    logarithmic, power = log_growth(n, values, level), power_law(n, values, level)
    sizes, quantity = _measured("n", n, values)
    log_n, log_medians = np.log(sizes), _log_medians(quantity)[None]
    residuals: dict[Model, float] = {
        "constant": float(np.square(log_medians - log_medians.mean()).sum()),
        "logarithmic": float(_residuals(np.log(log_n), log_medians)[0]),
        "power": float(_residuals(log_n, log_medians)[0]),
    }
    best: Model | None = None
    if len(quantity) > 1 and len(sizes) >= _FEWEST:
        if power.low <= 0 <= power.high:
            reach = max(-power.low, power.high) * np.ptp(log_n)
            best = "constant" if reach <= math.log(flat_factor) else None
        else:
            excess = _residuals(np.log(log_n), np.log(quantity)) - _residuals(log_n, np.log(quantity))
            by_power = residuals["power"] < residuals["logarithmic"]
            low, _ = _interval(excess if by_power else -excess, level)
            best = None if low <= 0 else "power" if by_power else "logarithmic"
    return Comparison(logarithmic, power, residuals, best)


def _measured(field: str, x: npt.ArrayLike, values: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Points and values as float64, or one line that tells what is wrong."""
    points, quantity = _positive(field, x), _positive("values", values)
    if points.ndim != 1 or len(points) < 2:
        raise InputError(f"{field}: shape {points.shape} is not that of an axis; give at least two points in a row")
    if quantity.ndim != 2 or len(quantity) == 0 or quantity.shape[1] != len(points):
        raise InputError(f"values: shape {quantity.shape} is not (trials, {len(points)}); give a row for each trial")
    return points, quantity


def _positive(field: str, values: npt.ArrayLike) -> FloatArray:
    try:
        numbers = floats(field, values)
    except (TypeError, ValueError, OverflowError):
        raise InputError(f"{field}: {shown(values)} is not an array of numbers; give positive finite ones") from None
    if (wrong := ~((numbers > 0) & np.isfinite(numbers))).any():
        place = ", ".join(map(str, np.argwhere(wrong)[0]))
        raise InputError(f"{field}: entry [{place}] is {numbers[wrong][0]}; give positive finite numbers, drop others")
    return numbers


def _log_medians(quantity: FloatArray) -> FloatArray:
    logarithms: FloatArray = np.log(np.median(quantity, axis=0))
    return logarithms


def _slopes(base: FloatArray, logs: FloatArray) -> FloatArray:
    """Slope of each row of logarithms in the base, a logarithm itself; exactly 0 for a constant row."""
    centred = base - base.mean()
    slopes: FloatArray = (logs - logs[:, :1]) @ centred / (centred @ centred)
    return slopes


def _residuals(base: FloatArray, logs: FloatArray) -> FloatArray:
    """Sum of the squared residuals of each row about its own line."""
    departures = logs - logs.mean(axis=1, keepdims=True) - np.outer(_slopes(base, logs), base - base.mean())
    sums: FloatArray = np.square(departures).sum(axis=1)
    return sums


def _interval(samples: FloatArray, level: float) -> tuple[float, float]:
    """Student's interval for the mean of normal samples."""
    if len(samples) < 2:
        return math.nan, math.nan
    quantile = float(scipy.stats.t.ppf((1 + level) / 2, len(samples) - 1))
    half = quantile * float(np.std(samples, ddof=1)) / math.sqrt(len(samples))
    return float(samples.mean()) - half, float(samples.mean()) + half


def _fit(field: str, base: FloatArray, quantity: FloatArray, level: float) -> Fit:
    """Fit the medians and each trial; the base is a logarithm."""
    if not np.all(np.diff(base) > 0):
        raise InputError(f"{field}: its points do not increase; give distinct ones in increasing order")
    if not 0 < level < 1:
        raise InputError(f"level: {shown(level)} is out of range; give a number strictly between 0 and 1")
    log_medians, slopes = _log_medians(quantity)[None], _slopes(base, np.log(quantity))
    estimate = float(_slopes(base, log_medians)[0])
    with np.errstate(over="ignore", under="ignore"):  # one point may be very far from base 1
        factor = float(np.exp(log_medians.mean() - estimate * base.mean()))
    misfit = math.sqrt(float(_residuals(base, log_medians)[0]) / len(base))
    low, high = _interval(slopes, level)
    return Fit(estimate, low, high, float(slopes.mean()), factor, misfit, len(base), len(quantity), level)
