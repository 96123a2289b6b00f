"""The regions of whatever stands for a picture: given ones, those of a store, or those that the detector finds."""

import collections
import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from PIL.Image import Image as PILImage

from vilbert_jax.checkpoints.detectors import Detector, load_detector
from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.picture_files import PictureSource, read_picture
from vilbert_jax.data.region_codec import RegionRecord, StoredRegions, check_record
from vilbert_jax.data.region_store import RegionStore
from vilbert_jax.errors import InputError
from vilbert_jax.extraction.extractor import RegionExtractor
from vilbert_jax.predictor.checks import check_path

Image = PictureSource | RegionRecord
"""A picture (path, bytes, PIL image, array), its regions, or its id in the store of the predictor."""

_KINDS = (str, os.PathLike, bytes, PILImage, np.ndarray, RegionRecord)  # of ``Image``

_logger = logging.getLogger(__name__)


class Found(Protocol):
    """What the predictor needs of one picture's detections."""

    @property
    def record(self) -> RegionRecord:
        """Boxes and features."""
        ...

    @property
    def fell_short(self) -> bool:
        """Nothing in the picture reached the quality that the selection rule asks for."""
        ...


@runtime_checkable
class Extracts(Protocol):
    """What the predictor needs of a detector; ``vilbert_jax.extraction.extractor.RegionExtractor`` has it."""

    @property
    def contract(self) -> FeatureContract:
        """What the features mean."""
        ...

    def extract(self, pictures: Iterable[tuple[str, np.ndarray]], /) -> Iterator[Found]:
        """(image id, [H,W,3] uint8 RGB) in, what was found out, in order."""
        ...


def open_store(store: str | os.PathLike[str] | RegionStore | None) -> RegionStore | None:
    """The region store, where there is one.

    Raises:
        InputError: it is none.
    """
    if store is None or isinstance(store, RegionStore):
        return store
    check_path("store", store, "a RegionStore")
    return RegionStore(store)


def open_extractor(detector: str | os.PathLike[str] | Detector | Extracts | None) -> Extracts | None:
    """What looks at pictures, where there is a detector.

    Raises:
        InputError: it is none.
    """
    if isinstance(detector, str | os.PathLike):
        detector = load_detector(detector)
    if isinstance(detector, Detector):
        return RegionExtractor(detector)
    if detector is not None and not isinstance(detector, Extracts):
        check_path("detector", detector, "a Detector", "a RegionExtractor")
    return detector


class RegionReader:
    """Finds the regions of pictures; the detector looks at the same pixels once.

    The last ``cache_size`` pictures are remembered by the hash of their pixels, so the same picture as a file, as bytes
    or as an array is one picture, and a file whose content changed is another.
    """

    def __init__(
        self, *, feature_dim: int, extractor: Extracts | None, store: RegionStore | None, cache_size: int
    ) -> None:
        """Keeps what it needs.

        Args:
            feature_dim: width of the features that the model reads.
            extractor: looks at pictures.
            store: knows pictures by id.
            cache_size: pictures to remember; 0 remembers none.
        """
        self._extractor, self._store, self._cache_size = extractor, store, cache_size
        self._seen: collections.OrderedDict[str, StoredRegions] = collections.OrderedDict()
        # Of given regions nobody knows where they come from: their shapes and boxes can be checked.
        self._shapes = FeatureContract(
            detector="", weights_hash="", layer="", colour_order="", resize_rule="", selection_rule="",
            feature_dim=feature_dim,
        )  # fmt: skip

    def read(self, images: Sequence[Image]) -> list[StoredRegions]:
        """The regions of every image, in order; pictures that the detector has not seen go through it together.

        A text that is an id of the store means that picture, any other one a file.

        Raises:
            InputError: what is no picture, one that cannot be read or that there is no detector for; regions that
                cannot be right.
        """
        for image in images:
            if not isinstance(image, _KINDS):
                raise InputError(
                    f"a picture is given as {type(image).__name__}: give a path, bytes, a PIL image, an array, a "
                    "RegionRecord or an image id of the store, or a list of them"
                )
        found: dict[int, StoredRegions] = {}
        pictures: dict[int, PictureSource] = {}
        for place, image in enumerate(images):
            if isinstance(image, RegionRecord):
                found[place] = self._given(image)
            elif self._store is not None and isinstance(image, str) and image in self._store:
                found[place] = self._store.stored(image)
            else:
                pictures[place] = image
        if pictures:
            found |= self._detected(pictures)
        return [found[place] for place in range(len(images))]

    def _given(self, record: RegionRecord) -> StoredRegions:
        # No task reads class probabilities, and an id need not be known.
        record = record._replace(class_probs=None, image_id=record.image_id or "given regions")
        check_record(record, self._shapes)
        return _as_stored(record)

    def _detected(self, pictures: Mapping[int, PictureSource]) -> dict[int, StoredRegions]:
        if self._extractor is None:
            raise self._nobody_looks(next(iter(pictures.values())))
        keys: dict[int, str] = {}
        names: dict[str, str] = {}
        found: dict[str, StoredRegions] = {}

        def unseen() -> Iterator[tuple[str, np.ndarray]]:  # one at a time: many pictures need not fit into memory
            for place, source in pictures.items():
                picture = read_picture(source)
                key = keys[place] = _hash(picture)
                if key in names:
                    continue
                names[key] = _name(source)
                if key in self._seen:
                    found[key] = self._seen[key]
                else:
                    yield key, picture

        for extracted in self._extractor.extract(unseen()):
            record = extracted.record
            found[record.image_id] = _as_stored(record)
            if extracted.fell_short:
                _logger.warning(
                    "%s: the detector is sure of nothing in it; its best %d regions are used",
                    names[record.image_id], len(record.boxes),
                )  # fmt: skip
        for key in dict.fromkeys(keys.values()):
            self._seen[key] = found[key]
            self._seen.move_to_end(key)
        while len(self._seen) > self._cache_size:
            self._seen.popitem(last=False)
        return {place: found[key] for place, key in keys.items()}

    def _nobody_looks(self, image: PictureSource) -> InputError:
        remedy = "give one, detector=FILE, or its regions as a RegionRecord"
        if self._store is not None and isinstance(image, str):
            return InputError(
                f"{image!r} is no image of the region store {self._store.path}, and there is no detector to look at a "
                f"file of that name: {remedy}"
            )
        return InputError(f"{_name(image)} is a picture, and there is no detector to look at it: {remedy}")


def _as_stored(record: RegionRecord) -> StoredRegions:
    boxes, features = (np.asarray(values, np.float32) for values in (record.boxes, record.features))
    scales = np.ones(len(boxes), np.float32)
    return StoredRegions(record.image_id, record.width, record.height, boxes, features, scales, None, None)


def _hash(picture: np.ndarray) -> str:
    digest = hashlib.blake2b(repr(picture.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(picture).data)
    return digest.hexdigest()


def _name(source: PictureSource) -> str:
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return f"the picture given as {type(source).__name__}"
