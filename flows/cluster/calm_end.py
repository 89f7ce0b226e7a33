"""Preloaded by Dask workers of our own cluster: a worker that is stopped with shards in hand needs no warning of it."""

import logging


def dask_setup(worker: object) -> None:  # noqa: ARG001  # Dask's protocol
    """Leave out what Dask says of every task that a stop cancels; what fails otherwise is in the run's own log."""
    logging.getLogger("distributed.worker.state_machine").setLevel(logging.ERROR)
