"""Result stores: Zarr groups, on disk or in an object store, that open as xarray datasets."""

from storage.curves import median_curves
from storage.export import export
from storage.failures import FailureGroup, failure_groups, failures, grouped_failures
from storage.lock import reserved, single_writer
from storage.merge import Merged, merge
from storage.results import (
    Writer,
    changed_code,
    damage_report,
    damaged_cells,
    open_results,
    pending,
    store_experiment,
    sweep_status,
)
from storage.schema import Status
from storage.verified import DamagedChunk

__all__ = [
    "DamagedChunk",
    "FailureGroup",
    "Merged",
    "Status",
    "Writer",
    "changed_code",
    "damage_report",
    "damaged_cells",
    "export",
    "failure_groups",
    "failures",
    "grouped_failures",
    "median_curves",
    "merge",
    "open_results",
    "pending",
    "reserved",
    "single_writer",
    "store_experiment",
    "sweep_status",
]
