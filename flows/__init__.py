"""What runs, and when: Prefect flows, the Dask runner, artifacts and the command line."""
