"""Generating functions f(x, y), and of more points f(x, y, z): the built-in ones and a user's own."""

import inspect
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from typing_extensions import TypeAliasType

from pipeline import formulas
from pipeline.arithmetic import own_state, users_state
from pipeline.arrays import FloatArray
from pipeline.containers import REAL, plain_array
from pipeline.errors import InputError, shown
from pipeline.formulas import EntryFunction, exp_of_minus, of_distance, of_product
from pipeline.own_code import imported

FunctionLike = TypeAliasType("FunctionLike", "str | Mapping[str, object] | EntryFunction | GeneratingFunction")
"""A name, a mapping of name and parameters, or a function of points."""
_LARGEST = 1e15  # of a parameter: integers up to here are exact
_MOST_CHARACTERS = 100  # of a parameter
_WITH_PARAMETERS = re.compile(r"(?P<name>[^()]+)\((?P<parameters>[^()]*)\)")
_PARAMETER = re.compile(r"(?P<key>[A-Za-z_]\w*)=(?P<value>[-+]?\d+(\.\d*)?(e[-+]?\d+)?|true|false)", re.ASCII)


@dataclass(frozen=True)
class Parameter:
    """A number that a function may be given.

    Attributes
    ----------
    default : int or float
        Without it; an integer if only integers are allowed.
    least, greatest : float
    choices : tuple of int
        All values that are allowed, if they are few.
    """

    default: int | float
    least: float = -math.inf
    greatest: float = math.inf
    choices: tuple[int, ...] = ()

    def checked(self, place: str, value: object) -> int | float:
        """The value in the type of the default; InputError if it is not allowed."""
        integer = isinstance(self.default, int)
        if (
            not isinstance(value, int if integer else int | float)
            or isinstance(value, bool)
            or not abs(value) <= _LARGEST
        ):
            wanted = "an integer" if integer else "a finite number"
            raise InputError(f"{place}: {shown(value)} is not {wanted}; leave it out for {self.default}")
        number = value if integer else float(value)
        if self.choices and number not in self.choices:
            raise InputError(f"{place}: {number} will not do; use one of {', '.join(map(str, self.choices))}")
        if not self.least <= number <= self.greatest:
            raise InputError(f"{place}: {number} is not between {self.least} and {self.greatest}")
        return number


@dataclass(frozen=True)
class GeneratingFunction:
    """A function of two or more points of R^m, evaluated on all combinations of as many point sets.

    Attributes
    ----------
    name : str
        Label in specs and stores.
    formula : str
        Plain-text formula.
    source : str
        Where it is defined.
    entries : callable
        Maps X of shape (n1, m), Y of shape (n2, m) and so on to the entries, shape (n1, n2, …).
    symmetric : bool
        Whether f(x, y) = f(y, x).
    order : int
        Number of points: 2 for the entries of a matrix, d for those of a tensor of order d.
    parameters : mapping of str to Parameter
        What may be said of it, as ``{name: gaussian, scale: 2}`` in specs.
    domain : str
        Where its points must lie, such as "cube"; anywhere if empty.
    built_in : bool
        Whether it is one of this package.
    """

    name: str
    formula: str
    source: str
    entries: EntryFunction
    symmetric: bool = True
    order: int = 2
    parameters: Mapping[str, Parameter] = field(default_factory=dict, hash=False)
    domain: str = ""
    built_in: bool = False

    @property
    def summary(self) -> str:
        """One line for lists: formula, source, and parameters with their defaults and what is allowed."""
        said = [
            f"{key} = {each.default:g} ({', '.join(map(str, each.choices)) or f'{each.least:g} to {each.greatest:g}'})"
            for key, each in self.parameters.items()
        ]
        said += [f"of points of {self.domain}-*"] if self.domain else []
        return f"{self.formula}  ({self.source})" + (f"; {', '.join(said)}" if said else "")

    def __call__(self, *points: FloatArray) -> FloatArray:
        """Evaluate on all combinations and check shape and type.

        Raises
        ------
        InputError
            If a user's function returns something other than real numbers of shape (n1, n2, …), or more than these.
        """
        with own_state() if self.built_in else users_state():
            values = plain_array(self.entries(*points), f"function: what {self.name} returned")
        shape = tuple(map(len, points))
        if values.shape != shape or values.dtype.kind not in REAL:
            raise InputError(
                f"function: {self.name} returned {values.dtype} of shape {values.shape} for points of shapes "
                f"{' and '.join(str(each.shape) for each in points)}; return real numbers of shape {shape}"
            )
        return values.astype(np.float64, copy=False)


