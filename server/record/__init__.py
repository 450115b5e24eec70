"""What is kept of a run in its folder, and what it comes to."""
