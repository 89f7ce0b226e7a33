"""Where work runs: Dask workers, and how shards are handed to them."""
