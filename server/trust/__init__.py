"""Who may take part: the authority, the sites' keys, the door."""
