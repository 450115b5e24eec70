"""What both deployed sides need: health, doctors' checks, keys, enrolment, backups."""
