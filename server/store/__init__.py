"""Runs, rounds, sites and receipts in a database, for whoever looks at them. A run's folder remains the truth."""
