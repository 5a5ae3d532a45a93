"""The mathematics of entrywise low-rank approximation of matrices and tensors, and the model of a sweep."""

from pipeline.approximation import Approximation, approximate
from pipeline.certificates import lower_bound
from pipeline.grid import Sweep, load_sweep
from pipeline.matrix import FunctionMatrix, function_matrix
from pipeline.tensor import FunctionTensor, function_tensor
from pipeline.tensor_approximation import TensorApproximation, approximate_tensor

__all__ = [
    "Approximation",
    "FunctionMatrix",
    "FunctionTensor",
    "Sweep",
    "TensorApproximation",
    "approximate",
    "approximate_tensor",
    "function_matrix",
    "function_tensor",
    "load_sweep",
    "lower_bound",
]
