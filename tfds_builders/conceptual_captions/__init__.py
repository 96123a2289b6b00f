"""Conceptual Captions: 3.3 M captions of pictures on the web (Sharma et al. 2018), from the two official files."""

from tfds_builders.conceptual_captions.conceptual_captions_dataset_builder import Builder as Builder
