"""Preloaded by Dask workers: one that is stopped with shards in hand says nothing of it, and does not stop by itself.

A terminal sends its ctrl-C to workers too; their nanny, who receives it as well, asks them to close.
"""

import logging
import signal
import threading


def dask_setup(worker: object) -> None:  # noqa: ARG001  # Dask's protocol
    """Leave interrupts to the nanny, and out of the log what Dask says of every task that a stop cancels."""
    logging.getLogger("distributed.worker.state_machine").setLevel(logging.ERROR)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
