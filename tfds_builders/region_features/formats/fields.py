"""Single values of a record: numbers as text, arrays as base64 or arrays. Errors name file, record and field."""

import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfds_builders.region_features.dump import RawRecord
from vilbert_jax.errors import InputError


def require(row: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    """Raises InputError if the row lacks one of the fields."""
    if missing := [name for name in names if name not in row]:
        raise InputError(f"{where}: lacks {', '.join(missing)}; it has {', '.join(map(str, row)) or 'nothing'}")


def text(value: Any, name: str, where: str) -> str:
    """Text, or a number that serves as a name."""
    if isinstance(value, np.ndarray) and value.size == 1:
        value = value.item()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise InputError(f"{where}: {name} is {value[:40]!r}; expected UTF-8 text") from error
    if isinstance(value, str | int) and not isinstance(value, bool):
        return str(value)
    raise InputError(f"{where}: {name} is {value!r}; expected text")


def integer(value: Any, name: str, where: str) -> int:
    """An integer written as number, text or array of one."""
    if isinstance(value, np.ndarray | np.generic) and value.size == 1:
        value = value.item()
    try:
        number = int(value)
        if isinstance(value, float) and number != value:
            raise ValueError
    except (TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where}: {name} is {str(value)[:40]!r}; expected an integer") from error
    return number


def matrix(value: Any, name: str, where: str, *, rows: int | None = None, columns: int | None = None) -> np.ndarray:
    """[n,columns] from base64 of little-endian float32, or from an array.

    Args:
        value: text or bytes are base64; anything else is an array already.
        name: of the field.
        where: file and record.
        rows: n where it is known.
        columns: where they are known; without either the shape of an array is kept.
    """
    encoded = isinstance(value, str | bytes)
    try:
        array = np.frombuffer(_base64(value, name, where), "<f4") if encoded else np.asarray(value)
    except InputError:
        raise
    except (TypeError, ValueError) as error:  # lists of unlike lengths
        raise InputError(f"{where}: {name} is no array ({error})") from error
    if array.dtype.kind not in "fiu":
        raise InputError(f"{where}: {name} holds {array.dtype}; expected numbers")
    if array.ndim == 2 and rows in (None, len(array)) and columns in (None, array.shape[1]):
        return array
    width = columns if columns is not None else (array.size // rows if rows else 0)
    height = rows if rows is not None else (array.size // width if width else 0)
    if array.size != width * height or not (encoded or array.ndim == 1):
        found = f"{array.size} numbers" if array.ndim == 1 else f"shape {array.shape}"
        shape = f"{'n' if rows is None else rows} x {'any width' if columns is None else columns}"
        raise InputError(f"{where}: {name} has {found}; expected {shape}: the record is cut off or of another format")
    return array.reshape(height, width)


def _base64(value: str | bytes, name: str, where: str) -> bytes:
    try:
        content = binascii.a2b_base64(value, strict_mode=True)
        if len(content) % 4:
            raise ValueError(f"{len(content)} bytes are no float32 numbers")
    except ValueError as error:  # binascii.Error is one; text that is not ASCII is another
        raise InputError(f"{where}: {name} is no whole base64 text ({error}); copy the file again") from error
    return content


def boxes_record(
    image_id: str, row: Mapping[str, Any], where: str, *, count: int | None, width: str, height: str
) -> RawRecord:
    """The record of a row with boxes, features and perhaps cls_prob, as most formats have them.

    Args:
        image_id: the picture.
        row: the fields.
        where: file and record.
        count: the number of boxes that the row states; None where it is not to be relied on.
        width: name of the field with the picture's width.
        height: likewise.
    """
    require(row, ("boxes", "features", width, height), where)
    boxes = matrix(row["boxes"], "boxes", where, rows=count, columns=4)
    probabilities = row.get("cls_prob")
    return RawRecord(
        image_id,
        where,
        integer(row[width], width, where),
        integer(row[height], height, where),
        boxes,
        matrix(row["features"], "features", where, rows=len(boxes)),
        None if probabilities is None else matrix(probabilities, "cls_prob", where, rows=len(boxes)),
    )
