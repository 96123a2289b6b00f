"""Folders with one file (or two) a picture: MMF and multi-task .npy, MILVLG and UNITER .npz, MMF's VinVL .npy."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from tfds_builders.region_features.dump import RawRecord, Traits
from tfds_builders.region_features.formats import fields, lmdbs, packed, tsv
from vilbert_jax.data import restricted_pickle
from vilbert_jax.errors import InputError

_INFO = "_info.npy"  # ends the name of MMF's second file

_MMF = Traits("MMF folder (.npy and _info.npy)")
_MULTI_TASK = Traits("multi-task folder (.npy with a dict)")
_VINVL = Traits("VinVL folder (.npy)", box_units="fractions", has_sizes=False)
_MILVLG = Traits("MILVLG folder (.npz)")
_UNITER = Traits("UNITER folder (.npz)", box_units="fractions", has_sizes=False)


@dataclasses.dataclass(frozen=True)
class FolderDump:
    """The files under a folder whose names end in `ending`; `decode` turns (folder, name) into a record."""

    path: Path
    traits: Traits
    ending: str
    decode: Callable[[Path, str], RawRecord]

    @property
    def source(self) -> str:
        """The folder."""
        return str(self.path)

    def parts(self, records: int) -> Sequence[Sequence[str]]:
        """Names, sorted, in runs."""
        names = sorted(name for name in file_names(self.path) if name.endswith(self.ending))
        if self.decode is _mmf_pair:
            names = [name for name in names if not name.endswith(_INFO)]
        return [names[start : start + records] for start in range(0, len(names), records)]

    def read(self, part: Sequence[str]) -> Iterator[RawRecord]:
        """The records of some names."""
        return (self.decode(self.path, name) for name in part)


def file_names(folder: Path) -> Iterator[str]:
    """Names of all files under a folder, relative to it, folder by folder."""
    for root, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            yield os.path.relpath(os.path.join(root, name), folder)


def recognise(folder: Path, name: str) -> FolderDump | None:
    """The dump that a folder is, judged by one of its files; None if that is nothing known."""
    file = folder / name
    content = packed.unpack(file.read_bytes(), str(file))
    found = None
    if isinstance(content, np.ndarray) and content.ndim == 2:
        found = (_VINVL, _vinvl_file)
        info = name if name.endswith(_INFO) else name.removesuffix(".npy") + _INFO
        if (folder / info).exists():
            found = (lmdbs.mmf_traits(_MMF, _info(folder / info)), _mmf_pair)
    elif isinstance(content, dict) and {"bbox", "features"} <= content.keys():
        found = (_multi_task_traits(content), _multi_task_file)
    elif isinstance(content, dict) and {"x", "bbox"} <= content.keys():
        found = (_MILVLG, _milvlg_file)
    elif isinstance(content, dict) and {"features", "norm_bb"} <= content.keys():
        found = (lmdbs.uniter_traits(_UNITER, content), _uniter_file)
    elif name.endswith(_INFO) and (folder / (name.removesuffix(_INFO) + ".npy")).exists():
        found = (lmdbs.mmf_traits(_MMF, _info(file)), _mmf_pair)
    return FolderDump(folder, found[0], file.suffix, found[1]) if found else None


def describe(file: Path) -> str:
    """What one sees in a file, for the message that it is unknown."""
    content = packed.unpack(file.read_bytes(), str(file))
    if isinstance(content, dict):
        return f"{file.name} with entries {', '.join(map(str, content))}"
    return f"{file.name} with an array of shape {np.shape(content)}"


def _multi_task_traits(content: dict) -> Traits:
    """The multi-task extraction keeps all 1601 classes, background first; MMF's drops the background."""
    traits = lmdbs.mmf_traits(_MULTI_TASK, content)
    return dataclasses.replace(traits, background="first") if traits.background is None else traits


def _info(file: Path) -> dict:
    content = restricted_pickle.read_npy(file.read_bytes(), str(file))
    if not isinstance(content, dict):
        raise InputError(f"{file}: holds {type(content).__name__}; expected MMF's dict of boxes and sizes")
    return content


def _mmf_pair(folder: Path, name: str) -> RawRecord:
    file, stem = folder / name, name.removesuffix(".npy")
    info = folder / (stem + _INFO)
    if not info.exists():
        raise InputError(f"{file}: {info.name} is missing, which has its boxes; copy the folder again")
    features = restricted_pickle.read_npy(file.read_bytes(), str(file))
    return lmdbs.mmf_record(Path(stem).as_posix(), {**_info(info), "features": features}, str(file))


def _multi_task_file(folder: Path, name: str) -> RawRecord:
    file = folder / name
    row = restricted_pickle.read_npy(file.read_bytes(), str(file))
    if not isinstance(row, dict):
        raise InputError(f"{file}: holds {type(row).__name__}; expected a dict, as the first file has")
    image_id = fields.text(row.get("image_id", file.stem), "image_id", str(file))
    return lmdbs.mmf_record(image_id, row, str(file))


def _vinvl_file(folder: Path, name: str) -> RawRecord:
    file = folder / name
    values = restricted_pickle.read_npy(file.read_bytes(), str(file))
    if not isinstance(values, np.ndarray) or values.ndim != 2:
        raise InputError(f"{file}: holds no matrix, as the first file does")
    return tsv.vinvl_record(Path(name).with_suffix("").as_posix(), values, str(file))


def _milvlg_file(folder: Path, name: str) -> RawRecord:
    file = folder / name
    row = packed.npz(file.read_bytes(), str(file))
    fields.require(row, ("x", "bbox"), str(file))
    info = row.get("info")
    known = info if isinstance(info, dict) else {}
    image_id = fields.text(known.get("image_id", file.name.partition(".")[0]), "image_id", str(file))
    count = fields.integer(row["num_bbox"], "num_bbox", str(file)) if "num_bbox" in row else None
    renamed = {**row, "boxes": row["bbox"], "features": row["x"]}
    return fields.boxes_record(image_id, renamed, str(file), count=count, width="image_w", height="image_h")


def _uniter_file(folder: Path, name: str) -> RawRecord:
    file = folder / name
    return lmdbs.uniter_record(Path(name).as_posix(), packed.npz(file.read_bytes(), str(file)), str(file))
