"""What the experiments on function-generated matrices share: axes, the matrix of a case, and what it costs."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Annotated, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from pipeline.arithmetic import users_state
from pipeline.arrays import LARGEST, FloatArray
from pipeline.errors import InputError
from pipeline.experiment import (
    AXIS_CHARACTERS,
    Axis,
    Case,
    Columns,
    Constraint,
    Cost,
    Experiment,
    Label,
    Quantity,
    Recipe,
    Spread,
    SpreadCost,
    describe,
)
from pipeline.failure import stops
from pipeline.files import FileMatrix, FileRecipe
from pipeline.functions import BUILT_IN, get_function, label_of, name_and_parameters
from pipeline.matrix import MatrixRecipe
from pipeline.sampling import SAMPLINGS, Sampling, get_sampling
from pipeline.svd import SVDSettings
from pipeline.tensor import TensorRecipe

# Predicted times, fitted on one core of a 2026 server: seconds an operation.
PRODUCT = 3e-11  # multiplication and addition of a matrix product, double precision
SVD = 3.2e-10  # n³ of a full decomposition
GENERATION = 1.6e-8  # entry of a matrix, the inner product aside

FUNCTION = Axis(
    "function",
    str,
    "generating function",
    "function",
    check=get_function,
    imports=True,
    files=True,
    label_of=label_of,
)
SAMPLING = Axis("sampling", str, "sampling scheme", "sampling", check=get_sampling)
DIMENSION = Axis("m", int, "latent dimension", "m")
SIZE = Axis("n", int, "size", "n")
RANK = Axis("r", int, "rank of the approximation", "r")
SEED = Axis("seed", int, "trial number", "seeds", least=0)
_FUNCTIONS = 1  # revision of the built-in functions, raised with their values
OF_ANY_FILE: Mapping[str, Label] = MappingProxyType({"sampling": "given", "m": 0})
"""Labels that every file fixes; it fixes n too."""
SHARED = ("function", "sampling", "m", "n", "seed")
"""Axes that fix a matrix."""

Files: TypeAlias = Mapping[str, str]
"""Absolute path of each file that stands for a function, by label."""


def recipe_of(case: Case, files: Files) -> Recipe:
    """What the matrix or tensor of a case is made of or read from."""
    if case["function"] in files:
        return FileRecipe.of(files[case["function"]])
    kind = TensorRecipe if get_function(case["function"]).order > 2 else MatrixRecipe
    return kind(case["function"], case["sampling"], case["m"], case["n"], case["seed"])


def labels_of_file(path: str) -> Mapping[str, Label]:
    """Labels on the axes that the file of a matrix fixes."""
    return {**OF_ANY_FILE, "n": min(FileMatrix(path).shape)}


def require_entries(case: Case, norm: float) -> float:
    """The max norm of a case's matrix; InputError if it is zero, or too large for a decomposition."""
    if norm == 0:
        raise InputError(f"function {case['function']}: all entries are zero, so a relative error has no meaning")
    if norm > LARGEST:
        raise InputError(
            f"function {case['function']}: entries up to {norm:.3g} overflow in a decomposition; "
            f"scale them below {LARGEST}"
        )
    return norm


def orders(columns: Columns, files: Files) -> npt.NDArray[np.intp]:
    """Order of what each case works on: 2 for a matrix."""
    functions = columns["function"]
    found = np.full(functions.shape, 2)
    for name in set(functions.ravel().tolist()):
        file = files.get(name)
        found[functions == name] = len(FileMatrix(file).shape) if file else get_function(name).order
    return found


