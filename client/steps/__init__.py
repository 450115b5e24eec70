"""Local steps: what is tried before they are charged, the order of rows, the rate of the optimiser and its state."""
