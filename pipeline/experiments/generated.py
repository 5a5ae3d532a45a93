"""What the experiments on function-generated matrices share: axes, the matrix of a case, and what it costs."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pipeline.arrays import FloatArray
from pipeline.errors import InputError
from pipeline.experiment import Axis, Case, Columns, Constraint, Cost, Label, Recipe, SpreadCost
from pipeline.files import FileMatrix, FileRecipe
from pipeline.functions import get_function, label_of
from pipeline.matrix import MatrixRecipe
from pipeline.sampling import get_sampling
from pipeline.svd import SVDSettings
from pipeline.tensor import TensorRecipe
from pipeline.theory import POSITIVE_DEFINITE

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
SIZE = Axis("n", int, "matrix size", "n")
RANK = Axis("r", int, "rank of the approximation", "r")
SEED = Axis("seed", int, "trial number", "seeds", least=0)
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
    return {"sampling": "given", "m": 0, "n": min(FileMatrix(path).shape)}


def require_entries(case: Case, norm: float) -> float:
    """The max norm of a case's matrix; InputError if it is zero."""
    if norm == 0:
        raise InputError(f"function {case['function']}: all entries are zero, so a relative error has no meaning")
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


def never_spread(columns: Columns, settings: object) -> SpreadCost:
    """Cost of experiments whose matrices must fit into a worker."""
    endless = np.full(columns["n"].shape, np.inf)
    return SpreadCost(np.zeros_like(endless), endless, endless)


def of_kernels(columns: Columns, values: FloatArray) -> FloatArray:
    """Values where the function is a positive-definite kernel of |x − y| that is 1 at 0; NaN elsewhere."""
    plain = np.array([str(name).partition("(")[0] for name in columns["function"]])
    return np.where(np.isin(plain, sorted(POSITIVE_DEFINITE)), values, np.nan)


def fixed_cost(columns: Columns, seconds: float, memory: float = 0.0) -> Cost:
    """The same cost for every case."""
    shape = columns["n"].shape
    return Cost(np.full(shape, seconds), np.full(shape, memory))
