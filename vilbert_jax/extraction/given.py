"""Boxes that are given instead of found: read from a file or a data set, and described by the detector.

For boxes that people drew (RefCOCO+ trains on them, VCR asks about them) and for those of any other detector.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from vilbert_jax.data.annotations import data_folder, require_features
from vilbert_jax.data.region_files import find_folder, open_builder
from vilbert_jax.errors import InputError
from vilbert_jax.extraction.boxes import checked_boxes
from vilbert_jax.extraction.extractor import Extracted, ReadyPicture, RegionExtractor
from vilbert_jax.extraction.sources import TFDS_PREFIX, PictureSet

SELECTION_RULE = "given boxes"  # in the contract
_LARGEST = 1e9  # pixels; no picture is as wide


class GivenBoxExtractor:
    """A ``RegionExtractor`` that describes given boxes, in their order; nothing is proposed or selected.

    Attributes:
        contract: that of the detector, with ``SELECTION_RULE``.
        given_boxes: hash of the boxes, so that an extraction goes on with the same ones alone.
    """

    def __init__(self, extractor: RegionExtractor, boxes: Mapping[str, np.ndarray]):
        """Takes the extractor, whose own rule is not used, and the boxes of each picture (``read_given_boxes``)."""
        self.contract = dataclasses.replace(extractor.contract, selection_rule=SELECTION_RULE)
        self.given_boxes = _hash(boxes)
        self._extractor, self._boxes = extractor, boxes

    def ready(self, image_id: str, picture: np.ndarray) -> ReadyPicture:
        """As ``RegionExtractor.ready``; also refuses a box that lies outside of the picture.

        Raises:
            InputError: the picture is none, or a box is not in it.
        """
        checked_boxes(self._boxes[image_id], "given boxes", picture.shape[:2])
        return self._extractor.ready(image_id, picture)

    def extract_ready(self, pictures: Iterable[ReadyPicture]) -> Iterator[Extracted]:
        """The given boxes of each picture with their features, in the order of the pictures; lazy."""
        return self._extractor.describe_ready((picture, self._boxes[picture.image_id]) for picture in pictures)


def read_given_boxes(source: str, *, data_dir: str | os.PathLike[str] | None = None) -> dict[str, np.ndarray]:
    """The boxes of each picture that has any: [n, 4] float32, x1, y1, x2, y2 in pixels.

    Args:
        source: a file of JSON lines, ``{"image_id": "42", "boxes": [[x1, y1, x2, y2], ...]}``, one a picture; or
            ``TFDS:NAME/CONFIG`` (all splits), whose rows have ``image_id`` and ``boxes`` [n, 4] likewise, one row a
            picture, or ``box`` [4], x, y, width, height, as sets of referring expressions have it: the different boxes
            of a picture's rows, in their order.
        data_dir: TFDS folder, by default TFDS's own.

    Raises:
        InputError: there is no such source, or something in it is no box; the message says where.
    """
    if source.startswith(TFDS_PREFIX):
        found = _of_data_set(source.removeprefix(TFDS_PREFIX), data_dir)
    else:
        found = _of_lines(pathlib.Path(source).expanduser())
    if not found:
        raise InputError(f"{source} has no boxes; expected at least one picture with at least one")
    return found


def pictures_with_boxes(
    pictures: PictureSet, boxes: Mapping[str, np.ndarray], say: Callable[[str], None]
) -> PictureSet:
    """The pictures that have boxes; says how many have none, and how many boxes have no picture.

    Args:
        pictures: of which some may have no boxes.
        boxes: by image id.
        say: takes one line.

    Raises:
        InputError: no picture has any.
    """
    kept = pictures.only(boxes)
    if not len(kept):
        raise InputError(
            f"boxes are given for {len(boxes)} pictures ({next(iter(boxes))!r}, ...), and none of the {len(pictures)} "
            f"pictures ({pictures.image_ids[0]!r}, ...) is among them: name both alike, by --image_ids or in the boxes"
        )
    if len(kept) < len(pictures):
        say(f"{len(pictures) - len(kept)} of {len(pictures)} pictures have no given boxes and are left out")
    if missing := sorted(set(boxes) - set(kept.image_ids)):
        say(f"boxes are given for {len(missing)} pictures that are not there; the first is {missing[0]!r}")
    return kept


def _of_lines(path: pathlib.Path) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    seen: set[str] = set()
    try:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                image_id, boxes = _line(line, f"{path}, line {number}")
                if image_id in seen:
                    raise InputError(f"{path}, line {number}: picture {image_id!r} has a line already; join the two")
                seen.add(image_id)
                if len(boxes):
                    found[image_id] = boxes
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"given boxes: {path} cannot be read ({error}); name a file of JSON lines, or {TFDS_PREFIX}NAME/CONFIG"
        ) from error
    return found


def _line(line: str, where: str) -> tuple[str, np.ndarray]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise InputError(f"{where} is no JSON ({error}); expected one object a line") from error
    if not isinstance(entry, dict) or set(entry) != {"image_id", "boxes"} or type(entry["image_id"]) not in (int, str):
        raise InputError(
            f'{where}: found {line.strip()[:80]}; expected {{"image_id": "42", "boxes": [[x1, y1, x2, y2], ...]}}'
        )
    boxes = entry["boxes"]
    if not isinstance(boxes, list):
        raise InputError(f"{where}: boxes is {boxes!r:.80}; expected a list of [x1, y1, x2, y2]")
    for row, box in enumerate(boxes):
        if not _is_numbers(box):
            raise InputError(f"{where}: box {row} is {box!r:.80}; expected four numbers, x1, y1, x2, y2 in pixels")
    return str(entry["image_id"]), checked_boxes(boxes, where) if boxes else np.zeros((0, 4), np.float32)


def _is_numbers(box: Any) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(type(x) in (int, float) and abs(x) < _LARGEST for x in box)


def _of_data_set(name: str, data_dir: str | os.PathLike[str] | None) -> dict[str, np.ndarray]:
    builder = open_builder(find_folder(data_folder(data_dir) / name, kind="data set with boxes"))
    rows: Any = builder.as_data_source("+".join(builder.info.splits))  # pyright: ignore[reportCallIssue]: TFDS's decorator hides it
    require_features(rows, name, ("image_id",))
    boxes_a_row = "boxes" in rows.dataset_info.features
    if not boxes_a_row:
        require_features(rows, name, ("box",))
    boxes: dict[str, list[np.ndarray]] = {}
    for number in range(len(rows)):
        row = rows[number]
        image_id = row["image_id"].decode() if isinstance(row["image_id"], bytes) else str(row["image_id"])
        if not boxes_a_row:
            x, y, width, height = row["box"]
            boxes.setdefault(image_id, []).append(np.array([[x, y, x + width, y + height]], np.float32))
        elif image_id in boxes:
            raise InputError(f"data set {name!r} has boxes of picture {image_id!r} twice; expected one row a picture")
        else:
            boxes[image_id] = [np.asarray(row["boxes"], np.float32).reshape(-1, 4)]
    return {
        image_id: checked_boxes(
            parts[0] if boxes_a_row else _different(parts), f"data set {name!r}, picture {image_id!r}"
        )
        for image_id, parts in boxes.items()
        if len(parts[0])
    }


def _different(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Each box once, where it comes first: several phrases mean one thing."""
    boxes = np.concatenate(parts)
    return boxes[np.sort(np.unique(boxes, axis=0, return_index=True)[1])]


def _hash(boxes: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for image_id in sorted(boxes):
        digest.update(json.dumps([image_id, boxes[image_id].tolist()]).encode())
    return digest.hexdigest()[:32]
