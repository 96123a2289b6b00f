"""VQA v2: questions about COCO's pictures with ten answers each (Goyal et al. 2017), from the official files."""

from tfds_builders.vqa_v2.vqa_v2_dataset_builder import Builder as Builder
