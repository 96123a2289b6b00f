"""TFDS builder of RefCOCO+, RefCOCO and RefCOCOg: phrases and boxes; the regions of the images are a region store."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from tfds_builders.manual_files import manual_folder
from tfds_builders.refcoco_plus import refer_files
from tfds_builders.refcoco_plus.refer_files import Ref, ReferFiles, Sentence
from tfds_builders.sharded_builder import ShardedBuilder
from vilbert_jax.data.annotations import write_image_ids
from vilbert_jax.errors import InputError

INSTRUCTIONS = (
    "Download refcoco+.zip, refcoco.zip or refcocog.zip as https://github.com/lichengunc/refer says and unpack it in "
    "the manual folder, so that this has, for example, refcoco+/refs(unc).p and refcoco+/instances.json"
)
_INSTANCES = "instances.json"
_SENTENCES_A_SHARD = 20_000


class Counts(NamedTuple):
    """Size of a split: phrases, things they mean, pictures."""

    sentences: int
    refs: int
    images: int

    def __str__(self) -> str:
        return f"{self.sentences:,} sentences about {self.refs:,} things in {self.images:,} images"


@dataclasses.dataclass(kw_only=True)
class ReferConfig(tfds.core.BuilderConfig):
    """One data set of the family.

    Attributes:
        folder: in the manual folder.
        refs: the pickle in it.
        splits_of: what the file calls the split of a ref -> the splits that the ref belongs to.
        published: split -> what the complete files hold.
    """

    folder: str
    refs: str
    splits_of: Callable[[str], list[str]]
    published: Mapping[str, Counts]


def _by_letter(name: str) -> list[str]:
    """Train and val by name; of the test splits the letter decides, as in the code that the files come with."""
    named = {"train": "train", "val": "validation"}
    return [named[name]] if name in named else [f"test{letter}" for letter in "AB" if letter in name]


def _by_name(name: str) -> list[str]:
    named = {"train": "train", "val": "validation", "test": "test"}
    return [named[name]] if name in named else []


class Builder(ShardedBuilder):
    """One example a sentence, in the order of the file's refs."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}
    BUILDER_CONFIGS: ClassVar[list[Any]] = [
        ReferConfig(
            name="refcoco_plus",
            description="RefCOCO+, split by UNC: no words about places.",
            folder="refcoco+",
            refs="refs(unc).p",
            splits_of=_by_letter,
            published={
                "train": Counts(120_191, 42_278, 16_992),
                "validation": Counts(10_758, 3_805, 1_500),
                "testA": Counts(5_726, 1_975, 750),
                "testB": Counts(4_889, 1_798, 750),
            },
        ),
        ReferConfig(
            name="refcoco",
            description="RefCOCO, split by UNC.",
            folder="refcoco",
            refs="refs(unc).p",
            splits_of=_by_letter,
            published={
                "train": Counts(120_624, 42_404, 16_994),
                "validation": Counts(10_834, 3_811, 1_500),
                "testA": Counts(5_657, 1_975, 750),
                "testB": Counts(5_095, 1_810, 750),
            },
        ),
        ReferConfig(
            name="refcocog",
            description="RefCOCOg, split by UMD: longer phrases.",
            folder="refcocog",
            refs="refs(umd).p",
            splits_of=_by_name,
            published={
                "train": Counts(80_512, 42_226, 21_899),
                "validation": Counts(4_896, 2_573, 1_300),
                "test": Counts(9_602, 5_023, 2_600),
            },
        ),
    ]
    DEFAULT_CONFIG_NAME = "refcoco_plus"
    MANUAL_DOWNLOAD_INSTRUCTIONS = INSTRUCTIONS

    @property
    def refer_config(self) -> ReferConfig:
        """The config being built."""
        assert isinstance(self.builder_config, ReferConfig)
        return self.builder_config

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text
        features = {
            "sent_id": np.int64,
            "ref_id": np.int64,
            "image_id": text(),
            "sentence": text(),
            "box": tfds.features.Tensor(shape=(4,), dtype=np.float32),
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(
                box="xywh pixels",
                image_id="COCO id as a decimal number",
                published={split: counts._asdict() for split, counts in self.refer_config.published.items()},
            ),
        )

    def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager) -> Mapping[str, Sequence[Any]]:
        config = self.refer_config
        refs_path, instances_path = _find(manual_folder(dl_manager), config)
        found = refer_files.read(refs_path, instances_path)
        splits = _split(found, refs_path, config)
        counts = {split: _count(refs) for split, refs in splits.items()}
        for split, published in config.published.items():
            if split not in counts:
                print(f"warning: {refs_path} has no refs of it: there will be no split {split}", file=sys.stderr)
                continue
            print(f"{split}: {counts[split]} in {refs_path}", file=sys.stderr)
            if counts[split] != published:
                print(f"warning: the published {split} split has {published}", file=sys.stderr)
        assert isinstance(self.info.metadata, dict)  # as _info made it
        self.info.metadata.update(
            counts={split: of_split._asdict() for split, of_split in counts.items()},
            files={kind: note._asdict() for kind, note in found.notes.items()},
        )
        return {split: list(_shards(refs)) for split, refs in splits.items()}

    def finish(self, image_ids: Mapping[str, Sequence[str]], counts: Mapping[str, int]) -> None:
        """Writes the image id of every sentence."""
        del counts
        for split, of_rows in image_ids.items():
            write_image_ids(self.data_dir, split, np.array([image_id.encode() for image_id in of_rows], np.bytes_))


