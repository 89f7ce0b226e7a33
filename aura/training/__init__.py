"""Where training pairs come from, the training loop, and evaluation on real RAW files."""
