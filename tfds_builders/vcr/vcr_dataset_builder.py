"""TFDS builder of VCR: questions with four answers and four rationales; the regions are region stores."""

import dataclasses
import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from tfds_builders.manual_files import manual_folder, report_absent_split, report_rows, shown
from tfds_builders.sharded_builder import ShardedBuilder
from tfds_builders.vcr import pictures, records
from tfds_builders.vcr.records import Record, Scan
from vilbert_jax.data.annotations import write_image_ids
from vilbert_jax.errors import InputError

PUBLISHED_QUESTIONS = {"train": 212_923, "validation": 26_534, "test": 25_263}
INSTRUCTIONS = (
    "Ask for VCR at https://visualcommonsense.com/download, unpack vcr1annots.zip and, for the boxes, vcr1images.zip "
    "into the manual folder"
)
_PARTS = {"train": "train", "validation": "val", "test": "test"}  # how the files call the splits
_ANNOTATIONS, _IMAGES = "vcr1annots", "vcr1images"
_QUESTIONS_A_SHARD = 20_000


@dataclasses.dataclass(kw_only=True)
class VCRConfig(tfds.core.BuilderConfig):
    """One way to name the pictures.

    Attributes:
        numbered: by the numbers of the released features instead of by their files.
    """

    numbered: bool


