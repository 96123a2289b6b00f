"""LMDB dumps: ViLBERT beta, multi-task ViLBERT, volta, MMF, the tensorpack file of pre-training, UNITER.

They differ in what a value is, which the first one shows: a pickled row of texts or of arrays, a list of eight, or an
npz or msgpack map of arrays.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfds_builders.region_features import optional
from tfds_builders.region_features.dump import RawRecord, Traits
from tfds_builders.region_features.formats import fields, packed
from vilbert_jax.errors import InputError

_MAGIC = (0xBEEFC0DE).to_bytes(4, "little")
_MAGIC_AT = 16  # behind the header of the first page
_DATA_FILE = "data.mdb"
_NO_RECORDS = (b"keys", b"__keys__")
_TENSORPACK_FIELDS = 8
_MMF_CLASSES = 1600  # its writer drops the background
_UNITER_CONFIDENCE, _UNITER_FEWEST, _UNITER_MOST = 0.2, 10, 100

_BETA = Traits("ViLBERT-beta LMDB", background="first")
_MULTI_TASK = Traits("multi-task ViLBERT LMDB")
_VOLTA = Traits("volta LMDB")
_MMF = Traits("MMF LMDB")
_TENSORPACK = Traits("tensorpack LMDB of ViLBERT's pre-training", background="first")
_UNITER = Traits("UNITER LMDB", box_units="fractions", has_sizes=False)


@dataclasses.dataclass(frozen=True)
class LmdbDump:
    """One environment; `decode` turns (key, value, where) into a record."""

    path: Path
    traits: Traits
    decode: Callable[[str, Any, str], RawRecord]

    @property
    def source(self) -> str:
        """The file or folder."""
        return str(self.path)

    def parts(self, records: int) -> Sequence[tuple[bytes, bytes | None]]:
        """Ranges of keys: the first one, and the one behind the last. Values are not touched."""
        cuts = []
        with _environment(self.path).begin() as transaction, transaction.cursor() as cursor:
            keys = (bytes(key) for key in cursor.iternext(keys=True, values=False))
            records_only = (key for key in keys if key not in _NO_RECORDS)
            for number, key in enumerate(records_only):
                if number % records == 0:
                    cuts.append(key)
        return list(zip(cuts, [*cuts[1:], None], strict=True))

    def read(self, part: tuple[bytes, bytes | None]) -> Iterator[RawRecord]:
        """The records of a range of keys."""
        start, stop = part
        for key, value in _items(self.path, start, stop):
            where = f"{self.path}, key {key.decode(errors='replace')!r}"
            yield self.decode(fields.text(key, "key", where), packed.unpack(value, where), where)


def is_lmdb(path: Path) -> bool:
    """Whether a file, or the data file in a folder, is an LMDB."""
    file = path / _DATA_FILE if path.is_dir() else path
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        head = opened.read(_MAGIC_AT + len(_MAGIC))
    return head[_MAGIC_AT:] == _MAGIC


def recognise(path: Path) -> LmdbDump | None:
    """The dump in an LMDB, None if its first value is nothing known.

    Raises:
        InputError: the LMDB is damaged or empty.
    """
    for key, value in _items(path, b"", None):
        where = f"{path}, key {key.decode(errors='replace')!r}"
        found = _kind(packed.unpack(value, where))
        return LmdbDump(path, *found) if found else None
    raise InputError(f"{path}: an LMDB without records; check that it was copied whole")


def describe(path: Path) -> str:
    """What one sees in an LMDB, for the message that it is unknown."""
    for key, value in _items(path, b"", None):
        content = packed.unpack(value, str(path))
        named = f"a dict of {', '.join(map(str, content))}" if isinstance(content, dict) else type(content).__name__
        return f"an LMDB whose first key is {key.decode(errors='replace')!r} and whose first value is {named}"
    return "an LMDB without records"


def _kind(content: Any) -> tuple[Traits, Callable[[str, Any, str], RawRecord]] | None:
    if isinstance(content, list | tuple) and len(content) == _TENSORPACK_FIELDS:
        return _TENSORPACK, tensorpack_record
    if not isinstance(content, dict):
        return None
    if {"norm_bb", "features"} <= content.keys():
        return uniter_traits(_UNITER, content), uniter_record
    if {"bbox", "features"} <= content.keys():
        return mmf_traits(_MMF, content), mmf_record
    if {"img_h", "boxes", "features"} <= content.keys():
        unknown = dataclasses.replace(_VOLTA, background=None)
        return (unknown if "cls_prob" in content else _VOLTA), _volta_record
    if {"image_h", "boxes", "features"} <= content.keys():
        if isinstance(content["features"], np.ndarray):
            return _MULTI_TASK, _multi_task_record
        return (_BETA if "cls_prob" in content else dataclasses.replace(_BETA, background="absent")), _beta_record
    return None


def _beta_record(key: str, row: dict[str, Any], where: str) -> RawRecord:
    """A row of texts. The key names the picture, as its readers use it; VCR's rows carry a path inside."""
    fields.require(row, ("num_boxes",), where)
    count = fields.integer(row["num_boxes"], "num_boxes", where)
    return fields.boxes_record(key, row, where, count=count, width="image_w", height="image_h")


