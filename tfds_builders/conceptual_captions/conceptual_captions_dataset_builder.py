"""TFDS builder of Conceptual Captions: the captions alone; the regions of their images are a region store."""

import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from tfds_builders.conceptual_captions import tables
from tfds_builders.conceptual_captions.ambiguity import find_ambiguous
from tfds_builders.conceptual_captions.tables import OFFICIAL_NAMES, PUBLISHED_ROWS
from tfds_builders.manual_files import manual_folder
from tfds_builders.sharded_builder import ShardedBuilder
from vilbert_jax.data.annotations import write_image_ids
from vilbert_jax.errors import InputError

# The time of ArrayRecord 0.8.6 to read one row grows with the rows of its file, by 1.8 ns for each: 40 microseconds
# here. Smaller shards would be too many open files beside those of a large region store.
_ROWS_A_SHARD = 20_000


class Builder(ShardedBuilder):
    """One example a pair, in the order of the official files."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}
    BUILDER_CONFIGS: ClassVar[list[Any]] = [
        tfds.core.BuilderConfig(name="captions", description="Caption and URL of every picture.")
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = tables.INSTRUCTIONS

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({"image_id": text(), "caption": text(), "url": text()}),
            metadata=tfds.core.MetadataDict(
                image_id="CRC-32 of the URL (UTF-8) as a decimal number", published_rows=PUBLISHED_ROWS
            ),
        )

    def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager) -> Mapping[str, Sequence[Any]]:
        folder = manual_folder(dl_manager)
        paths = {split: tables.find(folder, split) for split in OFFICIAL_NAMES}
        scans = {split: tables.scan(path, _ROWS_A_SHARD) for split, path in paths.items()}
        ambiguous, repeated = find_ambiguous(
            np.concatenate([scan.image_ids for scan in scans.values()]),
            np.concatenate([scan.fingerprints for scan in scans.values()]),
        )
        ends = np.cumsum([len(scan.image_ids) for scan in scans.values()])[:-1]
        kept = dict(zip(scans, np.split(~ambiguous, ends), strict=True))
        self._note(scans, kept, repeated)
        self._image_ids = {split: scan.image_ids[kept[split]] for split, scan in scans.items()}
        return {split: list(_shards(scan, kept[split])) for split, scan in scans.items()}

    def _note(self, scans: Mapping[str, tables.Scan], kept: Mapping[str, np.ndarray], repeated: int) -> None:
        """Says what was found, and keeps it in the data set's metadata."""
        ambiguous = {split: int((~keep).sum()) for split, keep in kept.items()}
        for split, scan in scans.items():
            rows = len(scan.image_ids)
            print(f"{split}: {rows:,} rows in {scan.path}, {ambiguous[split]:,} of them ambiguous", file=sys.stderr)
            if rows != PUBLISHED_ROWS[split]:
                print(f"warning: the published {split} file has {PUBLISHED_ROWS[split]:,} rows", file=sys.stderr)
            if ambiguous[split] == rows:
                raise InputError(f"{scan.path}: every image id stands for two URLs; there is nothing to build")
        print(
            f"{sum(ambiguous.values()):,} rows are left out, because their image id is also that of another URL; "
            f"{repeated:,} rows repeat the URL of another and stay",
            file=sys.stderr,
        )
        assert isinstance(self.info.metadata, dict)  # as _info made it
        self.info.metadata.update(
            ambiguous=ambiguous,
            repeated_urls=repeated,
            files={
                split: {
                    "name": scan.path.name,
                    "rows": len(scan.image_ids),
                    "bytes": scan.num_bytes,
                    "sha256": scan.sha256,
                }
                for split, scan in scans.items()
            },
        )

    def finish(self, image_ids: Mapping[str, Sequence[str]], counts: Mapping[str, int]) -> None:
        """Writes the image ids, which as numbers take half the space."""
        del image_ids, counts
        for split, numbers in self._image_ids.items():
            write_image_ids(self.data_dir, split, numbers)


def _shards(scan: tables.Scan, kept: np.ndarray) -> Iterator[Any]:
    """One function a shard that has rows; they pickle, so that Beam workers can run them."""
    for number, start in enumerate(scan.starts):
        first = number * _ROWS_A_SHARD
        keep = kept[first : first + _ROWS_A_SHARD]
        if keep.any():
            yield functools.partial(_examples, scan.path, start, first, keep, scan.image_ids[first : first + len(keep)])


def _examples(
    path: epath.Path, start: int, first: int, kept: np.ndarray, image_ids: np.ndarray
) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of one shard that are kept, each under its number in the file."""
    for number, row in enumerate(tables.read(path, start, len(kept))):
        if kept[number]:
            example = {"image_id": str(image_ids[number]), "caption": row.caption, "url": row.url}
            yield first + number, example
