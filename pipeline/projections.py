"""Alternating projections between what is of low rank and a max-norm ball around F (Budzinskiy, section 7.1)."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, TypeAlias

import numpy as np
import scipy.linalg
from pydantic import BaseModel, ConfigDict, Field

from pipeline.arrays import ROUNDING_LEVEL, SINGLE_RESOLVES, FloatArray, Matrix, RealArray, divided, row_panels
from pipeline.passes import PANEL_ROWS, Passes, Piece, columns, max_norm, panels, tiles
from pipeline.sampling import stream
from pipeline.svd import lapack_svd, orthonormal
from pipeline.tensor_train import from_left, from_right, interfaces, middle_bond, random_train, right_orthogonal, tt_svd

Fraction = Annotated[float, Field(gt=0, lt=1)]
Factors: TypeAlias = tuple[RealArray, ...]
_DEPENDENT = 30  # columns are taken to depend on others below this many rounding errors


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


class _Iterate(ABC):
    """A low-rank G that is projected in turn on the ball around F and on what is of low rank.

    Attributes
    ----------
    factors : tuple of ndarray
        Of G.
    error : float
        max |F − G|.
    """

    factors: Factors
    error: float

    @abstractmethod
    def __init__(self, target: Any, factors: Factors) -> None:
        """Begin with given factors for F, in the precision in which all is to be computed."""

    @abstractmethod
    def project(self, epsilon: float, *, exact: bool) -> None:
        """One step: C = F + clip(G − F, −ε, ε), then G = the (quasi-)best low-rank approximation of C."""


class _StoredIterate(_Iterate):
    """An iterate for an F that is stored, C-ordered, of order 2 or more, with a work array of its size."""

    bond: int  # the unfolding that the work array holds the residual of

    def __init__(self, target: RealArray, factors: Factors) -> None:
        self.factors = tuple(factor.astype(target.dtype) for factor in factors)
        self._matrix = target.reshape(math.prod(target.shape[: self.bond]), -1)
        self._work = np.empty_like(self._matrix)
        self._panels = row_panels(self._matrix)
        self.error = self._residual()

    @abstractmethod
    def _sides(self) -> tuple[RealArray, RealArray]:
        """Left and right matrix whose product is G."""

    @abstractmethod
    def _project_exactly(self, epsilon: float) -> None:
        """Replace the factors by those of the truncated decomposition of C."""

    @abstractmethod
    def _project_nearly(self, epsilon: float) -> None:
        """Replace the factors by those of a step of subspace iteration on C."""

    def _residual(self) -> float:
        """Write G − F to the work array; return its max norm."""
        left, right = self._sides()
        worst = 0.0
        for rows in self._panels:
            residual = np.matmul(left[rows], right.T, out=self._work[rows])
            residual -= self._matrix[rows]
            worst = float(np.max([worst, residual.max(), -residual.min()]))
        return worst

    def _clipped(self, rows: slice, epsilon: float) -> RealArray:
        """Turn rows of G − F in the work array into those of C."""
        clipped = np.clip(self._work[rows], -epsilon, epsilon, out=self._work[rows])
        clipped += self._matrix[rows]
        return clipped

    def project(self, epsilon: float, *, exact: bool) -> None:
        """One step."""
        if exact:
            self._project_exactly(epsilon)
        else:
            self._project_nearly(epsilon)
        self.error = self._residual()


class _MatrixIterate(_StoredIterate):
    """G = left @ right.T."""

    bond = 1

    def _sides(self) -> tuple[RealArray, RealArray]:
        return self.factors[0], self.factors[1]

    def _project_exactly(self, epsilon: float) -> None:
        rank = self.factors[0].shape[1]
        decomposition = lapack_svd(self._clipped(slice(None), epsilon))
        self.factors = decomposition.u[:, :rank] * decomposition.s[:rank], decomposition.vt[:rank].T

    def _project_nearly(self, epsilon: float) -> None:
        basis = orthonormal(self.factors[1])
        left = orthonormal(np.concatenate([self._clipped(rows, epsilon) @ basis for rows in self._panels]))
        self.factors = left, self._work.T @ left


class _TrainIterate(_StoredIterate):
    """G is a tensor train; steps of subspace iteration go from its left end and from its right end in turn."""

    def __init__(self, target: RealArray, factors: Factors) -> None:
        self.bond = middle_bond(target.shape)
        self._shape = target.shape
        self._steps = 0
        super().__init__(target, right_orthogonal(factors))

    def _sides(self) -> tuple[RealArray, RealArray]:
        return interfaces(self.factors, self.bond)

    def _project_exactly(self, epsilon: float) -> None:
        rank = max(core.shape[2] for core in self.factors)
        self.factors = tt_svd(self._clipped(slice(None), epsilon).reshape(self._shape), rank)

    def _project_nearly(self, epsilon: float) -> None:
        for rows in self._panels:
            self._clipped(rows, epsilon)
        step = from_right if self._steps % 2 else from_left
        self.factors = step(self._work.reshape(self._shape), self.factors)
        self._steps += 1


class _PassesIterate(_Iterate):
    """G = left @ right.T for a matrix that is known by passes over it.

    One pass finds max |F − G|, Y = C V and Z = Cᵀ Y, where V has the right singular vectors of G. The columns of Y are
    near orthogonal, so left = Q and right = Z T⁻¹ with Y = Q T are accurately those of a step of subspace iteration,
    without a second pass. It clips at the ε of the step before; where the next one is another, it is made again.
    """

    def __init__(self, target: Passes, factors: Factors) -> None:
        self._passes = target
        left, right = (factor.astype(target.dtype) for factor in factors)
        q, t = scipy.linalg.qr(left, mode="economic", check_finite=False)
        self._move(q, right @ t.T, 0.0)

    def project(self, epsilon: float, *, exact: bool) -> None:
        """One step, which is never exact."""
        if epsilon != self._epsilon:
            self._pass(epsilon)
        q, t = scipy.linalg.qr(self._found.rows, mode="economic", check_finite=False)
        lengths = np.linalg.norm(t, axis=0)
        lengths[lengths == 0] = 1.0
        inverse = np.linalg.pinv((t / lengths).astype(np.float64), rcond=_DEPENDENT * np.finfo(t.dtype).eps)
        self._move(q, (self._found.totals[0] / lengths @ inverse).astype(q.dtype), epsilon)

    def _move(self, left: RealArray, right: RealArray, epsilon: float) -> None:
        self.factors = left, right
        q, t = scipy.linalg.qr(right, mode="economic", check_finite=False)
        self._basis = q @ scipy.linalg.svd(t, check_finite=False)[0]
        self._pass(epsilon)
        self.error = self._found.largest

    def _pass(self, epsilon: float) -> None:
        left, right = self.factors
        self._epsilon = epsilon
        self._found = self._passes.run(clipped_products, [right, self._basis, np.array([epsilon])], [left])


def clipped_products(
    matrix: Matrix, rows: slice, shared: tuple[RealArray, ...], by_rows: tuple[RealArray, ...]
) -> Piece:
    """Kernel of max |F − G|, Y = C V and Cᵀ Y for C = F + clip(G − F, −ε, ε), given G's factors, V and ε."""
    right, basis, (epsilon,) = shared
    (left,) = by_rows
    product, total, largest = np.zeros_like(left), np.zeros_like(basis), []
    clipped = np.empty((min(PANEL_ROWS, len(left)), matrix.shape[1]), right.dtype)
    for panel in panels(rows):
        within = slice(panel.start - rows.start, panel.stop - rows.start)
        found = clipped[: panel.stop - panel.start]
        for _, cols, entries in tiles(matrix, panel):
            residual = left[within] @ right[cols].T
            residual -= entries
            largest += [residual.max(), -residual.min()]
            np.clip(residual, -epsilon, epsilon, out=residual)
            found[:, cols] = np.add(residual, entries, out=residual)
            product[within] += residual @ basis[cols]
        for cols in columns(matrix):
            total[cols] += found[:, cols].T @ product[within]
    return Piece(product, float(np.max(largest)), (total,))