@dataclass(frozen=True)
class Sizes:
    """Size of what each case works on.

    Attributes
    ----------
    order : ndarray of int
    n : ndarray
        Side of the square or cube with as many entries.
    side, rows, columns : ndarray
        Smallest side, and both sides of a matrix.
    m, r : ndarray
        Latent dimension and rank; 1 where there is none.
    """

    order: npt.NDArray[np.intp]
    n: FloatArray
    side: FloatArray
    rows: FloatArray
    columns: FloatArray
    m: FloatArray
    r: FloatArray

    @classmethod
    def of(cls, columns: Columns, files: Files) -> "Sizes":
        """Look at the labels, and at the shapes of files."""
        side, m = columns["n"].astype(np.float64), columns["m"].astype(np.float64)
        ranks = columns["r"].astype(np.float64) if "r" in columns else np.ones_like(side)
        sizes = cls(orders(columns, files), side.copy(), side, side.copy(), side.copy(), m, ranks)
        for label, path in files.items():
            shape, here = FileMatrix(path).shape, columns["function"] == label
            sizes.n[here] = math.prod(shape) ** (1 / len(shape))
            sizes.rows[here], sizes.columns[here] = shape[0], math.prod(shape[1:])
        return sizes

    def lapack(self, settings: SVDSettings) -> npt.NDArray[np.bool_]:
        """Whether matrices are decomposed in full."""
        cases, where = np.unique(np.stack([self.side, self.n, self.r]), axis=1, return_inverse=True)
        used = np.array([settings.uses_lapack(int(side), n * n, int(r)) for side, n, r in cases.T], dtype=bool)
        return used[where.ravel()]

    def generation(self) -> FloatArray:
        """Seconds in which the entries are made."""
        made = self.n**self.order * (GENERATION + PRODUCT * self.m)
        return np.asarray(4e-4 + made + 4e-8 * self.n * self.m, dtype=np.float64)


def matrices_only(files_of: str = "files") -> Constraint:
    """The rule that an experiment is for matrices."""
    return Constraint(
        ("function",),
        "the rule that this experiment is for matrices",
        lambda columns, settings: orders(columns, getattr(settings, files_of)) == 2,
        "use functions of two points",
    )


def on_its_domain() -> Constraint:
    """The rule that graphons are of points in [0, 1]^m."""

    def holds(columns: Columns, settings: object) -> npt.NDArray[np.bool_]:
        functions, which = np.unique(columns["function"], return_inverse=True)
        needed = np.array([_domain_of(str(name)) for name in functions])[which].reshape(columns["function"].shape)
        domains, which = np.unique(columns["sampling"], return_inverse=True)
        have = np.array([str(name).partition("-")[0] for name in domains])[which].reshape(columns["sampling"].shape)
        return np.asarray((needed == "") | (needed == have))

    return Constraint(
        ("function", "sampling"),
        "the rule that a graphon is a function of points in [0, 1]^m",
        holds,
        "use cube-symmetric or cube-independent in a block of its own",
    )


def _domain_of(label: str) -> str:
    known = name_and_parameters(label)
    return BUILT_IN[known[0]].domain if known else ""


def never_spread(columns: Columns, settings: object) -> SpreadCost:
    """Cost of experiments whose matrices must fit into a worker."""
    endless = np.full(columns["n"].shape, np.inf)
    return SpreadCost(np.zeros_like(endless), endless, endless)


def of_functions(columns: Columns, values: Callable[[str, Sampling, Columns], FloatArray | float]) -> FloatArray:
    """Values that are computed apart for each function and sampling; NaN for files and one's own functions."""
    found = np.full(columns["n"].shape, np.nan)
    pairs = dict.fromkeys(zip(map(str, columns["function"]), map(str, columns["sampling"]), strict=True))
    for function, name in pairs:
        if name_and_parameters(function) is None or name not in SAMPLINGS:
            continue
        here = (columns["function"] == function) & (columns["sampling"] == name)
        found[here] = values(function, SAMPLINGS[name], {axis: labels[here] for axis, labels in columns.items()})
    return found


