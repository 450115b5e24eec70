"""Runs beside the data: only what `fedlora.wire` encodes leaves this machine."""
