"""Pictures with annotated things, to train a detector on. T things a picture at most.

Two TFDS data sets, joined by ``image_id``: the pictures (``image``), and what is in them (``boxes`` [n,4] in pixels,
``classes`` [n] and ``attributes`` [n]). The metadata of the second one name the classes, the background first, and the
attributes; its numbers are places in these lists.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from vilbert_jax.data.annotations import (
    Rows,
    how_to_get,
    id_bytes,
    metadata,
    open_annotations,
    require_features,
    row_image_ids,
)
from vilbert_jax.errors import InputError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ObjectsConfig:
    """Which pictures, and how they are read.

    Attributes:
        pictures: data set of pictures, all of one size.
        objects: data set of what is in them.
        data_dir: TFDS folder; empty for TFDS's own.
        max_things: T.
        batch_size: rows of the global batch.
        seed: decides the order.
    """

    pictures: str
    objects: str
    data_dir: str = ""
    max_things: int
    batch_size: int
    seed: int = 0

    def embedded_names(self) -> list[str]:
        """Those of the data sets that the project can draw, for ``embedded.ensure``."""
        return [name for name in (self.pictures, self.objects) if name.startswith("scenes/")]

    def open(self, split: str) -> "ObjectsSource":
        """Opens one split.

        Raises:
            InputError: a data set or the split is missing, or a picture of the annotations.
        """
        pictures = self._rows(self.pictures, split, ("image_id", "image"))
        objects = self._rows(self.objects, split, ("image_id", "boxes", "classes", "attributes"))
        return ObjectsSource(pictures, objects, max_things=self.max_things)

    def _rows(self, name: str, split: str, features: tuple[str, ...]) -> Rows:
        rows = open_annotations(name, split, data_dir=self.data_dir, hint=how_to_get(name, data_dir=self.data_dir))
        require_features(rows, name, features)
        return rows


class Annotated(NamedTuple):
    """What is in one picture: n things.

    Attributes:
        image_id: the picture.
        boxes: [n,4] float32, x1, y1, x2, y2 in pixels.
        classes: [n] int32, places in the list of names, background first: at least 1.
        attributes: [n] int32, places in the list of names.
    """

    image_id: str
    boxes: np.ndarray
    classes: np.ndarray
    attributes: np.ndarray


class ObjectsSource:
    """The examples of one split. Pickles; safe to read from several threads.

    Args:
        pictures: rows with ``image_id`` and ``image`` [H,W,3] uint8, RGB.
        objects: rows with ``image_id``, ``boxes``, ``classes`` and ``attributes``.
        max_things: T.

    Attributes:
        class_names: background first; empty where the annotations do not say.
        attribute_names: likewise.
        size: height and width of the pictures.

    Raises:
        InputError: there are annotations of pictures that are not there, or none at all.
    """

    def __init__(self, pictures: Rows, objects: Rows, *, max_things: int) -> None:
        if not len(objects) or not len(pictures):
            raise InputError("there are no annotated pictures: build the data sets again, or choose another split")
        self._pictures, self._objects, self._max_things = pictures, objects, max_things
        self._place = _places(objects, pictures)
        facts = metadata(objects)
        self.class_names = tuple(facts.get("class_names", ()))
        self.attribute_names = tuple(facts.get("attribute_names", ()))
        self.size: tuple[int, int] = tuple(np.shape(pictures[int(self._place[0])]["image"])[:2])

    def __len__(self) -> int:
        """Number of annotated pictures."""
        return len(self._objects)

    def annotated(self, index: int) -> Annotated:
        """What is in a picture, without reading it."""
        row = self._objects[index]
        return Annotated(_text(row["image_id"]), *(np.asarray(row[name]) for name in Annotated._fields[1:]))

    def picture(self, index: int) -> np.ndarray:
        """The picture, [H,W,3] uint8, RGB.

        Raises:
            InputError: it has another size than the first one.
        """
        row = self._pictures[int(self._place[index])]
        if row["image"].shape != (*self.size, 3):
            height, width = self.size
            raise InputError(
                f"picture {_text(row['image_id'])!r} is {row['image'].shape}, others are [{height}, {width}, 3]: the "
                "detector is trained on pictures of one size; resize them"
            )
        return row["image"]

    def example(self, index: int, rng: np.random.Generator, /) -> dict[str, np.ndarray]:
        """``pixels`` [H,W,3] uint8, RGB, and the things, padded to T.

        They are ``boxes`` [T,4], ``classes`` [T], ``attributes`` [T] and ``thing_mask`` [T] bool, True for a
        thing. Classes are counted from 0, without the background.

        Raises:
            InputError: more than T things.
        """
        del rng  # sees the pictures as they are
        found = self.annotated(index)
        count, size = len(found.boxes), self._max_things
        if count > size:
            raise InputError(f"picture {found.image_id!r} has {count} things; set --config.max_things to as many")
        boxes, classes, attributes = np.zeros((size, 4), np.float32), *np.zeros((2, size), np.int32)
        boxes[:count], classes[:count], attributes[:count] = found.boxes, found.classes - 1, found.attributes
        return {
            "pixels": self.picture(index),
            "boxes": boxes,
            "classes": classes,
            "attributes": attributes,
            "thing_mask": np.arange(size) < count,
        }


def _places(objects: Rows, pictures: Rows) -> np.ndarray:
    """For every row of the annotations the row of its picture."""
    wanted, there = id_bytes(row_image_ids(objects)), id_bytes(row_image_ids(pictures))
    order = np.argsort(there)
    place = order[np.minimum(np.searchsorted(there[order], wanted), len(there) - 1)]
    missing = np.flatnonzero(there[place] != wanted)
    if len(missing):
        raise InputError(
            f"{len(missing)} of {len(wanted)} annotated pictures are not among the pictures, such as "
            f"{bytes(wanted[missing[0]]).decode()!r}: name two data sets of the same pictures"
        )
    return place


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else value
