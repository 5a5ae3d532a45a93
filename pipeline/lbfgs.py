"""Limited-memory BFGS in compact form: two tall matrix products a direction instead of two loops over the pairs."""

import numpy as np
import numpy.typing as npt

from pipeline.arrays import RealArray

_CURVATURE = 10  # least cosine between a step and its change, in rounding units


class InverseHessian:
    """Estimate of the inverse Hessian from the last steps and the changes of the gradient along them.

    Byrd, Nocedal and Schnabel, "Representations of quasi-Newton matrices and their use in limited memory methods",
    1994, theorem 2.2.

    Parameters
    ----------
    size : int
        Number of variables.
    pairs : int
        Number of steps that are remembered.
    dtype : dtype
        Of the stored steps; the small inner products are kept in double precision.
    """

    def __init__(self, size: int, pairs: int, dtype: npt.DTypeLike) -> None:
        self._steps = np.zeros((pairs, size), dtype)
        self._changes = np.zeros((pairs, size), dtype)
        self._steps_changes = np.zeros((pairs, pairs))
        self._changes_changes = np.zeros((pairs, pairs))
        self._order: list[int] = []  # rows in use, oldest first

    @property
    def empty(self) -> bool:
        """Whether no pair is remembered, so that the estimate is the identity."""
        return not self._order

    def forget(self) -> None:
        """Drop every pair."""
        self._order.clear()

    def add(self, step: RealArray, change: RealArray) -> None:
        """Remember a step and the change of the gradient; one without positive curvature is left out."""
        size = float(np.linalg.norm(step)) * float(np.linalg.norm(change))
        curvature = float(step @ change)
        if not (size > 0 and curvature > _CURVATURE * float(np.finfo(step.dtype).eps) * size):
            return
        row = self._order.pop(0) if len(self._order) == len(self._steps) else len(self._order)
        self._order.append(row)
        self._steps[row], self._changes[row] = step, change
        self._steps_changes[:, row] = self._steps @ change  # older steps with newer changes are all that is used
        self._steps_changes[row, row] = curvature  # positive whatever the rounding of the product above
        self._changes_changes[:, row] = self._changes_changes[row] = self._changes @ change

    def times(self, gradient: RealArray) -> RealArray:
        """Product of the estimate with a vector of shape (size,)."""
        if self.empty:
            return gradient.copy()
        used, order = len(self._order), np.array(self._order)
        steps, changes = self._steps[:used], self._changes[:used]
        pairs = np.ix_(order, order)
        upper = np.triu(self._steps_changes[pairs])
        scale = upper[-1, -1] / self._changes_changes[order[-1], order[-1]]
        along_steps = np.linalg.solve(upper, (steps @ gradient)[order].astype(np.float64))
        middle = (np.diag(np.diag(upper)) + scale * self._changes_changes[pairs]) @ along_steps
        middle -= scale * (changes @ gradient)[order]
        on_steps, on_changes = np.empty(used), np.empty(used)
        on_steps[order], on_changes[order] = np.linalg.solve(upper.T, middle), -scale * along_steps
        product: RealArray = gradient * gradient.dtype.type(scale)
        product += on_steps.astype(gradient.dtype) @ steps
        product += on_changes.astype(gradient.dtype) @ changes
        return product
