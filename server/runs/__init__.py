"""Runs of a deployed coordinator: asked for, checked, started, kept going."""
