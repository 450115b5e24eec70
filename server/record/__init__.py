"""A run's records in its folder, and their summary."""
