"""What a site keeps between rounds, on its own disk."""
