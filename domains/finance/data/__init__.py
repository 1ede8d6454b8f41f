"""File formats, labels, features, splits and windows of limit order book data."""
