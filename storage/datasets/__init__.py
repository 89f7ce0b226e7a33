"""What is kept: the dataset on disk, from plan to published version, and what keeps it whole."""
