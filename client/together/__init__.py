"""Several clients of one process in one forward and backward pass. A deployed site has one client, and none of this."""
