"""Local steps: in what order rows come, at what rate the optimiser moves, and from what state it begins."""
