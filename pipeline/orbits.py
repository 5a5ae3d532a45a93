"""Symmetric low-rank matrices that are invariant under a group of permutations, as starts for symmetric matrices.

If ρ is an orthogonal representation of a group of permutations p, U with U[p(i)] = U[i] ρ(p) gives an invariant
G = U Uᵀ, and is known by one row an orbit. Difference sets give equiangular tight frames of this kind (Xia, Zhou and
Giannakis, "Achieving the Welch bound with difference sets", 2005).
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pipeline.arrays import FloatArray, RealArray
from pipeline.descent import Descent
from pipeline.permutation_groups import Group, groups, random_characters, representation
from pipeline.sampling import stream
from pipeline.smooth_maximum import Factorization

_MOST_ROWS = 512
_MOST_IMAGES = 600_000  # n r², entries of all matrices ρ
_EQUAL = 1e-12  # entries closer than this beside the largest are the same
_SHORT_STAGES, _SHORT_STEPS, _SHORT_STARTS = (20, 100), 60, 128  # starts a round, at least one a group
_LONG_STAGES, _LONG_STEPS, _LONG_STARTS = (10, 20, 35, 60, 100, 200, 400, 1000, 3000), 400, 24
_LONG_GROUPS = 12, 4
_LAST_STAGES = (400, 1600, 6400)
_FINALISTS = 4  # groups in the last round of short starts
_KEPT = 8  # short starts that are pursued
_FLAT = 0.5  # least ratio of the r-th to the second eigenvalue: starts use all characters alike
_DEAD = 1e-6  # rows that the projection leaves smaller than this stay zero


@dataclass(frozen=True)
class OrbitFactorization(Factorization):
    """Unknowns x of shape (orbits, r), one row of an invariant G = U Uᵀ an orbit.

    As the residual is invariant too, only its first row in each orbit is computed: the left factor has the orbits'
    first rows, the right one is U, whose rows stand orbit by orbit.

    Attributes
    ----------
    images : tuple of ndarray of shape (r, size × r)
        Matrices ρ for the orbits of each kind, side by side, times the projection on what their first row's
        stabiliser leaves alone.
    orbits : tuple of ndarray of shape (number of orbits, size)
        Their rows in the matrix.
    """

    images: tuple[FloatArray, ...] = field(repr=False)
    orbits: tuple[npt.NDArray[np.intp], ...] = field(repr=False)

    @classmethod
    def of(cls, group: Group, characters: list[int]) -> "OrbitFactorization":
        """Factorization of the representation with these characters."""
        shifts, multiplier = representation(group, characters)
        rank = len(multiplier)
        powers = [np.linalg.matrix_power(multiplier, j) for j in range(group.order)]
        kept = np.mean(powers, axis=0) @ shifts
        fixed = kept.mean(axis=0, keepdims=True)
        moved = np.concatenate([power @ shifts for power in powers]) if len(group.orbits[0]) else kept
        images = tuple(stack.transpose(1, 0, 2).reshape(rank, -1) for stack in (moved, kept, fixed))
        return cls(sum(map(len, group.orbits)), np.ones(rank), None, images, group.orbits)

    @cached_property
    def order(self) -> npt.NDArray[np.intp]:
        """Rows of the matrix, orbit by orbit."""
        return np.concatenate([rows.ravel() for rows in self.orbits])

    @cached_property
    def first(self) -> npt.NDArray[np.intp]:
        """Places in `order` where the orbits begin."""
        sizes = np.concatenate([np.full(len(rows), rows.shape[1]) for rows in self.orbits])
        first: npt.NDArray[np.intp] = np.cumsum(sizes) - sizes
        return first

    def first_rows(self, matrix: FloatArray) -> FloatArray:
        """What the factors approximate: first row of each orbit, shape (orbits, n)."""
        return np.ascontiguousarray(matrix[np.ix_(self.order[self.first], self.order)])

    def whole(self, x: RealArray) -> RealArray:
        """U in the order of the matrix, of shape (n, r)."""
        rows = np.empty((len(self.order), x.shape[1]), x.dtype)
        rows[self.order] = self.factors(x)[1]
        return rows

    @cached_property
    def _single(self) -> tuple[RealArray, ...]:
        return tuple(image.astype(np.float32) for image in self.images)

    def _parts(self, x: RealArray) -> Iterator[tuple[slice, RealArray]]:
        stop = 0
        for rows, image in zip(self.orbits, self._single if x.dtype == np.float32 else self.images, strict=True):
            start, stop = stop, stop + len(rows)
            if stop > start:
                yield slice(start, stop), image

    def factors(self, x: RealArray) -> tuple[RealArray, RealArray]:
        """First row of each orbit, and U orbit by orbit."""
        rank = x.shape[1]
        right = np.concatenate([(x[part] @ image).reshape(-1, rank) for part, image in self._parts(x)])
        return right[self.first], right

    def unknowns(self, left: FloatArray, right: FloatArray) -> FloatArray:
        """Inverse of `factors`."""
        return left

    def gradient(self, x: RealArray, by_left: RealArray, by_right: RealArray) -> RealArray:
        """Derivative by x, at x, from those by the factors; adds to by_right."""
        by_right[self.first] += by_left
        gradient, stop = np.empty_like(by_left), 0
        for part, image in self._parts(by_left):
            count, size = part.stop - part.start, image.shape[1]
            start, stop = stop, stop + count * size // by_left.shape[1]
            gradient[part] = by_right[start:stop].reshape(count, size) @ image.T
        return gradient


def invariances(matrix: FloatArray, rank: int, tolerance: float = 0.0) -> list[Group]:
    """Candidate groups that leave a symmetric matrix as it is, where its r largest eigenvalues are positive and near.

    Where all rows differ in their diagonal entry or their sum there is none, which is seen at once.

    Parameters
    ----------
    matrix : ndarray of shape (n, n)
    rank : int
        r.
    tolerance : float
        Entries closer than this are the same.
    """
    n = len(matrix)
    if n > _MOST_ROWS or n * rank**2 > _MOST_IMAGES or matrix.shape != (n, n):
        return []
    sums, diagonal = matrix.sum(axis=0), matrix.diagonal()
    order = np.lexsort((diagonal, sums))
    alike = (np.abs(np.diff(sums[order])) <= n * tolerance) & (np.abs(np.diff(diagonal[order])) <= tolerance)
    if not alike.any() or not np.array_equal(matrix, matrix.T):
        return []
    found = [group for group in groups(n, rank) if group.preserves(matrix, tolerance)]
    if found:
        values = np.linalg.eigvalsh(matrix)
        if not values[-rank] > max(0.0, -values[0], _FLAT * values[-2]):
            return []
    return found


def orbit_start(group: Group, rank: int, *key: int) -> tuple[OrbitFactorization, FloatArray]:
    """Random characters and random unknowns; the diagonal of G is near 1/2."""
    random = stream("start", *key, group.cycle, group.multiplier)
    factorization = OrbitFactorization.of(group, random_characters(group, rank, random))
    x = random.standard_normal((factorization.rows, rank)) / np.sqrt(2 * rank)
    return factorization, factorization.factors(x)[0]


def _error(kept: tuple[Descent, OrbitFactorization]) -> float:
    return kept[0].error


class _Race:
    """Starts of many groups, of which the best few are kept."""

    def __init__(self, matrix: FloatArray, scale: float, rank: int, seed: int, precision: str) -> None:
        self.matrix, self.scale, self.rank, self.precision = matrix, scale, rank, precision
        self.kept: list[tuple[Descent, OrbitFactorization]] = []
        self.errors: list[float] = []
        self.flops = 0.0
        self._seed = seed
        self._best: dict[Group, float] = defaultdict(lambda: np.inf)
        self._starts: Counter[Group] = Counter()

    def run(self, entrants: Sequence[Group], starts: int, stages: Sequence[int], steps: int) -> list[Group]:
        """As many starts of each group; returns the groups, best first."""
        for group in entrants:
            for _ in range(starts):
                factorization, x = orbit_start(group, self.rank, self._seed, self._starts[group])
                self._starts[group] += 1
                if not (np.linalg.norm(x, axis=1) > _DEAD).all():
                    continue
                rows = factorization.first_rows(self.matrix)
                search = Descent(rows, self.scale, factorization, x, self.precision)
                self.pursue(search, stages, steps)
                self._best[group] = min(self._best[group], search.error)
                self.kept = sorted([*self.kept, (search, factorization)], key=_error)[:_KEPT]
        return self.ranked(entrants)

    def ranked(self, entrants: Sequence[Group]) -> list[Group]:
        """Groups by their smallest error."""
        return sorted(entrants, key=self._best.__getitem__)

    def pursue(self, search: Descent, stages: Sequence[int], steps: int) -> None:
        """Go through the stages of a search."""
        errors, flops = len(search.errors), search.flops
        for sharpness in stages:
            search.stage(sharpness, steps)
        self.errors += search.errors[errors:]
        self.flops += search.flops - flops


def search_orbits(
    matrix: FloatArray, scale: float, rank: int, seed: int, precision: str
) -> tuple[Descent, list[float]] | None:
    """Search among the invariant G, and descend from the best one found without regard to its group.

    Every group has a short start; in each further round a quarter of the groups, those with the smallest error, share
    as many starts. The best groups then have some with slowly rising sharpness. All counts are fixed.

    Parameters
    ----------
    matrix : ndarray of shape (n, n)
        F.
    scale : float
        max|F|, see `Descent`.
    rank : int
    seed : int
    precision : {"single", "double"}
        Of all but the last descent, which is in double precision.

    Returns
    -------
    search : Descent
        Of the factors of the whole matrix.
    errors : list of float
        All evaluations' errors.
    or None where the matrix has no candidate group.
    """
    entrants = invariances(matrix, rank, _EQUAL * scale)
    if not entrants:
        return None
    race = _Race(matrix, scale, rank, seed, precision)
    remaining = entrants
    while True:
        remaining = race.run(remaining, -(-_SHORT_STARTS // len(remaining)), _SHORT_STAGES, _SHORT_STEPS)
        if len(remaining) <= _FINALISTS:
            break
        remaining = remaining[: max(_FINALISTS, len(remaining) // 4)]
    for search, _ in race.kept:
        race.pursue(search, _LAST_STAGES[:1], _SHORT_STEPS)
    ranked = race.ranked(entrants)
    for share in _LONG_GROUPS:
        race.run(ranked[:share], _LONG_STARTS // share, _LONG_STAGES, _LONG_STEPS)
    if not race.kept:
        return None
    winner, orbits = min(race.kept, key=_error)
    race.pursue(winner, _LAST_STAGES, _LONG_STEPS)
    factorization = Factorization(len(matrix), np.ones(rank), np.ones(rank))
    whole = orbits.whole(winner.best.astype(np.float64))
    final = Descent(matrix, scale, factorization, whole, "double")
    race.pursue(final, _LAST_STAGES, _SHORT_STEPS)
    final.flops = race.flops
    return final, race.errors
