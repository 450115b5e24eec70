"""A run at the terminal: progress, pictures, and interruption."""
