"""Result stores: Zarr groups that open as xarray datasets."""

from storage.curves import median_curves
from storage.export import export
from storage.results import Writer, open_results, pending, sweep_status
from storage.schema import Status

__all__ = ["Status", "Writer", "export", "median_curves", "open_results", "pending", "sweep_status"]
