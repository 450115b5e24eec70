"""The coordinator as a service: its processes, its settings, how it is."""
