"""checksums.json: size and CRC-32 of the files of a data set as they were built, to know later that none has changed.

A CRC finds what discs and copies do to files. It does not protect from somebody who changes them on purpose.
"""

import concurrent.futures
import json
import os
import pathlib
import zlib
from typing import NamedTuple

from etils import epath

from vilbert_jax.errors import InputError

CHECKSUMS_FILE = "checksums.json"
_CHUNK = 1 << 22
_READERS = 8  # zlib computes outside the interpreter's lock


class FileSum(NamedTuple):
    """What is known of one file."""

    num_bytes: int
    crc32: str  # eight hexadecimal digits


def file_sum(path: pathlib.Path | epath.Path) -> FileSum:
    """Reads a whole file; raises OSError if that fails."""
    crc, num_bytes = 0, 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            crc = zlib.crc32(chunk, crc)
            num_bytes += len(chunk)
    return FileSum(num_bytes, f"{crc:08x}")


def write_checksums(folder: str | os.PathLike[str]) -> None:
    """Writes checksums.json for the shards and indexes in the folder of a data set that is being built.

    To be called last, before TFDS renames the folder. TFDS's own .json files are written after that and not covered.
    """
    paths = sorted(path for path in epath.Path(folder).iterdir() if path.is_file() and path.suffix != ".json")
    with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
        sums = pool.map(file_sum, paths)
        files = {path.name: found._asdict() for path, found in zip(paths, sums, strict=True)}
    (epath.Path(folder) / CHECKSUMS_FILE).write_text(json.dumps({"files": files}, indent=1))


def read_checksums(folder: pathlib.Path) -> dict[str, FileSum] | None:
    """File name -> what it was when built; None for a data set that was built without checksums.

    Raises:
        InputError: checksums.json itself is damaged.
    """
    file = folder / CHECKSUMS_FILE
    if not file.exists():
        return None
    try:
        files = json.loads(file.read_bytes())["files"]
        return {name: FileSum(int(known["num_bytes"]), str(known["crc32"])) for name, known in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{CHECKSUMS_FILE} is damaged ({error})") from error
