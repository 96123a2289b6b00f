"""Files of named tensors, read part by part and written whole or not at all: safetensors, and PyTorch's own format.

What a file is, its first bytes say, not its name. PyTorch files are pickles; they are read through torch's
``weights_only`` loader alone, which builds tensors and plain containers and refuses everything else.
"""

import importlib
import os
import pickle
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import ml_dtypes  # noqa: F401  (numpy learns from it what bfloat16 is)
import numpy as np
import safetensors
import safetensors.numpy

from vilbert_jax.errors import InputError

Index = tuple[slice, ...]

TORCH_MISSING = (
    "{what} needs torch, which is not installed. Install its CPU build (pip install torch --index-url "
    "https://download.pytorch.org/whl/cpu), or use a .safetensors file, which needs nothing else."
)

# Of the loaders called weights_only, the first without a known way to run code (CVE-2025-32434 below 2.6,
# CVE-2026-24747 below 2.10).
_SAFE_TORCH = (2, 10)

_TORCH_STARTS = (b"PK\x03\x04", b"\x80\x02")  # a zip archive; a bare pickle, as torch wrote before 1.6
_SAFETENSORS_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_STATE_KEYS = ("model_state_dict", "state_dict", "model")  # where training checkpoints keep the parameters

# What the multi-task release pickles beside the parameters: its logger and its early stopping with two bound methods.
# They are read as objects that do nothing; no code of theirs runs.
_HARMLESS = (
    "vilbert.utils.tbLogger",
    "vilbert.utils.MultiTaskStopOnPlateau",
    "functools.partial",
    "builtins.getattr",
    "__builtin__.getattr",
)


class LazyTensor(NamedTuple):
    """A tensor that stays in its file until (a part of) it is read."""

    shape: tuple[int, ...]
    dtype: str  # "float32", "bfloat16", "int64", …
    read: Callable[[Index], np.ndarray]  # () or a slice a dimension -> that part

    @property
    def is_float(self) -> bool:
        """Whether it can be a parameter; eight-bit floats, which go with scales of their own, cannot."""
        return self.dtype in _SAFETENSORS_DTYPES.values()


class TensorFile(NamedTuple):
    """The tensors of one file by name, and what else was in it."""

    tensors: Mapping[str, LazyTensor]
    left_out: tuple[str, ...] = ()  # names of other things, such as the optimizer's state
    notes: Mapping[str, str] = MappingProxyType({})  # what the writer of a safetensors file noted in its head


def open_tensors(path: Path) -> TensorFile:
    """Opens a file of tensors; reads names and shapes, and values only where the format leaves no choice.

    Args:
        path: a safetensors file, or what ``torch.save`` wrote: a state dict, or a training checkpoint that holds one
            under ``model_state_dict``, ``state_dict`` or ``model``.

    Raises:
        InputError: absent, damaged, of another format, or a pickle with more than tensors and plain containers in it;
            or torch is needed, and not installed or too old to be safe.
    """
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}. Check the path.") from error
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32:
        return _open_safetensors(path)
    if start.startswith(_TORCH_STARTS):
        return _open_torch(path)
    if start.startswith(b"version https://git-lfs"):
        raise InputError(
            f"{path} is a Git LFS pointer, not the weights: run `git lfs pull` in its repository, or download the file."
        )
    found = f"starts with {start[:16]!r}" if start else "is empty"
    raise InputError(
        f"{path} is neither a safetensors nor a PyTorch file: it {found}. If it was downloaded, the download failed or "
        "gave a web page; get it again."
    )


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], note: tuple[str, str] = ("format", "pt")) -> None:
    """Writes a safetensors file, the same bytes for the same tensors and note; on an error there is no file.

    Args:
        path: replaced if it exists.
        tensors: C-contiguous arrays by name.
        note: name and text, for the head of the file. It is a single one because the library writes several in an
            order that changes from file to file. The usual one is that which transformers asks for.

    Raises:
        OSError: the disk is full, or the folder cannot be written to.
    """
    _write(path, lambda part: safetensors.numpy.save_file(dict(tensors), part, metadata=dict([note])))


