"""Region stores: what a detector saw in each picture, one record a picture, read by image id.

n boxes in one picture, F feature width, C detector classes (background included where there is one).

This file is the one place that knows the bytes. Builders write through `record_features`, `encode_record` and
`write_index`; everything else reads through `RegionStore`. A store is a TFDS data set (ArrayRecord) whose folder also
holds the feature contract (in TFDS's metadata.json) and an index from image id to row (two .npy files), which is
memory-mapped, so that opening a store of millions of pictures costs milliseconds and no memory.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import tensorflow_datasets as tfds

from vilbert_jax.errors import InputError

Storage = Literal["float16", "int8"]

_IDS_FILE = "image_ids.npy"  # sorted image ids, fixed-width UTF-8 bytes
_ROWS_FILE = "image_rows.npy"  # row of each id, counted over the splits in order of their names
_MAX_ID_BYTES = 255
_LARGEST_HALF = 65504.0  # of float16
_BOX_SLACK = 0.01  # pixels; float32 rounding of detectors that clip their boxes to the picture
_PROBABILITY_SLACK = 0.01  # float16 probabilities of 1601 classes do not add up to exactly 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class FeatureContract:
    """Everything that must agree before features of one store mean the same as features of another.

    Attributes:
        detector: family and training set, for example "faster_rcnn_r101_c4 visual genome".
        weights_hash: identifies the detector's weights.
        layer: where the features were read, for example "pool5 mean".
        colour_order: "rgb" or "bgr".
        resize_rule: how the picture was resized before it was looked at.
        selection_rule: which boxes were kept.
        box_convention: how boxes are written.
        background: "first" if column 0 of the class probabilities is the background, "absent" if there is no such
            column.
        feature_dim: F, at least 1.
        num_classes: C, 0 if the store has no class probabilities.
        class_names: C names in column order, or empty where they are not known.
    """

    detector: str
    weights_hash: str
    layer: str
    colour_order: str
    resize_rule: str
    selection_rule: str
    box_convention: str = "xyxy pixels"
    background: str = "first"
    feature_dim: int
    num_classes: int = 0
    class_names: tuple[str, ...] = ()

    def __post_init__(self):
        """Raises InputError for values that contradict each other."""
        object.__setattr__(self, "class_names", tuple(self.class_names))
        if self.background not in ("first", "absent"):
            raise InputError(f"feature contract: background is {self.background!r}; use 'first' or 'absent'")
        if self.feature_dim < 1 or self.num_classes < 0:
            raise InputError(
                f"feature contract: feature_dim is {self.feature_dim} and num_classes {self.num_classes}; "
                "expected at least 1 and at least 0"
            )
        if self.class_names and len(self.class_names) != self.num_classes:
            raise InputError(
                f"feature contract: {len(self.class_names)} class names for {self.num_classes} classes; "
                "give one name a class, or none"
            )

    def to_json(self) -> dict[str, Any]:
        """The contract as a dict that json.dumps accepts."""
        return dataclasses.asdict(self) | {"class_names": list(self.class_names)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "FeatureContract":
        """Reads what `to_json` wrote.

        Raises:
            InputError: fields are missing or unknown.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        needed = {field.name for field in dataclasses.fields(cls) if field.default is dataclasses.MISSING}
        if unknown := set(values) - known:
            raise InputError(f"feature contract has unknown fields {sorted(unknown)}; known are {sorted(known)}")
        if missing := needed - set(values):
            raise InputError(f"feature contract lacks {sorted(missing)}; rebuild the store with this version")
        return cls(**values)

    def differences(self, other: "FeatureContract") -> list[str]:
        """One line a field in which the two contracts disagree; empty if they mean the same."""
        lines = []
        for field in dataclasses.fields(self):
            mine, theirs = getattr(self, field.name), getattr(other, field.name)
            if mine == theirs:
                continue
            if field.name == "class_names":
                lines.append(_class_name_difference(mine, theirs))
            else:
                lines.append(f"{field.name}: {mine!r} here, {theirs!r} there")
        return lines


