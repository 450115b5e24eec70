"""Processes that are kept alive, and things done again and again."""
