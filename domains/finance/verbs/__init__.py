"""Verbs that only the finance domain has."""
