"""Losses of object detectors."""
