"""Messages between site and coordinator: one packed, versioned, signed blob, and its validation."""
