"""The operator's web pages and machine interface: everything here needs a login, see gate.py."""
