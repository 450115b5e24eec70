"""The coordinator's side of Flower: the SuperLink, the door before it, and the API that steers it."""
