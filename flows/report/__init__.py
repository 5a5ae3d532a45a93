"""A report: one HTML page about a store, with curves to explore, that needs no network and can be sent as it is."""

import base64
import hashlib
import json
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import xarray as xr
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from flows.report.embedded import curve_data
from flows.report.facts import Facts
from flows.report.tables import ABOUT_INTERVALS, Finding, finding_sections
from pipeline.experiment import Experiment
from storage import open_results, store_experiment

__all__ = ["Finding", "report_page", "write_report"]


def write_report(store: str | Path, out: str | Path, findings: Sequence[Finding] = ()) -> Path:
    """Write the page of a store; the same store and findings give the same bytes.

    Parameters
    ----------
    store : str or Path
        A local path or ``s3://bucket/key``.
    out : str or Path
        Folder for the page; created if it does not exist.
    findings : sequence of Finding
        What was found in the curves, such as fitted slopes; a section each kind, in the order in which they come.

    Returns
    -------
    Path
        The page, which appears whole or not at all.

    Raises
    ------
    StoreError
        If there is no store at the path, or it cannot be read.
    OSError
        If the page cannot be written.
    """
    name = _base_name(store)
    page = report_page(name, open_results(store), store_experiment(store), findings)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name.removesuffix('.zarr')}.html"
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(page.encode("utf-8", errors="backslashreplace"))
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return path


def _base_name(store: str | Path) -> str:
    """Last part of the path of a store."""
    text = str(store)
    return text.rstrip("/").rpartition("/")[2] if "://" in text else Path(text).resolve().name


def report_page(name: str, ds: xr.Dataset, experiment: Experiment, findings: Sequence[Finding] = ()) -> str:
    """HTML of the page of results, in which every text is escaped and no script runs but those put there here.

    Parameters
    ----------
    name : str
        Name of the store, as command lines on the page spell it.
    ds : xarray.Dataset
        Results, as `open_results` returns them.
    experiment : Experiment
    findings : sequence of Finding
    """
    ds["status"].load()  # before the values, which a live store writes first
    curves = curve_data(ds, experiment)
    scripts = []
    if curves is not None:
        from plotly.offline import get_plotlyjs  # takes a while to import

        scripts = [get_plotlyjs(), _asset("report.js")]
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_asset("report.html")).render(
        facts=Facts(name, ds, experiment),
        findings=finding_sections(findings),
        about_intervals=ABOUT_INTERVALS,
        curves=curves,
        data=_json(curves),
        style=_trusted(_asset("report.css")),
        scripts=[_trusted(script) for script in scripts],
        allowed=" ".join(f"'sha256-{digest}'" for digest in digests) or "'none'",
    )


def _asset(name: str) -> str:
    return files("flows.report").joinpath(name).read_text(encoding="utf-8")


def _json(value: object) -> Markup:
    """JSON for a script element, which no label can end."""
    return _trusted(json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"))


def _trusted(text: str) -> Markup:
    return Markup(text)  # noqa: S704 (files of this package and of plotly, and escaped JSON)
