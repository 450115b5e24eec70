"""Replies: answers as they arrive, each validated separately."""
