"""Tab-separated dumps, told apart by their number of columns: bottom-up attention, ViLBERT, LXMERT, volta, VinVL.

VinVL writes box corners as fractions of the picture's sides behind the features: [n,2054] is 2048 features, x1, y1,
x2, y2, width, height.
"""

import dataclasses
import itertools
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from tfds_builders.region_features.dump import RawRecord, Traits
from tfds_builders.region_features.formats import fields
from vilbert_jax.errors import InputError

_BUTD = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
_LXMERT = (
    *("img_id", "img_h", "img_w", "objects_id", "objects_conf", "attrs_id", "attrs_conf"),
    *("num_boxes", "boxes", "features"),
)
_COLUMNS = {
    6: _BUTD,
    7: (*_BUTD, "cls_prob"),
    10: _LXMERT,
    13: (*_LXMERT, "cls_prob", "attrs", "classes"),
    3: ("key", "num_boxes", "features"),
    2: ("key", "json"),
}
_TRAITS = {
    6: Traits("bottom-up-attention TSV (6 columns)"),
    7: Traits("ViLBERT TSV (7 columns)", background="first"),
    10: Traits("LXMERT TSV (10 columns)"),
    13: Traits("volta TSV (13 columns)", background=None),
    3: Traits("VinVL TSV (3 columns)", box_units="fractions", has_sizes=False),
}
_VINVL_CAPTION = Traits("VinVL captioning TSV (key, JSON)", box_units="fractions", has_sizes=False)
_VINVL_OBJECTS = Traits("VinVL scene-graph TSV (key, JSON of objects)", has_sizes=False)
_VINVL_BOX_COLUMNS = 6


@dataclasses.dataclass(frozen=True)
class TsvDump:
    """One file."""

    path: Path
    traits: Traits

    @property
    def source(self) -> str:
        """The file."""
        return str(self.path)

    def parts(self, records: int) -> Sequence[tuple[int, int]]:
        """Byte ranges that begin and end with a line, judged by the length of the first line."""
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            stride = max(len(file.readline()), 1) * records
            cuts = [0]
            for wanted in range(stride, size, stride):
                file.seek(max(wanted, cuts[-1]) - 1)
                file.readline()
                if file.tell() > cuts[-1]:
                    cuts.append(file.tell())
        ends = [*cuts[1:], size] if cuts[-1] < size else cuts[1:]
        return list(zip(cuts, ends, strict=False))

    def read(self, part: tuple[int, int]) -> Iterator[RawRecord]:
        """The records of the lines in a byte range."""
        start, stop = part
        with self.path.open("rb") as file:
            file.seek(start)
            for number in itertools.count(1):
                at = file.tell()
                line = file.readline() if at < stop else b""
                if not line:
                    return
                row = f"row {number}" if start == 0 else f"row at byte {at}"  # where rows were not counted
                if line.strip():
                    yield parse_line(line, self.traits, f"{self.path}, {row}")


def looks_tabular(head: bytes) -> bool:
    """Whether a file that starts with `head` is lines of text with tabs."""
    return b"\t" in head and b"\0" not in head


def recognise(path: Path) -> TsvDump | None:
    """The dump in a tab-separated file, None if its columns are those of no known format."""
    with path.open("rb") as file:
        columns = _split(_first_line(file))
    if len(columns) == 2:
        content = _json(columns[1])
        if isinstance(content, dict) and {"num_boxes", "features"} <= content.keys():
            return TsvDump(path, _VINVL_CAPTION)
        if isinstance(content, dict) and isinstance(content.get("objects"), list):
            return TsvDump(path, _VINVL_OBJECTS)
        return None
    traits = _TRAITS.get(len(columns))
    if traits is None or not columns[_COLUMNS[len(columns)].index("num_boxes")].strip().isdigit():
        return None
    return TsvDump(path, traits)


def describe(path: Path) -> str:
    """What one sees in a tab-separated file, for the message that it is unknown."""
    with path.open("rb") as file:
        columns = _split(_first_line(file))
    shown = ", ".join(repr(column[:16].decode(errors="replace")) for column in columns[:5])
    return f"text whose first row has {len(columns)} tab-separated columns ({shown}{', …' if len(columns) > 5 else ''})"


def parse_line(line: bytes, traits: Traits, where: str) -> RawRecord:
    """One row.

    Raises:
        InputError: naming `where` and the picture.
    """
    columns = _split(line)
    names = _COLUMNS[2 if traits in (_VINVL_CAPTION, _VINVL_OBJECTS) else _expected_columns(traits)]
    if len(columns) != len(names):
        raise InputError(
            f"{where}: {len(columns)} columns; a {traits.format} has {len(names)} ({', '.join(names)}): "
            "the row is cut off, or files of two formats were joined"
        )
    row: dict[str, Any] = dict(zip(names, columns, strict=True))
    image_id = fields.text(columns[0], names[0], where)
    where = f"{where}, image {image_id!r}"
    if traits == _VINVL_OBJECTS:
        return _objects_record(image_id, _json(row["json"]), where)
    if traits == _VINVL_CAPTION:
        content = _json(row["json"])
        row = content if isinstance(content, dict) else {}
        fields.require(row, ("num_boxes", "features"), where)
    count = fields.integer(row["num_boxes"], "num_boxes", where)
    if not traits.has_sizes:
        return vinvl_record(image_id, fields.matrix(row["features"], "features", where, rows=count), where)
    width, height = ("image_w", "image_h") if "image_w" in row else ("img_w", "img_h")
    return fields.boxes_record(image_id, row, where, count=count, width=width, height=height)


def vinvl_record(image_id: str, values: np.ndarray, where: str) -> RawRecord:
    """A record of VinVL's features and boxes in one array."""
    width = values.shape[1] - _VINVL_BOX_COLUMNS
    if width < 1:
        raise InputError(f"{where}: features are {values.shape[1]} wide; VinVL's end with 6 numbers of the box")
    return RawRecord(image_id, where, None, None, values[:, width : width + 4], values[:, :width], None)


def _objects_record(image_id: str, content: Any, where: str) -> RawRecord:
    objects = content.get("objects") if isinstance(content, dict) else None
    if not isinstance(objects, list):
        raise InputError(f"{where}: no JSON with a list of objects; the row is cut off")
    for item in objects:
        fields.require(item, ("rect", "feature"), where)
    features = [fields.matrix(item["feature"], "feature", where, rows=1) for item in objects]
    if len({feature.shape for feature in features}) > 1:
        raise InputError(f"{where}: features of {len({feature.shape for feature in features})} widths; expected one")
    try:
        boxes = np.array([item["rect"] for item in objects], np.float64).reshape(len(objects), 4)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: a rect is no list of four numbers ({error})") from error
    features = np.concatenate(features) if features else np.zeros((0, 1))
    return RawRecord(image_id, where, None, None, boxes, features, None)


def _expected_columns(traits: Traits) -> int:
    return next(number for number, known in _TRAITS.items() if known == traits)


def _split(line: bytes) -> list[bytes]:
    return line.rstrip(b"\r\n").split(b"\t")


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None


def _first_line(file: BinaryIO) -> bytes:
    line = b"\n"
    while line and not line.strip():
        line = file.readline()
    return line