_SCALE = {"scale": Parameter(1.0, 1e-6, 1e6)}
_ELEMENTWISE = "It's hard to turn a low-rank matrix into a high-rank matrix, 2024"
_NICE = "Udell and Townsend, section 4, nice latent variable models"


def _elementwise(name: str, formula: str, profile: Callable[[FloatArray], FloatArray]) -> GeneratingFunction:
    """A function φ of the inner product."""
    return GeneratingFunction(name, formula, _ELEMENTWISE, of_product(profile))


BUILT_IN: dict[str, GeneratingFunction] = {
    function.name: replace(function, built_in=True)
    for function in (
        GeneratingFunction(
            "exponential",
            "exp(-|x - y| / scale)",
            "Budzinskiy, section 7.2, f1",
            of_distance(lambda d: exp_of_minus(np.sqrt(d, out=d))),
            parameters=_SCALE,
        ),
        GeneratingFunction(
            "quartic_gaussian",
            "exp(-(|x - y| / scale)^4)",
            "Budzinskiy, section 7.2, f2",
            of_distance(lambda d: exp_of_minus(np.square(d, out=d))),
            parameters=_SCALE,
        ),
        GeneratingFunction(
            "gaussian",
            "exp(-(|x - y| / scale)^2)",
            "Udell and Townsend, section 5",
            of_distance(exp_of_minus),
            parameters=_SCALE,
        ),
        GeneratingFunction(
            "cauchy",
            "1 / (1 + (|x - y| / scale)^2)",
            "rational quadratic kernel",
            of_distance(lambda d: 1.0 / (1.0 + d)),
            parameters=_SCALE,
        ),
        GeneratingFunction("inner_product", "x . y", "Budzinskiy, section 1.3", lambda x, y: x @ y.T),
        GeneratingFunction(
            "polynomial",
            "(offset + x . y)^degree",
            _NICE,
            formulas.polynomial,
            parameters={"degree": Parameter(2, 1, 20), "offset": Parameter(1.0)},
        ),
        GeneratingFunction(
            "exponential_polynomial",
            "exp((offset + x . y)^degree)",
            _NICE,
            formulas.exponential_polynomial,
            parameters={"degree": Parameter(2, 1, 20), "offset": Parameter(0.0)},
        ),
        GeneratingFunction(
            "piecewise",
            "exp(-(1 + |a - b|) |x - y|^2), a and b the parts of a quadrant that x and y lie in",
            "Udell and Townsend, definition 4.4",
            formulas.piecewise,
            parameters={"pieces": Parameter(2, 1, 1000)},
        ),
        GeneratingFunction(
            "minimum_graphon",
            "mean of min(x_a, y_a)",
            "Udell and Townsend, definition 4.6",
            formulas.minimum_graphon,
            domain="cube",
        ),
        GeneratingFunction(
            "block_graphon",
            "within or between, as x_1 and y_1 share one of equal blocks of [0, 1]",
            "Udell and Townsend, definition 4.6",
            formulas.block_graphon,
            domain="cube",
            parameters={
                "blocks": Parameter(3, 1, 1000),
                "within": Parameter(0.8, 0, 1),
                "between": Parameter(0.2, 0, 1),
            },
        ),
        GeneratingFunction(
            "attention",
            "exp(q . k / sqrt(m)), q = sqrt(m) x, k = sqrt(m) y",
            "Budzinskiy, section 1.4",
            formulas.attention,
        ),
        _elementwise("identity", "x . y", lambda t: t),
        _elementwise("tanh", "tanh(x . y)", np.tanh),
        _elementwise("relu", "max(0, x . y)", lambda t: np.maximum(t, 0.0)),
        _elementwise("sign", "sign(x . y)", np.sign),
        _elementwise("step", "1 if x . y > 0, else 0", lambda t: np.heaviside(t, 0.0)),
        _elementwise("abs", "|x . y|", np.abs),
        _elementwise("square", "(x . y)^2", np.square),
        _elementwise("cube", "(x . y)^3", lambda t: t**3),
        _elementwise("cos", "cos(x . y)", np.cos),
        _elementwise("sin", "sin(x . y)", np.sin),
        GeneratingFunction(
            "block_softmax",
            "softmax over each block of side x side inner products",
            f"{_ELEMENTWISE}, functions of k x k blocks",
            formulas.block_softmax,
            symmetric=False,
            parameters={"side": Parameter(4, choices=(2, 4, 8, 16, 32, 64))},
        ),
        GeneratingFunction(
            "white_noise",
            "independent standard normal entries",
            f"{_ELEMENTWISE}, dense matrix for contrast",
            formulas.white_noise,
            symmetric=False,
        ),
        GeneratingFunction(
            "sinh_product",
            "sinh(sum of x_a y_a z_a)",
            "Budzinskiy, section 7.2, f3",
            of_product(lambda t: np.sinh(t, out=t)),
            order=3,
        ),
        GeneratingFunction(
            "tensor_attention",
            "exp(sum of q_a k_a l_a / sqrt(m)), q = sqrt(m) x, k = sqrt(m) y, l = sqrt(m) z",
            "Budzinskiy, section 1.4, higher-order attention",
            formulas.attention,
            order=3,
        ),
    )
}


