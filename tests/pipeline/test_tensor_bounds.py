"""Lower bounds of tensor trains: never above an error that is known, and those of the unfoldings."""

import math
from itertools import pairwise

import numpy as np
import pytest

from pipeline import approximate_tensor, lower_bound


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape)


def whole(cores, dtype: type = np.float64) -> np.ndarray:
    """All entries of a train, core by core."""
    found = np.ones(1, dtype)
    for core in cores:
        found = np.tensordot(found, core.astype(dtype), axes=1)
    return found[..., 0]


def train(shape: tuple[int, ...], rank: int, seed: int = 0) -> np.ndarray:
    """All entries of a train of integers from −3 to 3."""
    random = np.random.default_rng([seed, rank, *shape])
    sizes = [1, *[rank] * (len(shape) - 1), 1]
    return whole([random.integers(-3, 4, (a, n, b)) for (a, b), n in zip(pairwise(sizes), shape, strict=True)])


def unfoldings(tensor: np.ndarray) -> list[np.ndarray]:
    return [tensor.reshape(math.prod(tensor.shape[:bond]), -1) for bond in range(1, tensor.ndim)]


def test_lower_bound_is_that_of_the_unfolding_with_the_larger_tail():
    for tensor in (noise(12, 2, 10), noise(10, 2, 12), noise(12, 2, 10).transpose(2, 0, 1).copy()):
        found = approximate_tensor(tensor, 2, "svd").lower_bound
        tails, best = ([lower_bound(each, 2, kind) for each in unfoldings(tensor)] for kind in ("tail", "best"))
        assert found == best[int(np.argmax(tails))] > max(tails)


@pytest.mark.parametrize("shape", [(6, 7, 8), (12, 3, 5), (3, 15, 3), (4, 3, 4, 3)])
@pytest.mark.parametrize("rank", [1, 2])
def test_lower_bound_is_never_above_a_planted_perturbation(shape, rank):
    """A train of integers and a perturbation by signs times a power of two: its max norm is known without rounding."""
    for seed in range(8):
        random = np.random.default_rng([seed, *shape])
        known = 2.0 ** -int(random.integers(0, 40))
        tensor = train(shape, rank, seed) + known * random.choice([-1.0, 1.0], shape)
        found = approximate_tensor(tensor, rank, "svd")
        assert 0 < found.lower_bound <= known
        if seed == 0:
            assert found.lower_bound <= approximate_tensor(tensor, rank, budget="quick").max_error


def test_lower_bound_of_a_leading_block_holds_where_decompositions_are_randomized():
    tensor = train((90, 2, 90), 2) + 0.5 * np.random.default_rng(1).choice([-1.0, 1.0], (90, 2, 90))
    found = approximate_tensor(tensor, 2, "svd", driver="randomized", dense_limit=40)
    complete = approximate_tensor(tensor, 2, "svd")
    assert 0.2 < found.lower_bound <= 0.5
    assert found.max_error == pytest.approx(complete.max_error, rel=0.05)
    assert found.max_error != complete.max_error


def test_lower_bound_falls_with_the_rank_to_zero():
    tensor = noise(5, 6, 7)
    found = [approximate_tensor(tensor, rank, "svd") for rank in range(1, 8)]
    assert all(high.lower_bound > low.lower_bound for high, low in pairwise(found[:-1]))
    assert all(high.max_error > low.max_error for high, low in pairwise(found[:-1]))
    assert (found[-2].lower_bound > 0, found[-1].lower_bound) == (True, 0)
    assert found[-1].max_error <= 1e-13
