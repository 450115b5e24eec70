"""What a person sees of a run, and how it is stopped."""
