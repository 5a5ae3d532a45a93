"""Our solvers against recorded figures of other programs, known optima, certified bounds, and this machine.

Everything runs on one BLAS thread; seconds are processor seconds, which other work on the machine disturbs least.
Recorded figures are those of reference_figures.json: Fortran stands for the author's alternating projections, C++ for
alternating minimisation, prototype for smoothed minimax in NumPy. Ratios are ours / theirs, ε is absolute, and the
seconds of a method hold its singular value decomposition. Read the last lines of each section: the worst figure and
what is required of it, marked where it is missed.

Memory is measured in a new process a matrix, which has made the matrix and solved a tiny case before: the peak of
its resident memory (VmHWM of Linux, set back before each call) above that before the first call, in multiples of the
matrix in double precision. `ru_maxrss` would not do: it begins at what the parent used.

    python tests/benchmarks/peers.py [reference identity exact noise large scaling bounds ap]
"""

import argparse
import itertools
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import geometric_mean, median
from time import process_time
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from pipeline import function_matrix, lower_bound
from pipeline.approximation import METHODS, Problem
from pipeline.certificates import CertificateSettings, certified_bound, tail_bound
from pipeline.minimax import MinimaxSettings, minimax
from pipeline.sampling import stream
from pipeline.svd import Decompositions, lapack_svd

HERE = Path(__file__).parent
FIGURES = json.loads((HERE / "reference_figures.json").read_text(encoding="utf-8"))
BUDGETS = ("quick", "default", "thorough")
VARIANTS = {
    "svd": ("svd", {}),
    "ap published": ("ap", {"stagnation_memory": "run", "warm_up": 0}),
    "ap": ("ap", {}),
    "ap from svd": ("ap", {"initial": "svd"}),
    **{budget: ("minimax", {"budget": budget}) for budget in BUDGETS},
}
PEERS = {"Fortran": "alternating_projections", "C++": "alternating_minimisation", "prototype": "minimax_prototype"}
BESIDE = {"matrix": "<18", "r": ">4", "method": "<13", "ε": ">9.6f"}
BESIDE |= dict.fromkeys([*PEERS, *(f"/{name}" for name in PEERS)], ">10.4f") | {"seconds": ">8.3f", "steps": ">6"}
FAMILIES = ("exponential", "ball"), ("quartic_gaussian", "ball"), ("gaussian", "ball"), ("gaussian", "sphere")


class Run(NamedTuple):
    """What a method found, and what that took."""

    epsilon: float
    steps: int
    stopped: str
    seconds: float


class Measured(NamedTuple):
    """A default run of minimax in a process of its own; seconds and peaks of the SVD, the solver and the bound."""

    epsilon: float
    bound: float
    steps: int
    flops: float
    seconds: list[float]
    peaks: list[float]


def timed(call, *arguments):
    """Return the result of a call and its processor seconds."""
    started = process_time()
    result = call(*arguments)
    return result, process_time() - started


def distance(matrix, found):
    """ε, absolute, taken anew from the factors."""
    return np.abs(matrix - found.left @ found.right.T).max()


def run(matrix, rank, variant):
    """Run a method as the front door does, without the lower bound."""
    name, settings = VARIANTS[variant]
    method = METHODS[name]
    found, seconds = timed(method.find, Problem(Decompositions(matrix)), rank, method.settings(**settings), 0)
    return Run(distance(matrix, found), len(found.history), found.stopped, seconds)


def table(columns):
    """Print a heading; return a function that prints a line of values, None as a dash."""
    widths = [form.split(".")[0] for form in columns.values()]
    print("".join(f" {name:{width}}" for name, width in zip(columns, widths, strict=True)))

    def line(*values):
        cells = zip(values, columns.values(), widths, strict=True)
        text = (f" {'-':{width}}" if value is None else f" {value:{form}}" for value, form, width in cells)
        print("".join(text), flush=True)

    return line


def judge(what, values, most=None, least=None):
    """Print the worst of some values, and what is required of it."""
    worst, word = (max(values), "largest") if least is None else (min(values), "smallest")
    required = f" (required ≤ {most})" if most else f" (required ≥ {least})" if least else ""
    missed = (most is not None and worst > most) or (least is not None and worst < least)
    print(f"{word} {what} {worst:.3f}{required}{' MISSED' if missed else ''}", flush=True)


