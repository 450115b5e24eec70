"""Shared parts of both deployed sides: health, doctors' checks, keys, enrolment, backups."""
