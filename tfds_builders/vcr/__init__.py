"""VCR: questions about movie scenes, four answers, four rationales (Zellers et al. 2019), from the official files."""

from tfds_builders.vcr.vcr_dataset_builder import Builder as Builder
