"""Values of key-value dumps and files: restricted pickles, msgpack with numpy arrays, npz archives."""

import io
import zipfile
from typing import Any

import numpy as np

from tfds_builders.region_features import optional
from vilbert_jax.data import restricted_pickle
from vilbert_jax.errors import InputError

_ZIP_MAGIC = b"PK\x03\x04"


def unpack(data: bytes, where: str) -> Any:
    """Reads one packed value, whatever it is packed with.

    Raises:
        InputError: nothing that is known, damaged, or a pickle of more than data.
    """
    if data.startswith(_ZIP_MAGIC):
        return npz(data, where)
    if restricted_pickle.is_npy(data):
        return restricted_pickle.read_npy(data, where)
    first = data[0] if data else 0
    if 0x81 <= first <= 0x9F or 0xDC <= first <= 0xDF:  # a map or a list; 0x80, the empty map, begins a pickle
        return _msgpack(data, where)
    if first == 0x80 or data[:1] in (b"(", b"c", b"]", b"}"):
        return restricted_pickle.loads(data, where)
    raise InputError(
        f"{where}: a value that starts with {data[:8]!r}; expected a pickle, msgpack or npz (pyarrow is not read: "
        "write the file again with tensorpack's msgpack or pickle serializer)"
    )


def npz(data: bytes, where: str) -> dict[str, Any]:
    """The arrays of an .npz file by name; objects in it are read as restricted pickles."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            names = [name for name in archive.namelist() if name.endswith(".npy")]
            return {
                name.removesuffix(".npy"): restricted_pickle.read_npy(archive.read(name), f"{where}, entry {name}")
                for name in names
            }
    except InputError:
        raise
    except Exception as error:  # damaged bytes make zipfile and zlib fail in every way there is
        raise InputError(f"{where}: damaged npz ({type(error).__name__}: {error}); copy it again") from error


def _msgpack(data: bytes, where: str) -> Any:
    msgpack = optional.load("msgpack")

    def array(value: dict[Any, Any]) -> Any:
        """What msgpack_numpy writes for an array: a map with nd, type, kind, shape and data."""
        named = {_key(key): item for key, item in value.items()}
        if "nd" not in named or "data" not in named:
            return named
        kind, code = named.get("kind", b""), named["type"]
        if kind not in (b"", "") or not isinstance(code, bytes | str):
            raise InputError(f"{where}: msgpack holds an array of objects; only numbers are read")
        dtype = np.dtype(_key(code))
        if dtype.hasobject:
            raise InputError(f"{where}: msgpack holds an array of objects; only numbers are read")
        values = np.frombuffer(named["data"], dtype)
        return values.reshape(named["shape"]) if named["nd"] else values[0].item()

    try:
        return msgpack.unpackb(data, raw=True, object_hook=array)
    except InputError:
        raise
    except Exception as error:  # likewise
        raise InputError(f"{where}: damaged msgpack ({type(error).__name__}: {error}); copy the file again") from error


def _key(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
