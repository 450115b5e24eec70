"""A FlowerTune-shaped app, written for these tests from its published settings, and what of it moves."""
