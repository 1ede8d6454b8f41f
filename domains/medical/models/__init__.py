"""Segmentation models, one module per paper."""
