"""Runs on the coordinator: sees updates, never examples. Read rounds.py first."""
