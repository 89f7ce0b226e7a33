"""How a shard is made on a worker: read, computed, encoded, committed."""
