"""The layer families; a file each. ``registry`` imports every module here."""
