"""Flickr30k, and COCO by the same code: five captions a picture, in the splits of Karpathy and Fei-Fei (2015)."""

from tfds_builders.flickr30k.flickr30k_dataset_builder import Builder as Builder
