"""Base class of every builder that writes a region store."""

import abc
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds

from vilbert_jax.data import region_store
from vilbert_jax.data.region_store import FeatureContract, RegionRecord, Storage

RegionShard = Callable[[], Iterator[RegionRecord]]


class RegionStoreBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """Writes records, contract and index of a region store; a subclass says where the regions come from.

    The index is written into TFDS's temporary folder, which is renamed only when everything is there, so that an
    interrupted build leaves nothing that opens. `RegionStore` reads the result.
    """

    STORAGE: Storage = "float16"

    @abc.abstractmethod
    def feature_contract(self) -> FeatureContract:
        """What the features of this config mean."""

    @abc.abstractmethod
    def region_shards(self, dl_manager: tfds.download.DownloadManager) -> Mapping[str, Sequence[RegionShard]]:
        """Split name -> one function a shard, each yielding that shard's records in their final order."""

    def _info(self) -> tfds.core.DatasetInfo:
        contract = self.feature_contract()
        return self.dataset_info_from_configs(
            features=region_store.record_features(contract, self.STORAGE),
            metadata=region_store.store_metadata(contract, self.STORAGE),
        )

    def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager) -> Mapping[str, Sequence[Any]]:
        contract = self.feature_contract()
        self._written_ids: dict[str, list[list[str]]] = {}

        def examples(shard: RegionShard, ids: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
            ids.clear()  # a shard that is generated twice counts once
            for record in shard():
                ids.append(record.image_id)
                yield record.image_id, region_store.encode_record(record, contract, self.STORAGE)

        iterators: dict[str, list[Any]] = {}
        for split, shards in self.region_shards(dl_manager).items():
            self._written_ids[split] = [[] for _ in shards]
            iterators[split] = [
                lambda shard=shard, ids=ids: examples(shard, ids)
                for shard, ids in zip(shards, self._written_ids[split], strict=True)
            ]
        return iterators

    def _download_and_prepare(self, dl_manager: tfds.download.DownloadManager, download_config: Any = None) -> None:
        self._written_ids = {}
        super()._download_and_prepare(dl_manager, download_config)
        if self._written_ids:
            region_store.write_index(
                self.data_dir, {s: [i for shard in ids for i in shard] for s, ids in self._written_ids.items()}
            )
