"""Where many pictures come from: a folder, a list of files, a zip, or a TFDS data set, each picture read by itself."""

import dataclasses
import functools
import os
import pathlib
import re
import zipfile
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, get_args

import numpy as np
import tensorflow_datasets as tfds

from vilbert_jax.data.annotations import data_folder, id_bytes, require_features, row_image_ids
from vilbert_jax.data.picture_files import PictureSource, read_picture
from vilbert_jax.data.region_files import find_folder, open_builder
from vilbert_jax.errors import InputError

ImageIds = Literal["names", "paths", "numbers"]

TFDS_PREFIX = "TFDS:"
# Of files that are taken for pictures, in any case. Pillow cannot read HEIC by itself; such files are to be listed, not
# passed over.
ENDINGS = frozenset({
    ".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm",
    ".ppm", ".tif", ".tiff", ".webp",
})  # fmt: skip
_MAX_FILE_BYTES = 1 << 30  # of one picture in a zip, which is unpacked in memory


@dataclasses.dataclass(frozen=True)
class PictureSet:
    """Pictures in a fixed order, each read when it is asked for, from any thread.

    Attributes:
        image_ids: one each, all different.
        names: where each lies within its source.
        load: number -> what ``read_picture`` reads.
    """

    image_ids: tuple[str, ...]
    names: tuple[str, ...]
    load: Callable[[int], PictureSource]

    def __len__(self) -> int:
        """Number of pictures."""
        return len(self.names)

    def read(self, number: int) -> np.ndarray:
        """One picture, [H, W, 3] uint8, RGB, upright.

        Raises:
            InputError: it cannot be read.
        """
        return read_picture(self.load(number))

    def only(self, image_ids: Collection[str]) -> "PictureSet":
        """Those of the pictures that have one of the ids, in their order."""
        kept = [number for number, image_id in enumerate(self.image_ids) if image_id in image_ids]
        ids, names = ([all_of[number] for number in kept] for all_of in (self.image_ids, self.names))
        return PictureSet(tuple(ids), tuple(names), lambda number: self.load(kept[number]))


def open_pictures(
    source: str, image_ids: ImageIds = "names", *, data_dir: str | os.PathLike[str] | None = None
) -> PictureSet:
    """The pictures of whatever ``source`` names; no picture is opened yet.

    Args:
        source: a folder (with all folders in it), a text file with one path a line (relative to its own folder), a zip,
            one picture, or ``TFDS:NAME/CONFIG`` (all splits).
        image_ids: ``names``: the file's name without folders and ending; ``paths``: the path without ending, folders
            separated by "/"; ``numbers``: the number that the name ends with. A TFDS set has ids of its own.
        data_dir: TFDS folder, by default TFDS's own.

    Raises:
        InputError: there is no such source, it has no pictures, or two of them would have one id.
    """
    if image_ids not in get_args(ImageIds):
        raise InputError(f"image_ids is {image_ids!r}; use one of {', '.join(get_args(ImageIds))}")
    if source.startswith(TFDS_PREFIX):
        return _tfds_pictures(source.removeprefix(TFDS_PREFIX), image_ids, data_dir)
    path = pathlib.Path(source).expanduser()
    if path.is_dir():
        return _files(path, _below(path), image_ids)
    if not path.is_file():
        raise InputError(
            f"there is no {path}: name a folder, a text file with one path a line, a zip, or {TFDS_PREFIX}NAME/CONFIG"
        )
    if path.suffix.lower() in ENDINGS:
        return _files(path.parent, [path.name], image_ids)
    if zipfile.is_zipfile(path):
        return _zipped(path, image_ids)
    return _files(path.parent, _listed(path), image_ids)


def _below(folder: pathlib.Path) -> list[str]:
    """Paths of picture files below a folder, sorted; nothing whose name begins with a dot."""
    found, others = [], 0
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).parts
        if any(part.startswith(".") for part in parts) or path.is_dir():
            continue
        if path.suffix.lower() in ENDINGS:
            found.append("/".join(parts))
        else:
            others += 1
    if not found:
        raise InputError(
            f"{folder} has no pictures, and {others} other files; files count as pictures by their endings: "
            f"{' '.join(sorted(ENDINGS))}"
        )
    return sorted(found)


