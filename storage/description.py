"""An experiment of a user's own as data: what tables and figures of a store need, so that no code need be imported."""

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import fields
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, create_model

from pipeline.errors import InputError, StoreError
from pipeline.experiment import Axis, Columns, Experiment, Quantity, Theory
from pipeline.spec_text import parse_yaml
from storage.document import Document
from storage.schema import MAIN_QUANTITY

DESCRIPTION = "experiment_description"
_KINDS: Mapping[str, type[str] | type[int] | type[float]] = {"str": str, "int": int, "float": float}
_BESIDE = ("status", "message")
_TIMES = "seconds"


def description_of(experiment: Experiment) -> dict[str, str]:
    """Attributes of a store that describe an experiment of a user's own; none for others."""
    if ":" not in experiment.name:
        return {}
    said = {
        "summary": experiment.summary,
        "shared": experiment.shared,
        "settings": experiment.settings().model_dump(mode="json"),
        "axes": [_plain(axis) for axis in experiment.axes],
        "quantities": [_plain(quantity) for quantity in experiment.quantities],
        "theory": [_plain(bound) for bound in experiment.theory],
    }
    return {DESCRIPTION: json.dumps(said)}


def _plain(record: Any) -> dict[str, object]:
    """Fields of a record that are data; a type by its name."""
    values = {each.name: getattr(record, each.name) for each in fields(record)}
    values = {name: value.__name__ if isinstance(value, type) else value for name, value in values.items()}
    return {name: value for name, value in values.items() if isinstance(value, str | int | float | tuple | list)}


def described(document: Document) -> Experiment:
    """The experiment of a store as far as it is data: its axes and quantities, but nothing that computes.

    A store of 0.8.0 or before describes it by its arrays alone; its main quantity is then that of the first figure that
    its specification declares, or the first by name.

    Raises
    ------
    StoreError
        If the description cannot be used.
    """
    try:
        said = json.loads(document.attributes.get(DESCRIPTION) or "null") or _by_arrays(document)
        return Experiment(
            name=str(document.attributes["experiment"]),
            summary=said["summary"],
            revision=int(document.attributes["revision"]),
            axes=tuple(Axis(**_known(Axis, each) | {"kind": _KINDS[each["kind"]]}) for each in said["axes"]),
            shared=tuple(said["shared"]),
            quantities=tuple(Quantity(**_known(Quantity, each)) for each in said["quantities"]),
            main=str(document.attributes.get(MAIN_QUANTITY) or said["main"]),
            settings=_settings(said["settings"]),
            settings_used=lambda labels: set(),
            constraints=(),
            labels_of_file=lambda path: {},
            prepare=_absent,
            evaluate=_absent,
            prepare_cost=_absent,
            evaluate_cost=_absent,
            spread_cost=_absent,
            theory=tuple(
                Theory(**_known(Theory, each), values=_says_nothing, applies=lambda settings: False)
                for each in said["theory"]
            ),
        )
    except (KeyError, TypeError, ValueError, InputError) as error:
        raise StoreError(
            f"store: its description of the experiment cannot be used ({error}); upgrade epsweep"
        ) from error


def _settings(defaults: Mapping[str, Any]) -> type[BaseModel]:
    """A model of settings that says what their defaults were."""
    fields_of: dict[str, Any] = {group: (dict[str, Any], values) for group, values in defaults.items()}
    return create_model("Settings", __config__=ConfigDict(protected_namespaces=()), **fields_of)


def _known(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of the fields that a record has in this version, lists as the tuples that they were."""
    names = {each.name for each in fields(kind)}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items() if name in names}


def _by_arrays(document: Document) -> dict[str, Any]:
    dimensions = document.layouts["status"].dimensions
    names = [name for name, each in document.layouts.items() if each.dimensions == dimensions and name not in _BESIDE]
    names.sort(key=lambda name: (name == _TIMES, name))
    attributes = {name: document.metadata[name].get("attributes", {}) for name in (*dimensions, *names)}
    return {
        "summary": str(document.attributes.get("title", "")).rpartition(": ")[0],
        "main": _declared(document, names) or names[0],
        "shared": [],
        "settings": {},
        "axes": [
            {
                "name": axis,
                "kind": type(document.labels[axis][0]).__name__,
                "description": attributes[axis].get("long_name", axis),
                "key": "seeds" if axis == "seed" else axis,
                "imports": axis == "function",
            }
            for axis in dimensions
        ],
        "quantities": [
            {
                "name": name,
                "long_name": attributes[name].get("long_name", name),
                "units": attributes[name].get("units", "1"),
                "dtype": document.metadata[name]["data_type"],
            }
            for name in names
        ],
        "theory": [],
    }


def _declared(document: Document, names: list[str]) -> str:
    """Quantity of the first figure that the specification declares; empty if it declares none."""
    with suppress(InputError, KeyError, TypeError, IndexError):
        figures: Any = parse_yaml(document.attributes["spec"])["figures"]
        return str(figures[0]["y"]) if figures[0]["y"] in names else ""
    return ""


def _absent(*_: object) -> Any:
    raise StoreError("store: its experiment is code, which is needed to compute and not imported; add --allow-code")


def _says_nothing(columns: Columns) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.full(next(iter(columns.values())).shape, np.nan)
