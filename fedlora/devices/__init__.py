"""Devices and their memory: transfers, draws, what fits, and which failures a process survives."""
