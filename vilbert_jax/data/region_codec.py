"""The bytes of one region record: schema, encoding, decoding, and what may be wrong with one.

n boxes in one picture, F feature width, C detector classes, K classes kept a box.

How features and class probabilities are stored is a choice of the store (``Storage``); what each costs in bytes, time
and accuracy stands in benchmarks/README.md.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import tensorflow_datasets as tfds

from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.errors import InputError

FeatureStorage = Literal["float16", "int8"]
ClassStorage = Literal["float16", "top_k", "rebuilt"]

_MAX_ID_BYTES = 255
_LARGEST_HALF = 65504.0  # of float16
_BOX_SLACK = 0.01  # pixels; float32 rounding of detectors that clip their boxes to the picture
_PROBABILITY_SLACK = 0.01  # float16 probabilities of 1601 classes do not add up to exactly 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Storage:
    """How a store keeps its arrays.

    Attributes:
        features: ``float16`` (relative error at most 2**-11), or ``int8`` with a scale a box (absolute error at most
            1/254 of the box's largest value).
        class_probs: ``float16``; ``top_k``, the ``num_classes`` largest as float16 with the rest spread evenly over the
            other classes; or ``rebuilt``, not stored at all: the softmax of the features under the detector's
            classifier, which the store holds once.
        num_classes: K of ``top_k``.
    """

    features: FeatureStorage = "int8"
    class_probs: ClassStorage = "top_k"
    num_classes: int = 32

    def __post_init__(self):
        """Raises InputError for a choice that does not exist."""
        for name, value, choices in (
            ("features", self.features, get_args(FeatureStorage)),
            ("class_probs", self.class_probs, get_args(ClassStorage)),
        ):
            if value not in choices:
                raise InputError(f"region storage: {name} is {value!r}; use one of {', '.join(choices)}")
        if self.num_classes < 1:
            raise InputError(f"region storage: num_classes is {self.num_classes}; keep at least 1")


class Classifier(NamedTuple):
    """A detector's last layer: class probabilities are the softmax of ``features @ weights + bias``."""

    weights: np.ndarray  # [F,C] float32
    bias: np.ndarray  # [C] float32, background in column 0 where there is one

    def probabilities(self, features: np.ndarray) -> np.ndarray:
        """[n,F] float32 -> [n,C] float32."""
        scores = features @ self.weights + self.bias
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        return scores / scores.sum(axis=1, keepdims=True)


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


class StoredRegions(NamedTuple):
    """A record as it is stored: small, and all that a batch needs.

    Attributes:
        image_id: the picture.
        width: of the picture, pixels.
        height: of the picture, pixels.
        boxes: [n,4] float32, x1, y1, x2, y2 in pixels of the picture.
        features: [n,F] float16 or int8.
        scales: [n] float32; features times these are the features, all 1 for float16.
        class_ids: [n,K] int16, largest probability first, or None where all are stored, or none.
        class_probs: [n,K] float16 of those classes, [n,C] of all, or None.
    """

    image_id: str
    width: int
    height: int
    boxes: np.ndarray
    features: np.ndarray
    scales: np.ndarray
    class_ids: np.ndarray | None
    class_probs: np.ndarray | None


def record_features(contract: FeatureContract, storage: Storage) -> tfds.features.FeaturesDict:
    """TFDS schema of one record."""
    tensor = tfds.features.Tensor
    schema: dict[str, Any] = {
        "image_id": tfds.features.Text(),
        "width": np.int32,
        "height": np.int32,
        "num_boxes": np.int32,
        "boxes": tensor(shape=(None, 4), dtype=np.float32, encoding="bytes"),
    }
    dtype = np.float16 if storage.features == "float16" else np.int8
    schema["features"] = tensor(shape=(None, contract.feature_dim), dtype=dtype, encoding="bytes")
    if storage.features == "int8":
        schema["feature_scales"] = tensor(shape=(None,), dtype=np.float32, encoding="bytes")
    if not contract.num_classes or storage.class_probs == "rebuilt":
        return tfds.features.FeaturesDict(schema)
    num_kept = contract.num_classes
    if storage.class_probs == "top_k":
        num_kept = _num_kept(contract, storage)
        schema["class_ids"] = tensor(shape=(None, num_kept), dtype=np.int16, encoding="bytes")
    schema["class_probs"] = tensor(shape=(None, num_kept), dtype=np.float16, encoding="bytes")
    return tfds.features.FeaturesDict(schema)


def encode_record(record: RegionRecord, contract: FeatureContract, storage: Storage) -> dict[str, Any]:
    """Checks one record and turns it into the example dict of `record_features`.

    Raises:
        InputError: naming the image, if anything contradicts the contract or cannot be right.
    """
    check_record(record, contract)
    example: dict[str, Any] = {
        "image_id": record.image_id,
        "width": int(record.width),
        "height": int(record.height),
        "num_boxes": len(record.boxes),
        "boxes": np.asarray(record.boxes, np.float32),
    }
    features = np.asarray(record.features, np.float32)
    if storage.features == "float16":
        largest = float(np.abs(features).max())
        if largest > _LARGEST_HALF:
            raise InputError(
                f"image {record.image_id!r}: a feature has magnitude {largest:g}, float16 ends at {_LARGEST_HALF:g}; "
                "store with int8 or rescale the features"
            )
        example["features"] = features.astype(np.float16)
    else:
        example["features"], example["feature_scales"] = _quantize(features)
    if record.class_probs is None or storage.class_probs == "rebuilt":
        return example
    probabilities = np.asarray(record.class_probs, np.float32)
    if storage.class_probs == "top_k":
        kept = np.argsort(-probabilities, axis=1, kind="stable")[:, : _num_kept(contract, storage)]
        example["class_ids"] = kept.astype(np.int16)
        probabilities = np.take_along_axis(probabilities, kept, axis=1)
    example["class_probs"] = probabilities.astype(np.float16)
    return example


def decode_example(example: Mapping[str, Any], classifier: Classifier | None = None) -> StoredRegions:
    """A stored example as arrays, without any arithmetic on them but the rebuilding of class probabilities.

    Args:
        example: as TFDS reads it.
        classifier: of a store that rebuilds them.
    """
    features = example["features"]
    scales = example["feature_scales"] if "feature_scales" in example else np.ones(len(features), np.float32)
    probabilities = example.get("class_probs")
    if classifier is not None:
        probabilities = classifier.probabilities(features * scales[:, None]).astype(np.float16)
    return StoredRegions(
        image_id=example["image_id"].decode(),
        width=int(example["width"]),
        height=int(example["height"]),
        boxes=example["boxes"],
        features=features,
        scales=scales,
        class_ids=example.get("class_ids"),
        class_probs=probabilities,
    )


def decode_record(stored: StoredRegions, num_classes: int) -> RegionRecord:
    """A stored record as float32 arrays; C is ``num_classes``."""
    return RegionRecord(
        image_id=stored.image_id,
        width=stored.width,
        height=stored.height,
        boxes=np.array(stored.boxes, np.float32),
        features=stored.features.astype(np.float32) * stored.scales[:, None],
        class_probs=_all_classes(stored, num_classes),
    )


def _all_classes(stored: StoredRegions, num_classes: int) -> np.ndarray | None:
    """[n,C] float32: what is not kept is spread evenly over the other classes."""
    if stored.class_probs is None:
        return None
    kept = stored.class_probs.astype(np.float32)
    if stored.class_ids is None:
        return kept
    others = num_classes - kept.shape[1]
    rest = np.maximum(1 - kept.sum(axis=1, keepdims=True), 0) / max(others, 1)
    spread = np.repeat(rest, num_classes, axis=1)
    np.put_along_axis(spread, stored.class_ids.astype(np.int64), kept, axis=1)
    return spread


def _num_kept(contract: FeatureContract, storage: Storage) -> int:
    return min(storage.num_classes, contract.num_classes)


def _quantize(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[n,F] float32 to [n,F] int8 and the scale [n] float32 of each row."""
    scales = (np.abs(features).max(axis=1) / 127).astype(np.float32)
    safe = np.where(scales > 0, scales, 1)[:, None]
    return np.clip(np.rint(features / safe), -127, 127).astype(np.int8), scales


def check_record(record: RegionRecord, contract: FeatureContract) -> None:
    """Raises InputError, naming the image, if a record contradicts the contract or cannot be right."""
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
