"""What goes with a site's local steps (`client.training`): what is tried before they are charged."""