@dataclass
class _Bisection:
    """Bounds on ε and the best factors seen, carried from one precision to the next."""

    lo: float
    hi: float
    previous: float
    factors: Factors
    iterate: type[_Iterate]
    errors: list[float] = field(default_factory=list)

    def start(self, target: RealArray | Passes, settings: APSettings) -> None:
        """Go from the random start to near the truncated SVD: unclipped steps are a subspace iteration on F.

        The steps are the subspace projection's even where the exact one is asked for: where singular values tie
        (the identity), LAPACK's vectors are coordinate vectors, from which no projection leads away.
        """
        iterate = self.iterate(target, self.factors)
        for _ in range(min(settings.warm_up, settings.max_projections)):
            iterate.project(0.0, exact=False)
            self._keep(iterate)
        self.previous = self.hi

    def _keep(self, iterate: _Iterate) -> None:
        self.errors.append(iterate.error)
        if iterate.error < self.hi:
            self.hi, self.factors = iterate.error, iterate.factors

    def search(self, target: RealArray | Passes, settings: APSettings, floor: float) -> None:
        """Bisect until the bounds meet, the error is below `floor`, or the projections are used up."""
        iterate = self.iterate(target, self.factors)
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

    def _project_while_falling(self, iterate: _Iterate, epsilon: float, settings: APSettings) -> None:
        while len(self.errors) < settings.max_projections:
            iterate.project(epsilon, exact=settings.projection == "exact")
            self._keep(iterate)
            if not iterate.error <= self.previous * (1 - settings.stagnation):
                return
            self.previous = iterate.error


