"""The Prefect server of this machine, and what it serves."""
