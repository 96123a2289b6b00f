"""Scoring a trained model: what is more than one pass over a split."""
