"""TFDS builder of Flickr30k's and COCO's captions for retrieval; the regions of the images are a region store."""

import dataclasses
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from tfds_builders.flickr30k import caption_files
from tfds_builders.flickr30k.caption_files import CAPTIONS_AN_IMAGE, VILBERT_FILES, Picture, Pictures
from tfds_builders.manual_files import manual_folder
from tfds_builders.sharded_builder import ShardedBuilder
from vilbert_jax.data.annotations import write_image_ids

_IMAGES_A_SHARD = 20_000


@dataclasses.dataclass(kw_only=True)
class RetrievalConfig(tfds.core.BuilderConfig):
    """One data set.

    Attributes:
        pictures: what its files are.
        published: split -> pictures in Karpathy's file.
    """

    pictures: Pictures
    published: Mapping[str, int]


class Builder(ShardedBuilder):
    """One example a picture, with its five captions, in the order of the file."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}
    BUILDER_CONFIGS: ClassVar[list[Any]] = [
        RetrievalConfig(
            name="flickr30k",
            description="Flickr30k.",
            pictures=Pictures("flickr30k", {"train": "train", "val": "validation", "test": "test"}, numbered=False),
            published={"train": 29_000, "validation": 1_014, "test": 1_000},
        ),
        RetrievalConfig(
            name="coco",
            description="COCO 2014, re-split.",
            pictures=Pictures(
                "coco",
                {"train": "train", "restval": "train", "val": "validation", "test": "test"},
                numbered=True,
            ),
            published={"train": 113_287, "validation": 5_000, "test": 5_000},
        ),
    ]
    DEFAULT_CONFIG_NAME = "flickr30k"
    MANUAL_DOWNLOAD_INSTRUCTIONS = caption_files.instructions("flickr30k")

    @property
    def retrieval_config(self) -> RetrievalConfig:
        """The config being built."""
        assert isinstance(self.builder_config, RetrievalConfig)
        return self.builder_config

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text
        config = self.retrieval_config
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({"image_id": text(), "captions": tfds.features.Sequence(text())}),
            metadata=tfds.core.MetadataDict(
                captions_an_image=CAPTIONS_AN_IMAGE,
                image_id="COCO id as a decimal number" if config.pictures.numbered else "file name without extension",
                published_images=dict(config.published),
            ),
        )

    def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager) -> Mapping[str, Sequence[Any]]:
        config = self.retrieval_config
        folder = manual_folder(dl_manager)
        found = caption_files.read(folder, config.pictures)
        print(f"read {', '.join(found.notes)} in {folder}", file=sys.stderr)
        for split in VILBERT_FILES:
            count, published = len(found.splits.get(split, ())), config.published[split]
            print(
                f"{split}: {count:,} images" if count else f"warning: there will be no split {split}", file=sys.stderr
            )
            if count and count != published:
                print(f"warning: the published {split} split has {published:,} images", file=sys.stderr)
        if found.surplus:
            print(f"{found.surplus:,} captions beyond the fifth of their image are left out", file=sys.stderr)
        assert isinstance(self.info.metadata, dict)  # as _info made it
        self.info.metadata.update(
            surplus_captions=found.surplus, files={name: note._asdict() for name, note in found.notes.items()}
        )
        return {split: list(_shards(pictures)) for split, pictures in found.splits.items()}

    def finish(self, image_ids: Mapping[str, Sequence[str]], counts: Mapping[str, int]) -> None:
        """Writes the image id of every picture."""
        del counts
        for split, of_rows in image_ids.items():
            write_image_ids(self.data_dir, split, np.array([image_id.encode() for image_id in of_rows], np.bytes_))


def _shards(pictures: Sequence[Picture]) -> Iterator[Any]:
    """One function a shard; they pickle, so that Beam workers can run them."""
    for start in range(0, len(pictures), _IMAGES_A_SHARD):
        yield functools.partial(_examples, pictures[start : start + _IMAGES_A_SHARD])


def _examples(pictures: Sequence[Picture]) -> Iterator[tuple[str, dict[str, Any]]]:
    for picture in pictures:
        yield picture.image_id, picture._asdict()
