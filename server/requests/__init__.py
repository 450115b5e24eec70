"""Requests: which clients are asked, and what each is sent."""