def label_of(name: str, parameters: Mapping[str, object]) -> str:
    """Label of a function with parameters, such as ``gaussian(scale=2)``; those that are the default are left out.

    Raises
    ------
    InputError
        If the function has no such parameter, or not with such a value.

    Examples
    --------
    >>> label_of("polynomial", {"offset": 0.5, "degree": 2})
    'polynomial(offset=0.5)'
    """
    if name in BUILT_IN:
        known = BUILT_IN[name].parameters
        numbers = {key: each for key, each in _checked(name, parameters).items() if each != known[key].default}
    elif ":" in name:
        numbers = {key: _own_parameter(key, value) for key, value in parameters.items()}
    else:
        raise _unknown(name)
    said = [f"{key}={_written(each)}" for key, each in sorted(numbers.items())]
    return f"{name}({','.join(said)})" if said else name


def _own_parameter(key: str, value: object) -> int | float | bool:
    """A parameter of a user's own function, whose defaults are not known before it is imported."""
    if isinstance(value, bool):
        return value
    if not isinstance(value, int | float) or not abs(value) <= _LARGEST:
        raise InputError(
            f"{key}: {shown(value)} is not a finite number up to {_LARGEST:g}, true or false; give one, or leave it "
            "out for the function's own default"
        )
    return value


def _written(value: float | bool) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value) if value == int(value) else value)


def name_and_parameters(label: str) -> tuple[str, dict[str, int | float]] | None:
    """Name and parameters, those left out included, of a built-in function; None for any other label.

    Raises
    ------
    InputError
        If the function has no such parameter, or not with such a value.

    Examples
    --------
    >>> name_and_parameters("gaussian(scale=2)")
    ('gaussian', {'scale': 2.0})
    """
    parts = _WITH_PARAMETERS.fullmatch(label)
    name = parts["name"] if parts else label
    if name not in BUILT_IN:
        return None
    given = _checked(name, _parameters(label, parts["parameters"])) if parts else {}
    return name, {key: each.default for key, each in BUILT_IN[name].parameters.items()} | given


def _checked(name: str, given: Mapping[str, object]) -> dict[str, int | float]:
    """Parameters of a built-in function; InputError for one that it does not have, or not with this value."""
    known = BUILT_IN[name].parameters
    for key in given:
        if key not in known:
            remedy = f"use {', '.join(known)}" if known else "it has none"
            raise InputError(f"function: {name} has no parameter {shown(key)}; {remedy}")
    return {key: known[key].checked(key, value) for key, value in given.items()}


