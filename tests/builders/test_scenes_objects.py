"""The annotations that a detector is trained on: exact boxes, classes and textures of the things."""

import numpy as np
import pytest
import tensorflow_datasets as tfds

from tfds_builders import scenes
from tfds_builders.scenes import annotations, classifier, scenes_dataset_builder, world
from vilbert_jax.data.objects import ObjectsConfig

COUNTS = {"train": 12, "validation": 3, "test": 3}
CONFIGS = {config.name: config for config in scenes_dataset_builder.make_configs("tiny", COUNTS, calibration_scenes=20)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data directory with a few pictures and what is in them."""
    root = tmp_path_factory.mktemp("scenes")
    for name in ("objects_tiny", "pictures_tiny"):
        made = scenes.Builder(config=CONFIGS[name], data_dir=root, file_format="array_record", processes=1)
        made.download_and_prepare()
    return root


def test_every_thing_of_every_picture_is_there(folder):
    stored = tfds.builder_from_directory(next((folder / "scenes" / "objects_tiny").glob("1.*")))
    assert stored.info.metadata["class_names"] == list(classifier.CLASS_NAMES)
    assert stored.info.metadata["attribute_names"] == list(world.TEXTURES)
    for split, count in COUNTS.items():
        rows = stored.as_data_source(split=split)
        assert len(rows) == count
        for k in range(count):
            row = rows[k]
            things = world.make_scene(row["image_id"].decode()).things
            np.testing.assert_array_equal(row["boxes"], np.array([thing.box for thing in things], np.float32))
            names = [classifier.CLASS_NAMES[label] for label in row["classes"]]
            assert names == [f"{thing.colour} {thing.shape}" for thing in things]
            assert [world.TEXTURES[label] for label in row["attributes"]] == [thing.texture for thing in things]


def test_training_joins_them_with_the_pictures(folder):
    config = ObjectsConfig(
        pictures="scenes/pictures_tiny", objects="scenes/objects_tiny", data_dir=str(folder), max_things=5, batch_size=2
    )
    source = config.open("train")
    assert source.size == (world.HEIGHT, world.WIDTH)
    assert source.class_names == classifier.CLASS_NAMES
    assert source.attribute_names == world.TEXTURES
    for index in range(len(source)):
        drawn = scenes.render(source.annotated(index).image_id)
        assert np.abs(source.picture(index).astype(int) - drawn).mean() < 4  # JPEG


def test_the_builder_and_its_other_configs_are_what_they_were():
    assert str(scenes.Builder.VERSION) == "1.2.0"
    assert annotations.ANNOTATIONS[:-1] == (
        annotations.CAPTIONS, annotations.VQA, annotations.EXPRESSIONS, annotations.RETRIEVAL, annotations.CHOICE,
        annotations.PICTURES,
    )  # fmt: skip