def _listed(file: pathlib.Path) -> list[str]:
    """The lines of a text file; what they name is not looked at yet."""
    try:
        lines = [line.strip() for line in file.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file} cannot be read as a list of pictures ({error}): expected a text file with one path a line, a zip, "
            "a folder or a picture"
        ) from error
    if not any(lines):
        raise InputError(f"{file} names no pictures; write one path a line")
    return [line for line in lines if line]


def _files(root: pathlib.Path, names: Sequence[str], mode: ImageIds) -> PictureSet:
    return _picture_set(names, mode, lambda number: root / names[number])


def _zipped(path: pathlib.Path, mode: ImageIds) -> PictureSet:
    archive = zipfile.ZipFile(path)  # open as long as its pictures are in use; reading takes its own lock
    members = [info.filename for info in archive.infolist() if not info.is_dir()]
    names = sorted(
        name
        for name in members
        if pathlib.PurePosixPath(name).suffix.lower() in ENDINGS
        and not any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
    )
    if not names:
        raise InputError(f"{path} has no pictures among its {len(members)} files; they are known by their endings")
    return _picture_set(names, mode, lambda number: _unpacked(archive, names[number]))


def _unpacked(archive: zipfile.ZipFile, name: str) -> bytes:
    size = archive.getinfo(name).file_size
    if size > _MAX_FILE_BYTES:
        raise InputError(f"{name}: has {size} bytes when unpacked; the limit is {_MAX_FILE_BYTES}")
    try:
        return archive.read(name)
    except Exception as error:  # damaged, encrypted, packed by an unknown method: each has an error of its own
        raise InputError(f"{name}: cannot be unpacked ({error}); make the zip again") from error


def _tfds_pictures(name: str, mode: ImageIds, data_dir: str | os.PathLike[str] | None) -> PictureSet:
    folder = find_folder(data_folder(data_dir) / name, kind="data set of pictures")
    builder = open_builder(folder)
    rows: Any = builder.as_data_source("+".join(builder.info.splits), decoders={"image": tfds.decode.SkipDecoding()})  # pyright: ignore[reportCallIssue]: TFDS's decorator hides it
    require_features(rows, name, ("image_id", "image"))
    names = [image_id.decode() for image_id in id_bytes(row_image_ids(rows)).tolist()]
    image_ids = [_number(image_id) for image_id in names] if mode == "numbers" else names
    return PictureSet(_all_different(image_ids, names), tuple(names), functools.partial(_row_picture, rows))


def _row_picture(rows: Any, number: int) -> bytes:
    try:
        return rows[number]["image"]
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(f"row {number} of the data set cannot be read ({error}); build it again") from error


def _picture_set(names: Sequence[str], mode: ImageIds, load: Callable[[int], PictureSource]) -> PictureSet:
    readable = [printable(name) for name in names]
    return PictureSet(_all_different([_image_id(name, mode) for name in readable], readable), tuple(readable), load)


def _image_id(name: str, mode: ImageIds) -> str:
    path = pathlib.PurePosixPath(name)
    if mode == "paths":
        return (path.parent / path.stem).as_posix().lstrip("/")
    if mode == "names":
        return path.stem
    return _number(path.stem)


def _number(name: str) -> str:
    found = re.search(r"\d+$", name)
    if not found:
        raise InputError(f"{name} does not end with a number; choose --image_ids=names or paths")
    return str(int(found[0]))


def _all_different(image_ids: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    first: dict[str, str] = {}
    for image_id, name in zip(image_ids, names, strict=True):
        if image_id in first:
            raise InputError(
                f"{first[image_id]} and {name} both have the image id {image_id!r}, and a store holds one picture an "
                "id: leave one out, or tell them apart with --image_ids=paths"
            )
        first[image_id] = name
    return tuple(image_ids)


def printable(name: str) -> str:
    """A file's name as text that can be written; bytes that are no UTF-8 are spelled out."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
