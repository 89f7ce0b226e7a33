"""What is kept: corpora in, RAW datasets out, on any fsspec URL."""
