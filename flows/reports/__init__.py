"""What people look at: quality, the report of a version, and artifacts in the Prefect UI."""
