"""A small denoiser for packed RAW, trained from the URL of a dataset: copy it and change it."""
