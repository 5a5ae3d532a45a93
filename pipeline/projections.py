"""Alternating projections between matrices of rank r and a max-norm ball around F (Budzinskiy, section 7.1)."""

from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from pipeline.arrays import FloatArray, RealArray, max_error
from pipeline.sampling import stream
from pipeline.svd import lapack_svd, orthonormal

_PANEL_BYTES = 512 * 1024  # row panels of the residual stay in the processor's cache
_SINGLE_RESOLVES = 1e-3  # relative errors below this are pursued in double precision
_FLOOR = 16 * float(np.finfo(np.float64).eps)

Fraction = Annotated[float, Field(gt=0, lt=1)]


class APSettings(BaseModel):
    """Constants of the bisection; the defaults are the published experiment's, save `warm_up` and `stagnation_memory`.

    Attributes
    ----------
    projection : {"subspace", "exact"}
        Projection on rank-r matrices: warm-started subspace iteration, or a full SVD every time.
    precision : {"single", "double"}
        Arithmetic of the projections; the factors' error is always taken in double precision.
    warm_up : int
        Subspace steps without clipping that lead from the random start to near the truncated SVD; the published
        program has none, and ends far off from some starts.
    tolerance : float
        The bisection ends when hi − lo < tolerance × hi.
    stagnation : float
        The projections at one ε end when the error falls by less than this share …
    stagnation_memory : {"step", "run"}
        … of the error before it ("step"), or of the last error that did fall in the whole run ("run", as published:
        it gives up sooner, with errors that are larger and vary more from start to start).
    raise_above : float
        Where they end above lo + raise_above × (hi − lo), lo is raised …
    raise_by : float
        … by this share of hi − lo.
    max_projections : int
        Upper limit for the whole run.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    projection: Literal["subspace", "exact"] = "subspace"
    precision: Literal["single", "double"] = "single"
    warm_up: Annotated[int, Field(ge=0, strict=True)] = 6
    tolerance: Fraction = 0.01
    stagnation: Fraction = 0.001
    stagnation_memory: Literal["step", "run"] = "step"
    raise_above: Fraction = 2 / 3
    raise_by: Fraction = 0.02
    max_projections: Annotated[int, Field(ge=1, strict=True)] = 20_000


class _LowRankIterate:
    """A rank-r matrix G = left @ right.T that is projected in turn on the ball and on rank-r matrices."""

    def __init__(self, matrix: RealArray, left: RealArray, right: RealArray) -> None:
        self.matrix = matrix
        self.left = left.astype(matrix.dtype)
        self.right = right.astype(matrix.dtype)
        self._work = np.empty_like(matrix)
        step = max(16, _PANEL_BYTES // (matrix.itemsize * matrix.shape[1]))
        self._panels = [slice(start, start + step) for start in range(0, len(matrix), step)]
        self.error = self._residual()

    def _residual(self) -> float:
        """Write G − F to the work array; return its max norm."""
        worst = 0.0
        for rows in self._panels:
            residual = np.matmul(self.left[rows], self.right.T, out=self._work[rows])
            residual -= self.matrix[rows]
            worst = float(np.max([worst, residual.max(), -residual.min()]))
        return worst

    def project(self, epsilon: float, *, exact: bool) -> None:
        """One step: C = F + clip(G − F, −ε, ε), then G = the (quasi-)best rank-r approximation of C."""
        np.clip(self._work, -epsilon, epsilon, out=self._work)
        self._work += self.matrix
        if exact:
            decomposition = lapack_svd(self._work)
            rank = self.left.shape[1]
            self.left = decomposition.u[:, :rank] * decomposition.s[:rank]
            self.right = decomposition.vt[:rank].T
        else:
            self.left = orthonormal(self._work @ orthonormal(self.right))
            self.right = self._work.T @ self.left
        self.error = self._residual()


@dataclass
class _Bisection:
    """Bounds on ε and the best factors seen, carried from one precision to the next."""

    lo: float
    hi: float
    previous: float
    left: RealArray
    right: RealArray
    projections: int = 0

    def start(self, matrix: RealArray, settings: APSettings) -> None:
        """Go from the random start to near the truncated SVD: unclipped steps are a subspace iteration on F.

        The steps are the subspace projection's even where the exact one is asked for: where singular values tie
        (the identity), LAPACK's vectors are coordinate vectors, from which no projection leads away.
        """
        iterate = _LowRankIterate(matrix, self.left, self.right)
        for _ in range(min(settings.warm_up, settings.max_projections)):
            iterate.project(0.0, exact=False)
            self._keep(iterate)
        self.previous = self.hi

    def _keep(self, iterate: _LowRankIterate) -> None:
        self.projections += 1
        if iterate.error < self.hi:
            self.hi, self.left, self.right = iterate.error, iterate.left, iterate.right

    def search(self, matrix: RealArray, settings: APSettings, floor: float) -> None:
        """Bisect until the bounds meet, the error is below `floor`, or the projections are used up."""
        iterate = _LowRankIterate(matrix, self.left, self.right)
        while (
            self.hi - self.lo >= settings.tolerance * self.hi
            and self.hi > floor
            and self.projections < settings.max_projections
        ):
            gap = self.hi - self.lo
            self._project_while_falling(iterate, (self.lo + self.hi) / 2, settings)
            if iterate.error > self.lo + settings.raise_above * gap:
                self.lo += settings.raise_by * gap
            if settings.stagnation_memory == "step":
                self.previous = iterate.error

    def _project_while_falling(self, iterate: _LowRankIterate, epsilon: float, settings: APSettings) -> None:
        while self.projections < settings.max_projections:
            iterate.project(epsilon, exact=settings.projection == "exact")
            self._keep(iterate)
            if iterate.error > self.previous * (1 - settings.stagnation):
                return
            self.previous = iterate.error


def alternating_projections(
    matrix: FloatArray, rank: int, settings: APSettings, seed: int = 0
) -> tuple[FloatArray, FloatArray, int]:
    """Search by bisection for the smallest ε at which the two sets seem to meet.

    Each step clips the residual to ±ε and projects on rank r; when the error stagnates, a new ε between the bounds
    is tried (Budzinskiy, section 7.1). The start is Gaussian with entries of variance 1/r, for F scaled to max norm 1.

    Parameters
    ----------
    matrix : ndarray of shape (n1, n2)
        F, finite, not all zero.
    rank : int
        r, at most min(n1, n2).
    settings : APSettings
    seed : int
        Stream of the random start.

    Returns
    -------
    left : ndarray of shape (n1, r)
    right : ndarray of shape (n2, r)
        The best factors seen.
    projections : int
        Number of projections made.
    """
    scale = float(np.abs(matrix).max())
    scaled = matrix / scale
    random = stream("start", seed)
    left, right = (random.standard_normal((size, rank)) / np.sqrt(rank) for size in matrix.shape)
    start = max_error(scaled, left, right)
    state = _Bisection(0.0, start, start, left, right)
    state.start(scaled, settings)
    if settings.precision == "single":
        state.search(scaled.astype(np.float32), settings, _SINGLE_RESOLVES)
    if settings.precision == "double" or state.hi <= _SINGLE_RESOLVES:
        state.search(scaled, settings, _FLOOR)
    return state.left.astype(np.float64) * scale, state.right.astype(np.float64), state.projections
