"""Pieces that several forecasting models are built from."""
