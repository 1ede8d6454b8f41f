"""Pieces that several models of the domain are built from."""
