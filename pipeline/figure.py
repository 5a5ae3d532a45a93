"""A figure that a specification declares: what stands on which axis, in which lines and panels."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.errors import InputError, shown
from pipeline.experiment import Experiment
from pipeline.predicates import Predicate

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
    beside : list of str
        Other quantities in the same units, whose medians are drawn in the same colours, dashed.
    lines : str, optional
        Axis whose labels are lines, or the last axis of names that is free.
    panels : list of str, optional
        Axes whose labels are panels, or the other axes of names that are not held.
    at : mapping
        Labels at which other axes are held, those not named in the middle.
    only : mapping
        Labels that are drawn of an axis, in a list; all of those not named.
    where : str
        Which points are drawn, such as ``m * m == n``; an axis that only it names follows the abscissa.
    statistic : {"median", "max"}
        Of the trials.
    x_scale, y_scale : {"log", "linear"}
    y_share : bool
        Whether all panels have one vertical range.
    y_least : float, optional
        Smallest value shown.
    slope : float, optional
        Of a guide through the middle of the last line, in logarithms.
    theory : list of str
        Bounds of the quantity to draw beside.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    x: str
    y: str = ""
    beside: list[str] = []
    lines: str = ""
    panels: list[str] | None = None
    at: dict[str, Any] = {}
    only: dict[str, list[Any]] = {}
    where: str = ""
    statistic: Literal["median", "max"] = "median"
    x_scale: Scale = "log"
    y_scale: Scale = "log"
    y_share: bool = True
    y_least: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    slope: Annotated[float, Field(allow_inf_nan=False)] | None = None
    theory: list[str] = []

    def complete(self, experiment: Experiment, unnamed: Collection[str] = ()) -> "Figure":
        """The figure with everything said that may be left out.

        Parameters
        ----------
        experiment : Experiment
        unnamed : collection of str
            Axes of names that need no place in it, such as those with a single label.

        Raises
        ------
        InputError
            If it names an axis, quantity or bound of it that the experiment does not have, one axis twice, or an axis
            of names nowhere.
        """
        numbers = [axis.name for axis in experiment.axes if axis.numeric and axis.key != "seeds"]
        names = [axis.name for axis in experiment.axes if not axis.numeric]
        _require("x", [self.x], numbers)
        y = self.y or experiment.main
        _require("y", [y], [quantity.name for quantity in experiment.quantities])
        _require("beside", self.beside, [each.name for each in experiment.quantities if each.name != y])
        held = [axis for axis in names if axis in (*(self.panels or []), *self.at)]
        lines = self.lines or next((axis for axis in reversed(names) if axis not in held), "")
        if not lines:
            raise InputError("lines: panels and at hold every axis of names; name an axis of numbers, or free one")
        _require("lines", [lines], numbers + names)
        rest = [axis for axis in names if axis != lines and axis not in self.at]
        panels = rest if self.panels is None else self.panels
        _require("panels", panels, numbers + names)
        _require("at", self.at, numbers + names)
        _require_labels("at", {axis: [label] for axis, label in self.at.items()})
        _require("only", self.only, [axis for axis in numbers + names if axis not in self.at])
        _require_labels("only", self.only)
        _require("theory", self.theory, [bound.name for bound in experiment.theory if bound.quantity == y])
        for field, listed in (("theory", self.theory), ("beside", self.beside)):
            if twice := [name for name in listed if listed.count(name) > 1]:
                raise InputError(f"{field}: {twice[0]!r} is listed twice; name it once")
        _require_once(
            {"x": [self.x], "lines": [lines], "panels": panels, "at": list(self.at)},
            [axis for axis in names if axis not in unnamed],
        )
        figure = self.model_copy(update={"y": y, "lines": lines, "panels": panels})
        try:
            figure.predicate(experiment)
        except InputError as error:
            raise InputError(f"where: {error}") from error
        return figure

    def predicate(self, experiment: Experiment) -> Predicate | None:
        """`where` of a complete figure, ready to be evaluated.

        Raises
        ------
        InputError
            If it is not an expression of the axes.
        """
        kinds = {axis.name: axis.kind for axis in experiment.axes if axis.key != "seeds"}
        return Predicate(self.where, kinds) if self.where else None

    def followers(self, experiment: Experiment) -> list[str]:
        """Axes that only `where` of a complete figure names."""
        predicate = self.predicate(experiment)
        placed = {self.x, self.lines, *(self.panels or ()), *self.at}
        return [each.name for each in experiment.axes if predicate and each.name in predicate.names - placed]


def _require(field: str, names: Iterable[str], known: list[str]) -> None:
    for name in names:
        if name not in known:
            remedy = f"use one of {', '.join(known)}" if known else "leave it out, there is none"
            raise InputError(f"{field}: {name!r} is not known here; {remedy}")


def _require_labels(field: str, chosen: Mapping[str, Sequence[object]]) -> None:
    for axis, labels in chosen.items():
        for label in labels:
            if type(label) not in (str, int, float):
                raise InputError(
                    f"{field}.{axis}: {shown(label)} is not one label; write the number or name, such as n: 100"
                )
        if not labels or len(set(labels)) < len(labels):
            problem = "names a label twice" if labels else "is empty"
            raise InputError(f"{field}.{axis}: {shown(labels)} {problem}; list each label that is to be drawn once")


def _require_once(roles: Mapping[str, Iterable[str]], names: list[str]) -> None:
    """Refuse an axis in two roles, and an axis of names in none."""
    used: dict[str, str] = {}
    for role, axis in ((role, axis) for role, axes in roles.items() for axis in axes):
        if axis in used:
            raise InputError(f"{role}: {axis!r} stands in {used[axis]} already; name each axis once")
        used[axis] = role
    if missing := [axis for axis in names if axis not in used]:
        raise InputError(f"panels: {missing[0]} is named nowhere; add it to panels, lines or at")
