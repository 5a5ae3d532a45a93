"""A figure that a specification declares: what stands on which axis, in which lines and panels."""

from collections.abc import Iterable
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.errors import InputError
from pipeline.experiment import Experiment, Label

Scale = Literal["log", "linear"]


class Figure(BaseModel):
    """A figure of the curves of a sweep.

    Attributes
    ----------
    name : str
        Of its files.
    x : str
        Axis of numbers along the abscissa.
    y : str, optional
        Quantity, or the experiment's main one.
    lines : str, optional
        Axis whose labels are lines, or the last axis of names.
    panels : list of str, optional
        Axes whose labels are panels, or the other axes of names.
    at : mapping
        Labels at which other axes are held, those not named in the middle.
    statistic : {"median", "max"}
        Of the trials.
    x_scale, y_scale : {"log", "linear"}
    y_least : float, optional
        Smallest value shown.
    slope : float, optional
        Of a guide through the middle of the last line, in logarithms.
    theory : list of str
        Bounds of the experiment to draw beside.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    x: str
    y: str = ""
    lines: str = ""
    panels: list[str] | None = None
    at: dict[str, Label] = {}
    statistic: Literal["median", "max"] = "median"
    x_scale: Scale = "log"
    y_scale: Scale = "log"
    y_least: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    slope: Annotated[float, Field(allow_inf_nan=False)] | None = None
    theory: list[str] = []

    def complete(self, experiment: Experiment) -> "Figure":
        """The figure with everything said that may be left out.

        Raises
        ------
        InputError
            If it names an axis, quantity or bound that the experiment does not have, or one axis twice.
        """
        numbers = [axis.name for axis in experiment.axes if axis.numeric and axis.key != "seeds"]
        names = [axis.name for axis in experiment.axes if not axis.numeric]
        _require("x", [self.x], numbers)
        y = self.y or experiment.main
        _require("y", [y], [quantity.name for quantity in experiment.quantities])
        lines = self.lines or next(axis for axis in reversed(names) if axis not in (self.panels or []))
        _require("lines", [lines], numbers + names)
        panels = [axis for axis in names if axis != lines] if self.panels is None else self.panels
        _require("panels", panels, numbers + names)
        _require("at", self.at, numbers + names)
        _require("theory", self.theory, [bound.name for bound in experiment.theory])
        used = [self.x, lines, *panels, *self.at]
        if twice := {axis for axis in used if used.count(axis) > 1}:
            raise InputError(f"at: {min(twice)} is x, a line, a panel or held already; name each axis once")
        if missing := [axis for axis in names if axis not in used]:
            raise InputError(f"panels: {missing[0]} is named nowhere; add it to panels, lines or at")
        return self.model_copy(update={"y": y, "lines": lines, "panels": panels})


def _require(field: str, names: Iterable[str], known: list[str]) -> None:
    for name in names:
        if name not in known:
            remedy = f"use one of {', '.join(known)}" if known else "this experiment has none"
            raise InputError(f"{field}: {name!r} is not known here; {remedy}")
