"""Sections about clients that are not as the rest assumes: small devices, too many bytes, false updates, attacks."""
