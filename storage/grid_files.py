"""The grid of results in a file: a box over the labels that have cells, of which empty parts take no space.

Only cells that hold something are read, and they are written a block of the box at a time, so that neither time nor
memory nor the file grows with what is not there.
"""

import math
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xarray as xr
import zarr
from zarr.codecs import ZstdCodec
from zarr.errors import ZarrUserWarning

from storage.document import DIGEST
from storage.schema import TEXT, Status

_BLOCK_CELLS = 2**16
_TEXT_CELLS = 2**10  # netCDF does not compress texts
_ROWS = 2**18  # that are read at once
_SPARSE = 8  # times as many values are read at once rather than each for itself
_LEVEL = 1  # of zlib: floating-point numbers hardly get smaller at more

Places = npt.NDArray[np.intp]
Put = Callable[[tuple[slice, ...], npt.NDArray[Any]], None]


def places(ds: xr.Dataset) -> Places:
    """Where in the box, in its order, there are cells that are done or failed."""
    return np.flatnonzero(np.isin(ds["status"].values, (Status.DONE, Status.FAILED)))


def values_at(ds: xr.Dataset, names: Iterable[Hashable], at: Places) -> dict[str, npt.NDArray[Any]]:
    """Values of variables, and labels of axes, at places in the box of the status; few others are read."""
    status = ds["status"].variable
    index = dict(zip(status.dims, _indices(at, status.shape), strict=True))
    box = {dim: slice(int(each.min()), int(each.max()) + 1) for dim, each in index.items() if len(each)}
    lengths = [part.stop - part.start for part in box.values()]
    dense = bool(box) and math.prod(lengths) <= _SPARSE * len(at)
    inside = np.ravel_multi_index(tuple(index[dim] - box[dim].start for dim in box), lengths) if dense else None
    found = {}
    for name in names:
        variable = ds[name].variable
        if not len(at) or not variable.dims:
            found[str(name)] = np.full(at.shape, _plain(variable[(0,) * variable.ndim].values))
        elif name in index:
            found[str(name)] = _plain(variable.values)[index[name]]
        elif inside is None or variable.dims != status.dims:
            chosen = variable.isel({dim: xr.Variable("cell", index[dim]) for dim in variable.dims})
            found[str(name)] = _plain(chosen.values)
        else:
            found[str(name)] = _plain(variable.isel(box).values).reshape(-1)[inside]
    return found


