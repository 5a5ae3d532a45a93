"""Commands that read a store: its state, curves, figures, report and copies."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from flows.cli_options import accept_option, store_argument
from pipeline.errors import InputError, shown

_NAMED_FAILURES = 100


@click.command()
@store_argument
def status(store: str) -> None:
    """Show what STORE holds: its axes, cells by state, runs, and the failed cells by message.

    \b
    Example:
      epsweep status results/quickstart.zarr
    """
    import json

    from storage import Status, damage_report, open_results

    ds = open_results(store)
    states = ds["status"].values
    counts = {state.name.lower(): int((states == state).sum()) for state in Status}
    click.echo(f"store:    {store}")
    click.echo(f"sweep:    {ds.attrs['title']}")
    for axis in ds["status"].dims:
        labels = ds[axis].values.tolist()
        first = ", ".join(map(str, labels[:12])) + (f", … ({len(labels)})" if len(labels) > 12 else "")
        click.echo(f"{f'{axis}:':<9} {first}")
    click.echo("cells:    " + ", ".join(f"{count} {state}" for state, count in counts.items()))
    for session in json.loads(ds.attrs["sessions"]):
        click.echo(
            f"run:      {session['started']} to {session.get('ended', 'no recorded end (killed, or still running)')}"
        )
    for line in damage_report(store):
        click.echo(f"damaged:  {line}", err=True)
    name_failures(store)


@click.command()
@store_argument
@click.option("--out", type=click.Path(path_type=Path), help="CSV file; standard output if not given.")
@click.option("--quantity", metavar="NAME", help="What to summarise, such as seconds; default the experiment's main.")
def curves(store: str, out: Path | None, quantity: str | None) -> None:
    """Write median, extremes and quartiles over the trials, a row a curve point.

    A median needs all its trials: where some are missing or failed it is empty, and `trials` says how many there are.

    \b
    Example:
      epsweep curves results/quickstart.zarr --out curves.csv
      epsweep curves results/quickstart.zarr --quantity seconds
    """
    from storage import median_curves, open_results, store_experiment

    ds, experiment = open_results(store), store_experiment(store)
    quantity = experiment.main if quantity is None else quantity
    if quantity not in (known := [each.name for each in experiment.quantities if each.name in ds]):
        raise InputError(f"quantity: {shown(quantity)} is not in the store; use one of {', '.join(known)}")
    _warn_of_damage(store)
    frame = median_curves(ds, quantity).to_dataframe().reset_index()
    frame = frame[frame["trials_declared"] > 0]
    axes = [axis.name for axis in experiment.axes if axis.name in frame]
    frame = frame[[*axes, *(str(name) for name in frame if name not in axes)]]
    if out is None:
        click.echo(frame.to_csv(index=False), nl=False)
        return
    with _writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        frame.to_csv(out, index=False)
    click.echo(f"{len(frame)} rows: {out}")


@click.command()
@store_argument
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for PNG and SVG files.")
@click.option("--x", metavar="AXIS", help="Axis of numbers along the abscissa; default a figure for each.")
@click.option("--y", metavar="NAME", help="Quantity that is drawn, such as seconds; default the experiment's main.")
@click.option("--lines", metavar="AXIS", help="Axis of which each label is a line.")
@click.option("--panels", metavar="AXIS,…", help="Axes of which each combination of labels is a panel; '' for one.")
@click.option("--at", multiple=True, metavar="AXIS=LABEL", help="Hold an axis at a label, such as r=20.")
@click.option("--only", multiple=True, metavar="AXIS=LABEL,…", help="Draw these labels of an axis alone.")
@click.option("--statistic", metavar="median|max", help="Of the trials; default median, with their range.")
@click.option("--theory", multiple=True, metavar="NAME", help="Draw a bound as well; epsweep list names them.")
@click.option("--free-y", is_flag=True, help="Give each panel a vertical range of its own.")
@click.option("--format", "formats", multiple=True, metavar="png|svg|pdf", help="Of the files; default png and svg.")
def plot(store: str, out: Path, at: tuple[str, ...], formats: tuple[str, ...], **chosen: Any) -> None:
    """Draw the figures that the specification declares, or the main quantity against each axis of numbers.

    The latter, where it declares none or an axis or label is chosen: one panel a combination of names (function and
    sampling), one line a method. Axes that are not drawn are held as --at says, or at the middle of the labels with
    most values. An option given several times adds to what it said before.

    \b
    Example:
      epsweep plot results/quickstart.zarr --out figures --at r=20
      epsweep plot results/quickstart.zarr --out figures --x m --lines r --only r=5,20 --free-y --format pdf
    """
    from flows.chosen import read_choice
    from flows.figures import FORMATS, plot_curves
    from storage import open_results, store_experiment

    for each in formats:
        if each not in FORMATS:
            raise InputError(f"format: {shown(each)} is not known; use one of {', '.join(FORMATS)}")
    ds, experiment = open_results(store), store_experiment(store)
    held = read_choice(ds, experiment, at, "at")
    if several := [axis for axis, labels in held.items() if len(labels) > 1]:
        raise InputError(f"at: {several[0]} is held at {shown(held[several[0]])}; name one label, or use --only")
    choice = {field: chosen[field] for field in ("x", "y", "lines", "statistic") if chosen[field] is not None}
    if chosen["panels"] is not None:
        choice["panels"] = [axis.strip() for axis in chosen["panels"].split(",") if axis.strip()]
    if chosen["only"]:
        choice["only"] = read_choice(ds, experiment, chosen["only"], "only")
    choice |= {"theory": list(chosen["theory"])} if chosen["theory"] else {}
    choice |= {"y_share": False} if chosen["free_y"] else {}
    _warn_of_damage(store)
    with _writing(out):
        at_one = {axis: labels[0] for axis, labels in held.items()}
        for path in plot_curves(ds, experiment, out, at_one, choice, tuple(dict.fromkeys(formats)) or FORMATS[:2]):
            click.echo(path)


@click.command()
@store_argument
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the page.")
def report(store: str, out: Path) -> None:
    """Write one HTML page about STORE: its axes, status, cost and provenance, and curves to explore.

    The page needs no network and can be sent as it is.

    \b
    Example:
      epsweep report results/quickstart.zarr --out report
    """
    from flows.findings import findings
    from flows.report import write_report
    from storage import open_results, store_experiment

    _warn_of_damage(store)
    with _writing(out):
        click.echo(write_report(store, out, findings(open_results(store), store_experiment(store))))


@click.command()
@store_argument
@click.argument("target", type=click.Path(path_type=Path))
def export(store: str, target: Path) -> None:
    """Copy STORE to TARGET: .nc, .zarr (the grid), .parquet or .csv (a row a cell).

    \b
    Example:
      epsweep export results/quickstart.zarr quickstart.parquet
    """
    from storage import export as export_results
    from storage import open_results

    _warn_of_damage(store)
    count = export_results(open_results(store), target)
    click.echo(f"{count} finished cells: {target}")


@click.command()
@click.argument("into")
@click.argument("other")
@accept_option
def merge(into: str, other: str, accept_code: bool) -> None:
    """Copy into the store INTO the finished cells of OTHER that it does not have.

    Both must hold one experiment with equal settings. A cell that both have done keeps the value of INTO; cells whose
    values differ are named.

    \b
    Example:
      epsweep merge results/all.zarr results/second-machine.zarr
    """
    from storage import merge as merge_stores

    merged = merge_stores(into, other, accept_code=accept_code)
    for line in merged.damaged:
        click.echo(f"damaged: {line}", err=True)
    click.echo(f"{merged}: {into}")


def name_failures(store: str | Path) -> None:
    """Tell the failed cells of a store by their message, the first of each with its labels."""
    from storage import failure_groups

    groups = failure_groups(store)
    for group in groups[:_NAMED_FAILURES]:
        click.echo(f"failed: {group}", err=True)
    if more := sum(group.cells for group in groups[_NAMED_FAILURES:]):
        click.echo(f"failed: {more} more; see epsweep export {shlex.quote(str(store))} cells.csv", err=True)


def _warn_of_damage(store: str) -> None:
    from storage import damaged_cells

    if found := damaged_cells(store):
        named = shlex.join(["epsweep", "status", store])
        click.echo(f"damaged: {len(found)} chunks read as missing; see {named}", err=True)


@contextmanager
def _writing(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"out: {target} cannot be written ({error.strerror or error}); name another place") from error
