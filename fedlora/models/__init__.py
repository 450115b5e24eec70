"""Base models: loaded, looked at, kept in memory."""
