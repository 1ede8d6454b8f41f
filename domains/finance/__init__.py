"""Limit order book models, labels and verdicts after costs. Importing this imports no torch."""