def write_torch(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a state dict that every torch since 1.0 reads, also the versions the released code needs.

    Args:
        path: replaced if it exists.
        tensors: C-contiguous arrays by name.

    Raises:
        InputError: torch is not installed.
        OSError: the disk is full, or the folder cannot be written to.
    """
    torch = _torch(f"writing {path.name}")
    # torch warns of arrays that cannot be written to, such as those that come from JAX
    state = {name: torch.from_numpy(np.require(array, requirements="W")) for name, array in tensors.items()}
    _write(path, lambda part: torch.save(state, part, _use_new_zipfile_serialization=False))


def _write(path: Path, write: Callable[[Path], None]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    try:
        write(part)
        part.chmod(0o644)  # safetensors makes files that nobody else can read
        os.replace(part, path)
    except (safetensors.SafetensorError, RuntimeError) as error:  # how the two libraries report a full disk
        raise OSError(f"{path} could not be written: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def _open_safetensors(path: Path) -> TensorFile:
    try:
        file = safetensors.safe_open(path, framework="np")
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path} is a damaged or truncated safetensors file: {error}. Get it again.") from error

    def lazy(name: str) -> LazyTensor:
        view = file.get_slice(name)
        shape = tuple(view.get_shape())

        def read(index: Index) -> np.ndarray:
            return np.asarray(view[index] if index else file.get_tensor(name))

        dtype = str(view.get_dtype())
        return LazyTensor(shape, _SAFETENSORS_DTYPES.get(dtype, dtype), read)

    tensors = {name: lazy(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    return TensorFile(tensors, notes=file.metadata() or {})


def _open_torch(path: Path) -> TensorFile:
    torch = _torch(f"reading {path}, a PyTorch file,")
    if tuple(int(number) for number in torch.__version__.split(".")[:2]) < _SAFE_TORCH:
        wanted = ".".join(map(str, _SAFE_TORCH))
        raise InputError(
            f"{path}, a PyTorch file, is not read by torch {torch.__version__}, in whose loader a crafted file can run "
            f"code: install torch {wanted} or newer, or use a .safetensors file."
        )
    with path.open("rb") as file:
        is_zip = file.read(4) == _TORCH_STARTS[0]
    mapped = is_zip and path.suffix != ".safetensors"  # for which torch wants a name, and would believe this one
    stand_ins = [(type("Ignored", (_Ignored,), {}), name) for name in _HARMLESS]
    try:
        with torch.serialization.safe_globals(stand_ins), path.open("rb") as file:
            loaded = torch.load(path if mapped else file, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL (\S+)", str(error))
        raise InputError(
            f"{path} is refused: it is damaged, or a pickle with more than tensors in it, and unpickling that could "
            f"run code{f' (it asks for {asked[1]})' if asked else ''}. Where it can be trusted, load it there with "
            "torch and save the state dict alone, best as .safetensors."
        ) from error
    except Exception as error:  # damaged bytes lead the loader into errors of any kind
        raise InputError(
            f"{path} is a damaged or truncated PyTorch file ({type(error).__name__}: {str(error)[:120]}). Get it again."
        ) from error
    return _state_dict(path, loaded, torch)


def _state_dict(path: Path, loaded: Any, torch: Any) -> TensorFile:
    """Finds the parameters in what was loaded."""
    left_out: tuple[str, ...] = ()
    if isinstance(loaded, Mapping):
        key = next((key for key in _STATE_KEYS if isinstance(loaded.get(key), Mapping)), None)
        if key is not None:
            left_out, loaded = tuple(sorted(str(name) for name in loaded if name != key)), loaded[key]
    entries = loaded.items() if isinstance(loaded, Mapping) else ()
    others = [f"{name!r} is a {type(value).__name__}" for name, value in entries if not isinstance(value, torch.Tensor)]
    if others or not entries:
        raise InputError(
            f"{path} holds no state dict: expected tensors by name, or a dict with one under {', '.join(_STATE_KEYS)}; "
            f"found a {type(loaded).__name__}{f' in which {others[0]}' if others else ''}."
        )

    def lazy(tensor: Any) -> LazyTensor:
        def read(index: Index) -> np.ndarray:
            part = tensor.detach()[index]
            return (part.float() if part.dtype == torch.bfloat16 else part).numpy()

        return LazyTensor(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), read)

    return TensorFile({str(name): lazy(tensor) for name, tensor in entries}, left_out)


def _torch(what: str) -> Any:
    try:
        return importlib.import_module("torch")
    except ImportError as error:
        raise InputError(TORCH_MISSING.format(what=what)) from error


class _Ignored:
    """Takes the place of an object that is not wanted."""

    def __init__(self, *_: Any, **__: Any):
        pass

    def __setstate__(self, state: Any) -> None:
        pass
