"""A matrix of scores on disk that is filled tile by tile and survives being killed.

Three files in a folder: ``scores.npy`` (float32), ``done.npy`` (one byte a tile) and ``scores.json``, which says whose
scores they are. A tile counts as done only after its scores were flushed to disk.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vilbert_jax.errors import InputError

SCORES_FILE, DONE_FILE, IDENTITY_FILE = "scores.npy", "done.npy", "scores.json"


class ScoreFile:
    """The matrix and the record of finished tiles, both memory-mapped.

    Attributes:
        scores: [rows, columns] float32; write to it, then call ``commit``.
        done: [tiles] bool, a copy of the record at the time of opening.
    """

    def __init__(
        self, folder: str | os.PathLike[str], shape: tuple[int, int], num_tiles: int, identity: Mapping[str, Any]
    ):
        """Opens what an earlier run left, or starts from nothing.

        Args:
            folder: is made if absent.
            shape: rows and columns.
            num_tiles: how many tiles the matrix is filled in.
            identity: JSON-able; everything that the scores and their tiles depend on.

        Raises:
            InputError: the folder holds the scores of another identity or shape, or damaged ones.
        """
        folder = Path(folder)
        meaning = json.loads(json.dumps({**identity, "shape": shape, "num_tiles": num_tiles}))
        # The identity is written last, so files without it are of a run that was killed while it made them.
        if not (folder / IDENTITY_FILE).exists():
            _create(folder, shape, num_tiles, meaning)
        _check_identity(folder, meaning)
        self.scores = _open(folder / SCORES_FILE, shape, np.float32)
        self._record = _open(folder / DONE_FILE, (num_tiles,), np.uint8)
        self.done = np.array(self._record, bool)

    def commit(self, tiles: Iterable[int]) -> None:
        """Puts the scores written so far on disk, then the fact that these tiles are done."""
        self.scores.flush()
        self._record[list(tiles)] = 1
        self._record.flush()


def _create(folder: Path, shape: tuple[int, int], num_tiles: int, meaning: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.lib.format.open_memmap(folder / SCORES_FILE, "w+", np.float32, shape).flush()
    np.lib.format.open_memmap(folder / DONE_FILE, "w+", np.uint8, (num_tiles,)).flush()
    part = folder / f".{IDENTITY_FILE}.part"
    with part.open("w") as file:
        json.dump(meaning, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, folder / IDENTITY_FILE)


def _check_identity(folder: Path, meaning: Mapping[str, Any]) -> None:
    path = folder / IDENTITY_FILE
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is damaged ({error}); delete the folder, or choose another output folder") from error
    if not isinstance(found, dict) or found != meaning:
        there = found if isinstance(found, dict) else {}
        names = [name for name in sorted({*meaning, *there}) if meaning.get(name) != there.get(name)]
        lines = [f"  {name}: {there.get(name)!r} there, {meaning.get(name)!r} now" for name in names]
        raise InputError(
            "\n".join([f"{folder} holds the scores of something else:", *lines, "Choose another output folder."])
        )


def _open(path: Path, shape: tuple[int, ...], dtype: Any) -> np.memmap:
    try:
        array: np.memmap = np.load(path, mmap_mode="r+")
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); delete the folder, or choose another output folder"
        ) from error
    if array.shape != shape or array.dtype != dtype:
        raise InputError(
            f"{path} holds {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}; delete the folder, or "
            "choose another output folder"
        )
    return array
