"""Readers of the feature dumps in the wild, one file a family; each yields `RawRecord`s."""
