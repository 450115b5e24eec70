"""What comes in: answers as they arrive, each validated by itself."""
