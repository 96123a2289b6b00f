"""Finds out what a feature dump is from what is in it. Names of files decide nothing."""

import glob
import itertools
from pathlib import Path

from tfds_builders.region_features.dump import Dump, JoinedDump
from tfds_builders.region_features.formats import folders, hdf5, lmdbs, tsv
from vilbert_jax.data import restricted_pickle
from vilbert_jax.errors import InputError

_ZIP_MAGIC = b"PK\x03\x04"
_HEAD = 1 << 16
_SAMPLE = 64  # files of a folder that are looked at
_KNOWN = (
    "TSV of bottom-up attention (6 columns), ViLBERT (7), LXMERT (10), volta (13) and VinVL (3, or 2 with JSON); "
    "LMDB of ViLBERT beta, multi-task ViLBERT, tensorpack pre-training, MMF, volta and UNITER; HDF5 of hengyuan-hu and "
    "volta; folders of .npy (MMF, multi-task, VinVL) and .npz (MILVLG, UNITER)"
)


def recognise(source: str) -> Dump:
    """The dump that a path is, or the dumps that a pattern such as 'DIR/*.tsv' matches, joined.

    Raises:
        InputError: there is nothing, or nothing known, or more than one kind of thing.
    """
    path = Path(source).expanduser()
    paths = [path] if path.exists() else [Path(name) for name in sorted(glob.glob(str(path)))]
    if not paths:
        raise InputError(f"--source: there is no file or folder {source!r}, and nothing that this pattern matches")
    return _join([_folder(found) if found.is_dir() else _file(found) for found in paths])


def _join(dumps: list[Dump]) -> Dump:
    return dumps[0] if len(dumps) == 1 else JoinedDump(tuple(dumps))


def _kind(path: Path) -> str | None:
    """What a file is at first sight, by its first bytes."""
    if lmdbs.is_lmdb(path):
        return "LMDB"
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if head.startswith(hdf5.MAGIC):
        return "HDF5"
    if restricted_pickle.is_npy(head):
        return ".npy"
    if head.startswith(_ZIP_MAGIC):
        return ".npz"
    return "TSV" if tsv.looks_tabular(head) else None


def _file(path: Path) -> Dump:
    kind = _kind(path)
    module = {"LMDB": lmdbs, "HDF5": hdf5, "TSV": tsv}.get(kind or "")
    if module is None:
        seen = f"a single {kind} file; name the folder it lies in" if kind else "a file of no known kind"
        raise InputError(f"{path} is {seen}. Known are {_KNOWN}")
    return module.recognise(path) or _refuse(path, module.describe(path))


def _folder(path: Path) -> Dump:
    if lmdbs.is_lmdb(path):
        return lmdbs.recognise(path) or _refuse(path, lmdbs.describe(path))
    sample = list(itertools.islice(folders.file_names(path), _SAMPLE))
    by_kind: dict[str, list[str]] = {}
    for name in sample:
        if kind := _kind(path / name):
            by_kind.setdefault(kind, []).append(name)
    if len(by_kind) > 1:
        seen = ", ".join(f"{kind} ({names[0]})" for kind, names in by_kind.items())
        raise InputError(f"{path} holds files of several kinds: {seen}. Name one file, or a pattern: --source='DIR/*…'")
    for kind, names in by_kind.items():
        if kind in (".npy", ".npz"):
            return folders.recognise(path, names[0]) or _refuse(
                path, "a folder of " + folders.describe(path / names[0])
            )
        return _join([_file(path / name) for name in names])
    shown = f" such as {sample[0]}" if sample else ""
    return _refuse(path, f"a folder with {len(sample) or 'no'} files of no known kind{shown}")


def _refuse(path: Path, seen: str) -> Dump:
    raise InputError(f"{path} is {seen}, which is no known feature dump. Known are {_KNOWN}")