def alternating_projections(
    target: FloatArray | Passes,
    rank: int,
    settings: APSettings,
    seed: int = 0,
    start: Factors | None = None,
    *,
    train: bool = False,
) -> tuple[Factors, list[float], str]:
    """Search by bisection for the smallest ε at which the two sets seem to meet.

    Each step clips the residual to ±ε and projects on rank r, or TT rank r; when the error stagnates, a new ε between
    the bounds is tried (Budzinskiy, section 7.1). The start is Gaussian with entries of variance 1/r (cores: 1/r, 1/r²,
    …, 1/r), for F scaled to max norm 1.

    Parameters
    ----------
    target : ndarray of shape (n1, n2) or (n1, …, nd), or Passes
        F, finite, not all zero, C-ordered. By passes, `projection` is "subspace".
    rank : int
        r, at most min(n1, n2); of a train the largest TT rank.
    settings : APSettings
    seed : int
        Stream of the random start.
    start : tuple of ndarray, optional
        Factors, or cores, to begin with in place of random ones.
    train : bool
        Whether a tensor train is sought, rather than two factors of a matrix.

    Returns
    -------
    factors : tuple of ndarray
        The best seen: left (n1 × r) and right (n2 × r), or d cores.
    errors : list of float
        max|F − G| after each projection.
    stopped : str
        Why the search ended.
    """
    iterate: type[_Iterate] = _TrainIterate if train else _MatrixIterate
    if isinstance(target, np.ndarray):
        scale = float(np.abs(target).max())
    else:
        scale, iterate = max_norm(target), _PassesIterate
    scaled = _scaled(target, scale, np.float64)
    if start is not None:
        share = scale ** (1 / len(start))  # of each factor, so that all fit into single precision
        factors: Factors = tuple(factor / share for factor in start)
    elif train:
        factors = random_train(target.shape, rank, stream("start", seed))
    else:
        random = stream("start", seed)
        factors = tuple(random.standard_normal((size, rank)) / np.sqrt(rank) for size in target.shape)
    first = iterate(scaled, factors).error
    state = _Bisection(0.0, first, first, factors, iterate)
    if start is None:
        state.start(scaled, settings)
    if settings.precision == "single":
        state.search(_scaled(target, scale, np.float32), settings, SINGLE_RESOLVES)
    if settings.precision == "double" or state.hi <= SINGLE_RESOLVES:
        state.search(scaled, settings, ROUNDING_LEVEL)
    stopped = "the bounds on ε meet"
    if state.hi <= ROUNDING_LEVEL:
        stopped = "the error is at rounding level"
    elif len(state.errors) >= settings.max_projections:
        stopped = "max_projections are used up"
    left, *others = (factor.astype(np.float64) for factor in state.factors)
    return (left * scale, *others), [scale * error for error in state.errors], stopped


def _scaled(target: FloatArray | Passes, scale: float, dtype: type[np.floating[Any]]) -> RealArray | Passes:
    """F / scale in a precision."""
    if not isinstance(target, np.ndarray):
        return target.scaled(scale, dtype)
    return divided(target, scale, dtype)
