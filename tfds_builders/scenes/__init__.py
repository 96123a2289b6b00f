"""Scenes: the embedded data set. Pictures drawn from their ids, regions seen in them, and language about them."""

from tfds_builders.scenes.language import CONTENT_WORDS as CONTENT_WORDS
from tfds_builders.scenes.parallel import available_processes as available_processes
from tfds_builders.scenes.rendering import render as render
from tfds_builders.scenes.scenes_dataset_builder import Builder as Builder
from tfds_builders.scenes.scenes_dataset_builder import ScenesConfig as ScenesConfig
