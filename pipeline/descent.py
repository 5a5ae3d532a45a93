"""Descent on the smooth maximum of a residual by limited-memory BFGS."""

import numpy as np

from pipeline.arrays import ROUNDING_LEVEL, SINGLE_RESOLVES, FloatArray, RealArray, divided
from pipeline.lbfgs import InverseHessian
from pipeline.passes import Passes, max_error
from pipeline.smooth_maximum import Factorization, Objective, PassesMaximum, SmoothMaximum

_PAIRS = 10
_FIRST_DECREASE = 0.5  # of S_β that a step along the plain gradient aims at
_SUFFICIENT = 1e-4
_ROUNDING = 1e-7
_FLAT = 3  # steps without decrease that end a stage
_MOST_TRIALS = 8
_TINY = 1e-30  # slopes that are rounding errors


class Descent:
    """One search: the unknowns, the best of them seen, and the error after each evaluation.

    Parameters
    ----------
    matrix : ndarray or Passes of shape (n1, n2)
        F.
    scale : float
        max|F|; unknowns and errors are those of F / scale, whose entries fit into single precision.
    factorization : Factorization
    x : ndarray
        The unknowns to begin with.
    precision : {"single", "double"}
    """

    def __init__(
        self, matrix: FloatArray | Passes, scale: float, factorization: Factorization, x: FloatArray, precision: str
    ) -> None:
        left, right = factorization.factors(x)
        self.best: RealArray = x
        self.error = max_error(matrix, scale * left, right) / scale
        self.errors = [self.error]
        self.flops = 0.0
        self.stopped = ""
        self._matrix = matrix
        self._scale = scale
        self.factorization = factorization
        self._precision = precision
        self._x: RealArray = x
        self._objective: Objective | None = None
        self._hessian = InverseHessian(x.size, _PAIRS, x.dtype)

    @property
    def resolved(self) -> bool:
        """Whether the error is at rounding level."""
        return self.error < ROUNDING_LEVEL

    def stage(self, sharpness: float, steps: int) -> None:
        """Minimise S_β at β = sharpness / error, until it no longer falls or the steps are used up."""
        if self.resolved:
            self.stopped = "the error is at rounding level"
            return
        objective = self._objective = self._in_precision()
        flops = objective.flops
        near = objective.maximum(self._x)
        beta = sharpness / near
        near, value, gradient = objective(self._x, beta, near)
        flat = 0
        for _ in range(steps):
            before = value
            found = self._step(objective, beta, near, value, gradient)
            if found is not None:
                near, value, gradient = found
            elif self._hessian.empty:
                flat = _FLAT
            else:
                self._hessian.forget()
            flat = flat + 1 if found is None or before - value < _ROUNDING * value else 0
            if flat >= _FLAT:
                break
        self.flops += objective.flops - flops
        self.stopped = "the smooth maximum no longer falls" if flat >= _FLAT else "the steps are used up"

    def _in_precision(self) -> Objective:
        """The objective in single precision while that resolves the error, in double precision after."""
        dtype = np.float32 if self._precision == "single" and self.error > SINGLE_RESOLVES else np.float64
        if self._objective is not None and self._objective.dtype == dtype:
            return self._objective
        self._x = self.best.astype(dtype)
        self._hessian = InverseHessian(self._x.size, _PAIRS, np.dtype(dtype))
        if not isinstance(self._matrix, np.ndarray):
            return PassesMaximum(self._matrix.scaled(self._scale, dtype), self.factorization)
        return SmoothMaximum(divided(self._matrix, self._scale, dtype), self.factorization)

    def _step(
        self, objective: Objective, beta: float, near: float, value: float, gradient: RealArray
    ) -> tuple[float, float, RealArray] | None:
        """One quasi-Newton step with backtracking; None where no sufficient decrease is found."""
        direction = -self._hessian.times(gradient.ravel()).reshape(gradient.shape)
        slope = float(np.vdot(gradient, direction))
        if not slope < -_TINY:
            return None
        length = _FIRST_DECREASE * value / -slope if self._hessian.empty else 1.0
        slack = _ROUNDING * value + np.finfo(gradient.dtype).eps / 4  # the entries of F are rounded too
        for _ in range(_MOST_TRIALS):
            x = self._x + direction.dtype.type(length) * direction
            maximum, reached, new_gradient = objective(x, beta, near)
            self.errors.append(maximum)
            if maximum < self.error:
                self.error, self.best = maximum, x
            if reached <= value + _SUFFICIENT * length * slope + slack:
                self._hessian.add((x - self._x).ravel(), (new_gradient - gradient).ravel())
                self._x = x
                return maximum, reached, new_gradient
            excess = reached - value - slope * length
            length *= min(max(-slope * length / (2 * excess), 0.1), 0.6)  # the least point of a parabola
        return None