def _class_name_difference(mine: Sequence[str], theirs: Sequence[str]) -> str:
    if len(mine) != len(theirs):
        return f"class_names: {len(mine)} names here, {len(theirs)} there"
    unlike = [i for i, (a, b) in enumerate(zip(mine, theirs, strict=True)) if a != b]
    first = unlike[0]
    return (
        f"class_names: {len(unlike)} of {len(mine)} differ, the first at class {first}: "
        f"{mine[first]!r} here, {theirs[first]!r} there"
    )


class RegionRecord(NamedTuple):
    """What a detector saw in one picture, decoded.

    Attributes:
        image_id: the picture.
        width: of the picture, pixels.
        height: of the picture, pixels.
        boxes: [n,4] float32, x1, y1, x2, y2 in pixels of the picture.
        features: [n,F] float32.
        class_probs: [n,C] float32 or None.
    """

    image_id: str
    width: int
    height: int
    boxes: np.ndarray
    features: np.ndarray
    class_probs: np.ndarray | None


def record_features(contract: FeatureContract, storage: Storage) -> tfds.features.FeaturesDict:
    """TFDS schema of one record.

    With "float16" storage features are halves: relative error at most 2**-11. With "int8" each row of the features
    has its own scale: absolute error at most 1/254 of the largest magnitude in that row, in half the space. Class
    probabilities are halves in both, because the tail of a distribution over 1601 classes would vanish in int8.
    """
    if storage not in get_args(Storage):
        raise InputError(f"region storage is {storage!r}; expected one of {get_args(Storage)}")
    tensor = tfds.features.Tensor
    schema: dict[str, Any] = {
        "image_id": tfds.features.Text(),
        "width": np.int32,
        "height": np.int32,
        "num_boxes": np.int32,
        "boxes": tensor(shape=(None, 4), dtype=np.float32, encoding="bytes"),
    }
    dtype = np.float16 if storage == "float16" else np.int8
    schema["features"] = tensor(shape=(None, contract.feature_dim), dtype=dtype, encoding="bytes")
    if storage == "int8":
        schema["feature_scales"] = tensor(shape=(None,), dtype=np.float32, encoding="bytes")
    if contract.num_classes:
        schema["class_probs"] = tensor(shape=(None, contract.num_classes), dtype=np.float16, encoding="bytes")
    return tfds.features.FeaturesDict(schema)


def store_metadata(contract: FeatureContract, storage: Storage) -> tfds.core.MetadataDict:
    """TFDS metadata of a region store: the contract and how features are stored."""
    return tfds.core.MetadataDict(feature_contract=contract.to_json(), storage=storage)


def encode_record(record: RegionRecord, contract: FeatureContract, storage: Storage) -> dict[str, Any]:
    """Checks one record and turns it into the example dict of `record_features`.

    Raises:
        InputError: naming the image, if anything contradicts the contract or cannot be right.
    """
    _check_record(record, contract)
    example: dict[str, Any] = {
        "image_id": record.image_id,
        "width": int(record.width),
        "height": int(record.height),
        "num_boxes": len(record.boxes),
        "boxes": np.asarray(record.boxes, np.float32),
    }
    features = np.asarray(record.features, np.float32)
    if storage == "float16":
        largest = float(np.abs(features).max())
        if largest > _LARGEST_HALF:
            raise InputError(
                f"image {record.image_id!r}: a feature has magnitude {largest:g}, float16 ends at {_LARGEST_HALF:g}; "
                "store with int8 or rescale the features"
            )
        example["features"] = features.astype(np.float16)
    else:
        example["features"], example["feature_scales"] = _quantize(features)
    if record.class_probs is not None:
        example["class_probs"] = np.asarray(record.class_probs, np.float16)
    return example


def decode_record(example: dict[str, Any]) -> RegionRecord:
    """Turns a stored example back into float32 arrays."""
    features = example["features"].astype(np.float32)
    if "feature_scales" in example:
        features *= example["feature_scales"][:, None]
    probabilities = example.get("class_probs")
    return RegionRecord(
        image_id=example["image_id"].decode(),
        width=int(example["width"]),
        height=int(example["height"]),
        boxes=np.array(example["boxes"], np.float32),
        features=features,
        class_probs=None if probabilities is None else probabilities.astype(np.float32),
    )