def get_function(name: str) -> GeneratingFunction:
    """Look up a built-in function, or import a user's own given as ``module:name``.

    A user's function takes X of shape (n1, m) and Y of shape (n2, m) and returns an array of shape (n1, n2). One that
    takes d > 2 arrays of points defines a tensor of order d and returns an array of shape (n1, …, nd). Parameters
    follow in brackets, as in ``gaussian(scale=2)``; a user's function is given them by keyword. It runs with NumPy's
    default error state, and what its module sets of that state or of Python's warnings ends with the import.

    Raises
    ------
    InputError
        If the name is neither built in nor importable.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    parts = _WITH_PARAMETERS.fullmatch(name)
    if parts and (parts["name"] in BUILT_IN or ":" in parts["name"]):
        given = _parameters(name, parts["parameters"])
        if (label := label_of(parts["name"], given)) != name:
            raise InputError(f"function: {shown(name)} is written {label}")
        plain = get_function(parts["name"])
        entries = partial(plain.entries, **given)
        order = plain.order if parts["name"] in BUILT_IN else _order(entries)
        try:
            inspect.signature(plain.entries).bind(*[None] * order, **given)
        except (TypeError, ValueError) as error:
            raise InputError(f"function: {name} cannot be called with these parameters ({error})") from error
        return replace(plain, name=name, entries=entries, order=order)
    module_name, colon, attribute = name.partition(":")
    if not colon:
        raise _unknown(name)
    entries = imported("function", name)
    if not callable(entries):
        raise InputError(f"function: {shown(name)} is a {type(entries).__name__}; name a function f(X, Y)")
    return _of_callable(entries, attribute, module_name, name)


def as_function(function: object) -> GeneratingFunction:
    """Generating function of a name, a mapping of its name and parameters, or a callable of two or more point sets.

    Raises
    ------
    InputError
        If it is none of these, or not known.
    """
    if isinstance(function, GeneratingFunction):
        return function
    if isinstance(function, str):
        return get_function(function)
    if isinstance(function, Mapping) and isinstance(name := function.get("name"), str):
        parameters = {str(key): value for key, value in function.items() if key != "name"}
        try:
            return get_function(label_of(name, parameters))
        except InputError as error:
            raise InputError(f"function: {str(error).removeprefix('function: ')}") from error
    if callable(function):
        name = getattr(function, "__qualname__", type(function).__qualname__).rpartition(".")[2]
        return _of_callable(function, name, str(getattr(function, "__module__", "")))
    raise InputError(
        f"function: {shown(function)} is neither a name, nor {{'name': 'gaussian', 'scale': 2}}, nor a function f(X, Y)"
    )


def _of_callable(entries: EntryFunction, name: str, source: str, label: str = "") -> GeneratingFunction:
    """A user's own function."""
    order = _order(entries)
    arguments = ", ".join(["X", "Y", "Z"][:order] if order <= 3 else [f"X{k + 1}" for k in range(order)])
    return GeneratingFunction(label or name, f"{name}({arguments})", source, entries, symmetric=False, order=order)


def _unknown(name: str) -> InputError:
    known = ", ".join(BUILT_IN)
    return InputError(f"function: {shown(name)} is not known; use one of {known}, or your own as module:name")


def _parameters(name: str, text: str) -> dict[str, int | float]:
    """Read ``scale=2,offset=0.5,even=true``."""
    found: dict[str, int | float] = {}
    for item in text.split(","):
        match = _PARAMETER.fullmatch(item)
        if match is None or match["key"] in found or len(item) > _MOST_CHARACTERS:
            raise InputError(
                f"function: {shown(name)} cannot be read at {shown(item)}; write name(key=number), or true or false"
            )
        value = match["value"]
        number = int if value.lstrip("-+").isdecimal() else float
        found[match["key"]] = value == "true" if value in ("true", "false") else number(value)
    return found


def _order(entries: EntryFunction) -> int:
    """Number of point sets that a function must be given; 2 where it does not say."""
    try:
        parameters = inspect.signature(entries).parameters.values()
    except (TypeError, ValueError):
        return 2
    positional = inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD
    required = [each for each in parameters if each.kind in positional and each.default is inspect.Parameter.empty]
    return max(2, len(required))
