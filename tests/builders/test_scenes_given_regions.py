"""The region store of given boxes: exact boxes of the things, seen by the same detector as every other box."""

import dataclasses

import numpy as np
import pytest

from tfds_builders import embedded, scenes
from tfds_builders.scenes import descriptors, detections, regions, rendering, scenes_dataset_builder, world
from vilbert_jax.data import region_codec
from vilbert_jax.data.region_store import RegionStore

COUNTS = {"train": 12, "validation": 3, "test": 3}
CALIBRATION = 20
CONFIGS = {
    config.name: config
    for config in scenes_dataset_builder.make_configs("tiny", COUNTS, calibration_scenes=CALIBRATION)
}
IDS = [world.make_image_id("tiny", split, k) for split, count in COUNTS.items() for k in range(count)]


def build(name, root):
    made = scenes.Builder(config=CONFIGS[name], data_dir=root, file_format="array_record", processes=1)
    made.download_and_prepare()
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data directory with both region stores of a few pictures."""
    root = tmp_path_factory.mktemp("scenes")
    for name in ("regions_tiny", "given_regions_tiny"):
        build(name, root)
    return root


@pytest.fixture(scope="module")
def given(folder):
    return RegionStore(folder / "scenes" / "given_regions_tiny")


def test_boxes_are_those_of_the_things(given):
    assert len(given) == len(IDS)
    for image_id in IDS:
        record = given[image_id]
        things = world.make_scene(image_id).things
        assert (record.width, record.height) == (world.WIDTH, world.HEIGHT)
        assert record.boxes.dtype == np.float32
        np.testing.assert_array_equal(record.boxes, np.array([thing.box for thing in things], np.float32))
        assert (record.boxes[:, 2:] - record.boxes[:, :2] > 20).all()


def test_features_are_what_the_descriptors_see_in_those_boxes(given):
    detector = regions.fitted_classifier(CALIBRATION, 1)
    for image_id in IDS:
        boxes = np.array([thing.box for thing in world.make_scene(image_id).things], np.float32)
        seen = descriptors.describe(rendering.render(image_id), boxes)
        record = given[image_id]
        step = np.abs(seen).max(axis=1, keepdims=True) / 127  # of int8 with one scale a row
        assert (np.abs(record.features - seen) <= 0.501 * step).all()
        # The largest 32 of 73 probabilities are kept, as float16.
        likely = detector.probabilities(seen)
        np.testing.assert_array_equal(record.class_probs.argmax(axis=1), likely.argmax(axis=1))
        np.testing.assert_allclose(record.class_probs.max(axis=1), likely.max(axis=1), rtol=1e-3)


def test_features_come_from_the_pixels_and_not_from_the_scene(monkeypatch):
    detector = regions.fitted_classifier(CALIBRATION, 1)
    blank = np.full((world.HEIGHT, world.WIDTH, 3), 128, np.uint8)
    monkeypatch.setattr(rendering, "render_scene", lambda scene: blank)
    record = regions.region_record(IDS[0], detector, regions.GIVEN)
    np.testing.assert_array_equal(record.features, descriptors.describe(blank, record.boxes))
    np.testing.assert_allclose(record.features, record.features[:1].repeat(len(record.features), 0), atol=1e-5)


def test_only_the_selection_rule_tells_the_contracts_apart(given, folder):
    detected = RegionStore(folder / "scenes" / "regions_tiny")
    assert given.contract == dataclasses.replace(detected.contract, selection_rule="given boxes")
    assert given.contract.differences(detected.contract) == [
        "selection_rule: 'given boxes' here, '5 to 12 noisy boxes in random order' there"
    ]


def test_the_noisy_store_is_what_it_was(folder):
    detector = regions.fitted_classifier(CALIBRATION, 1)
    detected = RegionStore(folder / "scenes" / "regions_tiny")
    storage = scenes.Builder.STORAGE
    for image_id in IDS:
        scene = world.make_scene(image_id)
        boxes = detections.detect(scene)
        features = descriptors.describe(rendering.render_scene(scene), boxes)
        record = region_codec.RegionRecord(
            image_id, world.WIDTH, world.HEIGHT, boxes, features, detector.probabilities(features)
        )
        written = region_codec.encode_record(record, detected.contract, storage)
        found = region_codec.encode_record(
            regions.region_record(image_id, detector), regions.feature_contract(CALIBRATION), storage
        )
        assert written.keys() == found.keys()
        for name, value in written.items():
            np.testing.assert_array_equal(found[name], value)
        np.testing.assert_array_equal(detected[image_id].boxes, boxes)


def test_the_detector_and_the_public_stores_keep_their_contract():
    """A changed hash would refuse the features that earlier checkpoints were trained on."""
    contract = scenes.Builder(config="regions_small").feature_contract()
    assert contract.weights_hash == "aa44275e8ae6de20"
    assert contract.selection_rule == "5 to 12 noisy boxes in random order"
    assert str(scenes.Builder.VERSION) == "1.2.0"


def test_every_expression_speaks_of_a_box_in_the_store(given):
    rows = [example for image_id in IDS for _, example in annotations_of(image_id)]
    assert len(rows) > len(IDS)
    for row in rows:
        x, y, width, height = row["box"]
        thing = row["ref_id"] % 10
        np.testing.assert_allclose(given[row["image_id"]].boxes[thing], [x, y, x + width, y + height], atol=1e-4)


def annotations_of(image_id):
    return CONFIGS["expressions_tiny"].annotation.examples(image_id)


def test_the_missing_store_is_built_with_the_rest(folder, tmp_path, monkeypatch):
    config = CONFIGS["given_regions_tiny"]
    built = []
    monkeypatch.setattr(scenes.Builder, "BUILDER_CONFIGS", list(CONFIGS.values()))
    monkeypatch.setattr(embedded, "_build", lambda names, where, seconds: built.append((names, where)))
    embedded.ensure([f"scenes/{config.name}"], folder)
    assert not built  # it is there
    embedded.ensure([f"scenes/{config.name}"], tmp_path)
    assert built == [(["scenes/given_regions_tiny"], tmp_path)]
