"""The regions of whatever stands for a picture: given ones, those of a store, or those that the detector finds."""

import collections
import hashlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from PIL.Image import Image as PILImage

from vilbert_jax.data.feature_contract import FeatureContract
from vilbert_jax.data.picture_files import PictureSource, read_picture
from vilbert_jax.data.region_codec import RegionRecord, StoredRegions, check_record
from vilbert_jax.errors import InputError
from vilbert_jax.predictor.region_sources import RegionSources

Image = PictureSource | RegionRecord
"""A picture (path, bytes, PIL image, array), its regions, or its id in the store of the predictor."""

_KINDS = (str, os.PathLike, bytes, PILImage, np.ndarray, RegionRecord)  # of ``Image``

_logger = logging.getLogger(__name__)


def look_at(source: PictureSource) -> np.ndarray:
    """``read_picture``, in whose paths ``~`` is the user's home, as in all others that a predictor is given.

    Raises:
        InputError: see there.
    """
    return read_picture(os.path.expanduser(source) if isinstance(source, str | os.PathLike) else source)


class RegionReader:
    """Finds the regions of pictures; the detector looks at the same pixels once.

    The last ``cache_size`` pictures are remembered by the hash of their pixels, so the same picture as a file, as bytes
    or as an array is one picture, and a file whose content changed is another.
    """

    def __init__(self, sources: RegionSources, *, feature_dim: int, cache_size: int) -> None:
        """Keeps what it needs.

        Args:
            sources: the store, which knows pictures by id, and what looks at the others.
            feature_dim: width of the features that the model reads.
            cache_size: pictures to remember; 0 remembers none.
        """
        self._store, self._extractor = sources
        self._cache_size = cache_size
        self._seen: collections.OrderedDict[str, StoredRegions] = collections.OrderedDict()
        # Of given regions nobody knows where they come from: their shapes and boxes can be checked.
        self._shapes = FeatureContract(
            detector="", weights_hash="", layer="", colour_order="", resize_rule="", selection_rule="",
            feature_dim=feature_dim,
        )  # fmt: skip

    def read(self, images: Sequence[Image]) -> list[StoredRegions]:
        """The regions of every image, in order; pictures that the detector has not seen go through it together.

        A text that is an id of the store means that picture, any other one a file. Where one cannot be read, those
        before it have been looked at and are remembered.

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
        failures: list[InputError] = []

        def unseen() -> Iterator[tuple[str, np.ndarray]]:  # one at a time: many pictures need not fit into memory
            for place, source in pictures.items():
                try:
                    picture = look_at(source)
                except InputError as error:  # raised here, it would cost those that were read ahead
                    failures.append(error)
                    return
                key = keys[place] = _hash(picture)
                if key in names:
                    continue
                names[key] = _name(source)
                if key in self._seen:
                    found[key] = self._seen[key]
                else:
                    yield key, picture

        try:
            for extracted in self._extractor.extract(unseen()):
                record = extracted.record
                found[record.image_id] = _as_stored(record)
                if extracted.fell_short:
                    _logger.warning(
                        "%s: the detector is sure of nothing in it; its best %d regions are used",
                        names[record.image_id], len(record.boxes),
                    )  # fmt: skip
        finally:  # whatever ends it, what was found is not looked for again
            self._remember({key: found[key] for key in keys.values() if key in found})
        if failures:
            raise failures[0]
        return {place: found[key] for place, key in keys.items()}

    def _remember(self, found: Mapping[str, StoredRegions]) -> None:
        """Keeps regions by the hash of their picture; of too many those that were asked for last."""
        for key, regions in found.items():
            self._seen[key] = regions
            self._seen.move_to_end(key)
        while len(self._seen) > self._cache_size:
            self._seen.popitem(last=False)

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
