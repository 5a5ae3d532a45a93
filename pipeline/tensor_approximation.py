"""One front door to the methods for tensors: a tensor and a TT rank in, cores with their certified error out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, reduce
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import TypeAliasType

from pipeline.approximation import (
    checked_rank,
    checked_seed,
    described,
    get_method,
    parts_of_start,
    relative,
    require_near,
    validated,
)
from pipeline.arithmetic import own_state
from pipeline.arrays import BlockArray, FloatArray, as_tensor
from pipeline.certificates import CertificateSettings, certified_bound, checked_bound, tail_bound
from pipeline.errors import InputError, shown
from pipeline.minimax import MinimaxSettings
from pipeline.passes import max_error, max_norm
from pipeline.projections import APSettings, alternating_projections
from pipeline.svd import Decompositions, SVDSettings
from pipeline.tensor_minimax import minimax_train
from pipeline.tensor_train import Cores, bond_ranks, interfaces, middle_bond, tt_svd, unfolding, whole


@dataclass(frozen=True, repr=False)
class TensorApproximation:
    """Cores of an approximation G(i_1, …, i_d) = A_1(i_1) … A_d(i_d) and what is known of its error.

    Attributes
    ----------
    cores : tuple of ndarray of shape (r_{k-1}, n_k, r_k)
        With r_0 = r_d = 1.
    max_error : float
        max |F − G|, computed in float64 from these cores, in the units of the tensor.
    lower_bound : float
        No tensor of TT rank at most r has a smaller max error.
    iterations : int
        Steps of the method (projections, or evaluations of the smooth maximum); 0 for a direct one.
    history : ndarray of shape (iterations,)
        max |F − G| after each step, in the working precision and the units of the tensor; of "minimax" the smallest so
        far.
    stopped : str
        Why the method ended.
    max_norm : float
        max |F|.
    """

    cores: tuple[FloatArray, ...]
    max_error: float
    lower_bound: float
    iterations: int
    history: FloatArray
    stopped: str
    max_norm: float

    @property
    def relative_error(self) -> float:
        """The max error by max |F|; 0 for a zero tensor that is met exactly."""
        return relative(self.max_error, self.max_norm)

    def __repr__(self) -> str:
        shape = " × ".join(str(core.shape[1]) for core in self.cores)
        ranks = ", ".join(str(core.shape[2]) for core in self.cores[:-1])
        return f"TensorApproximation({shape}, TT ranks {ranks}, {described(self)})"

    @own_state()
    def to_numpy(self) -> FloatArray:
        """Return all entries of G, shape (n_1, …, n_d)."""
        shape = tuple(core.shape[1] for core in self.cores)
        return whole(self.cores).reshape(shape)


TensorLike = TypeAliasType("TensorLike", npt.ArrayLike | BlockArray)
"""A tensor in any container: array, lists, DataArray, FunctionTensor, FileMatrix."""
TrainStart = TypeAliasType("TrainStart", TensorApproximation | Sequence[npt.ArrayLike])
"""An approximation to begin from, or the cores of one."""


class TensorProblem:
    """A tensor F with the decompositions of its unfoldings, each computed once.

    Parameters
    ----------
    tensor : ndarray of shape (n_1, …, n_d)
        C-ordered, finite.
    settings : SVDSettings
    seed : int
        Stream of randomized sketches.
    """

    def __init__(self, tensor: FloatArray, settings: SVDSettings | None = None, seed: int = 0) -> None:
        self.tensor = tensor
        self._settings = settings
        self._seed = seed

    @cached_property
    def unfoldings(self) -> list[Decompositions]:
        """Those of every bond."""
        bonds = range(1, self.tensor.ndim)
        return [Decompositions(unfolding(self.tensor, bond), self._settings, self._seed) for bond in bonds]

    def truncated(self, rank: int) -> Cores:
        """TT-SVD."""
        return tt_svd(self.tensor, rank, self.unfoldings[0].for_rank(bond_ranks(self.tensor.shape, rank)[0]))

    def error(self, cores: Cores) -> float:
        """Return max |F − G| in float64."""
        bond = middle_bond(self.tensor.shape)
        return max_error(unfolding(self.tensor, bond), *interfaces(cores, bond))

    def lower_bound(self, rank: int, settings: CertificateSettings) -> float:
        """Certified lower bound of max |F − G| over all G of TT rank at most r.

        Proof: an unfolding of G has rank at most r, by its interfaces, and the entries of G. So a lower bound for the
        unfolding of F at any bond is one for F. The better bound is sought at the bond with the best simple one.
        """
        ranks = bond_ranks(self.tensor.shape, rank)
        tails = [tail_bound(each.for_bound(), r) for each, r in zip(self.unfoldings, ranks, strict=True)]
        best = int(np.argmax(tails))
        return max(*tails, certified_bound(self.unfoldings[best], ranks[best], settings))


TrainFound = tuple[Cores, list[float], str]
"""Cores, max errors after each step, and why the method ended."""


def _tt_svd(
    problem: TensorProblem, rank: int, settings: SVDSettings, seed: int, start: Cores | None = None
) -> TrainFound:
    return problem.truncated(rank), [], "direct"


def _projected(
    problem: TensorProblem, rank: int, settings: APSettings, seed: int, start: Cores | None = None
) -> TrainFound:
    start = problem.truncated(rank) if settings.initial == "svd" else None
    return alternating_projections(problem.tensor, rank, settings, seed, start, train=True)


def _smoothed_minimax(
    problem: TensorProblem, rank: int, settings: MinimaxSettings, seed: int, start: Cores | None = None
) -> TrainFound:
    return minimax_train(problem.tensor, rank, settings, problem.truncated(rank), seed, start)


TRAIN_METHODS: dict[str, Callable[[TensorProblem, int, Any, int, Cores | None], TrainFound]] = {
    "svd": _tt_svd,
    "ap": _projected,
    "minimax": _smoothed_minimax,
}


def find_train(
    problem: TensorProblem, rank: int, method: str, settings: object, seed: int, start: Cores | None = None
) -> TrainFound:
    """Find an approximation of a tensor by a method of `TRAIN_METHODS`, in float64.

    "minimax" begins from the cores of `start` as well.

    Raises
    ------
    InputError
        If the method, or its warm start, is for matrices only.
    """
    if method not in TRAIN_METHODS:
        raise InputError(f"method: {method!r} is for matrices; use one of {', '.join(TRAIN_METHODS)} for tensors")
    if isinstance(settings, MinimaxSettings) and settings.warm_start != "none":
        raise InputError(f"warm_start: {settings.warm_start!r} is for matrices; use 'none' for tensors")
    if not problem.tensor.any():
        return tuple(0 * core for core in problem.truncated(rank)), [], "the tensor is zero"
    cores, errors, stopped = TRAIN_METHODS[method](problem, rank, settings, seed, start)
    return tuple(core.astype(np.float64) for core in cores), errors, stopped


@own_state()
def approximate_tensor(
    tensor: TensorLike,
    rank: int,
    method: str = "minimax",
    seed: int = 0,
    *,
    start: TrainStart | None = None,
    bound: str = "best",
    **settings: object,
) -> TensorApproximation:
    """Approximate a tensor by a tensor train of low rank in the max norm.

    Parameters
    ----------
    tensor : array_like of shape (n_1, …, n_d), FunctionTensor or FileMatrix
        F, real and finite, of order d ≥ 2; what would lose a mask, a unit or other parts is refused.
    rank : int
        Largest TT rank r, at least 1; a bond whose unfolding has fewer rows or columns gets that many.
    method : str
        "minimax", "ap" or "svd".
    seed : int
        Stream of a method's random numbers.
    start : TensorApproximation, or sequence of array_like of shape (q_{k-1}, n_k, q_k), optional
        One, or its cores, that "minimax" begins from as well, of TT ranks q_k ≤ r; what is missing of the rank comes
        from TT-SVD of the residual.
    bound : {"best", "tail"}
        The certified lower bound: the best known, or the cheap one from the singular values.
    **settings
        The method's own, such as ``budget="quick"`` for "minimax" or ``projection="exact"`` for "ap".

    Returns
    -------
    TensorApproximation

    Raises
    ------
    InputError
        If an argument is out of range or unknown.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.linspace(0, 1, 20)
    >>> found = approximate_tensor(np.exp(np.multiply.outer(np.outer(x, x), x)), rank=2)
    >>> [core.shape for core in found.cores], 0 < found.lower_bound < found.max_error < 0.02
    ([(1, 20, 2), (2, 20, 2), (2, 20, 1)], True)
    """
    values = as_tensor(tensor)
    chosen = get_method(method)
    checked_rank(rank, max(bond_ranks(values.shape, values.size)), f"the largest TT rank of shape {values.shape}")
    checked_seed(seed)
    options = validated(chosen, settings)
    certificate = CertificateSettings(bound=checked_bound(bound))
    problem = TensorProblem(values, options if isinstance(options, SVDSettings) else None, int(seed))
    if start is not None and method != "minimax":
        raise InputError(f"start: method {method!r} begins from no given cores; use 'minimax', or leave start out")
    norm = max_norm(unfolding(values, 1))
    given = None if start is None else _checked_start(start, values.shape, int(rank), norm)
    cores, errors, stopped = find_train(problem, int(rank), method, options, int(seed), given)
    return TensorApproximation(
        cores,
        problem.error(cores),
        problem.lower_bound(int(rank), certificate),
        len(errors),
        np.array(errors),
        stopped,
        norm,
    )


def _checked_start(start: TrainStart, shape: tuple[int, ...], rank: int, largest: float) -> Cores:
    """Cores of a train of the shape, of at most the rank, with entries that are not far beyond the largest."""
    remedy = "pass the cores of a train, or a TensorApproximation"
    given = start.cores if isinstance(start, TensorApproximation) else parts_of_start(start, remedy)
    try:
        cores = tuple(as_tensor(core, f"core {k}") for k, core in enumerate(given))
    except InputError as error:
        raise InputError(f"start: not the cores of a train ({error}); {remedy}") from error
    sizes = [core.shape for core in cores]
    ranks = [1, *(size[-1] for size in sizes)]
    if (
        any(len(size) != 3 for size in sizes)
        or tuple(size[1] for size in sizes) != shape
        or [size[0] for size in sizes] != ranks[:-1]
        or ranks[-1] != 1
        or max(ranks) > rank
    ):
        raise InputError(
            f"start: cores of shapes {shown(sizes)} are no train of shape {shape} and TT rank at most {rank}; pass "
            "cores of shape (q_{k-1}, n_k, q_k) with q_0 = q_d = 1"
        )
    reach = reduce(np.matmul, (np.abs(core).max(axis=1) for core in cores))
    require_near(float(reach[0, 0]), largest)
    return cores