class Builder(ShardedBuilder):
    """One example a question, in the order of the official files."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}
    BUILDER_CONFIGS: ClassVar[list[Any]] = [
        VCRConfig(name="choice", description="Pictures are named by their files.", numbered=False),
        VCRConfig(
            name="choice_numbered", description="Pictures are numbered as in the released features.", numbered=True
        ),
    ]
    DEFAULT_CONFIG_NAME = "choice"
    MANUAL_DOWNLOAD_INSTRUCTIONS = INSTRUCTIONS

    @property
    def numbered(self) -> bool:
        """Whether the config being built numbers the pictures."""
        assert isinstance(self.builder_config, VCRConfig)
        return self.builder_config.numbered

    def _info(self) -> tfds.core.DatasetInfo:
        text, sequence = tfds.features.Text, tfds.features.Sequence
        features = {
            "annot_id": text(),
            "image_id": text(),
            "question": text(),
            "answer_choices": sequence(text()),
            "answer_label": np.int32,
            "rationale_choices": sequence(text()),
            "rationale_label": np.int32,
            "objects": sequence(text()),
            "boxes": tfds.features.Tensor(shape=(None, 4), dtype=np.float32),
            "width": np.int32,
            "height": np.int32,
        }
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            metadata=tfds.core.MetadataDict(
                choices=records.NUM_CHOICES,
                text="tokens",
                image_id="number of the released features" if self.numbered else "img_fn without its extension",
                published_questions=PUBLISHED_QUESTIONS,
            ),
        )

    def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager) -> Mapping[str, Sequence[Any]]:
        folder = manual_folder(dl_manager)
        seen: dict[str, str] = {}
        scans = {
            split: records.scan(path, _QUESTIONS_A_SHARD, seen, withheld=split == "test")
            for split, path in _find(folder).items()
        }
        for split, scan in scans.items():
            report_rows(split, scan.num_rows, PUBLISHED_QUESTIONS[split], "questions", scan.path)
        images = _metadata_folder(folder, list(scans.values()))
        assert isinstance(self.info.metadata, dict)  # as _info made it
        self.info.metadata.update(
            boxes="none" if images is None else "xyxy pixels",
            files={
                split: {
                    "name": scan.path.name,
                    "rows": scan.num_rows,
                    "bytes": scan.num_bytes,
                    "sha256": scan.sha256,
                }
                for split, scan in scans.items()
            },
        )
        return {split: list(_shards(split, scan, images, self.numbered)) for split, scan in scans.items()}

    def finish(self, image_ids: Mapping[str, Sequence[str]], counts: Mapping[str, int]) -> None:
        """Writes the image id of every question."""
        del counts
        for split, of_rows in image_ids.items():
            write_image_ids(self.data_dir, split, np.array([image_id.encode() for image_id in of_rows], np.bytes_))


def _find(folder: epath.Path) -> dict[str, epath.Path]:
    """Split -> its file, for the splits that are there; the others are said.

    Raises:
        InputError: there is none.
    """
    found = {}
    for split, part in _PARTS.items():
        candidates = (folder / f"{part}.jsonl", folder / _ANNOTATIONS / f"{part}.jsonl")
        there = [path for path in candidates if path.exists()]
        if there:
            found[split] = there[0]
    if not found:
        names = " or ".join(f"{part}.jsonl" for part in _PARTS.values())
        raise InputError(f"{folder} has no {names}, nor has {folder / _ANNOTATIONS}. {INSTRUCTIONS}")
    for split, part in _PARTS.items():
        if split not in found:
            report_absent_split(split, f"{part}.jsonl", folder)
    return found


def _metadata_folder(folder: epath.Path, scans: Sequence[Scan]) -> epath.Path | None:
    """Where the files of metadata are; None, which is said, if there is not one.

    Raises:
        InputError: some are missing.
    """
    images = folder / _IMAGES
    first: str | None = None
    absent = num_files = 0
    if images.is_dir():
        for scan in scans:
            num_files += len(scan.metadata)
            for name, line in scan.metadata.items():
                if not (images / name).exists():
                    absent += 1
                    first = first or f"{scan.path}:{line}: {images / name} is missing"
    if absent == num_files:
        print(
            f"warning: {images} has no file of metadata: the data set will have no boxes and no sizes of pictures; for "
            "them, unpack vcr1images.zip there",
            file=sys.stderr,
        )
        return None
    if first is not None:
        raise InputError(
            f"{first} ({absent:,} of {num_files:,} files of metadata are); unpack vcr1images.zip again, or move "
            f"{images} away to build without boxes"
        )
    return images


def _shards(split: str, scan: Scan, images: epath.Path | None, numbered: bool) -> Iterator[Any]:
    """One function a shard; they pickle, so that Beam workers can run them."""
    for number, start in enumerate(scan.starts):
        first = 1 + number * _QUESTIONS_A_SHARD
        count = min(_QUESTIONS_A_SHARD, scan.num_rows + 1 - first)
        rows = functools.partial(records.read, scan.path, start, first, count, withheld=split == "test")
        yield functools.partial(_examples, rows, scan.path, _PARTS[split], images, numbered)


def _examples(
    rows: Any, path: epath.Path, part: str, images: epath.Path | None, numbered: bool
) -> Iterator[tuple[int, dict[str, Any]]]:
    """The questions of one shard, each under its line number."""
    picture, of_file = pictures.UNKNOWN, ""
    for line, record in rows():
        where = f"{path}:{line}"
        if images is not None:
            if record.metadata_fn != of_file:  # a picture's questions stand together
                picture, of_file = pictures.read_picture(images / record.metadata_fn, where), record.metadata_fn
            if picture.names != record.objects:
                raise InputError(
                    f"{where}: objects are {shown(record.objects)}, but names are {shown(picture.names)} in "
                    f"{images / record.metadata_fn}; both must be of one release: download them again"
                )
        image_id = records.numbered_image_id(record, part, where) if numbered else records.file_image_id(record)
        yield line, _example(record, image_id, picture)


def _example(record: Record, image_id: str, picture: pictures.Picture) -> dict[str, Any]:
    return {
        "annot_id": record.annot_id,
        "image_id": image_id,
        "question": records.as_text(record.question),
        "answer_choices": [records.as_text(tokens) for tokens in record.answer_choices],
        "answer_label": record.answer_label,
        "rationale_choices": [records.as_text(tokens) for tokens in record.rationale_choices],
        "rationale_label": record.rationale_label,
        "objects": record.objects,
        "boxes": picture.boxes,
        "width": picture.width,
        "height": picture.height,
    }
