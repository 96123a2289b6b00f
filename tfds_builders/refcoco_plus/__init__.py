"""RefCOCO+, RefCOCO and RefCOCOg: phrases that mean one thing in a COCO picture, from files in the layout of REFER."""

from tfds_builders.refcoco_plus.refcoco_plus_dataset_builder import Builder as Builder