def _find(folder: epath.Path, config: ReferConfig) -> tuple[epath.Path, epath.Path]:
    """Where the refs and the annotations are."""
    paths = folder / config.folder / config.refs, folder / config.folder / _INSTANCES
    if absent := [f"{path}" for path in paths if not path.exists()]:
        raise InputError(
            f"{' and '.join(absent)} missing. {INSTRUCTIONS}. To build one data set of the three, name it, as in "
            f"refcoco_plus/{config.name}"
        )
    return paths


def _split(found: ReferFiles, path: epath.Path, config: ReferConfig) -> dict[str, list[Ref]]:
    """Split -> its refs, for the splits that have any.

    Raises:
        InputError: a ref belongs to no split.
    """
    splits: dict[str, list[Ref]] = {split: [] for split in config.published}
    for place, ref in enumerate(found.refs):
        belongs_to = config.splits_of(ref.split)
        if not belongs_to:
            raise InputError(
                f"{path}: refs[{place}] (ref_id {ref.sentences[0].ref_id}): split is {ref.split!r}, which is none of "
                f"{config.name}: {', '.join(splits)}; download the files of {config.name} again"
            )
        for split in belongs_to:
            splits[split].append(ref)
    return {split: refs for split, refs in splits.items() if refs}


def _count(refs: Sequence[Ref]) -> Counts:
    return Counts(
        sentences=sum(len(ref.sentences) for ref in refs),
        refs=len(refs),
        images=len({ref.sentences[0].image_id for ref in refs}),
    )


def _shards(refs: Sequence[Ref]) -> Iterator[Any]:
    """One function a shard; they pickle, so that Beam workers can run them."""
    sentences = [sentence for ref in refs for sentence in ref.sentences]
    for start in range(0, len(sentences), _SENTENCES_A_SHARD):
        yield functools.partial(_examples, sentences[start : start + _SENTENCES_A_SHARD])


def _examples(sentences: Sequence[Sentence]) -> Iterator[tuple[int, dict[str, Any]]]:
    for sentence in sentences:
        example = {
            "sent_id": sentence.sent_id,
            "ref_id": sentence.ref_id,
            "image_id": str(sentence.image_id),
            "sentence": sentence.text,
            "box": np.array(sentence.box, np.float32),
        }
        yield sentence.sent_id, example
