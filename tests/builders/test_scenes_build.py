"""Scenes as data sets: every config builds, whatever the number of processes, and says what it is."""

import io
from typing import Any, ClassVar

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from tfds_builders import scenes, testing
from tfds_builders.scenes import annotations, rendering, scenes_dataset_builder, world
from vilbert_jax.data.annotations import row_image_ids
from vilbert_jax.data.region_store import RegionStore

COUNTS = {"train": 40, "validation": 6, "test": 5}
CONFIGS = {
    config.name.removesuffix("_tiny"): config
    for config in scenes_dataset_builder.make_configs("tiny", COUNTS, calibration_scenes=30)
}


class ScenesTest(testing.BuilderTest):
    """Every kind of config, in a size of its own."""

    BUILDER = scenes.Builder
    CONFIGS: ClassVar[Any] = [CONFIGS[kind] for kind in ("regions", "pictures", "retrieval")]
    SPLITS: ClassVar[Any] = COUNTS
    UNIQUE: ClassVar[Any] = {"regions_tiny": "image_id", "pictures_tiny": "image_id", "retrieval_tiny": "image_id"}
    APART = "image_id"
    OPTIONS: ClassVar[Any] = {"processes": 1}

    def check_example(self, example, config):
        size, split, number = world.parse_image_id(example["image_id"].decode())
        assert size == "tiny"
        assert number < COUNTS[split]
        if config == "regions_tiny":
            n = example["num_boxes"]
            assert example["boxes"].shape == (n, 4)
            assert 5 <= n <= 12
        elif config == "pictures_tiny":
            drawn = rendering.render(example["image_id"].decode())
            assert example["image"].shape == drawn.shape
            assert np.abs(example["image"].astype(int) - drawn).mean() < 4
        else:
            assert len(set(example["captions"])) == 5


class LanguageTest(testing.BuilderTest):
    """Configs with several examples a picture."""

    BUILDER = scenes.Builder
    CONFIGS: ClassVar[Any] = [CONFIGS[kind] for kind in ("captions", "vqa", "expressions", "choice")]
    UNIQUE: ClassVar[Any] = {"vqa_tiny": "question_id", "expressions_tiny": "sent_id", "choice_tiny": "annot_id"}
    APART = "image_id"
    OPTIONS: ClassVar[Any] = {"processes": 1}
    A_SCENE: ClassVar[Any] = {
        "captions_tiny": (4, 5),
        "vqa_tiny": (6, 6),
        "expressions_tiny": (2, 15),
        "choice_tiny": (2, 2),
    }

    def check_counts(self, found, config):
        least, most = self.A_SCENE[config]
        assert set(found) == set(COUNTS)
        for split, count in COUNTS.items():
            assert least * count <= found[split] <= most * count

    def check_example(self, example, config):
        if config == "captions_tiny":
            assert len(example["caption"].split()) >= 6
        elif config == "vqa_tiny":
            assert len(example["answers"]) == 10
            assert example["multiple_choice_answer"] in example["answers"]
            assert example["answer_type"] in (b"yes/no", b"number", b"other")
            assert example["question"].startswith(example["question_type"])
        elif config == "expressions_tiny":
            x, y, width, height = example["box"]
            assert min(x, y) >= 0
            assert min(width, height) > 20
            assert x + width <= world.WIDTH
            assert y + height <= world.HEIGHT
            assert example["ref_id"] // 10 == example["sent_id"] // 100
        else:
            for name in ("answer", "rationale"):
                assert len(set(example[f"{name}_choices"])) == 4
                assert 0 <= example[f"{name}_label"] < 4


def build(kind, root, processes):
    made = scenes.Builder(config=CONFIGS[kind], data_dir=root, file_format="array_record", processes=processes)
    made.download_and_prepare()
    return made


@pytest.mark.parametrize("kind", ["regions", "captions"])
def test_two_processes_write_what_one_writes(kind, tmp_path):
    folders = [build(kind, tmp_path / str(processes), processes).data_path for processes in (1, 2)]
    names = sorted(file.name for file in folders[0].iterdir())
    assert names == sorted(file.name for file in folders[1].iterdir())
    assert any("array_record" in name for name in names)
    for name in names:
        # TFDS writes the folder's name into dataset_info.json, so that file alone may differ.
        if name != "dataset_info.json":
            assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes(), name


def test_region_store_holds_every_picture_of_every_annotation(tmp_path):
    store = RegionStore(build("regions", tmp_path, 1).data_dir)
    assert len(store) == sum(COUNTS.values())
    assert store.contract.class_names[0] == "background"
    captions = build("captions", tmp_path, 1)
    stored = tfds.builder_from_directory(captions.data_dir)
    assert stored.info.metadata is not None
    assert stored.info.metadata["content_words"]["relation"] == list(scenes.CONTENT_WORDS["relation"])
    for split in COUNTS:
        rows = stored.as_data_source(split=split)  # pyright: ignore[reportCallIssue]
        beside = row_image_ids(rows)
        assert isinstance(beside, np.memmap)  # no record is read to know the images of all rows
        assert beside.tolist() == [rows[k]["image_id"] for k in range(len(rows))]
        for k in range(len(rows)):
            record = store[rows[k]["image_id"].decode()]
            assert (record.width, record.height) == (world.WIDTH, world.HEIGHT)
            assert record.class_probs is not None
            np.testing.assert_allclose(record.class_probs.sum(axis=1), 1, atol=0.01)


def test_public_configs_are_the_promised_ones():
    kinds = {"regions", "given_regions", "captions", "vqa", "expressions", "retrieval", "choice", "pictures", "objects"}
    configs = {config.name: config for config in scenes.Builder.BUILDER_CONFIGS}
    assert set(configs) == kinds | {f"{kind}_small" for kind in kinds}
    assert configs["captions_small"].counts == {"train": 6000, "validation": 400, "test": 400}
    assert configs["captions"].counts["train"] == 24000
    for kind in kinds:  # the annotations and the store of one size speak of the same pictures
        for ending in ("", "_small"):
            assert configs[kind + ending].counts == configs["regions" + ending].counts
            assert configs[kind + ending].size == configs["regions" + ending].size
    with pytest.raises(ValueError, match="captions_huge"):
        scenes.Builder(config="captions_huge")


def test_picture_files_decode_without_us():
    (_, example), *_ = annotations.PICTURES.examples("tiny-train-000003")
    picture = Image.open(io.BytesIO(example["image"].getvalue()))
    assert picture.format == "JPEG"
    assert picture.size == (world.WIDTH, world.HEIGHT)
