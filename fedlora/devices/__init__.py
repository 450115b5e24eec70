"""What differs where a model is computed on a GPU: transfers, draws, and which failures a process survives."""
