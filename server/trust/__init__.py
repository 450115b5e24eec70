"""Access of sites: certificate authority, site keys, grants."""
