"""Base class of every builder that writes a region store."""

import abc
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds

from tfds_builders.shard_writing import Counting
from tfds_builders.sharded_builder import ShardedBuilder
from vilbert_jax.data import region_codec, region_store
from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.region_codec import Classifier, RegionRecord, Storage
from vilbert_jax.errors import InputError

RegionShard = Callable[[], Iterator[RegionRecord]]


@dataclasses.dataclass(frozen=True)
class _EncodedShard:
    """The examples of one shard of records."""

    records: RegionShard
    contract: FeatureContract
    storage: Storage

    def __call__(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for record in self.records():
            yield record.image_id, region_codec.encode_record(record, self.contract, self.storage)

    @property
    def counts(self) -> Mapping[str, int]:
        """What the records' own function counted."""
        return self.records.counts if isinstance(self.records, Counting) else {}


class RegionStoreBuilder(ShardedBuilder, skip_registration=True):
    """Writes records, contract and index of a region store; a subclass says where the regions come from.

    The index is written into TFDS's temporary folder, which is renamed only when everything is there, so that an
    interrupted build leaves nothing that opens. `RegionStore` reads the result.
    """

    STORAGE = Storage()

    @abc.abstractmethod
    def feature_contract(self) -> FeatureContract:
        """What the features of this config mean."""

    @abc.abstractmethod
    def region_shards(self, dl_manager: tfds.download.DownloadManager) -> Mapping[str, Sequence[RegionShard]]:
        """Split name -> one function a shard, each yielding that shard's records in their final order.

        To build with Beam the functions must pickle; they may count (`shard_writing.Counting`).
        """

    def feature_classifier(self) -> Classifier | None:
        """The detector's classifier, which a store with ``rebuilt`` class probabilities holds."""
        return None

    def _info(self) -> tfds.core.DatasetInfo:
        contract = self.feature_contract()
        return self.dataset_info_from_configs(
            features=region_codec.record_features(contract, self.STORAGE),
            metadata=region_store.store_metadata(contract, self.STORAGE),
        )

    def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager) -> Mapping[str, Sequence[Any]]:
        self._classifier = self._needed_classifier()
        contract = self.feature_contract()
        return {
            split: [_EncodedShard(shard, contract, self.STORAGE) for shard in shards]
            for split, shards in self.region_shards(dl_manager).items()
        }

    def _needed_classifier(self) -> Classifier | None:
        if self.STORAGE.class_probs != "rebuilt":
            return None
        classifier = self.feature_classifier()
        if classifier is None:
            raise InputError(
                f"{self.name}: class probabilities are to be rebuilt, but the detector's classifier is not known; "
                "store them as top_k or float16"
            )
        return classifier

    def finish(self, image_ids: Mapping[str, Sequence[str]], counts: Mapping[str, int]) -> None:
        """Writes the index, and the classifier of a store that needs it."""
        del counts
        if self._classifier is not None:
            region_store.write_classifier(self.data_dir, self._classifier)
        region_store.write_index(self.data_dir, image_ids)
