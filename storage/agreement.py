"""Whether values belong together: experiment, settings, files and code of a store and of what is to be added to it."""

import json
from collections.abc import Mapping

from pipeline.errors import StoreError
from pipeline.experiment import Experiment
from pipeline.grid import CODE
from storage.document import Document
from storage.location import Location
from storage.schema import Status
from storage.verified import read_array

Changed = dict[str, str | None]
"""Digest that a store has of each function or experiment of which it was given another; None where it has none."""
_NAMED = 3


def code_of(document: Document) -> Changed:
    """Digest of each function, and of the experiment, of a user's own that a store names; None where it has none."""
    settings = json.loads(document.attributes["settings"])
    files = {name for name, values in settings.items() if "sha256" in values}
    names = {str(document.attributes.get("experiment"))}
    names |= {label for labels in document.labels.values() for label in labels if isinstance(label, str)} - files
    own = sorted({name.partition("(")[0] for name in names if ":" in name})
    return {name: settings.get(name, {}).get(CODE) for name in own}


def has_finished(location: Location, document: Document, name: str) -> bool:
    """Whether cells of a function or an experiment of a user's own are done."""
    done = read_array(document.verified(location), "status") == Status.DONE
    if document.attributes.get("experiment") == name:
        return bool(done.any())
    for axis, labels in enumerate(document.labels.values()):
        here = [i for i, label in enumerate(labels) if str(label).partition("(")[0] == name]
        if done.take(here, axis=axis).any():
            return True
    return False


def changed_code(location: Location, document: Document, code: Mapping[str, str | None]) -> Changed:
    """Compare code with that of the finished cells of a store.

    Parameters
    ----------
    location : Location
    document : Document
        Of the store.
    code : mapping of str to str or None
        Digest by ``module:name``; None where it is not known, which is other code than any.
    """
    stored = code_of(document)
    suspects = {name: have for name, have in stored.items() if name in code and (have is None or have != code[name])}
    return {name: have for name, have in suspects.items() if has_finished(location, document, name)}


def require_same_code(
    location: Location, changed: Changed, code: Mapping[str, str | None], other: str = "this spec"
) -> None:
    """Refuse code that has changed, as `changed_code` finds it.

    Raises
    ------
    StoreError
        If there is some; the message names it.
    """
    if not changed:
        return
    names = ", ".join(list(changed)[:_NAMED]) + ", …" * (len(changed) > _NAMED)
    remedy = "use another --store, or --accept-code if you know that its values are the same"
    if unknown := [name for name, have in changed.items() if have is None or code[name] is None]:
        who = location if changed[unknown[0]] is None else other
        raise StoreError(f"store: {who} does not say with what code {unknown[0]} was computed; {remedy}")
    raise StoreError(f"store: {location} was computed with other code of {names} than {other} has; {remedy}")


def check_identity(
    location: Location,
    document: Document,
    wanted: Mapping[str, object],
    settings: Mapping[str, Mapping[str, object]],
    other: str = "this spec",
    *,
    accept_code: bool = False,
) -> Changed:
    """Refuse a sweep, or another store, whose values would not belong with those that are stored.

    Returns the code that differs from that of finished cells, where that is accepted.
    """
    attributes = document.attributes
    for key in ("experiment", "revision"):
        if attributes.get(key) != wanted.get(key):
            have, value = attributes.get(key), wanted.get(key)
            raise StoreError(f"store: {location} has {key} {have!r}, {other} {value!r}; use another --store")
    stored = json.loads(attributes["settings"])
    for group, values in settings.items():
        for name, value in values.items() if group in stored else ():
            if stored[group].get(name) != value and name != CODE:
                have = stored[group].get(name)
                if name == "sha256":
                    raise StoreError(
                        f"store: {location} was computed with other contents of {group} (sha256 {have}, {other} has "
                        f"{value}); use another --store, or give the file another name"
                    )
                raise StoreError(
                    f"store: {location} was computed with settings.{group}.{name} = {have!r}, {other} says "
                    f"{value!r}; use another --store, or set it to {have!r}"
                )
    code = {group: str(values[CODE]) for group, values in settings.items() if CODE in values}
    changed = changed_code(location, document, code) if code else {}
    if not accept_code:
        require_same_code(location, changed, code, other)
    return changed


def check_arrays(location: Location, document: Document, experiment: Experiment) -> None:
    """Refuse an experiment whose axes or quantities are not those of a store, as one of a user's own may become."""
    lacking = [each.name for each in experiment.quantities if each.name not in document.layouts]
    axes = [axis.name for axis in experiment.axes]
    if lacking or axes != list(document.labels):
        what = f"no quantity {lacking[0]}" if lacking else f"the axes {', '.join(document.labels)}"
        raise StoreError(f"store: {location} has {what}, unlike {experiment.name} as it is now; use another --store")
