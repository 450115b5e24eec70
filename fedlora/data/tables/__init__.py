"""Files of rows, read as they are written: no type is inferred, and nothing in one row changes how another is read."""
