"""Where many pictures come from: a folder, a list of files, a zip, or a TFDS data set, each picture read by itself."""

import collections
import dataclasses
import functools
import hashlib
import os
import pathlib
import re
import stat
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NoReturn, get_args

import numpy as np
import tensorflow_datasets as tfds

from vilbert_jax.data.annotations import data_folder, id_bytes, require_features, row_image_ids
from vilbert_jax.data.picture_files import PictureSource, read_picture
from vilbert_jax.data.region_files import find_folder, open_builder
from vilbert_jax.errors import InputError

ImageIds = Literal["names", "paths", "numbers"]

TFDS_PREFIX = "TFDS:"
_SOURCES = f"name a folder, a text file with one path a line, a zip, one picture, or {TFDS_PREFIX}NAME/CONFIG"
# Of files that are taken for pictures, in any case. Pillow cannot read HEIC by itself; such files are to be listed, not
# passed over.
ENDINGS = frozenset({
    ".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".pnm",
    ".ppm", ".tif", ".tiff", ".webp",
})  # fmt: skip
_MAX_FILE_BYTES = 1 << 30  # of one picture in a zip, which is unpacked in memory
_END_BYTES = 4096  # of a file's ends, by which its content is known
_MISSING = "missing"  # state of what is no file that can be read
_NUM_LOOKING = 16  # threads that look at files; folders are often on a network


@dataclasses.dataclass(frozen=True)
class PictureSet:
    """Pictures in a fixed order, each read when it is asked for, from any thread.

    Attributes:
        image_ids: one each, all different.
        names: where each lies within its source.
        states: a short text each, which another content changes and a copy of the file does not; found without
            opening pictures.
        load: number -> what ``read_picture`` reads.
    """

    image_ids: tuple[str, ...]
    names: tuple[str, ...]
    states: tuple[str, ...]
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
        ids, names, states = (
            tuple(all_of[number] for number in kept) for all_of in (self.image_ids, self.names, self.states)
        )
        return PictureSet(ids, names, states, lambda number: self.load(kept[number]))


def open_pictures(
    source: str, image_ids: ImageIds = "names", *, data_dir: str | os.PathLike[str] | None = None
) -> PictureSet:
    """The pictures of whatever ``source`` names; no picture is opened yet.

    Args:
        source: a folder (with all folders in it), a text file with one path a line (relative to its own folder), a zip,
            one picture, or ``TFDS:NAME/CONFIG`` (all splits). Links are followed.
        image_ids: ``names``: the file's name without folders and ending; ``paths``: the path without ending, folders
            separated by "/"; ``numbers``: the number that the name ends with. A TFDS set has ids of its own.
        data_dir: TFDS folder, by default TFDS's own.

    Raises:
        InputError: there is no such source, it has no pictures, a folder in it cannot be listed, or two of them would
            have one id.
    """
    if image_ids not in get_args(ImageIds):
        raise InputError(f"image_ids is {image_ids!r}; use one of {', '.join(get_args(ImageIds))}")
    if not source:  # which would be the working folder
        raise InputError(f"the source of pictures is an empty text: {_SOURCES}")
    if source.startswith(TFDS_PREFIX):
        return _tfds_pictures(source.removeprefix(TFDS_PREFIX), image_ids, data_dir)
    path = pathlib.Path(source).expanduser()
    if path.is_dir():
        return _files(path, _below(path), image_ids)
    if not path.is_file():
        raise InputError(f"there is no {path}: {_SOURCES}")
    if path.suffix.lower() in ENDINGS:
        return _files(path.parent, [path.name], image_ids)
    if zipfile.is_zipfile(path):
        return _zipped(path, image_ids)
    return _files(path.parent, _listed(path), image_ids)


def _below(root: pathlib.Path) -> list[str]:
    """Paths of picture files below a folder, sorted; nothing whose name begins with a dot."""
    found, others = [], 0
    for folder, files in _folders(root):
        for name in files:
            if name.startswith("."):
                continue
            if pathlib.PurePath(name).suffix.lower() in ENDINGS:
                found.append((folder / name).relative_to(root).as_posix())
            else:
                others += 1
    if not found:
        raise InputError(
            f"{root} has no pictures, and {others} other files; files count as pictures by their endings: "
            f"{' '.join(sorted(ENDINGS))}"
        )
    return sorted(found)


def _folders(root: pathlib.Path) -> Iterator[tuple[pathlib.Path, list[str]]]:
    """All folders from this one on and the names of their files; each once, by its own path if it has one below."""
    seen: set[tuple[int, int]] = set()
    tops = collections.deque([root])
    while tops:
        for at, folders, files in os.walk(tops.popleft(), onerror=_cannot_list):
            folder, found = pathlib.Path(at), os.stat(at)
            if (found.st_dev, found.st_ino) in seen:
                folders.clear()
                continue
            seen.add((found.st_dev, found.st_ino))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            tops.extend(folder / name for name in folders if os.path.islink(folder / name))  # walk leaves them out
            yield folder, files


def _cannot_list(error: OSError) -> NoReturn:
    raise InputError(
        f"the folder {error.filename} cannot be listed ({error.strerror or error}): allow reading it, or move it away"
    ) from error


def _listed(file: pathlib.Path) -> list[str]:
    """The lines of a text file; what they name is not looked at yet."""
    try:
        lines = [line.strip(" \t") for line in file.read_text(encoding="utf-8-sig").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{file} cannot be read as a list of pictures ({error}): expected a text file in UTF-8 with one path a "
            "line, a zip, a folder or a picture"
        ) from error
    if not any(lines):
        raise InputError(f"{file} names no pictures; write one path a line")
    return [os.path.expanduser(line) for line in lines if line]