def _multi_task_record(key: str, row: dict[str, Any], where: str) -> RawRecord:
    """A row of arrays; the number of feature rows counts, as for its reader, and not num_boxes."""
    return fields.boxes_record(key, row, where, count=None, width="image_w", height="image_h")


def _volta_record(key: str, row: dict[str, Any], where: str) -> RawRecord:
    return fields.boxes_record(key, row, where, count=None, width="img_w", height="img_h")


def mmf_traits(known: Traits, content: dict[str, Any]) -> Traits:
    """MMF's class probabilities lack the background where there are 1600; other widths do not tell."""
    probabilities = content.get("cls_prob")
    if probabilities is None or np.shape(probabilities)[-1] == _MMF_CLASSES:
        return known
    return dataclasses.replace(known, background=None)


def mmf_record(key: str, row: dict[str, Any], where: str) -> RawRecord:
    """MMF's and the multi-task extraction's dict. All rows are read: num_boxes may be what was asked for."""
    fields.require(row, ("bbox",), where)
    renamed = {**row, "boxes": row["bbox"]}
    return fields.boxes_record(
        key.removesuffix(".npy"), renamed, where, count=None, width="image_width", height="image_height"
    )


def tensorpack_record(key: str, row: Sequence[Any], where: str) -> RawRecord:
    """The list features, cls_prob, boxes, num_boxes, image_h, image_w, image_id, caption. Captions are not regions."""
    del key
    if not isinstance(row, list | tuple) or len(row) != _TENSORPACK_FIELDS:
        raise InputError(f"{where}: no list of {_TENSORPACK_FIELDS}, as the first record is")
    features, probabilities, boxes, count, height, width, image_id, _ = row
    number = fields.integer(count, "num_boxes", where)
    return RawRecord(
        fields.text(image_id, "image_id", where),
        where,
        fields.integer(width, "image_w", where),
        fields.integer(height, "image_h", where),
        fields.matrix(boxes, "boxes", where, rows=number, columns=4),
        fields.matrix(features, "features", where, rows=number),
        fields.matrix(probabilities, "cls_prob", where, rows=number),
    )


def uniter_traits(known: Traits, content: dict[str, Any]) -> Traits:
    """UNITER's class probabilities do not tell where the background is."""
    return dataclasses.replace(known, background=None) if "soft_labels" in content else known


def uniter_record(key: str, row: dict[str, Any], where: str) -> RawRecord:
    """Rows in descending confidence; those over 0.2 count, at least 10 and at most 100, as for its reader."""
    fields.require(row, ("features", "norm_bb", "conf"), where)
    features = fields.matrix(row["features"], "features", where)
    confidences = fields.matrix(row["conf"], "conf", where, rows=len(features), columns=1)
    confident = int((confidences > _UNITER_CONFIDENCE).sum())
    used = min(max(confident, _UNITER_FEWEST), _UNITER_MOST, len(features))
    boxes = fields.matrix(row["norm_bb"], "norm_bb", where, rows=len(features))[:used, :4]
    probabilities = row.get("soft_labels")
    if probabilities is not None:
        probabilities = fields.matrix(probabilities, "soft_labels", where, rows=len(features))[:used]
    return RawRecord(key.removesuffix(".npz"), where, None, None, boxes, features[:used], probabilities)


@functools.cache
def _open(path: str, process: int) -> Any:
    """An environment may be opened once a process, and not be taken along into a forked one."""
    del process
    lmdb = optional.load("lmdb")
    folder = os.path.isdir(path)
    try:
        environment = lmdb.open(path, subdir=folder, readonly=True, lock=False, readahead=False, max_readers=1)
    except lmdb.Error as error:
        raise InputError(f"{path}: an LMDB that does not open ({error}); copy it again") from error
    # Reading behind the end of the file would end the process, because LMDB reads through memory.
    expected = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    found = os.path.getsize(os.path.join(path, _DATA_FILE) if folder else path)
    if found < expected:
        environment.close()
        raise InputError(
            f"{path}: an LMDB of {found} bytes whose header says {expected}; it is cut off, copy it again (or let "
            "'mdb_copy -c' write one that is whole)"
        )
    return environment


def _environment(path: Path) -> Any:
    return _open(os.path.realpath(path), os.getpid())


def _items(path: Path, start: bytes, stop: bytes | None) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a range, without the lists of keys."""
    environment, error_class = _environment(path), optional.load("lmdb").Error
    try:
        with environment.begin() as transaction, transaction.cursor() as cursor:
            if not cursor.set_range(start):
                return
            for key, value in cursor.iternext():
                if stop is not None and key >= stop:
                    return
                if key not in _NO_RECORDS:
                    yield key, value
    except error_class as error:
        raise InputError(f"{path}: damaged LMDB ({error}); copy it again") from error
