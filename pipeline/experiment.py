"""What an experiment is: axes, quantities, how a case is computed and what it costs.

Grid, store, flow and plots know experiments only through this description; adding one is one file in
`pipeline.experiments`.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from time import perf_counter
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from pipeline.arithmetic import own_state
from pipeline.containers import real_number
from pipeline.errors import InputError, shown
from pipeline.failure import failure_of, stops, text_of
from pipeline.passes import Passes

Label: TypeAlias = str | int | float
AXIS_CHARACTERS = 44
_RESERVED = ("status", "message")
Columns: TypeAlias = Mapping[str, npt.NDArray[Any]]


class Recipe(Protocol):
    """What a matrix or tensor is made of or read from, hashable and in a form that can be sent."""

    def __hash__(self) -> int: ...

    def make(self) -> Any:
        """The matrix or tensor, of which blocks are made or read when they are asked for."""
        ...


Spread: TypeAlias = Callable[[Recipe], Passes]
"""Who makes passes over matrices that are too large to be held."""


@dataclass(frozen=True)
class Axis:
    """One parameter of a sweep and one dimension of its store.

    Attributes
    ----------
    name : str
        Name of the dimension.
    kind : type
        `str`, `int` or `float`.
    description : str
        What it means, for attributes and help.
    key : str
        Key in a spec.
    least : int
        Smallest number; one that is not an integer must be above it.
    check : callable, optional
        Raises InputError for a text label that is not known.
    imports : bool
        Whether a label ``module:name`` is code to import.
    files : bool
        Whether ``{file: name}`` may stand for labels.
    label_of : callable, optional
        Makes a label of a name and parameters: ``{name: …, key: number}`` may stand for it.
    comment : str
        What a description of a few words leaves unsaid.
    """

    name: str
    kind: type[str] | type[int] | type[float]
    description: str
    key: str
    least: int = 1
    check: Callable[[str], object] | None = None
    imports: bool = False
    files: bool = False
    label_of: Callable[[str, Mapping[str, object]], str] | None = None
    comment: str = ""

    @property
    def numeric(self) -> bool:
        """Whether labels are numbers, which have an order."""
        return self.kind is not str


@dataclass(frozen=True)
class Quantity:
    """One value that a case yields.

    Attributes
    ----------
    name : str
    long_name : str
        What it is, in a few words that may stand at an axis of a figure.
    units : str
    dtype : str
        NumPy type in the store; floating-point quantities are NaN and integers −1 where not done.
    optional : bool
        Whether a case that is done may leave it out.
    along : tuple of str
        Axes along which it is the same.
    label : str
        For axes of figures, where the long name will not do.
    comment : str
        How it is defined and what it may be compared with, where the long name leaves that unsaid.
    """

    name: str
    long_name: str
    units: str = "1"
    dtype: str = "float64"
    optional: bool = False
    along: tuple[str, ...] = ()
    label: str = ""
    comment: str = ""

    @property
    def axis_label(self) -> str:
        """What stands at an axis of a figure; the name where a long name has become a sentence."""
        said = self.long_name if len(self.long_name) <= AXIS_CHARACTERS else self.name.replace("_", " ")
        return self.label or (said if self.units == "1" else f"{said} ({self.units})")

    @property
    def description(self) -> str:
        """Long name and comment."""
        return f"{self.long_name}: {self.comment}" if self.comment else self.long_name

    def of(self, values: Mapping[str, float]) -> float:
        """Value of a case that is done; NaN for an optional quantity that it leaves out."""
        return values.get(self.name, math.nan) if self.optional else values[self.name]


@dataclass(frozen=True)
class Theory:
    """What a theorem says of a quantity, to draw beside what is measured.

    Attributes
    ----------
    name : str
        In specifications.
    label : str
        In legends, with its source.
    quantity : str
    values : callable
        Maps labels of all axes but the trial's, in arrays of one shape, to its values; NaN where it says nothing.
    applies : callable
        Maps the groups of settings of a store to whether it is about what they measure.
    listed : bool
        Whether reports set it beside each median, in their table and plot.
    """

    name: str
    label: str
    quantity: str
    values: Callable[[Columns], npt.NDArray[np.float64]]
    applies: Callable[[Mapping[str, Any]], bool] = lambda settings: True
    listed: bool = True


@dataclass(frozen=True)
class Expectation:
    """What is expected of a quantity along an axis.

    Attributes
    ----------
    axis, quantity : str
    kind : {"power", "growth", "flat"}
        Fitted by a power of the labels, by one of them and one of their logarithms, or by how much medians differ.
    expected : str
        What, and by whom.
    within : callable
        Maps labels of all axes but the trial's, in arrays of one shape, to whether it is expected there.
    """

    axis: str
    quantity: str
    kind: Literal["power", "growth", "flat"]
    expected: str
    within: Callable[[Columns], npt.NDArray[np.bool_]] = lambda columns: np.ones(len(columns["n"]), dtype=bool)


@dataclass(frozen=True)
class Case:
    """One cell of a sweep: a label on every axis."""

    labels: tuple[tuple[str, Label], ...]

    def __getitem__(self, axis: str) -> Any:
        """Label on an axis."""
        return dict(self.labels)[axis]

    def __str__(self) -> str:
        """Labels as ``axis=label`` in order."""
        return ", ".join(f"{axis}={label}" for axis, label in self.labels)


@dataclass(frozen=True)
class Outcome:
    """What became of a case: its values, or the message of its failure.

    Attributes
    ----------
    values : mapping of str to float, or None
    message : str
    preparation : float
        Seconds that the preparation took, which the case shares with its neighbours.
    elapsed : float
        Seconds that the case took, with its share of the preparation, whether it failed or not.
    traceback : str
        Of the exception that it failed with, for logs.
    """

    values: Mapping[str, float] | None
    message: str = ""
    preparation: float = field(default=0.0, compare=False)
    elapsed: float = field(default=0.0, compare=False)
    traceback: str = field(default="", compare=False)


@dataclass(frozen=True)
class Cost:
    """Predicted cost of cases on one core.

    Attributes
    ----------
    seconds : ndarray
    memory : ndarray
        Peak, in bytes.
    """

    seconds: npt.NDArray[np.float64]
    memory: npt.NDArray[np.float64]


@dataclass(frozen=True)
class SpreadCost:
    """Predicted cost of cases of which each is spread over a cluster.

    Attributes
    ----------
    seconds : ndarray
        Computing time of all cores together.
    memory : ndarray
        Peak of a worker, in bytes; infinite where a case cannot be spread.
    here : ndarray
        Peak of the process that spreads it, in bytes.
    """

    seconds: npt.NDArray[np.float64]
    memory: npt.NDArray[np.float64]
    here: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Constraint:
    """What every case of a sweep must meet.

    Attributes
    ----------
    axes : tuple of str
        Whose labels it is about.
    text : str
        What is broken where it is not met.
    holds : callable
        Maps (labels of the axes, in arrays that broadcast, and settings) to whether it is met.
    remedy : str
    """

    axes: tuple[str, ...]
    text: str
    holds: Callable[[Columns, Any], npt.NDArray[np.bool_]]
    remedy: str


@dataclass(frozen=True)
class Experiment:
    """A kind of sweep.

    Attributes
    ----------
    name, summary : str
    revision : int
        Raised when the same spec would give other values; part of a store's identity.
    axes : tuple of Axis
    shared : tuple of str
        Axes that fix what is prepared once for many cases (the matrix).
    quantities : tuple of Quantity
    main : str
        The quantity that curves and figures show, unless another is asked for.
    settings : type of a pydantic model
        Groups of settings, one field a group, and the paths of `files` by label.
    settings_used : callable
        Maps the labels of each axis to the names of the groups that influence their values.
    constraints : tuple of Constraint
    labels_of_file : callable
        Maps the path of a file to the labels on the other axes that it fixes.
    prepare : callable
        Maps (a case, settings, `Spread` or None) to what its group shares; with `Spread`, passes over the matrix are
        made elsewhere.
    evaluate : callable
        Maps (what is shared, a case, settings) to values by quantity name; a value `seconds` stands for the time of
        the call where that also does what several cases share.
    prepare_cost, evaluate_cost : callable
        Predict the costs of both for arrays of labels.
    spread_cost : callable
        Predicts the cost of spreading each case.
    theory : tuple of Theory
        What figures may draw beside what is measured.
    expectations : tuple of Expectation
        What reports compare fits with.
    """

    name: str
    summary: str
    revision: int
    axes: tuple[Axis, ...]
    shared: tuple[str, ...]
    quantities: tuple[Quantity, ...]
    main: str
    settings: type[BaseModel]
    settings_used: Callable[[Mapping[str, Sequence[Label]]], set[str]]
    constraints: tuple[Constraint, ...]
    labels_of_file: Callable[[str], Mapping[str, Label]]
    prepare: Callable[[Case, Any, Spread | None], Any]
    evaluate: Callable[[Any, Case, Any], Mapping[str, float]]
    prepare_cost: Callable[[Columns, Any], Cost]
    evaluate_cost: Callable[[Columns, Any], Cost]
    spread_cost: Callable[[Columns, Any], SpreadCost]
    theory: tuple[Theory, ...] = ()
    expectations: tuple[Expectation, ...] = ()

    def __post_init__(self) -> None:
        """Check the names, which become arrays of a store and keys of a specification."""
        names = [*(axis.name for axis in self.axes), *(each.name for each in self.quantities), *_RESERVED]
        keys = [*(axis.key for axis in self.axes), "where"]
        for place, given in (("name", names), ("key", keys)):
            for name in given:
                if not name.isidentifier() or given.count(name) > 1:
                    reserved = f"{', '.join(_RESERVED)}, seconds or where"
                    raise InputError(
                        f"{place}: {shown(name)} will not do; take letters and digits, no two alike, not {reserved}"
                    )

    def quantity(self, name: str) -> Quantity:
        """The quantity of a name."""
        return next(quantity for quantity in self.quantities if quantity.name == name)

    def shared_labels(self, case: Case) -> tuple[Label, ...]:
        """Labels of the axes that fix what is prepared once for many cases."""
        return tuple(case[axis] for axis in self.shared)

    def run(self, cases: Sequence[Case], settings: BaseModel, spread: Spread | None = None) -> Iterator[Outcome]:
        """Compute cases in order; neighbours that share a matrix share its preparation.

        A case that raises or yields a value that is not finite becomes a failed outcome; the others go on.

        Parameters
        ----------
        cases : sequence of Case
        settings : pydantic model
        spread : callable, optional
            Who makes the passes over a matrix that is too large to be held.
        """
        for _, group in groupby(cases, key=self.shared_labels):
            members = list(group)
            started, failed, shared = perf_counter(), None, None
            try:
                with own_state():
                    shared = self.prepare(members[0], settings, spread)
            except BaseException as error:
                failed = self._failed(members[0], error)
            preparation = perf_counter() - started
            share = preparation / len(members)
            for case in members:
                started = perf_counter()
                outcome = failed or self._outcome(shared, case, settings, share)
                elapsed = perf_counter() - started + share
                yield replace(outcome, preparation=preparation, elapsed=elapsed)

    def _outcome(self, shared: Any, case: Case, settings: BaseModel, share: float) -> Outcome:
        """Compute one case; `seconds` includes its share of the preparation."""
        started = perf_counter()
        try:
            with own_state():
                found = self.evaluate(shared, case, settings).items()
                values = {name: real_number(value, name) for name, value in found}
        except BaseException as error:
            return self._failed(case, error)
        if bad := [name for name, value in values.items() if not np.isfinite(value)]:
            return Outcome(None, f"{bad[0]} is {values[bad[0]]}; every value must be finite")
        needed = (quantity.name for quantity in self.quantities if not quantity.optional and quantity.name != "seconds")
        if missing := [name for name in needed if name not in values]:
            return Outcome(None, f"{missing[0]} is missing among the values; return every quantity")
        return Outcome({**values, "seconds": values.get("seconds", perf_counter() - started) + share})

    def _failed(self, case: Case, error: BaseException) -> Outcome:
        """Outcome of a case that raised, whatever that was; raises again what ends the run."""
        if stops(error):
            raise error
        names = (self.name, *(label for _, label in case.labels if isinstance(label, str)))
        failure = failure_of(error, [name.partition(":")[0] for name in names if ":" in name])
        return Outcome(None, failure.message, traceback=failure.traceback)


def describe(error: BaseException) -> str:
    """One line for an error: its type and its message."""
    return text_of(error)
