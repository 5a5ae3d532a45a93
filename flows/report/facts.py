"""What the report says of a store in words and tables: axes, status, runs, cost and provenance."""

import json
import re
import shlex
from collections.abc import Iterable, Sequence
from functools import cached_property
from importlib.metadata import metadata
from typing import Any

import numpy as np
import xarray as xr

from flows.report.tables import Table, number
from pipeline.errors import one_line
from pipeline.experiment import Experiment, Label
from pipeline.grid import CODE
from storage import Status, grouped_failures

_NAMED_FAILURES = 20
_SHOWN_LABELS = 16
_SHOWN_RUNS = 50
_SHOWN_COSTS = 40
_COST = "seconds"
_COST_AXES = ("method", "n")
_STATES = {
    Status.DONE: "computed and stored",
    Status.FAILED: "an error is stored in place of values",
    Status.MISSING: "not computed yet, or lost to damage",
    Status.SKIPPED: "within the box of labels, but asked for by no spec",
}


class Facts:
    """What a store says of itself, in texts that the template lays out.

    Parameters
    ----------
    store : str
        Last part of its path.
    ds : xarray.Dataset
        Results, as `open_results` returns them.
    experiment : Experiment
    """

    def __init__(self, store: str, ds: xr.Dataset, experiment: Experiment) -> None:
        self.store = store
        self.experiment = experiment
        self._ds = ds
        self._status = ds["status"].values
        self._settings: dict[str, dict[str, object]] = json.loads(ds.attrs["settings"])
        self.sessions: list[dict[str, Any]] = json.loads(ds.attrs["sessions"])

    @cached_property
    def name(self) -> str:
        """Name of the sweep that made the store."""
        return str(self._ds.attrs["title"]).removeprefix(f"{self.experiment.summary}: ")

    @cached_property
    def package(self) -> dict[str, str]:
        """What the installed package says of itself."""
        about = metadata("epsweep")
        return {"summary": about["Summary"], "licence": about["License-Expression"]}

    @property
    def versions(self) -> list[str]:
        """Versions of the package that wrote to the store."""
        return list(dict.fromkeys(str(session.get("epsweep", "unknown")) for session in self.sessions))

    @cached_property
    def counts(self) -> dict[Status, int]:
        """Number of cells in each state."""
        return {status: int((self._status == status).sum()) for status in _STATES}

    @property
    def done(self) -> int:
        """Number of cells that are done."""
        return self.counts[Status.DONE]

    @property
    def asked(self) -> int:
        """Number of cells that some spec asked for."""
        return sum(self.counts.values()) - self.counts[Status.SKIPPED]

    @cached_property
    def axes(self) -> Table:
        """What was swept."""
        rows = []
        for axis in self.experiment.axes:
            labels = self._ds[axis.name].values.tolist()
            rows.append((axis.name, axis.description, _some(labels), str(len(labels))))
        return Table("Axes of the sweep", ("Axis", "Meaning", "Labels", "Number"), rows, 3)

    @cached_property
    def states(self) -> Table:
        """Cells by state."""
        rows = [(each.name.lower(), meaning, f"{self.counts[each]:,}") for each, meaning in _STATES.items()]
        return Table("Cells by state", ("State", "Meaning", "Cells"), rows, 2)

    @cached_property
    def failures(self) -> Table | None:
        """The cells that failed, by their message."""
        groups = grouped_failures(self._ds)
        if not groups:
            return None
        rows = [(f"{each.cells:,}", each.message, each.first) for each in groups[:_NAMED_FAILURES]]
        more = sum(each.cells for each in groups[_NAMED_FAILURES:])
        note = f"{more:,} more failed: epsweep export {shlex.quote(self.store)} cells.csv names them all."
        return Table("Failed cells", ("Cells", "Message", "First cell"), rows, note=note if more else "")

    @cached_property
    def runs(self) -> Table:
        """Runs that wrote to the store."""
        shown = self.sessions[-_SHOWN_RUNS:]
        rows = [
            (
                _time(each.get("started", "unknown")),
                _time(each.get("ended", "no recorded end (killed, or still running)")),
                *(str(each.get(key, "unknown")) for key in ("host", "epsweep")),
            )
            for each in shown
        ]
        more = f"The last {len(shown)} of {len(self.sessions)}." if len(shown) < len(self.sessions) else ""
        return Table("Runs", ("Started (UTC)", "Ended", "Host", "epsweep"), rows, note=more)

    @cached_property
    def seconds(self) -> float:
        """Computing time of all cells that are done."""
        return float(self._cost.sum()) if _COST in self._ds else 0.0

    @property
    def spent(self) -> str:
        """Computing time of all cells that are done, in a sentence."""
        return f"{self.seconds:,.2f} seconds of computing, measured in the cells and summed over those that are done."

    @cached_property
    def _cost(self) -> xr.DataArray:
        return self._ds[_COST].where(self._ds["status"] == Status.DONE)

    @cached_property
    def costs(self) -> Table | None:
        """Computing time by method and size, the dearest first; None if the experiment does not record it."""
        if _COST not in self._ds or not self.done:
            return None
        by = [axis for axis in _COST_AXES if axis in self._cost.dims]
        others = [axis for axis in self._cost.dims if axis not in by]
        sums, cells = self._cost.sum(others).transpose(*by), self._cost.notnull().sum(others).transpose(*by)
        labels = [self._ds[axis].values.tolist() for axis in by]
        dearest = [
            (tuple(str(values[i]) for values, i in zip(labels, cell, strict=True)), int(cells[cell]), float(sums[cell]))
            for cell in sorted(np.ndindex(sums.shape), key=lambda cell: -float(sums[cell]))
            if cells[cell] > 0
        ]
        lines = dearest[:_SHOWN_COSTS]
        if rest := dearest[_SHOWN_COSTS:]:
            lines.append((self._across(by, "others"), sum(each[1] for each in rest), sum(each[2] for each in rest)))
        lines.append((self._across(by, "all"), self.done, self.seconds))
        total = self.seconds or 1.0
        rows = [(*at, f"{count:,}", f"{spent:,.2f}", f"{100 * spent / total:.1f} %") for at, count, spent in lines]
        return Table("Computing time", (*by, "Cells", "Seconds", "Share"), rows, len(by))

    @staticmethod
    def _across(by: Sequence[str], text: str) -> tuple[str, ...]:
        return tuple(text if position == 0 else "" for position in range(len(by)))

    @cached_property
    def environments(self) -> Table:
        """Machines and versions, each combination once."""
        rows = [
            (
                *(str(each.get(key, "unknown")) for key in ("host", "platform", "epsweep", "python")),
                ", ".join(f"{name} {version}" for name, version in each.get("libraries", {}).items()),
            )
            for each in self.sessions
        ]
        header = ("Host", "Platform", "epsweep", "Python", "Libraries")
        return Table("Machines and versions", header, list(dict.fromkeys(rows))[:_SHOWN_RUNS])

    @cached_property
    def settings(self) -> Table:
        """Settings that influence values."""
        rows = [
            (group, ", ".join(f"{name} = {_value(value)}" for name, value in values.items()))
            for group, values in self._settings.items()
            if "sha256" not in values and CODE not in values
        ]
        return Table("Settings that influence values", ("Group", "Settings"), rows)

    @cached_property
    def files(self) -> Table:
        """Files of the sweep and the digests of their contents."""
        rows = [(name, str(values["sha256"])) for name, values in self._settings.items() if "sha256" in values]
        return Table("Files", ("File", "SHA-256"), rows)

    @cached_property
    def code(self) -> Table:
        """Functions and experiments of a user's own and the digests of their code."""
        rows = [(name, str(values[CODE])) for name, values in self._settings.items() if CODE in values]
        return Table("Code of one's own", ("Name", "SHA-256"), rows)

    @cached_property
    def specs(self) -> list[tuple[str, str]]:
        """File name and text of each different spec that was run into the store, in order."""
        texts = list(dict.fromkeys(str(each["spec"]) for each in self.sessions if "spec" in each))
        numbers = [f"-{position}" if len(texts) > 1 else "" for position in range(1, len(texts) + 1)]
        return [(f"{self._spec_name(text)}{at}.yaml", text) for text, at in zip(texts, numbers, strict=True)]

    def _spec_name(self, text: str) -> str:
        found = re.search(r"^name: *([A-Za-z0-9][A-Za-z0-9._-]*) *$", text, re.MULTILINE)
        return found[1] if found else self.store.removesuffix(".zarr")

    @cached_property
    def modules(self) -> list[str]:
        """Modules of functions, and of an experiment, that are a user's own."""
        labels = (label for axis in self.experiment.axes if axis.imports for label in self._ds[axis.name].values)
        return sorted({str(name).partition(":")[0] for name in (self.experiment.name, *labels) if ":" in str(name)})

    @property
    def commands(self) -> str:
        """Command lines that make the store and this page again."""
        code = " --allow-code" if self.modules else ""
        store = shlex.quote(self.store)
        lines = [f"epsweep run {shlex.quote(name)} --store {store}{code}" for name, _ in self.specs]
        return "\n".join([*lines, f"epsweep report {store} --out ."])

    @property
    def summary(self) -> str:
        """The store in one line."""
        runs = f"{len(self.sessions)} run{'s' if len(self.sessions) != 1 else ''}"
        spent = f", {number(self.seconds)} s of computing" if self.seconds else ""
        failed = f", {self.counts[Status.FAILED]:,} failed" if self.counts[Status.FAILED] else ""
        return f"{self.done:,} of {self.asked:,} cells done{failed}, {runs}{spent}"


def _time(text: object) -> str:
    """A time that was recorded in UTC, without saying so again."""
    return str(text).removesuffix("+00:00").replace("T", " ") if str(text).endswith("+00:00") else str(text)


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _some(labels: Sequence[Label]) -> str:
    """Labels in one line, the middle left out where they are many."""
    if len(labels) <= _SHOWN_LABELS:
        return _listed(labels)
    return f"{_listed(labels[: _SHOWN_LABELS - 1])}, …, {one_line(labels[-1])}"


def _listed(labels: Iterable[Label]) -> str:
    return ", ".join(one_line(label) for label in labels)
