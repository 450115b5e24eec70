"""Runs side by side: planned and run, or finished already; figures, tables, pictures."""