class FilesOnly(BaseModel):
    """Settings of an experiment that has none but files, which a specification does not say here."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    files: Annotated[dict[str, str], Field(init=False)] = {}


def matrix_experiment(
    summary: str,
    quantities: Mapping[str, str],
    compute: Callable[[FloatArray, Case], Mapping[str, float]],
    axes: Sequence[Axis] = (),
    seconds: Callable[[FloatArray], FloatArray] = lambda n: SVD * n**3,
    revision: int = 1,
) -> Experiment:
    """Make an experiment of a function of a matrix.

    Parameters
    ----------
    summary : str
    quantities : mapping of str to str
        What each of the values is, by name; the first is the one that figures show.
    compute : callable
        Maps the matrix, shape (n, n), and the case, whose labels are ``case["n"]`` and so on, to the values by name.
    axes : sequence of Axis
        Beside function, sampling, m, n and seed; such as `RANK`.
    seconds : callable
        Predicts the seconds of `compute` on one core for an array of n.
    revision : int
        To be raised when `compute` is changed: a store with values of another one is refused.

    Returns
    -------
    Experiment
        In a module of your own, a specification names it ``experiment: "module:NAME"``.

    Raises
    ------
    InputError
        If there is no quantity, or names are no identifiers or alike.

    Examples
    --------
    >>> import numpy as np
    >>> EXTREMES = matrix_experiment("extreme entries", {"least": "smallest entry"}, lambda F, case: {"least": F.min()})
    >>> EXTREMES.main
    'least'
    """
    if not quantities:
        raise InputError("quantities: there is none; name at least one, with what it is")

    def prepare(case: Case, settings: FilesOnly, spread: Spread | None) -> FloatArray:
        matrix: FloatArray = recipe_of(case, settings.files).make().to_numpy()
        matrix.setflags(write=False)
        return matrix

    def evaluate(matrix: FloatArray, case: Case, settings: FilesOnly) -> Mapping[str, float]:
        with users_state():
            return compute(matrix, case)

    def prepare_cost(columns: Columns, settings: FilesOnly) -> Cost:
        sizes = Sizes.of(columns, settings.files)
        return Cost(sizes.generation(), 8 * sizes.n**2 + 16 * sizes.n * sizes.m)

    def evaluate_cost(columns: Columns, settings: FilesOnly) -> Cost:
        n = Sizes.of(columns, settings.files).n
        try:
            predicted = np.broadcast_to(np.asarray(seconds(n), dtype=np.float64), n.shape)
        except BaseException as error:
            if stops(error):
                raise
            raise InputError(f"seconds: {describe(error)}; map an array of n to an array of seconds") from error
        return Cost(1e-5 + predicted, 32 * n**2)

    return Experiment(
        name=compute.__name__,
        summary=summary,
        revision=revision + _FUNCTIONS,
        axes=(FUNCTION, SAMPLING, DIMENSION, SIZE, *axes, SEED),
        shared=SHARED,
        quantities=(
            *(_own_quantity(name, text) for name, text in quantities.items()),
            Quantity("seconds", "computing time, with a share of the matrix", units="s"),
        ),
        main=next(iter(quantities)),
        settings=FilesOnly,
        settings_used=lambda labels: set(),
        constraints=(matrices_only(), on_its_domain()),
        labels_of_file=labels_of_file,
        prepare=prepare,
        evaluate=evaluate,
        prepare_cost=prepare_cost,
        evaluate_cost=evaluate_cost,
        spread_cost=never_spread,
    )


def _own_quantity(name: str, text: str) -> Quantity:
    """A quantity that a user describes: in a few words at axes of figures, in a sentence below them."""
    words = name.replace("_", " ")
    if text and len(said := f"{words}: {text}") <= AXIS_CHARACTERS:
        return Quantity(name, text, label=said)
    return Quantity(name, words, comment=text)


def fixed_cost(columns: Columns, seconds: float, memory: float = 0.0) -> Cost:
    """The same cost for every case."""
    shape = columns["n"].shape
    return Cost(np.full(shape, seconds), np.full(shape, memory))
