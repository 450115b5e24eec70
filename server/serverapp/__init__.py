"""Our strategies in a ServerApp of somebody's own: with their ClientApp, their model and their arrays."""
