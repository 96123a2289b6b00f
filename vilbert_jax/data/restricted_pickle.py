"""Reads pickles and .npy files of strangers: numpy arrays, plain containers, numbers and text. Nothing else, ever.

A pickle is a program. This reader runs the part of it that puts data together and refuses every callable that is not
named below, before anything of it has run. Not even numpy's own reconstruction functions are reachable: with a forged
dtype they would turn bytes into object pointers. Stand-ins note what the pickle says about an array, check it, and
build the array from bytes.
"""

import collections
import io
import math
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from vilbert_jax.errors import InputError

_TYPE_CODE = re.compile(r"[<>=|]?(?:[biuf]\d{1,2}|[SUV]\d+|[?]|b1|O8?)")
_NPY_MAGIC = b"\x93NUMPY"


def loads(data: bytes, where: str) -> Any:
    """Reads one pickle, Python 2's included (its byte strings come as latin-1 text).

    Args:
        data: the pickle, of any protocol.
        where: file and record, for messages.

    Returns:
        What was pickled, made of dict, OrderedDict, list, tuple, set, text, bytes, numbers, None and numpy arrays.

    Raises:
        InputError: the pickle asks for anything else (nothing of it has run), or is damaged.
    """
    try:
        return _arrays(_Unpickler(data, where).load())
    except InputError:
        raise
    except Exception as error:  # damaged or hostile bytes make the unpickler fail in every way there is
        raise InputError(f"{where}: damaged pickle ({type(error).__name__}: {error}); copy the file again") from error


def read_npy(data: bytes, where: str) -> Any:
    """Reads the content of a .npy file; an object array is read as `loads` reads.

    Returns:
        An array, or the object itself where the file holds an object array without dimensions.

    Raises:
        InputError: no .npy file, a damaged one, or one with objects that `loads` refuses.
    """
    file = io.BytesIO(data)
    try:
        version = np.lib.format.read_magic(file)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        shape, fortran_order, dtype = readers[version](file)
    except Exception as error:  # the header is parsed as Python, whose tokenizer has errors of its own
        raise InputError(f"{where}: no .npy file that can be read ({error}); copy the file again") from error
    if dtype.kind == "O" and not dtype.shape:
        value = loads(data[file.tell() :], where)
        return value.item() if isinstance(value, np.ndarray) and value.shape == () else value
    if dtype.hasobject or dtype.names:
        raise InputError(f"{where}: an array of {dtype}; expected numbers, text, or one pickled object")
    array = _from_bytes(data[file.tell() :], dtype, shape, fortran_order, where)
    return array if shape else array.item()


def is_npy(data: bytes) -> bool:
    """Whether a file that starts with `data` is a .npy file."""
    return data.startswith(_NPY_MAGIC)


class _DType:
    """What a pickle says of a dtype."""

    def __init__(self, code: Any, where: str):
        if isinstance(code, bytes):
            code = code.decode("latin1")
        if not isinstance(code, str) or not _TYPE_CODE.fullmatch(code):
            raise InputError(f"{where}: the pickle asks for the array type {code!r}; only numbers and text are read")
        self.dtype = np.dtype(code)
        self._where = where

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, order, subtype, names, fields = state[:5]
        order = order.decode() if isinstance(order, bytes) else order
        if subtype is not None or names is not None or fields is not None or order not in ("<", ">", "=", "|"):
            raise InputError(f"{self._where}: the pickle holds a structured array; only numbers and text are read")
        if order in ("<", ">"):
            self.dtype = self.dtype.newbyteorder(order)


class _Array:
    """What a pickle says of an array; `array` replaces it in the end."""

    def __init__(self, where: str):
        self.array = np.zeros(0, np.int8)
        self._where = where

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        shape, kind, fortran_order, content = state[-4:]  # before them: a version, absent in the oldest pickles
        if kind.dtype.kind != "O":
            content = content.encode("latin1") if isinstance(content, str) else bytes(content)
            self.array = _from_bytes(content, kind.dtype, shape, fortran_order, self._where)
            return
        if not isinstance(content, list) or len(content) != math.prod(shape):
            raise InputError(f"{self._where}: a pickled object array does not hold what its shape {shape} says")
        self.array = np.empty(len(content), object)
        for index, item in enumerate(content):
            self.array[index] = item
        self.array = self.array.reshape(shape, order="F" if fortran_order else "C")


