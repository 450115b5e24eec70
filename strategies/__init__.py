"""Pure decisions: how clients' updates become the next state. One paper a file; no I/O, no Flower, no model."""
