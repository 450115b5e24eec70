"""Entities in the packaged messages to airlines, found by a rule: to test token classification with."""
