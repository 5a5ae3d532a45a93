"""The points: their distribution, and that a dataset grows by adding samples."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import kstest

from pipeline.errors import InputError
from pipeline.sampling import CHUNK_ROWS, SAMPLINGS, get_sampling

ALL = list(SAMPLINGS)
BALLS = ["ball-independent", "ball-symmetric"]
SPHERES = ["sphere-independent", "sphere-symmetric"]
GAUSSIANS = ["gaussian-independent", "gaussian-symmetric"]
CUBES = ["cube-independent", "cube-symmetric"]
DIMENSIONS = [1, 2, 3, 10, 100, 1000]
WHOLE = 3 * CHUNK_ROWS


def draw(name: str, m: int, n: int = 2000, seed: int = 0, side: int = 0) -> np.ndarray:
    return SAMPLINGS[name].points(side, m, seed, 0, n)


# --- oracles: the distributions that the definitions imply


@pytest.mark.parametrize("m", DIMENSIONS)
@pytest.mark.parametrize("name", BALLS)
def test_ball_norms_to_the_power_m_are_uniform(name, m):
    norms = np.linalg.norm(draw(name, m), axis=1)
    assert norms.max() <= 1
    assert kstest(norms**m, "uniform").pvalue > 0.01


@pytest.mark.parametrize(("names", "distribution"), [(GAUSSIANS, "norm"), (CUBES, "uniform")])
@pytest.mark.parametrize("m", [1, 2, 30])
def test_coordinates_of_normal_and_cube_points_are_independent_with_their_distribution(names, distribution, m):
    for name in names:
        points = draw(name, m)
        assert kstest(points.ravel(), distribution).pvalue > 0.01
        if m > 1:
            off = np.corrcoef(points.T)[~np.eye(m, dtype=bool)]
            assert np.abs(off).max() < 4.5 / np.sqrt(len(points))


@pytest.mark.parametrize("m", DIMENSIONS)
@pytest.mark.parametrize("name", SPHERES)
def test_sphere_points_have_unit_norm(name, m):
    np.testing.assert_allclose(np.linalg.norm(draw(name, m), axis=1), 1, rtol=1e-14)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("side", [0, 1])
def test_coordinates_on_the_sphere_in_space_are_uniform(axis, side):
    """Archimedes: the projection of the sphere in R^3 on a diameter is uniform."""
    points = draw("sphere-independent", 3, side=side)
    assert kstest(points[:, axis], "uniform", args=(-1, 2)).pvalue > 0.01


@pytest.mark.parametrize("name", ["ball-independent", "sphere-independent"])
def test_angles_in_the_plane_are_uniform(name):
    points = draw(name, 2)
    assert kstest(np.arctan2(points[:, 1], points[:, 0]), "uniform", args=(-np.pi, 2 * np.pi)).pvalue > 0.01


def test_ball_in_one_dimension_is_the_uniform_interval():
    assert kstest(draw("ball-independent", 1)[:, 0], "uniform", args=(-1, 2)).pvalue > 0.01


@pytest.mark.parametrize("sides", [(0, 1), (0, 2), (1, 2), (2, 3)])
@pytest.mark.parametrize("name", ["ball-independent", "sphere-independent"])
def test_sides_are_uncorrelated(name, sides):
    m, n = 50, 2000
    x, y = (draw(name, m, n, side=side) for side in sides)
    cosines = np.einsum("ij,ij->i", x, y) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1))
    assert abs(cosines.mean()) < 4 / np.sqrt(n * m)  # four standard deviations


# --- a dataset grows by adding samples


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    name=st.sampled_from(ALL),
    m=st.sampled_from([1, 2, 3, 7, 17, 64]),
    side=st.sampled_from([0, 1, 2, 3]),
    bounds=st.tuples(st.integers(0, WHOLE), st.integers(0, WHOLE)).map(sorted),
)
def test_any_row_range_alone_equals_the_rows_of_the_whole(name, m, side, bounds):
    start, stop = bounds
    whole = draw(name, m, WHOLE, seed=4, side=side)
    part = SAMPLINGS[name].points(side, m, 4, start, stop)
    assert part.shape == (stop - start, m)
    assert part.tobytes() == whole[start:stop].tobytes()


@pytest.mark.parametrize("n", [1, 255, 256, 257, 511, 512, 513])
@pytest.mark.parametrize("name", ALL)
def test_the_first_n_points_are_those_of_any_larger_size(name, n):
    assert draw(name, 5, n).tobytes() == draw(name, 5, 1200)[:n].tobytes()


@pytest.mark.parametrize("name", ALL)
def test_no_point_is_drawn_twice_in_one_dataset(name):
    assert len(np.unique(draw(name, 3, 4 * CHUNK_ROWS), axis=0)) == 4 * CHUNK_ROWS


def test_the_draws_of_this_version_stay_what_they_are():
    """Stored results rest on these points: whoever changes them must raise the experiment's revision."""
    digest = hashlib.sha256()
    for name in sorted(BALLS + SPHERES):
        for side in (0, 1):
            points = SAMPLINGS[name].points(side, 3, 2, CHUNK_ROWS - 2, CHUNK_ROWS + 2)
            digest.update(np.round(points * 1e9).astype(np.int64).tobytes())
    assert digest.hexdigest()[:16] == "d258e302da47aa6d"


