"""A site's side of Flower: its SuperNode, and the executor that answers."""
