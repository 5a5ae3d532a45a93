"""The max-norm errors of all truncations of a matrix, against the decomposition that they are read off.

Baseline: LAPACK's full decomposition of the same matrix in the same run, on one thread. Read the ratio of both
together to the decomposition alone: the whole curve μ_0, …, μ_n is to cost at most 3 decompositions at n = 3000. The
last columns hold the curve against one truncation formed directly in the middle of it, which must agree to rounding.
Each line takes the least of some repetitions.

    python tests/benchmarks/truncations.py [--sizes 1000 2000 3000] [--repeat 1] [--threads 1]
"""

import argparse
from time import perf_counter

import numpy as np
import scipy.linalg  # noqa: F401 (its library must be loaded to be limited)
from threadpoolctl import threadpool_limits

from pipeline import function_matrix
from pipeline.svd import lapack_svd, truncation_errors

FUNCTION, SAMPLING, DIMENSION = "gaussian", "sphere-independent", 1000  # Udell and Townsend, figure 5.1
MOST = 3.0


def timed(call, *arguments):
    """What a call returns, and its seconds."""
    started = perf_counter()
    result = call(*arguments)
    return result, perf_counter() - started


def measure(n, repeat):
    """Least seconds of decomposition and curve, μ in the middle, and how far off it is."""
    matrix = function_matrix(FUNCTION, SAMPLING, DIMENSION, n).to_numpy()
    seconds = []
    for _ in range(repeat):
        decomposition, of_svd = timed(lapack_svd, matrix)
        errors, of_curve = timed(truncation_errors, matrix, decomposition)
        seconds.append((of_svd, of_curve))
    r = n // 2
    u, s, vt = decomposition.u[:, :r], decomposition.s[:r], decomposition.vt[:r]
    direct = np.abs(matrix - (u * s) @ vt).max()
    return (*np.min(seconds, axis=0), errors[r], abs(errors[r] - direct))


def print_table(sizes, repeat):
    """Print a line a size; return the ratio of the last."""
    print(f"{'n':>6}{'s SVD':>10}{'s curve':>10}{'(svd + curve) / svd':>22}{'μ_n/2':>12}{'difference':>12}")
    for n in sizes:
        svd, curve, middle, difference = measure(n, repeat)
        ratio = (svd + curve) / svd
        print(f"{n:>6}{svd:>10.2f}{curve:>10.2f}{ratio:>22.2f}{middle:>12.3e}{difference:>12.1e}", flush=True)
    return ratio


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 2000, 3000], help="sizes")
    parser.add_argument("--repeat", type=int, default=1, help="repetitions")
    parser.add_argument("--threads", type=int, default=1, help="BLAS threads")
    arguments = parser.parse_args()
    print(f"errors of all truncations, {FUNCTION} on {SAMPLING}, m = {DIMENSION}, BLAS threads {arguments.threads}")
    with threadpool_limits(arguments.threads):
        ratio = print_table(arguments.sizes, arguments.repeat)
    verdict = "as required" if ratio <= MOST else "too much"
    print(f"ratio at n = {arguments.sizes[-1]}: {ratio:.2f}, at most {MOST:g} is required: {verdict}")


if __name__ == "__main__":
    main()