def test_the_draws_of_further_sides_stay_what_they_are():
    digest = hashlib.sha256()
    for name in sorted(BALLS + SPHERES):
        for side in (2, 3):
            points = SAMPLINGS[name].points(side, 3, 2, CHUNK_ROWS - 2, CHUNK_ROWS + 2)
            digest.update(np.round(points * 1e9).astype(np.int64).tobytes())
    assert digest.hexdigest()[:16] == "0062648a31e768e1"


def test_the_draws_of_normal_and_cube_points_stay_what_they_are():
    digest = hashlib.sha256()
    for name in GAUSSIANS + CUBES:
        for side in range(4):
            points = SAMPLINGS[name].points(side, 3, 2, CHUNK_ROWS - 2, CHUNK_ROWS + 2)
            digest.update(np.round(points * 1e9).astype(np.int64).tobytes())
    assert digest.hexdigest()[:16] == "8187724c7464e538"


# --- what the points depend on


@pytest.mark.parametrize("name", ["ball-symmetric", "sphere-symmetric"])
def test_symmetric_draws_share_their_points(name):
    assert len({draw(name, 4, 300, side=side).tobytes() for side in range(4)}) == 1


@pytest.mark.parametrize("name", ["ball-independent", "sphere-independent"])
def test_independent_sides_have_no_point_in_common(name):
    points = np.concatenate([draw(name, 4, 600, side=side) for side in range(4)])
    assert len(np.unique(points, axis=0)) == 2400


@pytest.mark.parametrize("name", ALL)
def test_seeds_give_different_points(name):
    draws = np.concatenate([draw(name, 3, 100, seed) for seed in range(20)])
    assert len(np.unique(draws, axis=0)) == 2000


def test_latent_dimensions_give_unrelated_points():
    """The plane's points are not the line's with a coordinate added, nor the same directions."""
    line, plane, space = (draw("sphere-independent", m, 400) for m in (1, 2, 3))
    directions = [np.sign(line[:, 0]), np.sign(plane[:, 0]), np.sign(space[:, 0])]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.mean(directions[i] * directions[j])) < 0.2


def test_domains_do_not_share_directions():
    ball, sphere = draw("ball-independent", 8, 400), draw("sphere-independent", 8, 400)
    cosines = np.einsum("ij,ij->i", ball, sphere) / np.linalg.norm(ball, axis=1)
    assert abs(cosines).max() < 0.99


@pytest.mark.parametrize("name", ALL)
def test_numpys_global_state_is_neither_read_nor_moved(name):
    before = draw(name, 3, 50)
    np.random.seed(1)  # noqa: NPY002 (the state that must not matter)
    state = np.random.get_state()  # noqa: NPY002
    after = draw(name, 3, 50)
    assert before.tobytes() == after.tobytes()
    assert np.array_equal(state[1], np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize("name", ["cube", "ball", "", "Ball-symmetric"])
def test_unknown_sampling_names_the_known_ones(name):
    with pytest.raises(InputError, match=f"^sampling: {name!r} is not known; use one of ball-independent, ball-sym"):
        get_sampling(name)
