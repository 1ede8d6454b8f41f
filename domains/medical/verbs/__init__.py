"""Verbs of the medical domain beyond those of every domain."""
