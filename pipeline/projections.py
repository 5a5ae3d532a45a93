"""Alternating projections between matrices of rank r and a max-norm ball around F (Budzinskiy, section 7.1)."""

from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from pipeline.arrays import ROUNDING_LEVEL, SINGLE_RESOLVES, FloatArray, RealArray, max_error, row_panels
from pipeline.sampling import stream
from pipeline.svd import Decomposition, lapack_svd, orthonormal

Fraction = Annotated[float, Field(gt=0, lt=1)]


class APSettings(BaseModel):
    """Constants of the bisection; the defaults are the published experiment's, save `warm_up` and `stagnation_memory`.

    Attributes
    ----------
    projection : {"subspace", "exact"}
        Projection on rank-r matrices: warm-started subspace iteration, or a full SVD every time.
    initial : {"random", "svd"}
        Gaussian factors, as published, or the truncated SVD: with the rules as published its errors are lower by 3 to
        50 %, with the defaults here the same.
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
    initial: Literal["random", "svd"] = "random"
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
        self._panels = row_panels(matrix)
        self.error = self._residual()

    def _residual(self) -> float:
        """Write G − F to the work array; return its max norm."""
        worst = 0.0
        for rows in self._panels:
            residual = np.matmul(self.left[rows], self.right.T, out=self._work[rows])
            residual -= self.matrix[rows]
            worst = float(np.max([worst, residual.max(), -residual.min()]))
        return worst

    def _clipped(self, rows: slice, epsilon: float) -> RealArray:
        """Turn rows of G − F in the work array into those of C."""
        clipped = np.clip(self._work[rows], -epsilon, epsilon, out=self._work[rows])
        clipped += self.matrix[rows]
        return clipped

    def project(self, epsilon: float, *, exact: bool) -> None:
        """One step: C = F + clip(G − F, −ε, ε), then G = the (quasi-)best rank-r approximation of C."""
        rank = self.left.shape[1]
        if exact:
            decomposition = lapack_svd(self._clipped(slice(None), epsilon))
            self.left = decomposition.u[:, :rank] * decomposition.s[:rank]
            self.right = decomposition.vt[:rank].T
        else:
            basis = orthonormal(self.right)
            self.left = orthonormal(np.concatenate([self._clipped(rows, epsilon) @ basis for rows in self._panels]))
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
    errors: list[float] = field(default_factory=list)

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
        self.errors.append(iterate.error)
        if iterate.error < self.hi:
            self.hi, self.left, self.right = iterate.error, iterate.left, iterate.right

    def search(self, matrix: RealArray, settings: APSettings, floor: float) -> None:
        """Bisect until the bounds meet, the error is below `floor`, or the projections are used up."""
        iterate = _LowRankIterate(matrix, self.left, self.right)
        while (
            self.hi - self.lo >= settings.tolerance * self.hi
            and self.hi > floor
            and len(self.errors) < settings.max_projections
        ):
            gap = self.hi - self.lo
            self._project_while_falling(iterate, (self.lo + self.hi) / 2, settings)
            if iterate.error > self.lo + settings.raise_above * gap:
                self.lo += settings.raise_by * gap
            if settings.stagnation_memory == "step":
                self.previous = iterate.error

    def _project_while_falling(self, iterate: _LowRankIterate, epsilon: float, settings: APSettings) -> None:
        while len(self.errors) < settings.max_projections:
            iterate.project(epsilon, exact=settings.projection == "exact")
            self._keep(iterate)
            if not iterate.error <= self.previous * (1 - settings.stagnation):
                return
            self.previous = iterate.error


def alternating_projections(
    matrix: FloatArray, rank: int, settings: APSettings, seed: int = 0, decomposition: Decomposition | None = None
) -> tuple[FloatArray, FloatArray, list[float], str]:
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
    decomposition : Decomposition, optional
        At least r singular triplets of F, for a start from the truncated SVD.

    Returns
    -------
    left : ndarray of shape (n1, r)
    right : ndarray of shape (n2, r)
        The best factors seen.
    errors : list of float
        max|F − G| after each projection.
    stopped : str
        Why the search ended.
    """
    scale = float(np.abs(matrix).max())
    scaled = matrix / scale
    if settings.initial == "svd" and decomposition is not None:
        root = np.sqrt(decomposition.s[:rank] / scale)
        left, right = decomposition.u[:, :rank] * root, decomposition.vt[:rank].T * root
    else:
        random = stream("start", seed)
        left, right = (random.standard_normal((size, rank)) / np.sqrt(rank) for size in matrix.shape)
    start = max_error(scaled, left, right)
    state = _Bisection(0.0, start, start, left, right)
    if settings.initial == "random":
        state.start(scaled, settings)
    if settings.precision == "single":
        state.search(scaled.astype(np.float32), settings, SINGLE_RESOLVES)
    if settings.precision == "double" or state.hi <= SINGLE_RESOLVES:
        state.search(scaled, settings, ROUNDING_LEVEL)
    stopped = "the bounds on ε meet"
    if state.hi <= ROUNDING_LEVEL:
        stopped = "the error is at rounding level"
    elif len(state.errors) >= settings.max_projections:
        stopped = "max_projections are used up"
    return (
        state.left.astype(np.float64) * scale,
        state.right.astype(np.float64),
        [scale * error for error in state.errors],
        stopped,
    )
