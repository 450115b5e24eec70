"""What leaves a site: one packed, versioned, signed blob, and its validation."""
