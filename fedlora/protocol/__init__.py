"""What travels beside the update, and which versions understand each other."""
