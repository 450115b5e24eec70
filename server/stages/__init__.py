"""Between the answers and the strategy: client-level noise, bounds and robust means."""
