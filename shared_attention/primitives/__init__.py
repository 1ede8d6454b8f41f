"""Shared building blocks: most mechanisms are a few of these."""