def print_beside(line, name, figures, variant, found, *more):
    """Print a line with the columns of BESIDE and more; return the ratio to the prototype."""
    recorded = [figures.get(key) for key in PEERS.values()]
    if isinstance(recorded[-1], dict):
        recorded[-1] = recorded[-1].get(variant)
    ratios = [theirs and found.epsilon / theirs for theirs in recorded]
    line(name, figures["r"], variant, found.epsilon, *recorded, *ratios, found.seconds, found.steps, *more)
    return ratios[-1]


def reference_matrices():
    """Name, recorded figures and values of the stored matrices."""
    with np.load(HERE / "reference_matrices.npz") as matrices:
        for name, figures in FIGURES["function_matrices"].items():
            yield name, figures, matrices[name].astype(np.float64)


def reference():
    """Six stored function matrices; seconds are medians of three alternating runs, s/ap in those of ap as published."""
    line = table(BESIDE | {"s/ap": ">6.2f"})
    ratios = {variant: [] for variant in VARIANTS}
    times = {variant: [] for variant in VARIANTS}
    for name, figures, matrix in reference_matrices():
        rounds = [{variant: run(matrix, figures["r"], variant) for variant in VARIANTS} for _ in range(3)]
        seconds = {variant: median(each[variant].seconds for each in rounds) for variant in VARIANTS}
        for variant, found in rounds[0].items():
            found = found._replace(seconds=seconds[variant])
            times[variant].append(seconds[variant] / seconds["ap published"])
            ratios[variant].append(print_beside(line, name, figures, variant, found, times[variant][-1]))
    for budget, most in zip(BUDGETS, (None, 1.01, 1.01), strict=True):
        judge(f"ε ratio {budget}/prototype", ratios[budget], most)
    for budget, most in zip(BUDGETS, (1, 3, None), strict=True):
        judge(f"seconds {budget}/ap published", times[budget], most)


def print_budgets(cases, most=None):
    """Print the default and thorough budgets for (name, recorded figures, matrix); return ε for each budget."""
    line = table(BESIDE)
    ratios, epsilons = {"default": [], "thorough": []}, {"default": [], "thorough": []}
    for (name, figures, matrix), budget in itertools.product(cases, ratios):
        found = run(matrix, figures["r"], budget)
        epsilons[budget].append(found.epsilon)
        ratios[budget].append(print_beside(line, name, figures, budget, found))
    for budget, values in ratios.items():
        judge(f"ε ratio {budget}/prototype", values, most)
    return epsilons


def identity():
    """The identity against the three programs."""
    print_budgets([(f"identity {row['n']}", row, np.eye(row["n"])) for row in FIGURES["identity"]], 1.01)


def noise():
    """Uniform noise on (-1, 1) against the three programs."""
    matrix = np.random.default_rng(0).uniform(-1, 1, (500, 500))
    epsilons = print_budgets([("uniform noise 500", row, matrix) for row in FIGURES["uniform_noise"]])
    for budget, (at_50, _) in epsilons.items():
        judge(f"ε at r = 50, {budget}", [at_50], most=0.77)


def exact():
    """Thorough budget and lower bound for the identity where the optimum is known: tight frames, r = 1, r = n − 1."""
    cases = [(row["n"], row["r"], row["optimum"], row["minimax_prototype"]) for row in FIGURES["identity_exact"]]
    cases += [(n, r, optimum, None) for n in (10, 50) for r, optimum in ((1, 1 / 2), (n - 1, 1 / n))]
    columns = {"n": ">4", "r": ">4"} | dict.fromkeys(("optimum", "prototype", "ε"), ">10.6f")
    columns |= {"ε - optimum": ">12.1e", "optimum - bound": ">16.1e", "seconds": ">8.2f", "steps": ">6"}
    line = table(columns | {"stopped": "<40"})
    excesses, gaps = [], []
    for n, r, optimum, prototype in cases:
        found = run(np.eye(n), r, "thorough")
        bound = lower_bound(np.eye(n), r)
        excesses.append(found.epsilon / optimum)
        gaps.append(bound / optimum)
        differences = found.epsilon - optimum, optimum - bound
        line(n, r, optimum, prototype, found.epsilon, *differences, found.seconds, found.steps, found.stopped)
    judge("ε/optimum", excesses)
    judge("bound/optimum", gaps, least=0)


