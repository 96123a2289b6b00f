"""Reads files in the layout of REFER: a pickle of "refs", things with the phrases said of them, and COCO annotations.

The pickle was written by Python 2. It is read by the restricted reader, which runs nothing of it; byte strings come as
latin-1 text, as in the released code.
"""

import reprlib
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

import numpy as np
from etils import epath

from tfds_builders.archived_files import FileNote, FoundFile, describe
from tfds_builders.manual_files import is_count, is_text, parse_json
from vilbert_jax.data import restricted_pickle
from vilbert_jax.errors import InputError

_REF = ("ref_id", "ann_id", "image_id", "split", "sentences")
_SENTENCE = ("sent_id", "raw")
_ANNOTATION = ("id", "image_id", "bbox")
_LARGEST = 1e6  # pixels; no picture is that wide


class Sentence(NamedTuple):
    """One phrase; its box is x, y, width, height in pixels."""

    sent_id: int
    ref_id: int
    image_id: int
    text: str
    box: tuple[float, float, float, float]


class Ref(NamedTuple):
    """A thing of a picture, and what was said of it, in the order of the file."""

    split: str
    sentences: list[Sentence]


class ReferFiles(NamedTuple):
    """What both files hold.

    Attributes:
        refs: in the order of their file.
        notes: on the files, "refs" and "instances".
    """

    refs: list[Ref]
    notes: dict[str, FileNote]


class _Annotation(NamedTuple):
    """What is kept of an annotation; its box is checked where a ref asks for it."""

    place: int
    image_id: int
    bbox: Any


def read(refs_path: epath.Path, instances_path: epath.Path) -> ReferFiles:
    """Reads and joins both files.

    Raises:
        InputError: naming the file and the first record that cannot be used.
    """
    annotations, instances_note = _read_annotations(instances_path)
    content = refs_path.read_bytes()
    records = restricted_pickle.loads(content, str(refs_path))
    if not isinstance(records, list) or not records:
        raise InputError(
            f"{refs_path} is no REFER file: expected a pickled list of refs; found {reprlib.repr(records)}"
        )
    refs: list[Ref] = []
    seen_refs: dict[int, int] = {}
    seen_sentences: dict[int, int] = {}
    for place, record in enumerate(records):
        where = f"{refs_path}: refs[{place}]"
        _check_ref(record, where)
        where += f" (ref_id {record['ref_id']})"
        if record["ref_id"] in seen_refs:
            raise InputError(f"{where}: this ref_id is also that of refs[{seen_refs[record['ref_id']]}]; remove one")
        seen_refs[record["ref_id"]] = place
        box = _box_of(record, annotations, where, instances_path)
        refs.append(Ref(record["split"], _sentences(record, box, where, seen_sentences)))
    return ReferFiles(refs, {"refs": describe(FoundFile(refs_path), content, len(refs)), "instances": instances_note})


def _read_annotations(path: epath.Path) -> tuple[dict[int, _Annotation], FileNote]:
    """The annotations by id."""
    content = path.read_bytes()
    parsed = parse_json(content, path, object_hook=_without_outline)
    records = parsed.get("annotations") if isinstance(parsed, dict) else None
    if not isinstance(records, list) or not records:
        found = f"an object with {', '.join(parsed) or 'nothing'}" if isinstance(parsed, dict) else reprlib.repr(parsed)
        raise InputError(f"{path}: expected an object with a list 'annotations' that is not empty; found {found}")
    annotations: dict[int, _Annotation] = {}
    for place, record in enumerate(records):
        where = f"{path}: annotations[{place}]"
        _check_keys(record, _ANNOTATION, where)
        _check_counts(record, ("id", "image_id"), where)
        if (first := annotations.get(record["id"])) is not None:
            raise InputError(f"{where}: id {record['id']} is also that of annotations[{first.place}]; remove one")
        annotations[record["id"]] = _Annotation(place, record["image_id"], record["bbox"])
    return annotations, describe(FoundFile(path), content, len(records))


def _without_outline(record: dict[str, Any]) -> dict[str, Any]:
    """Drops the outlines while the JSON is parsed: most of the file, and not needed."""
    record.pop("segmentation", None)
    return record


def _box_of(
    ref: Mapping[str, Any], annotations: Mapping[int, _Annotation], where: str, path: epath.Path
) -> tuple[float, float, float, float]:
    """The box of a ref's annotation."""
    annotation = annotations.get(ref["ann_id"])
    if annotation is None:
        raise InputError(f"{where}: {path} has no annotation {ref['ann_id']}; both files must be of one data set")
    there = f"{path}: annotations[{annotation.place}] (id {ref['ann_id']})"
    if annotation.image_id != ref["image_id"]:
        raise InputError(
            f"{where}: image_id is {ref['image_id']}, but {annotation.image_id} in {there}; both files must be of one "
            "data set"
        )
    box = annotation.bbox
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_coordinate, box)):
        raise InputError(f"{there}: bbox is {reprlib.repr(box)}; expected x, y, width, height as four finite numbers")
    if min(np.float32(side) for side in box[2:]) <= 0:
        raise InputError(f"{there}: bbox {reprlib.repr(box)} has no area; expected a width and a height above 0")
    return (box[0], box[1], box[2], box[3])


def _is_coordinate(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < _LARGEST  # false for NaN too


def _sentences(
    ref: Mapping[str, Any], box: tuple[float, float, float, float], where: str, seen: dict[int, int]
) -> list[Sentence]:
    """The sentences of a ref; `seen` has the ref of every sent_id so far, and gets these."""
    sentences = []
    for place, record in enumerate(ref["sentences"]):
        here = f"{where}: sentences[{place}]"
        _check_keys(record, _SENTENCE, here)
        _check_counts(record, ("sent_id",), here)
        if not is_text(record["raw"]):
            _refuse_value(here, "raw", record["raw"], "text")
        sent_id = record["sent_id"]
        if sent_id in seen:
            raise InputError(f"{here}: sent_id {sent_id} is also in ref_id {seen[sent_id]}; remove one")
        seen[sent_id] = ref["ref_id"]
        sentences.append(Sentence(sent_id, ref["ref_id"], ref["image_id"], record["raw"], box))
    return sentences


def _check_ref(record: Any, where: str) -> None:
    _check_keys(record, _REF, where)
    _check_counts(record, ("ref_id", "ann_id", "image_id"), where)
    if not is_text(record["split"]):
        _refuse_value(where, "split", record["split"], "text")
    if not isinstance(record["sentences"], list) or not record["sentences"]:
        _refuse_value(where, "sentences", record["sentences"], "a list that is not empty")


def _check_keys(record: Any, expected: tuple[str, ...], where: str) -> None:
    if not isinstance(record, dict):
        raise InputError(f"{where}: expected a record with {', '.join(expected)}; found {reprlib.repr(record)}")
    if absent := [name for name in expected if name not in record]:
        raise InputError(f"{where}: has no {', '.join(absent)}; it has {', '.join(map(str, record)) or 'nothing'}")


def _check_counts(record: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    for name in names:
        if not is_count(record[name]):
            _refuse_value(where, name, record[name], "a whole number from 0")


def _refuse_value(where: str, name: str, value: Any, expected: str) -> NoReturn:
    raise InputError(f"{where}: {name} is {reprlib.repr(value)}; expected {expected}")
