"""Metric learning: find the images that resemble one, and say where they do."""