def resident(key):
    """A figure of this process's memory in bytes."""
    status = dict(row.split(":", 1) for row in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return 1024 * int(status[key].split()[0])


def measure(n, rank):
    """Measure an exponential matrix in this new process."""
    with threadpool_limits(1):
        stages(np.random.default_rng(0).random((60, 60)), 3)  # libraries and their buffers are loaded
        return stages(function_matrix("exponential", "ball-independent", 100, n).to_numpy(), rank)


def stages(matrix, rank):
    """Decompose, solve and bound, each measured."""
    seconds, peaks, before = [], [], resident("VmRSS")

    def measured(call, *arguments):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        result, taken = timed(call, *arguments)
        seconds.append(taken)
        peaks.append((resident("VmHWM") - before) / matrix.nbytes)
        return result

    decompositions = Decompositions(matrix)
    decomposition = measured(decompositions.for_rank, rank)
    found = measured(minimax, matrix, rank, MinimaxSettings(), decomposition)
    bound = measured(certified_bound, decompositions, rank, CertificateSettings())
    return Measured(distance(matrix, found), bound, len(found.history), found.flops, seconds, peaks)


def print_measured(cases):
    """Print a line for each (n, r), measured in a process of its own; return what was measured."""
    columns = {"n": ">5", "r": ">4", "ε": ">9.5f", "bound": ">9.5f", "ε/bound": ">8.3f", "steps": ">6"}
    columns |= dict.fromkeys(("s SVD", "s solver", "s bound"), ">9.2f")
    line = table(columns | dict.fromkeys(("memory: SVD", "solver", "bound "), ">12.2f"))
    rows = []
    for n, r in cases:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            got = process.submit(measure, n, r).result()
        rows.append(got)
        line(n, r, got.epsilon, got.bound, got.epsilon / got.bound, got.steps, *got.seconds, *got.peaks)
    return rows


def gigaflops(rows, inner, columns):
    """Rate of a product in single precision, the median of five."""
    random = np.random.default_rng(0)
    left, right = random.random((rows, inner), np.float32), random.random((inner, columns), np.float32)
    return 2e-9 * rows * inner * columns / median(timed(np.matmul, left, right)[1] for _ in range(5))


def large(n=3000, r=100):
    """The solver's products over all its time beside the machine's (means of before and after), and memory."""
    shapes = (n, n, n), (n, r, n), (n, n, r)
    before = [gigaflops(*shape) for shape in shapes]
    (got,) = print_measured([(n, r)])
    rate = 1e-9 * got.flops / got.seconds[1]
    line = table({"float32 product": "<28", "GFLOP/s": ">8.1f", "solver": ">8.1f", "share": ">6.2f"})
    shares = []
    for (rows, inner, columns), earlier in zip(shapes, before, strict=True):
        machine = (earlier + gigaflops(rows, inner, columns)) / 2
        shares.append(rate / machine)
        line(f"{rows} × {inner} @ {inner} × {columns}", machine, rate, shares[-1])
    judge("share of the square product's rate", shares[:1], least=0.5)
    judge("memory of SVD and solver, in matrices,", got.peaks[:2], most=4)


def scaling():
    """Default budget, SVD and bound of growing matrices at r = n/20."""
    rows = print_measured([(n, n // 20) for n in (250, 500, 1000, 2000, 4000)])
    judge("ε/bound", [got.epsilon / got.bound for got in rows])
    judge("seconds bound/(SVD + solver)", [got.seconds[2] / sum(got.seconds[:2]) for got in rows])
    judge("memory of SVD and solver, in matrices, from n = 1000,", [max(got.peaks[:2]) for got in rows[2:]])


def bounds():
    """ε of the default budget over the lower bounds, n = 400; the bound's seconds hold an SVD of its own."""
    columns = {"function, sampling": "<35", "m": ">5", "r": ">4"} | dict.fromkeys(("ε", "bound", "tail"), ">9.5f")
    columns |= dict.fromkeys(("ε/bound", "ε/tail", "seconds", "s bound"), ">8.3f") | {"s bound/s": ">10.2f"}
    line = table(columns)
    rows = []
    for (function, domain), pairing, m in itertools.product(FAMILIES, ("independent", "symmetric"), (10, 100, 1000)):
        matrix = function_matrix(function, f"{domain}-{pairing}", m, 400).to_numpy()
        for r in (10, 20, 50):
            found = run(matrix, r, "default")
            best, seconds = timed(lower_bound, matrix, r)
            tail = tail_bound(lapack_svd(matrix), r)
            rows.append((found.epsilon / best, found.epsilon / tail, found.seconds, seconds, seconds / found.seconds))
            line(f"{function}, {domain}-{pairing}", m, r, found.epsilon, best, tail, *rows[-1])
    ratios, tails, _, _, shares = zip(*rows, strict=True)
    print(f"geometric mean of ε/bound {geometric_mean(ratios):.3f}, of ε/tail {geometric_mean(tails):.3f}")
    print(f"median of ε/tail {median(tails):.3f}, of seconds bound/default {median(shares):.3f}")
    judge("ε/bound", ratios)
    judge("seconds bound/default", shares, most=2)
    judge("median of ε/bound", [median(ratios)], most=1.6)


def plain_projections(matrix, rank):
    """ε and the number of projections of ap's default iteration, in double precision and whole matrices."""
    scale = np.abs(matrix).max()
    matrix = matrix / scale
    random = stream("start", 0)
    left, right = (random.standard_normal((size, rank)) / np.sqrt(rank) for size in matrix.shape)
    residual = left @ right.T - matrix
    lo, hi, steps = 0.0, np.abs(residual).max(), 0

    def project(epsilon):
        nonlocal right, residual, hi, steps
        clipped = matrix + np.clip(residual, -epsilon, epsilon)
        left = np.linalg.qr(clipped @ np.linalg.qr(right)[0])[0]
        right = clipped.T @ left
        residual = left @ right.T - matrix
        error = np.abs(residual).max()
        hi, steps = min(hi, error), steps + 1
        return error

    for _ in range(6):
        project(0.0)
    previous = hi
    while hi - lo >= 0.01 * hi:
        gap, epsilon = hi - lo, (lo + hi) / 2
        while (error := project(epsilon)) <= previous * 0.999:
            previous = error
        if error > lo + 2 / 3 * gap:
            lo += 0.02 * gap
        previous = error
    return hi * scale, steps


def ap():
    """Alternating projections beside plain NumPy, and from two starts; seconds are medians of three runs."""
    prototype = FIGURES["alternating_projections_prototype"]
    columns = {"matrix": "<18", "r": ">4"} | dict.fromkeys(("ε", "plain ε", "svd start"), ">9.6f")
    columns |= {"svd/random": ">11.3f", "steps": ">6", "plain steps": ">12", "seconds": ">8.3f", "plain s": ">8.3f"}
    line = table(columns | {"speed-up a step": ">16.2f"})
    starts, speeds, at_prototype = [], [], []
    for name, figures, matrix in reference_matrices():
        rank = figures["r"]
        rounds = [(run(matrix, rank, "ap"), timed(plain_projections, matrix, rank)) for _ in range(3)]
        found, ((plain, steps), _) = rounds[0]
        seconds, plain_seconds = median(ours.seconds for ours, _ in rounds), median(theirs for _, (_, theirs) in rounds)
        from_svd = run(matrix, rank, "ap from svd").epsilon
        starts.append(from_svd / found.epsilon)
        speeds.append(plain_seconds / steps / (seconds / found.steps))
        if rank == prototype["r"]:
            at_prototype.append(seconds / found.steps * prototype["projections"])
        values = found.epsilon, plain, from_svd, starts[-1], found.steps, steps, seconds, plain_seconds, speeds[-1]
        line(name, rank, *values)
    judge("ε ratio svd start/random start", starts)
    judge("speed-up of a projection over plain NumPy", speeds, least=1)
    case = f"{prototype['projections']} projections at r = {prototype['r']}"
    judge(f"seconds of {case} (recorded of the prototype: {prototype['seconds']})", at_prototype)


SECTIONS = {section.__name__: section for section in (reference, identity, exact, noise, large, scaling, bounds, ap)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, "all"], default="all", help="default: all")
    chosen = parser.parse_args().sections
    with threadpool_limits(1):
        for name in SECTIONS if "all" in chosen else chosen:
            print(f"\n{name}: {SECTIONS[name].__doc__}")
            SECTIONS[name]()


if __name__ == "__main__":
    main()