def _plain(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Text as Python objects, which every format takes."""
    return values.astype(object) if values.dtype.kind == "T" else values


def _indices(at: Places, shape: tuple[int, ...]) -> tuple[Places, ...]:
    return np.unravel_index(at, shape) if shape else ()  # a single cell has no axes


def parts(at: Places) -> Iterator[Places]:
    """Places in parts of which each is read at once, at least one part."""
    for start in range(0, max(1, len(at)), _ROWS):
        yield at[start : start + _ROWS]


def with_cells(ds: xr.Dataset) -> xr.Dataset:
    """Results without the labels of which no cell is done or failed; all of them where none is at all."""
    status = ds["status"]
    found = _indices(places(ds), status.shape)
    kept = {dim: np.unique(index) for dim, index in zip(status.dims, found, strict=True) if len(index)}
    return ds.isel({dim: index for dim, index in kept.items() if len(index) < ds.sizes[dim]})


def write_netcdf(ds: xr.Dataset, target: Path) -> None:
    """Write results as netCDF, by xarray but for the variables over the whole grid."""
    import netCDF4  # takes a while

    rest, grid = _split(ds)
    _plain_strings(rest).drop_encoding().to_netcdf(target, engine="netcdf4")
    with netCDF4.Dataset(target, "a") as file:
        for name, variable in grid.items():
            kind: Any = str if _is_text(variable) else variable.dtype.newbyteorder("=")
            block = _block_shape(variable.shape, _TEXT_CELLS if kind is str else _BLOCK_CELLS)
            options: dict[str, Any] = {"chunksizes": block or None}
            if kind is not str and block:
                options |= {"compression": "zlib", "complevel": _LEVEL}
            if variable.dtype.kind == "f":  # an integer with a fill value is a floating-point number to xarray
                options["fill_value"] = np.nan
            made = file.createVariable(str(name), kind, [str(dim) for dim in variable.dims], **options)
            made.setncatts(_attributes(ds, name))
            made.set_auto_maskandscale(False)
            _fill(ds, name, block, made.__setitem__, whole=variable.dtype.kind in "iu")


def write_zarr(ds: xr.Dataset, target: Path) -> None:
    """Write results as a Zarr store that plain xarray, and this package, opens."""
    rest, grid = _split(ds)
    rest = rest.drop_encoding().drop_attrs(deep=False).assign_attrs(_of_a_copy(ds.attrs))
    rest.to_zarr(target, mode="w-", zarr_format=3, consolidated=False)
    group = zarr.open_group(target, mode="r+")
    for name, variable in grid.items():
        block = _block_shape(variable.shape, _BLOCK_CELLS)
        attributes = _attributes(ds, name).items()
        made = group.create_array(
            str(name),
            shape=variable.shape,
            chunks=block,
            dtype=TEXT if _is_text(variable) else variable.dtype,
            fill_value=_nothing(name, variable),
            compressors=ZstdCodec(),
            dimension_names=[str(dim) for dim in variable.dims],
            attributes={key: value.tolist() if hasattr(value, "tolist") else value for key, value in attributes},
        )
        _fill(ds, name, block, made.__setitem__, whole=name == "status")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata", ZarrUserWarning)
        zarr.consolidate_metadata(target)


def _fill(ds: xr.Dataset, name: Hashable, block: tuple[int, ...], put: Put, *, whole: bool) -> None:
    """Write a variable block by block: those with cells, or all of them where the file knows no fill value."""
    variable, at = ds[name].variable, places(ds)
    nothing, kind = _nothing(name, variable), object if _is_text(variable) else variable.dtype
    rows, first = values_at(ds, [name], at[:_ROWS])[str(name)], 0  # of the places from the first on
    for box, start, stop in _boxes(variable.shape, block):
        if name == "status":
            put(box, variable[box].values)
            continue
        low, high = (int(bound) for bound in np.searchsorted(at, (start, stop)))
        if high > first + len(rows):
            rows, first = values_at(ds, [name], at[low : max(high, low + _ROWS)])[str(name)], low
        values = np.full(stop - start, nothing, dtype=kind)
        values[at[low:high] - start] = rows[low - first : high - first]
        if whole or (low < high and not (values == nothing).all()):
            put(box, values.reshape([part.stop - part.start for part in box]))


def _block_shape(shape: tuple[int, ...], most: int) -> tuple[int, ...]:
    """Shape of blocks of a limited number of cells that follow each other as the cells of the box do."""
    block: list[int] = []
    for length in reversed(shape):
        full = block == list(reversed(shape))[: len(block)]  # else another label would be apart from it
        block.append(max(1, min(length, most // math.prod(block))) if full else 1)
    return tuple(reversed(block))


def _boxes(shape: tuple[int, ...], block: tuple[int, ...]) -> Iterator[tuple[tuple[slice, ...], int, int]]:
    """Each block as slices, with its first place in the box and the one after its last."""
    stop = 0
    for index in np.ndindex(*(math.ceil(length / size) for length, size in zip(shape, block, strict=True))):
        box = tuple(
            slice(i * size, min((i + 1) * size, length)) for i, size, length in zip(index, block, shape, strict=True)
        )
        start, stop = stop, stop + math.prod(part.stop - part.start for part in box)
        yield box, start, stop


def _nothing(name: Hashable, variable: xr.Variable) -> Any:
    """What stands where no cell is, as in the store."""
    if _is_text(variable):
        return ""
    return math.nan if variable.dtype.kind == "f" else int(Status.MISSING) if name == "status" else -1


def _is_text(variable: xr.Variable) -> bool:
    return variable.dtype.kind in "TOU"


def _split(ds: xr.Dataset) -> tuple[xr.Dataset, dict[Hashable, xr.Variable]]:
    """What xarray writes, and the variables over the whole grid."""
    dims = ds["status"].dims
    grid = {name: ds[name].variable for name in ds.variables if name not in ds.dims and ds[name].dims == dims}
    return ds.drop_vars(list(grid)), grid


def _attributes(ds: xr.Dataset, name: Hashable) -> dict[str, Any]:
    """Attributes of a variable, with the names of the coordinates beside it, as CF has them."""
    beside = [str(each) for each in ds[name].coords if each not in ds.dims]
    named = {"coordinates": " ".join(beside)} if beside and name not in ds.coords else {}
    return {str(key): value for key, value in ds[name].attrs.items()} | named


def _plain_strings(ds: xr.Dataset) -> xr.Dataset:
    return ds.assign_coords({name: ds[name].copy(data=_plain(ds[name].values)) for name in ds.coords})


def _of_a_copy(attributes: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
    """Attributes of a copy that carries no checksums."""
    return {key: value for key, value in attributes.items() if key != DIGEST} | {"epsweep_format": 1}