def _quantize(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[n,F] float32 to [n,F] int8 and the scale [n] float32 of each row."""
    scales = (np.abs(features).max(axis=1) / 127).astype(np.float32)
    safe = np.where(scales > 0, scales, 1)[:, None]
    return np.clip(np.rint(features / safe), -127, 127).astype(np.int8), scales


def _check_record(record: RegionRecord, contract: FeatureContract) -> None:
    name = f"image {record.image_id!r}"
    _check_id(record.image_id)
    if record.width < 1 or record.height < 1:
        raise InputError(f"{name}: size is {record.width} x {record.height} pixels; expected positive numbers")
    n = len(record.boxes)
    if n < 1:
        raise InputError(f"{name}: no boxes; a record needs at least one, leave the picture out or add the whole one")
    expected: dict[str, tuple[int, ...]] = {"boxes": (n, 4), "features": (n, contract.feature_dim)}
    if contract.num_classes:
        expected["class_probs"] = (n, contract.num_classes)
    elif record.class_probs is not None:
        raise InputError(f"{name}: has class probabilities, but the contract says num_classes = 0")
    for field, shape in expected.items():
        values = getattr(record, field)
        found = None if values is None else np.shape(values)
        if values is None or found != shape:
            raise InputError(f"{name}: {field} has shape {found}; the contract asks for {shape}")
        if not np.isfinite(values).all():
            raise InputError(f"{name}: {field} holds NaN or infinity; fix the source")
    _check_boxes(name, np.asarray(record.boxes), record.width, record.height)
    if record.class_probs is not None:
        _check_probabilities(name, np.asarray(record.class_probs))


def _check_boxes(name: str, boxes: np.ndarray, width: int, height: int) -> None:
    low, high = boxes[:, :2], boxes[:, 2:]
    wrong = (low < -_BOX_SLACK).any(1) | (high > np.array([width, height]) + _BOX_SLACK).any(1) | (high < low).any(1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"{name}: box {row} is {boxes[row].tolist()} in a picture of {width} x {height}; "
            "expected x1, y1, x2, y2 in pixels inside the picture: clip it, or check the order and the picture's size"
        )


def _check_probabilities(name: str, probabilities: np.ndarray) -> None:
    total = probabilities.sum(axis=1, dtype=np.float64)
    if probabilities.min() < 0 or total.max() > 1 + _PROBABILITY_SLACK:
        raise InputError(
            f"{name}: class probabilities lie between {probabilities.min():g} and {probabilities.max():g} and add up "
            f"to {total.max():g}; expected a softmax (did you pass logits?)"
        )


def _check_id(image_id: Any) -> None:
    if not isinstance(image_id, str) or not image_id or "\0" in image_id:
        raise InputError(f"image id is {image_id!r}; expected text that is not empty and has no zero bytes")
    if len(image_id.encode()) > _MAX_ID_BYTES:
        raise InputError(f"image id {image_id[:40]!r}… is longer than {_MAX_ID_BYTES} bytes; use a shorter one")


def write_index(folder: str | os.PathLike[str], ids_by_split: dict[str, Sequence[str]]) -> None:
    """Writes the index from image id to row into the folder of a store that is being built.

    Args:
        folder: where TFDS is writing the data set (before it renames the folder).
        ids_by_split: split name -> image ids in the order of its records.

    Raises:
        InputError: an image id occurs twice.
    """
    ids = np.array([i.encode() for split in sorted(ids_by_split) for i in ids_by_split[split]], dtype=np.bytes_)
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    twice = np.flatnonzero(ids[1:] == ids[:-1])
    if len(twice):
        raise InputError(
            f"image id {ids.tolist()[twice[0]].decode()!r} occurs more than once ({len(twice)} repeated ids in all); "
            "a region store holds one record an image, over all splits"
        )
    np.save(pathlib.Path(folder) / _IDS_FILE, ids)
    np.save(pathlib.Path(folder) / _ROWS_FILE, order.astype(np.int64))


class RegionStore:
    """Regions by image id: `store[image_id]` is a `RegionRecord` with float32 arrays.

    All splits form one id space. Reading is by row, safe from several threads, and the store pickles as its path, so
    worker processes open it themselves.

    Attributes:
        path: the data-set folder.
        contract: what the features mean.
        storage: how the features are stored on disk.
    """

    def __init__(self, path: str | os.PathLike[str]):
        """Opens the folder of a region store (`<data_dir>/<name>/<config>`, with or without the version).

        Raises:
            InputError: there is no complete region store at that path.
        """
        self.path = _find_folder(pathlib.Path(path).expanduser())
        metadata = _read_metadata(self.path)
        self.contract = FeatureContract.from_json(metadata["feature_contract"])
        self.storage: Storage = metadata["storage"]
        self._ids = np.load(self.path / _IDS_FILE, mmap_mode="r")
        self._rows = np.load(self.path / _ROWS_FILE, mmap_mode="r")
        builder = tfds.builder_from_directory(self.path)
        splits = sorted(builder.info.splits)
        self._sources = [
            builder.as_data_source(split=split)  # pyright: ignore[reportCallIssue]: TFDS's decorator hides it
            for split in splits
        ]
        self._ends = np.cumsum([len(source) for source in self._sources])
        if self._ends[-1] != len(self._ids):
            raise InputError(
                f"region store {self.path}: {self._ends[-1]} records but {len(self._ids)} image ids in the index; "
                "the folder was changed after building: delete it and build it again"
            )

    def __getitem__(self, image_id: str) -> RegionRecord:
        """The record of one picture.

        Raises:
            KeyError: the store has no such picture.
            InputError: the index does not belong to the records.
        """
        at = self._find(image_id)
        if at is None:
            raise KeyError(f"image {image_id!r} is not in region store {self.path}")
        row = int(self._rows[at])
        source = int(np.searchsorted(self._ends, row, side="right"))
        start = int(self._ends[source - 1]) if source else 0
        record = decode_record(self._sources[source][row - start])
        if record.image_id != image_id:
            raise InputError(f"{self.path}: the index gives image {record.image_id!r} for {image_id!r}; build it again")
        return record

    def __contains__(self, image_id: object) -> bool:
        """Whether the store has this picture."""
        return isinstance(image_id, str) and self._find(image_id) is not None

    def __len__(self) -> int:
        """Number of pictures, over all splits."""
        return len(self._ids)

    def __reduce__(self):
        """Pickles as the path."""
        return RegionStore, (self.path,)

    @property
    def image_ids(self) -> list[str]:
        """All image ids, sorted by their UTF-8 bytes."""
        return [image_id.decode() for image_id in self._ids.tolist()]

    def _find(self, image_id: str) -> int | None:
        """Position in the index, or None."""
        if "\0" in image_id:  # numpy ignores zero bytes at the end, so "a\\0" would be found as "a"
            return None
        wanted = np.bytes_(image_id.encode())
        at = int(np.searchsorted(self._ids, wanted))
        return at if at < len(self._ids) and self._ids[at] == wanted else None


def _find_folder(path: pathlib.Path) -> pathlib.Path:
    """The data-set folder itself, or the newest version inside it."""
    if not path.is_dir():
        raise InputError(
            f"no region store at {path}: there is no such folder; build one with "
            "'python tfds_builders/build.py <data set> --config=<config> --data_dir=<folder>' and pass "
            "<folder>/<data set>/<config>"
        )
    if (path / "dataset_info.json").exists():
        return path
    versions = [child for child in path.iterdir() if (child / "dataset_info.json").exists()]
    versions = [child for child in versions if tfds.core.Version.is_valid(child.name)]
    if not versions:
        raise InputError(
            f"no region store at {path}: it has no dataset_info.json; pass the folder "
            "<data_dir>/<data set>/<config> of a store whose building has finished"
        )
    return max(versions, key=lambda child: tfds.core.Version(child.name))


def _read_metadata(folder: pathlib.Path) -> dict[str, Any]:
    file = folder / "metadata.json"
    try:
        metadata = json.loads(file.read_text()) if file.exists() else {}
    except json.JSONDecodeError as error:
        raise InputError(f"region store {folder}: metadata.json is damaged ({error}); build the store again") from error
    if "feature_contract" not in metadata or "storage" not in metadata:
        raise InputError(
            f"{folder} is a TFDS data set, but not a region store: its metadata has no feature contract; "
            "pass the folder of a region store, for example <data_dir>/scenes/regions_small"
        )
    for name in (_IDS_FILE, _ROWS_FILE):
        if not (folder / name).exists():
            raise InputError(
                f"region store {folder}: the index {name} is missing; delete the folder and build it again"
            )
    return metadata
