"""Reads one shard of a data set from the first byte to the last and says what is wrong with it; runs in any process."""

import dataclasses
import functools
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module  # pyright: ignore[reportAttributeAccessIssue]: compiled

from tfds_builders.checksums import FileSum, file_sum
from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.region_codec import Storage, check_record, decode_example, decode_record
from vilbert_jax.errors import InputError

_SHOWN = 3  # problems of one shard that are told; the rest is counted


@dataclasses.dataclass(frozen=True)
class Shard:
    """What a shard should be.

    Attributes:
        file: its path.
        split: the split it belongs to.
        num_records: according to dataset_info.json.
        sum: according to checksums.json; None where that says nothing.
        contract: of a region store; None for annotations.
        storage: of a region store; None for annotations.
    """

    file: pathlib.Path
    split: str
    num_records: int
    sum: FileSum | None = None
    contract: FeatureContract | None = None
    storage: Storage | None = None


class ShardReport(NamedTuple):
    """What a shard is.

    Attributes:
        shard: what it should be.
        problems: one line each, without the file's name.
        num_bad: records that cannot be used.
        num_read: records that were looked at.
        image_ids: [num_records] fixed-width bytes, empty where a record is damaged or was not read; None if records
            have no image id.
    """

    shard: Shard
    problems: list[str]
    num_bad: int
    num_read: int
    image_ids: np.ndarray | None


def verify_shard(shard: Shard, *, quick: bool) -> ShardReport:
    """Checks size, checksum and records; ``quick`` leaves out the checksum and reads the first and last record only."""
    problems = file_problems(shard.file, shard.sum, quick=quick)
    nothing = ShardReport(shard, problems, shard.num_records, 0, np.zeros(shard.num_records, "S1"))
    if not shard.file.exists():
        return nothing
    try:
        reader = array_record_module.ArrayRecordReader(str(shard.file))
    except (RuntimeError, OSError) as error:
        problems.append(f"cannot be opened ({error})")
        return nothing
    found = reader.num_records() if reader.ok() else 0  # a file that was cut off counts as one of no records
    if found != shard.num_records:
        problems.append(
            f"has {found} records that can be reached, dataset_info.json says {shard.num_records}"
            + ("" if found else ": the file is cut off or its end is damaged")
        )
    numbers = range(min(found, shard.num_records))
    if quick:
        numbers = sorted({*numbers[:1], *numbers[-1:]})
    bad, ids = _read(reader, shard, numbers)
    problems += [f"record {number}: {problem}" for number, problem in list(bad.items())[:_SHOWN]]
    if len(bad) > _SHOWN:
        problems.append(f"and {len(bad) - _SHOWN} more records like these")
    num_bad = len(bad) + max(shard.num_records - found, 0)
    return ShardReport(shard, problems, num_bad, len(numbers), ids)


def file_problems(file: pathlib.Path, known: FileSum | None, *, quick: bool) -> list[str]:
    """What is wrong with a file as a whole."""
    if not file.exists():
        return ["is missing"]
    size = file.stat().st_size
    if known is None:
        return []
    if size != known.num_bytes:
        return [f"has {size:,} bytes, {known.num_bytes:,} when it was built"]
    if not quick and (crc := file_sum(file).crc32) != known.crc32:
        return [f"was changed: its CRC-32 is {crc}, {known.crc32} when it was built"]
    return []


def _read(reader: Any, shard: Shard, numbers: Any) -> tuple[dict[int, str], np.ndarray | None]:
    """Record number -> problem, and the image id of every record of the shard."""
    features = _features(shard.file.parent)
    has_ids = "image_id" in features
    ids, bad = [b""] * shard.num_records, {}
    for number in numbers:
        try:
            example = features.deserialize_example_np(reader.read([number])[0])
            if has_ids:
                ids[number] = _as_bytes(example["image_id"])
            if shard.contract is not None and shard.storage is not None:
                check_example(example, shard.contract, shard.storage)
        except InputError as error:
            bad[number] = str(error)
        except Exception as error:  # damaged bytes end in whatever the parser at that place raises
            bad[number] = f"cannot be read ({error})"
    return bad, np.array(ids, np.bytes_) if has_ids else None


def check_example(example: Mapping[str, Any], contract: FeatureContract, storage: Storage) -> None:
    """Raises InputError if an example of a region store cannot be what the contract says."""
    name = f"image {_as_bytes(example['image_id']).decode(errors='replace')!r}"
    if example["num_boxes"] != len(example["boxes"]):
        raise InputError(f"{name}: num_boxes is {example['num_boxes']}, but there are {len(example['boxes'])} boxes")
    class_ids = example.get("class_ids")
    if class_ids is not None:
        ordered = np.sort(class_ids, axis=1)
        if ordered.size and (ordered[:, 0].min() < 0 or ordered[:, -1].max() >= contract.num_classes):
            raise InputError(
                f"{name}: class ids lie between {ordered.min()} and {ordered.max()}; there are {contract.num_classes} "
                "classes"
            )
        if (np.diff(ordered, axis=1) == 0).any():
            raise InputError(f"{name}: a class occurs twice in one box")
    if storage.class_probs == "rebuilt":  # from the features: nothing is stored that could be wrong
        contract = dataclasses.replace(contract, num_classes=0, class_names=())
    check_record(decode_record(decode_example(example), contract.num_classes), contract)


@functools.lru_cache(maxsize=1)
def _features(folder: pathlib.Path) -> Any:
    return tfds.builder_from_directory(folder).info.features


def _as_bytes(image_id: Any) -> bytes:
    return image_id if isinstance(image_id, bytes) else str(image_id).encode()
