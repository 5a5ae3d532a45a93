"""Alternating projections against the published algorithm, and against its author's program.

First table: function matrices of size 400 at rank 20, all runs on one BLAS thread. The baseline is the published
algorithm (Budzinskiy, section 7.1) written out below with a full SVD in every projection; ours is
`alternating_projections` with its default settings, timed before and after each run of the baseline in processor
seconds. Read the ratio of ε (to be within 3 % of 1, or below) and the speed-up (to be at least 30) in the line of
medians. "+ bound" also charges us with the SVD that `approximate` takes for the lower bound. The default judges
stagnation at each ε anew, the published rule over the whole run: the last two columns are the ratio and the speed-up
of ours with the published rule, stagnation_memory="run", which differs from the baseline in projection, precision and
random start only.

Second table: six matrices on which the author's Fortran program was measured elsewhere. Read the ratio ours / theirs
over five random starts: its median is to be at most 1.04.

    python tests/benchmarks/ap.py [--count 24]
"""

import argparse
import itertools
import json
from pathlib import Path
from statistics import median
from time import process_time

import numpy as np
import scipy.linalg
from threadpoolctl import threadpool_limits

from pipeline import approximate, function_matrix
from pipeline.projections import APSettings, alternating_projections

SIZE, RANK = 400, 20
FUNCTIONS = ("exponential", "quartic_gaussian", "gaussian", "cauchy")
LATENT_DIMENSIONS = (10, 100, 300)
PAIRINGS = ("independent", "symmetric")
STARTS = range(5)
HERE = Path(__file__).parent
COLUMNS = {
    "published": ".5f",
    "ours": ".5f",
    "ratio": ".3f",
    "steps": ".0f",
    "our steps": ".0f",
    "seconds": ".2f",
    "ours, s": ".3f",
    "speed-up": ".0f",
    "+ bound": ".0f",
    "run ratio": ".3f",
    "run speed": ".0f",
}


def published(matrix, rank, seed):
    """Return ε and the number of projections of the published algorithm."""
    matrix = matrix / np.abs(matrix).max()
    random = np.random.default_rng(seed)
    left, right = (random.standard_normal((size, rank)) / np.sqrt(rank) for size in matrix.shape)
    residual = left @ right.T - matrix
    hi = previous = np.abs(residual).max()
    lo, projections = 0.0, 0
    while hi - lo >= 0.01 * hi:
        gap, epsilon = hi - lo, (lo + hi) / 2
        while True:
            u, s, vt = scipy.linalg.svd(matrix + np.clip(residual, -epsilon, epsilon), full_matrices=False)
            residual = (u[:, :rank] * s[:rank]) @ vt[:rank] - matrix
            error = np.abs(residual).max()
            projections += 1
            hi = min(hi, error)
            if error > previous * (1 - 0.001):
                break
            previous = error
        if error > lo + 2 / 3 * gap:
            lo += 0.02 * gap
    return hi, projections


def ours(matrix, rank, settings):
    """Return ε, taken anew from the factors in double precision, and the number of projections."""
    (left, right), errors, _ = alternating_projections(matrix, rank, settings)
    return np.abs(matrix - left @ right.T).max() / np.abs(matrix).max(), len(errors)


def timed(call, *arguments):
    """Return the result of a call and its processor seconds, which other work on the machine disturbs least."""
    started = process_time()
    result = call(*arguments)
    return result, process_time() - started


def cases():
    """Order the 24 matrices so that the first 12 hold every function, latent dimension and pairing equally often."""
    grid = list(itertools.product(range(len(LATENT_DIMENSIONS)), range(len(PAIRINGS)), range(len(FUNCTIONS))))
    for m, pairing, function in sorted(grid, key=lambda indices: sum(indices) % 2):
        yield FUNCTIONS[function], f"ball-{PAIRINGS[pairing]}", LATENT_DIMENSIONS[m]


def compare(function, sampling, m):
    """Run both on one matrix, ours before and after the baseline; values in the order of COLUMNS."""
    matrix = function_matrix(function, sampling, m, SIZE, seed=0).to_numpy()
    default, literal = APSettings(), APSettings(stagnation_memory="run")
    (our_error, our_steps), before = timed(ours, matrix, RANK, default)
    (error, steps), seconds = timed(published, matrix, RANK, 0)
    fast = median([before, *(timed(ours, matrix, RANK, default)[1] for _ in range(2))])
    _, certified = timed(approximate, matrix, RANK, "ap")
    (run_error, _), run_seconds = timed(ours, matrix, RANK, literal)
    speed = (seconds, fast, seconds / fast, seconds / certified)
    return error, our_error, our_error / error, steps, our_steps, *speed, run_error / error, seconds / run_seconds


def print_published(count):
    """Print the table against the published algorithm."""
    print(f"ap against the published algorithm with full SVDs, n = {SIZE}, r = {RANK}, one BLAS thread")
    print(f"{'function, sampling, m':<40}" + "".join(f"{name:>10}" for name in COLUMNS))
    rows = []
    for case in itertools.islice(cases(), count):
        rows.append(compare(*case))
        print_row(", ".join(map(str, case)), rows[-1])
    print_row(f"median of {len(rows)}", [median(column) for column in zip(*rows, strict=True)])
    print_row("smallest", [min(column) for column in zip(*rows, strict=True)])
    print_row("largest", [max(column) for column in zip(*rows, strict=True)])


def print_row(name, values):
    """Print one line of the first table."""
    cells = "".join(f"{value:>10{form}}" for value, form in zip(values, COLUMNS.values(), strict=True))
    print(f"{name:<40}{cells}", flush=True)


def print_peers():
    """Print the table against the recorded figures of the author's program."""
    figures = json.loads((HERE / "reference_figures.json").read_text(encoding="utf-8"))["function_matrices"]
    print(f"\nap against the author's program, n = 400, {len(STARTS)} random starts: max-norm error ours / theirs")
    print(f"{'matrix':<24}{'r':>4}{'theirs':>10}{'min':>8}{'median':>8}{'max':>8}")
    medians = []
    with np.load(HERE / "reference_matrices.npz") as matrices:
        for name, row in figures.items():
            matrix = matrices[name].astype(np.float64)
            theirs = row["alternating_projections"]
            errors = [approximate(matrix, row["r"], "ap", seed).max_error for seed in STARTS]
            ratios = sorted(error / theirs for error in errors)
            medians.append(median(ratios))
            spread = "".join(f"{ratio:>8.3f}" for ratio in (ratios[0], medians[-1], ratios[-1]))
            print(f"{name:<24}{row['r']:>4}{theirs:>10.6f}{spread}", flush=True)
    print(f"{'largest median':<38}{'':>8}{max(medians):>8.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=12, help="matrices of the first table, 1 to 24 (default 12)")
    arguments = parser.parse_args()
    with threadpool_limits(1):
        print_published(arguments.count)
        print_peers()


if __name__ == "__main__":
    main()
