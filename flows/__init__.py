"""Running sweeps: planning, Prefect flow, Dask clusters, figures and the command line."""
