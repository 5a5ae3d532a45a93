"""Active-set polish: linear programmes over the entries near ±M, for factors with few unknowns."""

import numpy as np
from scipy.optimize import linprog

from pipeline.arrays import ROUNDING_LEVEL, FloatArray
from pipeline.smooth_maximum import Factorization

_NEAR = 0.5  # entries further than this share below the maximum never enter a programme
_RADIUS = 0.1  # first trust radius, relative to the root mean square of the unknowns
_SMALLEST_RADIUS = 1e-9
_TOLERANCE = 1e-12
_MOST_PROGRAMMES = 60


def _residual(matrix: FloatArray, factorization: Factorization, x: FloatArray) -> FloatArray:
    left, right = factorization.factors(x)
    return np.asarray(left @ right.T - matrix)


def polish(matrix: FloatArray, factorization: Factorization, x: FloatArray) -> tuple[FloatArray, str]:
    """Lower max|G − F| by a sequence of linear programmes in a trust region.

    Each programme minimises t subject to |E + E'(δ)| ≤ t on the entries near the maximum and |δ| ≤ radius, where E'
    is the derivative of the residual (Osborne and Watson, "An algorithm for minimax approximation in the nonlinear
    case", 1969). At a vertex the steps converge quadratically.

    Returns
    -------
    x : ndarray
        The best unknowns seen.
    stopped : str
        Why it ended.
    """
    radius = _RADIUS * float(np.sqrt(np.mean(x**2)))
    smallest = _SMALLEST_RADIUS * radius
    residual = _residual(matrix, factorization, x)
    error = float(np.abs(residual).max())
    for _ in range(_MOST_PROGRAMMES if error > ROUNDING_LEVEL else 0):
        step, decrease = _programme(factorization, x, residual, error, radius)
        if np.isnan(decrease):
            return x, "a linear programme could not be solved"
        if decrease <= _TOLERANCE * error:
            return x, "no step lowers the error to first order"
        trial = x + step
        trial_residual = _residual(matrix, factorization, trial)
        reached = float(np.abs(trial_residual).max())
        ratio = (error - reached) / decrease
        if reached < error:
            x, residual, error = trial, trial_residual, reached
        radius *= 2 if ratio > 0.75 else 1 if ratio > 0.25 else 0.25
        if radius < smallest:
            return x, "the trust region is at rounding level"
    return x, "the linear programmes are used up" if error > ROUNDING_LEVEL else "the error is at rounding level"


def _programme(
    factorization: Factorization, x: FloatArray, residual: FloatArray, error: float, radius: float
) -> tuple[FloatArray, float]:
    """Best step in the trust region to first order, and the decrease that it predicts; NaN where HiGHS fails."""
    size = np.abs(residual)
    i, j = np.nonzero(size > (1 - _NEAR) * error)
    if factorization.signs is not None:
        i, j = i[i <= j], j[i <= j]
    derivatives = np.sign(residual[i, j])[:, None] * factorization.derivatives(x, i, j)
    slack = (error - size[i, j]) / radius
    near = slack <= 2 * np.abs(derivatives).sum(axis=1).max()  # no other entry can become the largest
    solution = linprog(
        np.r_[np.zeros(x.size), 1.0],
        A_ub=np.hstack([derivatives[near], np.full((int(near.sum()), 1), -1.0)]),
        b_ub=slack[near],
        bounds=[(-1, 1)] * x.size + [(None, 0)],
        method="highs",
    )
    if solution.x is None:
        return np.zeros_like(x), np.nan
    return radius * solution.x[:-1].reshape(x.shape), -radius * float(solution.x[-1])
