"""What a researcher types: one file a command."""
