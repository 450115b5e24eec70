"""A site as a service: its agent, its settings, how it is."""
