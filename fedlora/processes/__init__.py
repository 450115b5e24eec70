"""Long-running processes, and recurring tasks."""
