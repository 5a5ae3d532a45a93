"""The mathematics of entrywise low-rank approximation, and the model of a sweep."""

from pipeline.approximation import Approximation, approximate
from pipeline.certificates import lower_bound
from pipeline.grid import Sweep, load_sweep
from pipeline.matrix import FunctionMatrix, function_matrix

__all__ = [
    "Approximation",
    "FunctionMatrix",
    "Sweep",
    "approximate",
    "function_matrix",
    "load_sweep",
    "lower_bound",
]
