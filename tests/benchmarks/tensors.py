"""Tensor trains: what the methods reach, how fast, and against a public package.

Three tables, on one thread, of function-generated tensors of order 3:

1. Errors. The projections of `ap` by subspace iteration beside full TT-SVDs: "ratio" is the quotient of their errors,
   "times" that of their processor seconds, run in turn. "gain" is one minus the error of `minimax` divided by the
   smaller one of `ap` and `svd`. Lower bounds are certified.
2. TT-SVD beside that of tensorly (pip install tensorly==0.10.0): relative Frobenius and max errors, processor seconds.
3. One process that may have no more than 2 GiB of data makes a tensor with n = 200 and runs every method on it.

    python tests/benchmarks/tensors.py [--size 100] [--dimensions 2 10 100 1000] [--ranks 5 10 20] [--seeds 1]
"""

import argparse
import resource
import subprocess
import sys
from statistics import median
from time import process_time

import numpy as np
import scipy.linalg  # noqa: F401 (its library must be loaded to be limited)
from threadpoolctl import threadpool_limits

from pipeline import approximate_tensor, function_tensor
from pipeline.tensor_approximation import TensorProblem

FUNCTIONS = ("sinh_product", "tensor_attention")
SAMPLING = "ball-independent"
LIMIT = 2 * 2**30


def timed(call, *arguments, **keywords):
    """Return the result of a call and its processor seconds."""
    started = process_time()
    result = call(*arguments, **keywords)
    return result, process_time() - started


def errors(arguments):
    """Print the first table and its medians."""
    print(
        f"\n{'function':<18}{'m':>5}{'r':>4}{'seed':>5}{'bound':>9}{'svd':>9}{'ap':>9}{'exact':>9}{'ratio':>7}{'s':>7}"
        f"{'times':>7}{'quick':>9}{'minimax':>9}{'s':>7}{'gain':>6}"
    )
    ratios, times, gains = [], [], {name: [] for name in FUNCTIONS}
    for name in FUNCTIONS:
        for m in arguments.dimensions:
            for seed in range(arguments.seeds):
                tensor = function_tensor(name, SAMPLING, m, arguments.size, seed).to_numpy()
                tensor /= np.abs(tensor).max()
                for rank in arguments.ranks:
                    options = {"seed": seed, "bound": "tail"}
                    truncated = approximate_tensor(tensor, rank, "svd", seed=seed)
                    near, near_seconds = timed(approximate_tensor, tensor, rank, "ap", **options)
                    exact, seconds = timed(approximate_tensor, tensor, rank, "ap", projection="exact", **options)
                    quick = approximate_tensor(tensor, rank, "minimax", budget="quick", **options)
                    best, best_seconds = timed(approximate_tensor, tensor, rank, "minimax", **options)
                    ratios.append(near.max_error / exact.max_error)
                    times.append(seconds / near_seconds)
                    gains[name].append(1 - best.max_error / min(near.max_error, truncated.max_error))
                    print(
                        f"{name:<18}{m:>5}{rank:>4}{seed:>5}{truncated.lower_bound:>9.5f}{truncated.max_error:>9.5f}"
                        f"{near.max_error:>9.5f}{exact.max_error:>9.5f}{ratios[-1]:>7.3f}{near_seconds:>7.2f}"
                        f"{times[-1]:>7.1f}{quick.max_error:>9.5f}{best.max_error:>9.5f}{best_seconds:>7.2f}"
                        f"{gains[name][-1]:>6.0%}",
                        flush=True,
                    )
    print(f"medians: ratio {median(ratios):.3f}, times {median(times):.1f} (least {min(times):.1f})", end="")
    print("".join(f", gain on {name} {median(found):.0%}" for name, found in gains.items()))


def peers(arguments):
    """Print the second table."""
    import tensorly
    from tensorly.decomposition import tensor_train

    print(f"\n{'TT-SVD':<18}{'m':>5}{'r':>4}{'ours: fro':>12}{'max':>12}{'s':>8}{'tensorly':>12}{'max':>12}{'s':>8}")
    for name in FUNCTIONS:
        for m in arguments.dimensions:
            tensor = function_tensor(name, SAMPLING, m, arguments.size, 0).to_numpy()
            norm, largest = np.linalg.norm(tensor), np.abs(tensor).max()
            for rank in arguments.ranks:
                problem = TensorProblem(tensor)
                cores, seconds = timed(problem.truncated, rank)
                theirs, their_seconds = timed(tensor_train, tensor, rank=[1, rank, rank, 1])
                print(f"{name:<18}{m:>5}{rank:>4}", end="")
                for found, spent in ((cores, seconds), (theirs, their_seconds)):
                    difference = tensorly.tt_to_tensor(list(found)) - tensor
                    relative = np.linalg.norm(difference) / norm, np.abs(difference).max() / largest
                    print(f"{relative[0]:>12.4e}{relative[1]:>12.4e}{spent:>8.3f}", end="")
                print(flush=True)


def large(size):
    """Run every method in this process, which may have no more than the limit."""
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT, LIMIT))
    tensor = function_tensor("sinh_product", SAMPLING, 100, size).to_numpy()
    for method, bound in (("svd", "best"), ("ap", "tail"), ("minimax", "tail")):
        found, seconds = timed(approximate_tensor, tensor, 10, method, bound=bound)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        error = found.max_error / np.abs(tensor).max()
        print(f"n = {size}, r = 10, {method:<8} error {error:.4f}, {seconds:5.1f} s, peak so far {peak:.0f} MiB")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=100)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[2, 10, 100, 1000])
    parser.add_argument("--ranks", type=int, nargs="+", default=[5, 10, 20])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--large", type=int, help="only the third table, for this n, in this process")
    arguments = parser.parse_args()
    with threadpool_limits(1):
        if arguments.large:
            large(arguments.large)
            return
        peers(arguments)
        subprocess.run([sys.executable, __file__, "--large", str(2 * arguments.size)], check=True)
        errors(arguments)


if __name__ == "__main__":
    main()
