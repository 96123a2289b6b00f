"""Reads the official files of Conceptual Captions: lines of caption, tab, URL, and no quoting of any kind.

A CSV reader would take a caption's quotation mark for the begin of a quoted field and swallow the lines up to the
next one, and pandas reads the captions ``null`` and ``nan`` as missing. Here a line is split at its tabs, and that is
all.
"""

import gzip
import hashlib
import zlib
from array import array
from collections.abc import Iterator
from typing import IO, NamedTuple, cast

import numpy as np
from etils import epath

from vilbert_jax.errors import InputError

OFFICIAL_NAMES = {"train": "Train_GCC-training.tsv", "validation": "Validation_GCC-1.1.0-Validation.tsv"}
INSTRUCTIONS = (
    f"Download {' and '.join(OFFICIAL_NAMES.values())} from https://ai.google.com/research/ConceptualCaptions/download "
    "and put both into the manual folder"
)
PUBLISHED_ROWS = {"train": 3_318_333, "validation": 15_840}

_MARKS = {"train": "train", "validation": "val"}  # what file names people give have in common
_LABELLED = "label"  # the labelled subset: the same first two columns, then labels, machine ids and confidences
_COLUMNS = (2, 5)
_GZIP = b"\x1f\x8b"
_UTF8_MARK = b"\xef\xbb\xbf"
_HEADERS = ((b"caption", b"url"), (b"caption", b"image_url"))  # img2dataset asks for a header; the files have none


class Row(NamedTuple):
    """One line of a file."""

    caption: str
    url: str


class Scan(NamedTuple):
    """What one reading of a whole file tells; N rows.

    Attributes:
        path: the file.
        image_ids: [N] uint32, CRC-32 of each URL.
        fingerprints: [N] uint64, 64 bits of another hash of each URL, to tell URLs of one CRC apart.
        starts: byte (of the unpacked file) at which every ``rows_a_part``-th row starts.
        num_bytes: size of the unpacked file.
        sha256: of the unpacked file.
    """

    path: epath.Path
    image_ids: np.ndarray
    fingerprints: np.ndarray
    starts: list[int]
    num_bytes: int
    sha256: str


def find(folder: epath.Path, split: str) -> epath.Path:
    """The file of a split: under its official name, or the only one that is named like it; packed with gzip or not.

    Raises:
        InputError: none, or several that could be it.
    """
    official = OFFICIAL_NAMES[split]
    names = sorted(path.name for path in folder.iterdir() if path.name.lower().endswith((".tsv", ".tsv.gz")))
    named = [name for name in names if _MARKS[split] in name.lower()]
    unlabelled = [name for name in named if _LABELLED not in name.lower()]
    for candidates in ([official], [f"{official}.gz"], unlabelled, named):
        found = [name for name in candidates if name in names]
        if len(found) > 1:
            raise InputError(
                f"{folder}: {', '.join(found)} could each be the {split} file; leave one, or name it {official}"
            )
        if found:
            return folder / found[0]
    raise InputError(
        f"{folder} has no {split} file of Conceptual Captions; it has {', '.join(names) or 'no .tsv file at all'}. "
        f"{INSTRUCTIONS}"
    )


def scan(path: epath.Path, rows_a_part: int) -> Scan:
    """Reads a file once, checking every line; keeps 12 bytes a row.

    Raises:
        InputError: naming the file and the first line that is not a caption and a URL.
    """
    image_ids, fingerprints, starts = array("I"), array("Q"), []
    digest, position = hashlib.sha256(), 0
    for number, line in enumerate(_lines(path, 0)):
        digest.update(line)
        if not number and line.startswith(_UTF8_MARK):  # editors on Windows put it there
            line, position = line.removeprefix(_UTF8_MARK), len(_UTF8_MARK)
        if number or not _is_header(path, line):
            if len(image_ids) % rows_a_part == 0:
                starts.append(position)
            url = parse(line, f"{path}:{number + 1}").url.encode()
            image_ids.append(zlib.crc32(url))
            fingerprints.append(int.from_bytes(hashlib.blake2b(url, digest_size=8).digest(), "little"))
        position += len(line)
    if not image_ids:
        raise InputError(f"{path} has no rows: download it again")
    return Scan(
        path,
        np.frombuffer(image_ids, np.uint32),
        np.frombuffer(fingerprints, np.uint64),
        starts,
        position,
        digest.hexdigest(),
    )


def read(path: epath.Path, start: int, count: int) -> Iterator[Row]:
    """Yields ``count`` rows from a byte of ``Scan.starts`` on."""
    for _, line in zip(range(count), _lines(path, start), strict=False):
        yield parse(line, f"{path}, after byte {start}")


def parse(line: bytes, where: str) -> Row:
    """One line, its end included, to its caption and URL; both exactly as they stand there.

    Raises:
        InputError: beginning with ``where``.
    """
    try:
        columns = line.removesuffix(b"\n").removesuffix(b"\r").decode().split("\t")
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 ({error}); download the file again") from error
    if len(columns) not in _COLUMNS:
        raise InputError(
            f"{where}: {len(columns)} column(s) separated by tabs; expected caption and URL (with labels, 5 columns): "
            f"{_shown(line)}"
        )
    caption, url = columns[:2]
    if not caption.strip() or not url.strip():
        raise InputError(f"{where}: the {'URL' if caption.strip() else 'caption'} is empty: {_shown(line)}")
    return Row(caption, url)


def _is_header(path: epath.Path, line: bytes) -> bool:
    """Whether the first line names the columns, in the right order.

    Raises:
        InputError: the columns stand the other way round.
    """
    first, second, *_ = (*line.strip().lower().split(b"\t"), b"", b"")
    if (second, first) in _HEADERS or (b"://" in first and b"://" not in second):
        raise InputError(f"{path}:1: the URL stands first; expected caption, tab, URL: exchange the columns")
    return (first, second) in _HEADERS


def _lines(path: epath.Path, start: int) -> Iterator[bytes]:
    """Lines from a byte on, their ends included. Only a line feed ends a line."""
    with path.open("rb") as file:
        packed = file.read(len(_GZIP)) == _GZIP
        file.seek(0)
        lines = cast(IO[bytes], gzip.GzipFile(fileobj=file) if packed else file)  # epath: of text or of bytes
        try:
            lines.seek(start)
            yield from lines
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise InputError(f"{path} is damaged ({error}): download it again") from error


def _shown(line: bytes) -> str:
    return repr(line[:80].decode(errors="replace")) + ("…" if len(line) > 80 else "")
