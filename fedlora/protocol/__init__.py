"""Messages that travel with the update, and compatibility of versions."""
