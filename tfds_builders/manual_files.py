"""What people downloaded by hand: the folder it lies in, JSON whose errors say where they are, numbers of rows."""

import json
import sys
from collections.abc import Callable
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from vilbert_jax.errors import InputError


def manual_folder(dl_manager: tfds.download.DownloadManager) -> epath.Path:
    """The folder given as --manual_dir.

    Raises:
        InputError: it is missing or empty.
    """
    try:
        return epath.Path(dl_manager.manual_dir)
    except AssertionError as error:  # TFDS's way to say so
        raise InputError(f"{error}\nName the folder with --manual_dir=DIR") from error


def parse_json(
    content: bytes, where: object, *, line: int = 1, object_hook: Callable[[dict[str, Any]], Any] | None = None
) -> Any:
    """Parses UTF-8 JSON.

    Args:
        content: a file, or one line of it.
        where: the file, for messages.
        line: number of the content's first line in the file, from 1.
        object_hook: as of `json.loads`.

    Raises:
        InputError: it is not UTF-8 or not JSON; with file, line and column.
    """
    try:
        return json.loads(content.decode("utf-8-sig"), object_hook=object_hook)
    except UnicodeDecodeError as error:
        line += content.count(b"\n", 0, error.start)
        raise InputError(f"{where}:{line}: not UTF-8 ({error.reason}); download the file again") from error
    except json.JSONDecodeError as error:
        raise InputError(
            f"{where}:{line + error.lineno - 1}:{error.colno}: not JSON ({error.msg}); download the file again"
        ) from error


def report_rows(split: str, found: int, published: int, what: str, path: object) -> None:
    """Says on stderr how many rows a file has, and warns if that is not the published number."""
    print(f"{split}: {found:,} {what} in {path}", file=sys.stderr)
    if found != published:
        print(f"warning: the published {split} file has {published:,} {what}", file=sys.stderr)


def report_absent_split(split: str, file: str, folder: object) -> None:
    """Says on stderr that a split is not built."""
    print(f"warning: {folder} has no {file}: there will be no split {split}", file=sys.stderr)


def is_text(value: Any) -> bool:
    """Whether a value read from JSON is text that can be stored; half of a surrogate pair cannot."""
    return isinstance(value, str) and (value.isascii() or not any("\ud800" <= char <= "\udfff" for char in value))


def is_count(value: Any) -> bool:
    """Whether a value read from JSON is a whole number from 0 that fits 64 bits."""
    return type(value) is int and 0 <= value < 2**63


def shown(value: Any) -> str:
    """A value as messages show it: as JSON, cut off."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:80]}…"
