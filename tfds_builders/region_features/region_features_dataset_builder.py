"""TFDS builder of region stores from feature dumps."""

import dataclasses
import functools
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import tensorflow_datasets as tfds

from tfds_builders.region_features import contract, normalise, rebuilding
from tfds_builders.region_features.dump import Dump, RawRecord, first_record
from tfds_builders.region_features.image_sizes import ImageSizes
from tfds_builders.region_features.recognise import recognise
from tfds_builders.region_store_builder import RegionStoreBuilder
from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.region_codec import Classifier, ClassStorage, FeatureStorage, RegionRecord, Storage
from vilbert_jax.errors import InputError

_BYTES_A_SHARD = 256 << 20  # before compression; whoever reads the store opens all of its shards
_IMAGE_IDS = ("as_written", "numbers")
_METADATA = "import"  # key in the store's metadata
_CLIPPED = "clipped_boxes"


@dataclasses.dataclass(kw_only=True)
class RegionFeaturesConfig(tfds.core.BuilderConfig):
    """One store and the dump it comes from. Every field is a flag of build.py.

    Attributes:
        source: file, folder, or pattern of files of one format.
        contract: name of a preset or a JSON file: which detector made the features.
        image_sizes: JSON or TSV with the pictures' sizes; replaces sizes that the dump has.
        background: first, last or absent, where the format does not tell.
        storage: how features are kept, see `vilbert_jax.data.region_codec.Storage`.
        class_storage: how class probabilities are kept.
        top_k: classes kept a region, with class_storage top_k.
        classifier: safetensors file with the detector's last layer, weight [C,F] and bias [C], for rebuilt.
        image_ids: as_written, or numbers: the number that an id ends with.
        max_outside: share of the picture's side by which boxes may lie outside it; they are clipped.
    """

    source: str = ""
    contract: str | None = None
    image_sizes: str | None = None
    background: str | None = None
    storage: FeatureStorage = "int8"
    class_storage: ClassStorage = "top_k"
    top_k: int = 100
    classifier: str | None = None
    image_ids: str = "as_written"
    max_outside: float = 0.05

    def __post_init__(self) -> None:
        """Refuses names that are no folder's and values that cannot work."""
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", self.name):
            raise InputError(f"--config={self.name}: a store's name consists of letters, digits, '_', '-' and '.'")
        if self.image_ids not in _IMAGE_IDS:
            raise InputError(f"--image_ids is {self.image_ids!r}; use one of {', '.join(_IMAGE_IDS)}")
        if not self.max_outside >= 0:
            raise InputError(f"--max_outside is {self.max_outside}; it is a share of the picture's side, 0 or more")


@dataclasses.dataclass
class ImportedShard:
    """The records of one part of a dump, normalised while they are read; counts what it did.

    Attributes:
        owners: image id -> the part that has it, shared by the shards of one dump that are read in one process.
        counts: what was done to the records when it was read last.
    """

    dump: Dump
    part: Any
    rules: normalise.Rules
    owners: dict[str, Any]
    counts: dict[str, int] = dataclasses.field(default_factory=dict)
    _read: list[str] = dataclasses.field(default_factory=list)

    def __call__(self) -> Iterator[RegionRecord]:
        """Yields the records.

        Raises:
            InputError: a record that cannot be used, or an image id for the second time, naming file and record.
        """
        self.counts = {_CLIPPED: 0}
        for image_id in self._read:
            self.owners.pop(image_id, None)  # a shard that is read twice counts once
        self._read = []
        for raw in self.dump.read(self.part):
            record, clipped = normalise.normalise(raw, self.rules)
            if record.image_id in self.owners:
                self._refuse_twice(record.image_id, raw.where)
            self.owners[record.image_id] = self.part
            self._read.append(record.image_id)
            self.counts[_CLIPPED] += clipped
            yield record

    def _refuse_twice(self, image_id: str, where: str) -> NoReturn:
        records = self.dump.read(self.owners[image_id])
        first = next(raw.where for raw in records if normalise.stored_id(raw, self.rules) == image_id)
        raise InputError(
            f"{where}: image id {image_id!r} occurs for the second time, first at {first}; a store holds one record an "
            "image: remove one of them"
        )


