"""Random points of a latent variable model, reproducible row by row.

A dataset grows by adding samples (Budzinskiy, section 1.3): the points of size n are the first n points of any
larger size. Rows are drawn in chunks, each from a counter-based stream of its own, so any row range can be had
without the rows before it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, TypeAlias

import numpy as np

from pipeline.arrays import FloatArray
from pipeline.errors import InputError, shown

HELD_BYTES = 64 * 2**20  # of the points of one side that are held at a time
CHUNK_ROWS = 256  # part of the definition of the points: changing it changes every draw
_STREAM_VERSION = 1
Domain: TypeAlias = Literal["ball", "sphere", "gaussian", "cube"]
_DOMAINS: dict[Domain, tuple[int, str]] = {  # with the key of its streams
    "ball": (1, "uniform in the unit ball"),
    "sphere": (2, "uniform on the unit sphere"),
    "gaussian": (3, "standard normal coordinates"),
    "cube": (4, "uniform in the unit cube [0, 1]^m"),
}
_PURPOSE_KEYS = {"direction": 1, "radius": 2, "start": 3, "sketch": 4, "embedding": 5, "reflection": 6}


Purpose = Literal["direction", "radius", "start", "sketch", "embedding", "reflection"]


def stream(purpose: Purpose, *key: int) -> np.random.Generator:
    """Return the Philox generator that belongs to a purpose and a tuple of non-negative integers."""
    sequence = np.random.SeedSequence([_STREAM_VERSION, _PURPOSE_KEYS[purpose], *key])
    return np.random.Generator(np.random.Philox(sequence))


@dataclass(frozen=True)
class Sampling:
    """A sampling scheme: the domain of the points and how rows and columns are paired (Budzinskiy, section 7.2)."""

    name: str
    domain: Domain
    symmetric: bool

    @property
    def summary(self) -> str:
        """One line for lists."""
        pairing = "y_i = x_i" if self.symmetric else "x and y drawn separately"
        return f"{_DOMAINS[self.domain][1]}, {pairing}"

    def points(self, side: int, m: int, seed: int, start: int, stop: int) -> FloatArray:
        """Draw rows `start` to `stop` of the points of one side.

        Parameters
        ----------
        side : int
            0 for row points, 1 for column points, k − 1 for mode k of a tensor; all the same under symmetric sampling.
        m : int
            Latent dimension.
        seed : int
            Trial number.
        start, stop : int
            Half-open row range.

        Returns
        -------
        ndarray of shape (stop - start, m)
        """
        key = (_DOMAINS[self.domain][0], m, seed, 0 if self.symmetric else side)
        chunks = []
        for chunk in range(start // CHUNK_ROWS, -(-stop // CHUNK_ROWS)):
            origin = chunk * CHUNK_ROWS
            rows = min(stop - origin, CHUNK_ROWS)
            drawn = self._chunk(key, chunk, rows, m)
            chunks.append(drawn[max(start - origin, 0) :])
        return np.concatenate(chunks) if chunks else np.empty((0, m))

    def _chunk(self, key: tuple[int, ...], chunk: int, rows: int, m: int) -> FloatArray:
        """First `rows` rows of a chunk: Gaussian vectors; on the sphere normalised, in the ball also times U^(1/m)."""
        if self.domain == "cube":
            return stream("direction", *key, chunk).random((rows, m))
        points = stream("direction", *key, chunk).standard_normal((rows, m))
        if self.domain == "gaussian":
            return points
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        if self.domain == "ball":
            points *= stream("radius", *key, chunk).random((rows, 1)) ** (1.0 / m)
        return points


@dataclass(frozen=True)
class SampledPoints:
    """The first n points of one side of a draw, of which only those in use are held, at most `HELD_BYTES`.

    Attributes
    ----------
    sampling : Sampling
    side : int
        As `Sampling.points` takes it.
    m, seed, n : int
    """

    sampling: Sampling
    side: int
    m: int
    seed: int
    n: int
    _chunk: Callable[[int], FloatArray] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        chunks = max(2, HELD_BYTES // (8 * self.m * CHUNK_ROWS))
        object.__setattr__(self, "_chunk", lru_cache(chunks)(self._draw))

    def __len__(self) -> int:
        return self.n

    @property
    def shape(self) -> tuple[int, int]:
        """Number of points and their dimension."""
        return self.n, self.m

    def __getitem__(self, rows: slice) -> FloatArray:
        """Points of a contiguous range, which cannot be written to."""
        start, stop, _ = rows.indices(self.n)
        if not 0 < stop - start <= CHUNK_ROWS:
            points = self.sampling.points(self.side, self.m, self.seed, start, stop)
        else:
            chunks = [self._chunk(i) for i in range(start // CHUNK_ROWS, -(-stop // CHUNK_ROWS))]
            origin = start // CHUNK_ROWS * CHUNK_ROWS
            points = (chunks[0] if len(chunks) == 1 else np.concatenate(chunks))[start - origin : stop - origin]
        points.setflags(write=False)  # a user's function cannot change them
        return points

    def _draw(self, chunk: int) -> FloatArray:
        start = chunk * CHUNK_ROWS
        return self.sampling.points(self.side, self.m, self.seed, start, min(start + CHUNK_ROWS, self.n))


SAMPLINGS: dict[str, Sampling] = {
    f"{domain}-{'symmetric' if symmetric else 'independent'}": Sampling(
        f"{domain}-{'symmetric' if symmetric else 'independent'}", domain, symmetric
    )
    for domain in _DOMAINS
    for symmetric in (False, True)
}


def get_sampling(name: object) -> Sampling:
    """Look a sampling scheme up by name.

    Raises
    ------
    InputError
        If there is no such scheme.
    """
    if not isinstance(name, str) or name not in SAMPLINGS:
        raise InputError(f"sampling: {shown(name)} is not known; use one of {', '.join(SAMPLINGS)}")
    return SAMPLINGS[name]
