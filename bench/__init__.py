"""Aljava and its peers side by side: `python -m bench`, or `make bench`."""
