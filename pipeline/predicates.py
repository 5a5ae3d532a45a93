"""The expression language of `where`: comparisons and arithmetic of the axes, evaluated on whole arrays.

An expression is parsed by Python's own parser and walked node by node; nothing is ever executed.
"""

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import InputError, shown

_MAX_LENGTH = 1000
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sqrt": np.sqrt,
    "log": np.log,
    "abs": np.abs,
    "min": np.minimum,
    "max": np.maximum,
}
_HELP = "write comparisons such as 'r <= n / 2 and m in (2, 10)' of"


def _as_float(constant: int) -> float:
    """An integer of any length; infinite where a float cannot hold it."""
    try:
        return float(constant)
    except OverflowError:
        return float("inf")


class Predicate:
    """A parsed expression that says for each combination of labels whether it holds.

    Parameters
    ----------
    text : str
        For example ``r <= n / 4 or method == 'svd'``.
    kinds : mapping of str to type
        The names that may be used, each `str`, `int` or `float`.

    Raises
    ------
    InputError
        If the text is not an expression of this language.
    """

    def __init__(self, text: str, kinds: Mapping[str, type]) -> None:
        self.text = text
        self._kinds = kinds
        if len(text) > _MAX_LENGTH:
            raise InputError(f"{len(text)} characters are more than the {_MAX_LENGTH} an expression may have")
        try:
            self._tree = ast.parse(text.strip(), mode="eval").body
            kind = self._kind(self._tree)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise InputError(f"{shown(text)} cannot be read; {self._help()}") from error
        if kind is not bool:
            raise InputError(f"{shown(text)} is not a comparison; {self._help()}")

    def __call__(self, columns: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.bool_]:
        """Evaluate on arrays of labels that broadcast against each other."""
        with np.errstate(all="ignore"):
            return np.asarray(self._value(self._tree, columns), dtype=bool)

    @property
    def names(self) -> set[str]:
        """The names that it uses."""
        return {node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name) and node.id in self._kinds}

    def _help(self) -> str:
        return f"{_HELP} {', '.join(self._kinds)}"

    def _refuse(self, node: ast.AST, why: str) -> InputError:
        return InputError(f"{shown(ast.unparse(node))} {why}; {self._help()}")

    def _kind(self, node: ast.AST) -> type:
        """Type of a node (bool, float or str), refusing whatever the language does not know."""
        match node:
            case ast.Constant(value=bool()):
                return bool
            case ast.Constant(value=int() | float()):
                return float
            case ast.Constant(value=str()):
                return str
            case ast.Name(id=name) if name in self._kinds:
                return str if self._kinds[name] is str else float
            case ast.Name(id=name):
                raise self._refuse(node, "is not an axis")
            case ast.BoolOp(values=operands):
                self._require(operands, bool)
                return bool
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                self._require([operand], bool)
                return bool
            case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
                self._require([operand], float)
                return float
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                self._require([left, right], float)
                return float
            case ast.Call(func=ast.Name(id=name), args=[_, *_] as arguments, keywords=[]) if name in _FUNCTIONS:
                if len(arguments) != (2 if name in ("min", "max") else 1):
                    raise self._refuse(node, "has the wrong number of arguments")
                self._require(arguments, float)
                return float
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                self._check_comparison(left, ops, comparators)
                return bool
        raise self._refuse(node, "is not part of the language")

    def _check_comparison(self, left: ast.expr, ops: Sequence[ast.cmpop], comparators: Sequence[ast.expr]) -> None:
        kind = self._kind(left)
        for op, comparator in zip(ops, comparators, strict=True):
            if isinstance(op, ast.In | ast.NotIn):
                if not isinstance(comparator, ast.Tuple | ast.List) or not comparator.elts or len(ops) > 1:
                    raise self._refuse(comparator, "is not a list of labels")
                self._require(comparator.elts, kind)
            elif type(op) in _COMPARISONS:
                self._require([comparator], kind)
            else:
                raise self._refuse(comparator, "is compared in a way that is not part of the language")

    def _require(self, nodes: Sequence[ast.expr], kind: type) -> None:
        for node in nodes:
            if self._kind(node) is not kind:
                wanted = {bool: "a comparison", float: "a number", str: "a text"}[kind]
                raise self._refuse(node, f"is not {wanted}")

    def _value(self, node: ast.AST, columns: Mapping[str, npt.NDArray[Any]]) -> Any:
        def value(child: ast.AST) -> Any:
            return self._value(child, columns)

        match node:
            case ast.Constant(value=constant):
                return _as_float(constant) if type(constant) is int else constant
            case ast.Name(id=name):
                return columns[name] if self._kinds[name] is str else columns[name].astype(np.float64)
            case ast.BoolOp(op=op, values=operands):
                combine = np.logical_and if isinstance(op, ast.And) else np.logical_or
                return combine.reduce(np.broadcast_arrays(*map(value, operands)))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return np.logical_not(value(operand))
            case ast.UnaryOp(op=op, operand=operand):
                return -value(operand) if isinstance(op, ast.USub) else value(operand)
            case ast.BinOp(left=left, op=op, right=right):
                return _ARITHMETIC[type(op)](np.float64(value(left)), value(right))
            case ast.Call(func=ast.Name(id=name), args=arguments):
                return _FUNCTIONS[name](*map(value, arguments))
            case ast.Compare(left=left, ops=[ast.In() | ast.NotIn() as op], comparators=[ast.expr() as listed]):
                equal = [np.asarray(value(left) == value(element)) for element in listed.elts]  # type: ignore[attr-defined]
                found = np.logical_or.reduce(np.broadcast_arrays(*equal))
                return np.logical_not(found) if isinstance(op, ast.NotIn) else found
            case ast.Compare(left=left, ops=ops, comparators=comparators):
                sides = [value(left), *map(value, comparators)]
                pairs = zip(sides, ops, sides[1:], strict=False)
                holds = [np.asarray(_COMPARISONS[type(op)](a, b)) for a, op, b in pairs]
                return np.logical_and.reduce(np.broadcast_arrays(*holds))
        raise AssertionError(ast.dump(node))
