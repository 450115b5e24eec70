"""What an operator sees: a page a file."""
