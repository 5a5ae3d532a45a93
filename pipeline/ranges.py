"""Ranges of labels: ``{from: 2, to: 1000, count: 12, scale: log}`` in a specification."""

from typing import Annotated, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

MAX_LABELS = 100_000
MAX_INTEGER = 2**31 - 1


class _EvenlySpaced(BaseModel):
    """Evenly spaced numbers, on a linear or logarithmic scale; both ends belong to it."""

    model_config = ConfigDict(extra="forbid", strict=True)
    above_zero: ClassVar[str] = "above it"

    start: Annotated[float, Field(alias="from", ge=0, allow_inf_nan=False)]
    stop: Annotated[float, Field(alias="to", ge=0, allow_inf_nan=False)]
    count: Annotated[int, Field(ge=2, le=MAX_LABELS)]
    scale: Literal["linear", "log"] = "linear"

    def _spaced(self, available: float = np.inf) -> npt.NDArray[np.float64]:
        """The numbers, not rounded; ValueError if the ends will not do, or fewer than the count are available."""
        if self.stop <= self.start:
            raise ValueError(f"to: {self.stop} is not greater than from: {self.start}")
        if self.count > available:
            raise ValueError(f"count: {self.count} is more than the {available} integers from {self.start} on")
        if self.scale == "log" and self.start == 0:
            raise ValueError(f"from: 0 has no logarithm; start {self.above_zero} or use scale: linear")
        space = np.geomspace if self.scale == "log" else np.linspace
        return space(self.start, self.stop, self.count)


class Range(_EvenlySpaced):
    """Evenly spaced integers, on a linear or logarithmic scale; both ends belong to it."""

    above_zero = "at 1"

    start: Annotated[int, Field(alias="from", ge=0, le=MAX_INTEGER)]
    stop: Annotated[int, Field(alias="to", ge=0, le=MAX_INTEGER)]

    def labels(self) -> list[int]:
        """Round to integers; labels that coincide on the logarithmic scale appear once."""
        spaced = self._spaced(available=self.stop - self.start + 1)
        return [int(label) for label in np.unique(np.rint(spaced))]


class RealRange(_EvenlySpaced):
    """Evenly spaced numbers, on a linear or logarithmic scale; both ends belong to it."""

    def labels(self) -> list[float]:
        """Round those between the ends to six significant digits; labels that coincide appear once."""
        inner = [float(f"{label:.6g}") for label in self._spaced()[1:-1]]
        between = [label for label in inner if self.start < label < self.stop]  # some are rounded beyond an end
        return list(dict.fromkeys([self.start, *between, self.stop]))