class _Unpickler(pickle.Unpickler):
    def __init__(self, data: bytes, where: str):
        super().__init__(io.BytesIO(data), encoding="latin1")
        self._where = where

    def find_class(self, module: str, name: str, /) -> Any:
        # Bound methods are handed out, not functions: a pickle can set attributes of what it was given.
        known: dict[tuple[str, str], Any] = {
            ("numpy", "ndarray"): "ndarray",  # only ever an argument of _reconstruct
            ("numpy", "dtype"): self._dtype,
            ("collections", "OrderedDict"): collections.OrderedDict,
            ("_codecs", "encode"): self._encode,
        }
        for builtins in ("builtins", "__builtin__"):  # Python 3 and 2
            known[builtins, "bytes"] = self._empty_bytes
            known[builtins, "set"] = set
            known[builtins, "frozenset"] = frozenset
        for package in ("numpy.core", "numpy._core"):
            known[package + ".multiarray", "_reconstruct"] = self._reconstruct
            known[package + ".multiarray", "scalar"] = self._scalar
            known[package + ".numeric", "_frombuffer"] = self._from_buffer
        if (module, name) not in known:
            raise InputError(
                f"{self._where}: the pickle asks for {module}.{name}, which could run code; it was not run. Only numpy "
                "arrays and plain containers are read: get the file from a source you trust, or convert it"
            )
        return known[module, name]

    def _dtype(self, code: Any, align: Any = False, copy: Any = True) -> _DType:
        del align, copy
        return _DType(code, self._where)

    def _reconstruct(self, subtype: Any, shape: Any, code: Any) -> _Array:
        del subtype, shape, code  # what follows says it again
        return _Array(self._where)

    def _scalar(self, kind: _DType, content: Any) -> Any:
        content = content.encode("latin1") if isinstance(content, str) else bytes(content)
        return _from_bytes(content, kind.dtype, (), False, self._where).item()

    def _from_buffer(self, content: Any, kind: _DType, shape: Any, order: str) -> _Array:
        made = _Array(self._where)
        made.array = _from_bytes(bytes(content), kind.dtype, shape, order == "F", self._where)
        return made

    def _encode(self, text: str, encoding: str) -> bytes:
        if encoding != "latin1":
            raise InputError(f"{self._where}: the pickle encodes bytes as {encoding!r}; expected latin1")
        return text.encode("latin1")

    def _empty_bytes(self) -> bytes:
        return b""


def _from_bytes(content: bytes, dtype: np.dtype, shape: Any, fortran_order: Any, where: str) -> np.ndarray:
    shape = tuple(int(side) for side in shape)
    size = math.prod(shape) * dtype.itemsize
    if dtype.hasobject or min(shape, default=0) < 0 or size != len(content):
        raise InputError(
            f"{where}: an array of {dtype} with shape {shape} takes {size} bytes, there are {len(content)}; "
            "the file is cut off or damaged, copy it again"
        )
    return np.frombuffer(content, dtype).reshape(shape, order="F" if fortran_order else "C")


def _arrays(value: Any) -> Any:
    """Replaces what was noted of arrays by the arrays, in all containers."""
    if isinstance(value, _Array):
        value = value.array
        if value.dtype != object:
            return value
        filled = np.empty(value.size, object)
        for index, item in enumerate(value.ravel()):
            filled[index] = _arrays(item)
        return filled.reshape(value.shape)
    if isinstance(value, list | tuple):
        return type(value)(_arrays(item) for item in value)
    if isinstance(value, dict):
        return type(value)((key, _arrays(item)) for key, item in value.items())
    if isinstance(value, _DType | Callable):
        raise ValueError(f"a {type(value).__name__} where data should be")
    return value
