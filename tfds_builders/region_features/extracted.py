"""The region store of an extraction: its parts, which hold examples as stores have them, become one data set."""

import contextlib
import functools
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds
from absl import logging

from tfds_builders.region_store_builder import RegionStoreBuilder
from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.region_files import METADATA_FILE, find_folder
from vilbert_jax.errors import InputError
from vilbert_jax.extraction.parts import Identity, Parts, read_part
from vilbert_jax.extraction.run import StoreBuilding

_METADATA = "extraction"  # key in the store's metadata
_BYTES_A_SHARD = 256 << 20  # whoever reads the store opens all of its shards


class ExtractedRegions(RegionStoreBuilder, skip_registration=True):
    """Writes the examples of parts, in the order of the pictures, in one split."""

    name = "region_features"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}

    def __init__(self, *, parts: Parts, **kwargs: Any):
        """Takes the arguments of ``tfds.core.DatasetBuilder``, and the parts."""
        self._parts = parts
        self.STORAGE = parts.identity.storage
        super().__init__(**kwargs)

    def feature_contract(self) -> FeatureContract:
        """That of the parts."""
        return self._parts.identity.contract

    def region_shards(self, dl_manager: tfds.download.DownloadManager) -> Mapping[str, Sequence[Any]]:
        """Not asked for: parts have examples already, and encoding them again could only lose."""
        raise NotImplementedError

    def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager) -> Mapping[str, Sequence[Any]]:
        del dl_manager  # nothing is downloaded
        self._classifier = self._needed_classifier()
        return {"train": [functools.partial(_examples, paths) for paths in _shards(self._parts.paths)]}

    def finish(self, image_ids: Mapping[str, Sequence[str]], counts: Mapping[str, int]) -> None:
        """Writes the index, and notes what the store was made from."""
        super().finish(image_ids, counts)
        assert self.info.metadata is not None
        self.info.metadata[_METADATA] = self._parts.identity.to_json()


def build(parts: Parts, folder: Path) -> Path:
    """Builds the store of parts inside a folder; returns its own folder there, named after its version."""
    name = parts.folder.parent.name
    config = tfds.core.BuilderConfig(name=name if re.fullmatch(r"[A-Za-z0-9][\w.-]*", name) else "extracted")
    with _quiet():
        builder = ExtractedRegions(parts=parts, config=config, data_dir=folder, file_format="array_record")
        builder.download_and_prepare()
    return Path(builder.data_path)


def finished(folder: Path) -> Identity | None:
    """What the store in a folder was made from; None where there is no store.

    Raises:
        InputError: there is a store that was not extracted.
    """
    try:
        store = find_folder(folder)
    except InputError:
        return None
    try:
        return Identity.from_json(json.loads((store / METADATA_FILE).read_text())[_METADATA])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{store} is there already, and was not made by an extraction; name another folder") from error


BUILDING = StoreBuilding(build, finished)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without TFDS's remarks on downloads, of which there are none."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)


def _shards(paths: Sequence[Path]) -> list[list[Path]]:
    """Parts in a row, as many as make a shard."""
    shards: list[list[Path]] = []
    room = 0
    for path in paths:
        size = path.stat().st_size
        if size > room:
            shards.append([])
            room = _BYTES_A_SHARD
        shards[-1].append(path)
        room -= size
    return shards


def _examples(paths: Sequence[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in paths:
        for outcome in read_part(path):
            if outcome.example is not None:
                yield outcome.example["image_id"], dict(outcome.example)