class Builder(RegionStoreBuilder):
    """Imports one feature dump."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "First release."}
    # TFDS takes the class of configs from here; stores have names that their owners give them.
    BUILDER_CONFIGS: ClassVar[list[Any]] = [
        RegionFeaturesConfig(name="none", description="No store: one is built with --config=NAME --source=PATH.")
    ]

    def __init__(self, *, config: Any = None, **kwargs: Any):
        """Takes the arguments of `tfds.core.DatasetBuilder`; `config` is a RegionFeaturesConfig with a source."""
        if not isinstance(config, RegionFeaturesConfig) or not config.source:
            raise InputError("region_features needs --source=PATH and --config=NAME: the dump and the store's name")
        self.STORAGE = Storage(features=config.storage, class_probs=config.class_storage, num_classes=config.top_k)
        super().__init__(config=config, **kwargs)

    @property
    def import_config(self) -> RegionFeaturesConfig:
        """The config being built."""
        assert isinstance(self.builder_config, RegionFeaturesConfig)
        return self.builder_config

    def feature_contract(self) -> FeatureContract:
        """What the features mean, from --contract and the first record."""
        return contract.complete(self.import_config.contract, self._first, self._rules.background)

    def feature_classifier(self) -> Classifier | None:
        """From --classifier, which must give the class probabilities of the dump's first record."""
        return rebuilding.read_classifier(self.import_config.classifier, self._first, self._rules.background)

    def region_shards(self, dl_manager: tfds.download.DownloadManager) -> Mapping[str, Sequence[ImportedShard]]:
        """One split, in the order of the dump."""
        del dl_manager  # the dump lies where --source says
        owners: dict[str, Any] = {}
        parts = self._dump.parts(max(_BYTES_A_SHARD // self._bytes_a_record(), 1))
        shards = [ImportedShard(self._dump, part, self._rules, owners) for part in parts]
        print(f"importing {self._dump.source}: {self._dump.traits.format}, in {len(parts)} shards", file=sys.stderr)
        return {"train": shards}

    def _bytes_a_record(self) -> int:
        """Of records like the first one, as they are stored, before compression."""
        feature_dim, num_classes = normalise.widths(self._first)
        kept = {"float16": 2 * num_classes, "top_k": 4 * min(self.STORAGE.num_classes, num_classes), "rebuilt": 0}
        feature_bytes = feature_dim * (1 if self.STORAGE.features == "int8" else 2)
        return max(len(self._first.boxes) * (feature_bytes + kept[self.STORAGE.class_probs]), 1)

    @functools.cached_property
    def _dump(self) -> Dump:
        return recognise(self.import_config.source)

    @functools.cached_property
    def _first(self) -> RawRecord:
        return first_record(self._dump)

    @functools.cached_property
    def _rules(self) -> normalise.Rules:
        config = self.import_config
        return normalise.Rules(
            traits=self._dump.traits,
            background=normalise.decide_background(self._dump.traits, config.background),
            image_sizes=ImageSizes(config.image_sizes) if config.image_sizes else None,
            max_outside=config.max_outside,
            numbers_as_ids=config.image_ids == "numbers",
            widths=normalise.widths(self._first),
        )

    def _provenance(self) -> dict[str, Any]:
        """What the metadata say of the import. File names without folders, which would mean nothing elsewhere."""
        config = self.import_config
        return {
            "format": self._dump.traits.format,
            "source": Path(self._dump.source).name,
            "image_sizes": Path(config.image_sizes).name if config.image_sizes else None,
            "background": self._rules.background,
            "image_ids": config.image_ids,
            "max_outside": config.max_outside,
        }

    def download_and_prepare(self, **kwargs: Any) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """As TFDS does, but a store that exists and was made of something else is an error; TFDS would keep it.

        Raises:
            InputError: the store exists and comes from another dump, or anything in the dump cannot be used.
        """
        file = Path(self.data_path) / "metadata.json"
        if file.exists():
            there = json.loads(file.read_text())
            known = {**there.get(_METADATA, {}), **there}
            wanted = {
                "storage": dataclasses.asdict(self.STORAGE),
                "feature_contract": self.feature_contract().to_json(),
            }
            for key, value in {**self._provenance(), **wanted}.items():
                if known.get(key) != value:
                    raise InputError(
                        f"{self.data_path} exists and was not made of this: {key} {value!r} and not {known.get(key)!r}"
                        "; choose another --config, or replace the store with --overwrite"
                    )
            print(f"{self.data_path} is complete already; --overwrite builds it again", file=sys.stderr)
        super().download_and_prepare(**kwargs)

    def finish(self, image_ids: Mapping[str, Sequence[str]], counts: Mapping[str, int]) -> None:
        """Writes the index, and notes in the metadata what was imported."""
        super().finish(image_ids, counts)
        clipped = counts.get(_CLIPPED, 0)
        records = sum(len(of_split) for of_split in image_ids.values())
        assert self.info.metadata is not None
        self.info.metadata[_METADATA] = {**self._provenance(), "records": records, _CLIPPED: clipped}
        print(
            f"imported {records} pictures from {self._dump.source}, {self._dump.traits.format}; "
            f"{clipped} boxes lay partly outside their picture and were clipped",
            file=sys.stderr,
        )
