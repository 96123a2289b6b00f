"""Weights in and out: one table a source, read in both directions."""
