"""The randomized truncated SVD against LAPACK's, at a size where the default settings take the randomized one.

Baseline: the truncated SVD from LAPACK's full decomposition of the same matrix in the same run. Read the excess of
the max-norm error (to be at most 1 % above LAPACK's) and the speed-up. Both errors are taken in double precision from
the factors themselves. LAPACK needs about half a minute a matrix on one core.

    python tests/benchmarks/randomized.py [--m 10 30 300] [--n 3000] [--r 50] [--threads 1]
"""

import argparse
import itertools
from time import perf_counter

import numpy as np
import scipy.linalg
from threadpoolctl import threadpool_limits

from pipeline import function_matrix
from pipeline.passes import max_error
from pipeline.svd import Decompositions, SVDSettings

FUNCTIONS = ("exponential", "quartic_gaussian")
SAMPLINGS = ("ball-independent", "ball-symmetric")


def lapack(matrix, rank):
    """Factors of the truncated SVD from a full decomposition."""
    u, s, vt = scipy.linalg.svd(matrix, full_matrices=False)
    return u[:, :rank] * s[:rank], vt[:rank].T


def randomized(matrix, rank):
    """Factors as the method `svd` finds them with default settings."""
    settings = SVDSettings()
    if settings.uses_lapack(min(matrix.shape), matrix.size, rank):
        raise SystemExit(f"n = {len(matrix)} goes to LAPACK by default; take more than {settings.dense_limit}")
    return Decompositions(matrix, settings).for_rank(rank).balanced_factors(rank)


def measure(find, matrix, rank):
    """Relative max-norm error and seconds of a way to find factors."""
    started = perf_counter()
    left, right = find(matrix, rank)
    seconds = perf_counter() - started
    return max_error(matrix, left, right) / np.abs(matrix).max(), seconds


def print_table(n, rank, dimensions):
    """Print a line a matrix."""
    print(f"{'function, sampling, m':<40}{'LAPACK':>10}{'random.':>10}{'excess':>9}{'s LAPACK':>10}", end="")
    print(f"{'s random.':>10}{'speed-up':>10}")
    worst = -np.inf
    for m, function, sampling in itertools.product(dimensions, FUNCTIONS, SAMPLINGS):
        matrix = function_matrix(function, sampling, m, n).to_numpy()
        error, seconds = measure(randomized, matrix, rank)
        exact, exact_seconds = measure(lapack, matrix, rank)
        excess = 100 * (error / exact - 1)
        worst = max(worst, excess)
        print(f"{f'{function}, {sampling}, {m}':<40}{exact:>10.6f}{error:>10.6f}{excess:>7.3f} %", end="")
        print(f"{exact_seconds:>10.2f}{seconds:>10.2f}{exact_seconds / seconds:>10.1f}", flush=True)
    print(f"largest excess {worst:.3f} %")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--m", type=int, nargs="+", default=[10, 30, 300], help="latent dimensions")
    parser.add_argument("--n", type=int, default=3000, help="size")
    parser.add_argument("--r", type=int, default=50, help="rank")
    parser.add_argument("--threads", type=int, default=1, help="BLAS threads")
    arguments = parser.parse_args()
    print(f"randomized against LAPACK's truncated SVD, n = {arguments.n}, r = {arguments.r}, ", end="")
    print(f"BLAS threads {arguments.threads}")
    with threadpool_limits(arguments.threads):
        print_table(arguments.n, arguments.r, arguments.m)


if __name__ == "__main__":
    main()
