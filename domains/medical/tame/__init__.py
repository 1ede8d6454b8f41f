"""Trainable explanation maps of a trained, frozen model."""
