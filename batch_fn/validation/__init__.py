"""Checks a drop line by line. Pure: no I/O, no SDK, nothing of the other packages."""
