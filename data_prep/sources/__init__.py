"""Readers of what teams have: each module has its settings, and read(piece, settings), which yields documents.

A record that cannot be read is yielded as SetAside, naming file and line; the rest of the file goes on.
"""
