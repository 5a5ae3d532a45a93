"""Export of results to netCDF, Parquet, CSV or another Zarr store."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from pipeline.errors import StoreError, one_line
from storage.grid_files import parts, places, values_at, with_cells, write_netcdf, write_zarr
from storage.schema import Status


def export(ds: xr.Dataset, target: str | Path) -> int:
    """Write results to a file in the format that its ending names.

    Parameters
    ----------
    ds : xarray.Dataset
        Results, as `open_results` returns them, or a part of them.
    target : str or Path
        ``.nc`` and ``.zarr`` keep the grid: a box over the labels that have cells, of which empty parts take no space.
        ``.parquet`` and ``.csv`` hold a row a finished or failed cell. Its folder is made if there is none; it appears
        whole or not at all.

    Returns
    -------
    int
        Number of finished cells.

    Raises
    ------
    StoreError
        If the ending is none of these, the target cannot be written, or the results are none or cannot be stored so.
    """
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:/", str(target)):
        raise StoreError(f"export: {target} is a URL; give a local path, and copy what is written there")
    target = Path(target)
    writers = {".nc": write_netcdf, ".zarr": write_zarr, ".parquet": _parquet, ".csv": _csv}
    if target.suffix not in writers:
        raise StoreError(f"export: {target.name!r} has no known ending; use one of {', '.join(writers)}")
    if target.suffix == ".zarr" and target.exists():
        raise StoreError(f"export: {target} exists; remove it or name another")
    _require_results(ds)
    status = ds["status"].load()  # before the values, which a live store writes first
    try:
        with _appearing(target) as unfinished:
            writers[target.suffix](with_cells(ds), unfinished)
    except (OSError, RuntimeError) as error:  # netCDF raises the latter on a full disk
        reason = error.strerror if isinstance(error, OSError) and error.strerror else one_line(error)
        raise StoreError(f"export: {target} cannot be written ({reason}); name another place") from error
    except (TypeError, ValueError) as error:  # of xarray and of the formats, about what was added to the results
        raise StoreError(
            f"export: {target.suffix} cannot hold these results ({one_line(error)}); change that"
        ) from error
    return int((status == Status.DONE).sum())


def _require_results(ds: xr.Dataset) -> None:
    """Raise StoreError for a dataset of another kind, or one from which `where` or a selection took the status."""
    if "status" not in ds:
        raise StoreError("export: status is not in the dataset; give what open_results returns, or write it by xarray")
    if not ds["status"].size:
        raise StoreError(f"export: no cells are left, {dict(ds['status'].sizes)}; select labels that there are")
    if ds["status"].dtype.kind not in "iu":
        raise StoreError(f"export: status is {ds['status'].dtype}, as after where(); select by sel() or isel() instead")


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """Path beside a target, which it becomes in the end."""
    target = target.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        yield unfinished
        unfinished.replace(target)
    finally:
        if unfinished.is_dir():
            shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.unlink(missing_ok=True)


def _tables(ds: xr.Dataset) -> Iterator[pd.DataFrame]:
    """Rows of the finished and failed cells, the axes as columns and the status as text, a table a part of them."""
    meanings = np.array(ds["status"].attrs["flag_meanings"].split(), dtype=object)
    names = dict.fromkeys([*ds["status"].dims, *ds.variables])
    for at in parts(places(ds)):
        columns = values_at(ds, names, at)
        columns["status"] = meanings[columns["status"]]
        yield pd.DataFrame(columns)


def _parquet(ds: xr.Dataset, target: Path) -> None:
    import pyarrow as pa  # takes a while
    import pyarrow.parquet as pq

    tables = (pa.Table.from_pandas(frame, preserve_index=False) for frame in _tables(ds))
    first = next(tables)
    with pq.ParquetWriter(target, first.schema) as writer:
        for table in chain([first], tables):
            writer.write_table(table)


def _csv(ds: xr.Dataset, target: Path) -> None:
    with target.open("w", encoding="utf-8", newline="") as file:
        for number, frame in enumerate(_tables(ds)):
            frame.to_csv(file, index=False, header=number == 0)
