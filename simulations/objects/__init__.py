"""A run whose parts are objects of this process: rows that are no file, a base model that is loaded. `fedlora.simulate`
finds `run.py` when it is called."""
