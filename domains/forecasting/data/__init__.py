"""File formats, splits, scaling and windows of forecasting and classification data."""
