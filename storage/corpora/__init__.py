"""What comes in: photographs in folders, tars, tables and lists, read safely, and the index of them."""
