"""Base class of builders that write their data set shard by shard."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds
from etils import epath
from tensorflow_datasets.core import splits

from tfds_builders import shard_writing
from tfds_builders.checksums import write_checksums
from tfds_builders.shard_writing import Examples, Plan, Shard
from tfds_builders.sole_builder import no_space_is_input_error, sole_builder


class ShardedBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """A `tfds.core.ShardBasedBuilder` whose result is the same with and without Beam, and whole or not there.

    A subclass gives `_shard_iterators_per_split`: split -> one function a shard, as `shard_writing.Shard` asks for;
    and, where something lies beside the records, `finish`.
    """

    def finish(self, image_ids: Mapping[str, Sequence[str]], counts: Mapping[str, int]) -> None:
        """Writes what lies beside the records into `data_dir`, before the folder gets its name.

        Args:
            image_ids: split -> image id of every record, in their order.
            counts: what the shards counted.
        """

    def download_and_prepare(  # pyright: ignore[reportIncompatibleVariableOverride]: a decorator hides TFDS's signature
        self, *, download_config: tfds.download.DownloadConfig | None = None, **kwargs: Any
    ) -> None:
        """As TFDS does; an interrupted build of the same data set is cleared away first.

        Raises:
            InputError: another process is building it, the disk is full, or what the subclass raises.
        """
        config = download_config or tfds.download.DownloadConfig()
        folder = epath.Path(self.data_path)
        if folder.exists() and not config.download_mode.overwrite_dataset:
            super().download_and_prepare(download_config=config, **kwargs)
            return
        with no_space_is_input_error(folder), sole_builder(folder):
            super().download_and_prepare(download_config=config, **kwargs)

    def _download_and_prepare(
        self, dl_manager: tfds.download.DownloadManager, download_config: tfds.download.DownloadConfig | None = None
    ) -> None:
        config = download_config or tfds.download.DownloadConfig()
        iterators = self._shard_iterators_per_split(dl_manager)
        templates = {split: self._get_filename_template(split_name=split) for split in iterators}
        shards = {split: _shards(templates[split], examples) for split, examples in iterators.items()}
        assert self.info.features is not None
        plan = Plan(self.info.features, self._example_writer(), [s for of_split in shards.values() for s in of_split])
        if config.beam_runner is None:
            shard_writing.write_here(plan)
        else:
            shard_writing.write_on_beam(plan, epath.Path(self.data_dir), config)
        infos: list[tfds.core.SplitInfo] = []
        image_ids: dict[str, list[str]] = {}
        counts: collections.Counter[str] = collections.Counter()
        for split, of_split in shards.items():
            written = shard_writing.collect(of_split)
            counts.update(written.counts)
            image_ids[split] = [image_id for ids in written.image_ids for image_id in ids]
            infos.append(
                tfds.core.SplitInfo(
                    name=split,
                    shard_lengths=[len(ids) for ids in written.image_ids],
                    num_bytes=sum(shard.path.stat().length for shard in of_split),
                    filename_template=templates[split],
                )
            )
        self.info.set_splits(splits.SplitDict(infos))
        self.finish(image_ids, counts)
        write_checksums(self.data_dir)


def _shards(template: Any, examples: Sequence[Examples]) -> list[Shard]:
    """The files of one split."""
    count = len(examples)
    paths = [template.sharded_filepath(shard_index=k, num_shards=count) for k in range(count)]
    return [Shard(path, function) for path, function in zip(paths, examples, strict=True)]
