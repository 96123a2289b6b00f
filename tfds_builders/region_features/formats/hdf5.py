"""HDF5 dumps: one group a picture (volta), or one row a picture with ids in a pickle beside it (hengyuan-hu)."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfds_builders.region_features import optional
from tfds_builders.region_features.dump import RawRecord, Traits
from tfds_builders.region_features.formats import fields
from vilbert_jax.data import restricted_pickle
from vilbert_jax.errors import InputError

MAGIC = b"\x89HDF\r\n\x1a\n"
_ROWS = Traits("hengyuan-hu HDF5 (one row a picture)")
_GROUPS = Traits("volta HDF5 (one group a picture)")
_ROUNDING = 0.02  # pixels by which width = x / (x / width) of float32 numbers may miss an integer
_LARGEST_INDEX = 2**30  # bytes


@dataclasses.dataclass(frozen=True)
class RowsDump:
    """hengyuan-hu's file; the picture's size follows from boxes in pixels and in fractions."""

    path: Path
    index: Path
    traits: Traits = _ROWS

    @property
    def source(self) -> str:
        """The file."""
        return str(self.path)

    def parts(self, records: int) -> Sequence[tuple[int, int]]:
        """Ranges of rows."""
        with _open(self.path) as file:
            total = len(file["image_features"])
        return [(start, min(start + records, total)) for start in range(0, total, records)]

    def read(self, part: tuple[int, int]) -> Iterator[RawRecord]:
        """The records of a range of rows."""
        image_ids = _ids_by_row(self.index)
        with _open(self.path) as file:
            for row in range(*part):
                where = f"{self.path}, row {row}, image {image_ids[row]!r}"
                boxes = np.asarray(file["image_bb"][row])
                width, height = _size(boxes, np.asarray(file["spatial_features"][row]), where)
                features = np.asarray(file["image_features"][row])
                yield RawRecord(image_ids[row], where, width, height, boxes, features, None)


@dataclasses.dataclass(frozen=True)
class GroupsDump:
    """volta's file."""

    path: Path
    traits: Traits

    @property
    def source(self) -> str:
        """The file."""
        return str(self.path)

    def parts(self, records: int) -> Sequence[Sequence[str]]:
        """Names of groups, sorted, in runs."""
        with _open(self.path) as file:
            names = sorted(_groups(file))
        return [names[start : start + records] for start in range(0, len(names), records)]

    def read(self, part: Sequence[str]) -> Iterator[RawRecord]:
        """The records of some groups."""
        with _open(self.path) as file:
            for name in part:
                row = {key: file[name][key][()] for key in file[name]}
                where = f"{self.path}, group {name!r}"
                yield fields.boxes_record(name, row, where, count=None, width="img_w", height="img_h")


def recognise(path: Path) -> RowsDump | GroupsDump | None:
    """The dump in an HDF5 file, None if it has neither layout.

    Raises:
        InputError: rows without an index of image ids beside the file, or with several.
    """
    with _open(path) as file:
        if {"image_features", "image_bb", "spatial_features"} <= set(file):
            return RowsDump(path, _find_index(path, len(file["image_features"])))
        for name in _groups(file):
            background = None if "cls_prob" in file[name] else "absent"
            return GroupsDump(path, dataclasses.replace(_GROUPS, background=background))
    return None


def describe(path: Path) -> str:
    """What one sees in an HDF5 file, for the message that it is unknown."""
    with _open(path) as file:
        names = [str(name) for name in file]
    return f"an HDF5 file with {', '.join(names[:8]) or 'nothing in it'}{', …' if len(names) > 8 else ''}"


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    """The file; whatever h5py fails with while it is used names the file."""
    h5py = optional.load("h5py")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except InputError:
        raise
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{path}: damaged HDF5 file ({error}); copy it again") from error


def _groups(file: Any, prefix: str = "") -> Iterator[str]:
    """Names of the groups with features and boxes; ids with a slash are groups within groups."""
    for name, item in file.items():
        if not hasattr(item, "keys"):
            continue
        if "features" in item and "boxes" in item:
            yield prefix + name
        else:
            yield from _groups(item, f"{prefix}{name}/")


def _size(boxes: np.ndarray, fractions: np.ndarray, where: str) -> tuple[int | None, int | None]:
    """Width and height that make fractions of pixels; None for both where they do not give integers."""
    sides = []
    boxes, fractions = boxes.astype(np.float64), fractions.astype(np.float64)
    for axis in (0, 1):
        pixels, parts = boxes[:, [axis, axis + 2]].ravel(), fractions[:, [axis, axis + 2]].ravel()
        far = int(np.argmax(parts))  # the quotient of the largest numbers is the most exact
        if not np.isfinite(parts).all() or parts[far] <= 0:
            raise InputError(f"{where}: spatial_features hold {parts[far]}; expected fractions of the picture's sides")
        if not np.isfinite(pixels).all():
            return None, None  # refused as a box that holds NaN or infinity
        side = pixels[far] / parts[far]
        if abs(side - round(side)) > _ROUNDING or not np.allclose(parts * round(side), pixels, atol=0.05):
            return None, None
        sides.append(round(side))
    return sides[0], sides[1]


def _find_index(path: Path, rows: int) -> Path:
    found = [file for file in sorted(path.parent.iterdir()) if file != path and _is_index(file, rows)]
    if len(found) != 1:
        names = ", ".join(file.name for file in found) or "none"
        raise InputError(
            f"{path}: the image ids of its {rows} rows lie in a pickle {{image id: row}}; in the same folder are "
            f"{names} that fit: put exactly that one beside the file"
        )
    return found[0]


def _is_index(file: Path, rows: int) -> bool:
    if not file.is_file() or file.stat().st_size > _LARGEST_INDEX:
        return False
    with file.open("rb") as opened:
        if opened.read(1) not in (b"\x80", b"(", b"}"):
            return False
    try:
        content = restricted_pickle.loads(file.read_bytes(), str(file))
    except InputError:
        return False  # a pickle of something else may lie there; if it is the index, none is found
    return isinstance(content, dict) and sorted(content.values()) == list(range(rows))


@functools.lru_cache(maxsize=4)
def _ids_by_row(index: Path) -> list[str]:
    rows = restricted_pickle.loads(index.read_bytes(), str(index))
    return [fields.text(image_id, "image id", str(index)) for image_id in sorted(rows, key=rows.__getitem__)]
