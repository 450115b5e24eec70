"""Differential privacy where the data are: engine, noise, accounting, ledger, policy."""
