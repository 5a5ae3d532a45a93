"""Export of results to netCDF, Parquet, CSV or another Zarr store."""

import warnings
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import xarray as xr
from zarr.errors import ZarrUserWarning

from pipeline.errors import StoreError
from storage.document import DIGEST
from storage.schema import Status


def export(ds: xr.Dataset, target: str | Path) -> int:
    """Write results to a file in the format that its ending names.

    Parameters
    ----------
    ds : xarray.Dataset
        Results, as `open_results` returns them.
    target : str or Path
        ``.nc`` and ``.zarr`` keep the grid; ``.parquet`` and ``.csv`` hold a row a finished or failed cell.

    Returns
    -------
    int
        Number of finished cells.

    Raises
    ------
    StoreError
        If the ending is none of these, or the target cannot be written.
    """
    target = Path(target)
    writers = {".nc": _netcdf, ".zarr": _zarr, ".parquet": _parquet, ".csv": _csv}
    if target.suffix not in writers:
        raise StoreError(f"export: {target.name!r} has no known ending; use one of {', '.join(writers)}")
    if target.suffix == ".zarr" and target.exists():
        raise StoreError(f"export: {target} exists; remove it or name another")
    try:
        ds["status"].load()  # before the values, which a live store writes first
        writers[target.suffix](ds.load(), target)
    except OSError as error:
        raise StoreError(f"export: {target} cannot be written ({error.strerror or error})") from error
    return int((ds["status"] == Status.DONE).sum())


def table(ds: xr.Dataset) -> pd.DataFrame:
    """Return a row a finished or failed cell, the axes as columns and the status as text."""
    meanings = ds["status"].attrs["flag_meanings"].split()
    frame = ds.to_dataframe().reset_index()
    frame = frame[frame["status"].isin([Status.DONE, Status.FAILED])].reset_index(drop=True)
    frame["status"] = frame["status"].map(dict(enumerate(meanings)))
    return frame


def _plain_strings(ds: xr.Dataset) -> xr.Dataset:
    """Text as Python objects, which every format takes."""
    texts = {name: ds[name].astype(object) for name in ds.variables if ds[name].dtype.kind == "T"}
    return ds.assign_coords({name: text for name, text in texts.items() if name in ds.coords}).assign(
        {name: text for name, text in texts.items() if name in ds.data_vars}
    )


def _netcdf(ds: xr.Dataset, target: Path) -> None:
    _plain_strings(ds).drop_encoding().to_netcdf(target, engine="netcdf4")


def _zarr(ds: xr.Dataset, target: Path) -> None:
    chunks = ds["status"].encoding.get("chunks", ds["status"].shape)
    encoding = {name: {"chunks": chunks} for name in ds.variables if ds[name].dims == ds["status"].dims}
    plain = ds.drop_encoding().drop_attrs(deep=False).assign_attrs(_plain(ds.attrs))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata", ZarrUserWarning)
        plain.to_zarr(target, mode="w-", zarr_format=3, consolidated=True, encoding=encoding)


def _plain(attributes: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
    """Attributes of a copy that carries no checksums."""
    return {key: value for key, value in attributes.items() if key != DIGEST} | {"epsweep_format": 1}


def _parquet(ds: xr.Dataset, target: Path) -> None:
    table(ds).to_parquet(target, index=False)


def _csv(ds: xr.Dataset, target: Path) -> None:
    table(ds).to_csv(target, index=False)
