"""Rows answered as they come: where they are read, what is kept of those before, and how far a stream is."""