def _files(root: pathlib.Path, names: Sequence[str], mode: ImageIds) -> PictureSet:
    paths = [root / name for name in names]
    image_ids, readable = _named(names, mode)
    with ThreadPoolExecutor(_NUM_LOOKING, thread_name_prefix="looking") as pool:
        states = tuple(pool.map(_file_state, paths))
    return PictureSet(image_ids, readable, states, lambda number: paths[number])


def _file_state(path: pathlib.Path) -> str:
    """Its size and a hash of both ends, in which other pictures are nearly always other."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # a pipe would never open
            return _MISSING
        with path.open("rb", buffering=0) as file:
            digest = hashlib.sha256(file.read(_END_BYTES))
            file.seek(max(found.st_size - _END_BYTES, 0))
            digest.update(file.read(_END_BYTES))
    except (OSError, ValueError):  # ValueError: of names that no file can have; reading it will say so
        return _MISSING
    return f"{found.st_size} {digest.hexdigest()[:16]}"


def _zipped(path: pathlib.Path, mode: ImageIds) -> PictureSet:
    try:
        archive = zipfile.ZipFile(path)  # open as long as its pictures are in use; reading takes its own lock
    except Exception as error:  # as in _unpacked
        raise InputError(f"{path} cannot be read as a zip ({error}); copy it again") from error
    members = [info for info in archive.infolist() if not info.is_dir()]
    infos = sorted((info for info in members if _is_picture(info.filename)), key=lambda info: info.filename)
    if not infos:
        raise InputError(f"{path} has no pictures among its {len(members)} files; they are known by their endings")
    image_ids, readable = _named([info.filename for info in infos], mode)
    states = tuple(f"{info.file_size} {info.CRC:08x}" for info in infos)
    return PictureSet(image_ids, readable, states, lambda number: _unpacked(archive, infos[number]))


def _is_picture(member: str) -> bool:
    path = pathlib.PurePosixPath(member)
    return path.suffix.lower() in ENDINGS and not any(part.startswith((".", "__MACOSX")) for part in path.parts)


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.file_size > _MAX_FILE_BYTES:
        raise InputError(f"{info.filename}: has {info.file_size} bytes when unpacked; the limit is {_MAX_FILE_BYTES}")
    try:
        return archive.read(info)
    except Exception as error:  # damaged, encrypted, packed by an unknown method: each has an error of its own
        raise InputError(f"{info.filename}: cannot be unpacked ({error}); make the zip again") from error


def _tfds_pictures(name: str, mode: ImageIds, data_dir: str | os.PathLike[str] | None) -> PictureSet:
    folder = find_folder(data_folder(data_dir) / name, kind="data set of pictures")
    builder = open_builder(folder)
    rows: Any = builder.as_data_source("+".join(builder.info.splits), decoders={"image": tfds.decode.SkipDecoding()})  # pyright: ignore[reportCallIssue]: TFDS's decorator hides it
    require_features(rows, name, ("image_id", "image"))
    names = [image_id.decode() for image_id in id_bytes(row_image_ids(rows)).tolist()]
    image_ids = [_number(image_id) for image_id in names] if mode == "numbers" else names
    _check_different(image_ids, names, other_ids=("names", names))
    states = (builder.info.full_name,) * len(names)  # another content has another version
    return PictureSet(tuple(image_ids), tuple(names), states, functools.partial(_row_picture, rows))


def _row_picture(rows: Any, number: int) -> bytes:
    try:
        return rows[number]["image"]
    except (RuntimeError, ValueError, OSError) as error:
        raise InputError(f"row {number} of the data set cannot be read ({error}); build it again") from error


def _named(names: Sequence[str], mode: ImageIds) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Image ids, all different, and the names as text that can be written.

    Raises:
        InputError: two have one id, or a name does not end with the number that is asked for.
    """
    readable = tuple(printable(name) for name in names)
    image_ids = tuple(_image_id(name, mode) for name in readable)
    _check_different(image_ids, readable, other_ids=("paths", [_image_id(name, "paths") for name in readable]))
    return image_ids, readable


def _image_id(name: str, mode: ImageIds) -> str:
    path = pathlib.PurePosixPath(name)
    if mode == "paths":
        return (path.parent / path.stem).as_posix().lstrip("/")
    if mode == "names":
        return path.stem
    return _number(path.stem)


def _number(name: str) -> str:
    found = re.search(r"[0-9]+\Z", name)
    if not found:
        raise InputError(f"{name} does not end with a number; choose --image_ids=names or paths")
    return found[0].lstrip("0") or "0"


def _check_different(
    image_ids: Sequence[str], names: Sequence[str], *, other_ids: tuple[ImageIds, Sequence[str]]
) -> None:
    """Raises InputError for two pictures of one id; ``other_ids`` are those that another choice would give."""
    first: dict[str, str] = {}
    clashes = []
    for image_id, name in zip(image_ids, names, strict=True):
        if image_id in first:
            clashes.append((image_id, name))
        first.setdefault(image_id, name)
    if not clashes:
        return
    image_id, name = clashes[0]
    mode, others = other_ids
    helps = len(set(others)) == len(others)
    remedy = f"tell them apart with --image_ids={mode}" if helps else "leave out or rename one of each two"
    count = f" ({len(clashes)} of {len(names)} pictures have the id of an earlier one)" if len(clashes) > 1 else ""
    raise InputError(
        f"{first[image_id]} and {name} both have the image id {image_id!r}{count}, and a store holds one picture an "
        f"id: {remedy}"
    )


def printable(name: str) -> str:
    """A file's name as text that can be written; zero bytes and what is no UTF-8 are spelled out."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace").replace("\0", "\\x00")
