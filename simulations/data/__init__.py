"""One table becomes a federation: a shared test set, clients, and what is said of them."""
