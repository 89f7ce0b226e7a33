"""Preloaded by Dask workers: what a shard needs is imported once, by one thread, while the run is still being planned.

Else the first two shards of a worker import torch and the compiled loops side by side, each in a thread of its own.
"""

import flows.shards.shard  # noqa: F401 -- to have it imported
