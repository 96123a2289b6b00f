"""TFDS data-set builders that need no TensorFlow: one package a data set, and `build.py`, which runs them."""
