"""TFDS builder of the embedded data set: drawn pictures, their regions, and language about them."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from tfds_builders.region_store_builder import RegionStoreBuilder
from tfds_builders.scenes import annotations, classifier, parallel, regions, world
from tfds_builders.scenes.annotations import Annotation
from vilbert_jax.data.annotations import write_image_ids
from vilbert_jax.data.feature_contract import FeatureContract

_SCENES_A_SHARD = 8000
_COUNTS = {
    "small": {"train": 6000, "validation": 400, "test": 400},
    "full": {"train": 24000, "validation": 1000, "test": 1000},
}


@dataclasses.dataclass(kw_only=True)
class ScenesConfig(tfds.core.BuilderConfig):
    """One data set made from the scenes.

    Attributes:
        size: first part of every image id; decides which pictures there are.
        counts: split -> number of pictures.
        annotation: what is said about them; None for a region store.
        selection: of a region store, whose boxes it has.
        calibration_scenes: pictures the detector's classifier is fitted on.
    """

    size: str
    counts: Mapping[str, int]
    annotation: Annotation | None = None
    selection: regions.Selection = regions.DETECTED
    calibration_scenes: int = classifier.CALIBRATION_SCENES


def make_configs(
    size: str, counts: Mapping[str, int], calibration_scenes: int = classifier.CALIBRATION_SCENES
) -> list[ScenesConfig]:
    """All configs of one size: the region stores and every kind of annotation. "full" is not part of the names."""
    ending = "" if size == "full" else f"_{size}"
    common = {"size": size, "counts": counts, "calibration_scenes": calibration_scenes}
    return [
        ScenesConfig(name=f"regions{ending}", description="Region store: noisy boxes of every picture.", **common),
        ScenesConfig(
            name=f"given_regions{ending}",
            description="Region store: the exact box of every thing of every picture.",
            selection=regions.GIVEN,
            **common,
        ),
        *(
            ScenesConfig(name=a.name + ending, description=a.description, annotation=a, **common)
            for a in annotations.ANNOTATIONS
        ),
    ]


class Builder(RegionStoreBuilder):
    """Builds any config of the scenes data set; the result does not depend on the number of processes."""

    VERSION = tfds.core.Version("1.2.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {
        "1.2.0": "Choices also ask what something looks like; counts are less often one.",
        "1.1.0": "Regions as int8.",
        "1.0.0": "First release.",
    }
    BUILDER_CONFIGS: ClassVar[list[Any]] = [
        config for size, counts in _COUNTS.items() for config in make_configs(size, counts)
    ]
    DEFAULT_CONFIG_NAME = "captions_small"

    def __init__(self, *, processes: int | None = None, **kwargs: Any):
        """Takes the arguments of `tfds.core.DatasetBuilder`, and the number of processes (default: processors)."""
        self._processes = parallel.available_processes() if processes is None else processes
        super().__init__(**kwargs)

    @property
    def scenes_config(self) -> ScenesConfig:
        """The config being built."""
        assert isinstance(self.builder_config, ScenesConfig)
        return self.builder_config

    def feature_contract(self) -> FeatureContract:
        """What the features of the region store mean."""
        return regions.feature_contract(self.scenes_config.calibration_scenes, self.scenes_config.selection)

    def region_shards(self, dl_manager: tfds.download.DownloadManager) -> Mapping[str, Sequence[Any]]:
        """Records of every split, drawn and looked at while they are written."""
        del dl_manager  # nothing is downloaded
        config = self.scenes_config
        records = functools.partial(
            regions.region_records,
            calibration_scenes=config.calibration_scenes,
            processes=self._processes,
            selection=config.selection,
        )
        return {split: [functools.partial(records, ids) for ids in shards] for split, shards in self._ids()}

    def _info(self) -> tfds.core.DatasetInfo:
        annotation = self.scenes_config.annotation
        if annotation is None:
            return super()._info()
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(annotation.features()),
            metadata=tfds.core.MetadataDict(annotation.metadata),
        )

    def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager) -> Mapping[str, Sequence[Any]]:
        annotation = self.scenes_config.annotation
        if annotation is None:
            return super()._shard_iterators_per_split(dl_manager)

        return {
            split: [functools.partial(_annotated, annotation, ids, self._processes) for ids in shards]
            for split, shards in self._ids()
        }

    def finish(self, image_ids: Mapping[str, Sequence[str]], counts: Mapping[str, int]) -> None:
        """Writes what lies beside the records of a region store, or of annotations."""
        if self.scenes_config.annotation is None:
            super().finish(image_ids, counts)
            return
        for split, of_rows in image_ids.items():
            write_image_ids(self.data_dir, split, np.array([image_id.encode() for image_id in of_rows], np.bytes_))

    def _ids(self) -> Iterator[tuple[str, list[list[str]]]]:
        """Every split's image ids, in shards."""
        config = self.scenes_config
        for split, count in config.counts.items():
            ids = [world.make_image_id(config.size, split, number) for number in range(count)]
            yield split, [ids[start : start + _SCENES_A_SHARD] for start in range(0, count, _SCENES_A_SHARD)]


def _annotated(annotation: Annotation, image_ids: Sequence[str], processes: int) -> Iterator[tuple[str, Any]]:
    """What is said about some pictures, each example with its key."""
    for examples in parallel.map_ordered(annotation.examples, image_ids, processes):
        yield from examples
