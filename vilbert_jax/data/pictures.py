"""The pictures themselves, where somebody has them: for figures only, models see regions."""

import pathlib
from collections.abc import Callable

import numpy as np

from vilbert_jax.errors import InputError

Picture = Callable[[str], np.ndarray | None]
"""Image id -> [H, W, 3] uint8, or None where there is no picture."""


def pictures_in(folder: str) -> Picture:
    """Pictures from files ``<image_id>.jpg``, ``.jpeg`` or ``.png`` of a folder; an empty name means there are none.

    Raises:
        InputError: if the folder does not exist.
    """
    if folder and not pathlib.Path(folder).is_dir():
        raise InputError(f"pictures={folder!r} is no folder; give one with <image_id>.jpg files, or leave it empty.")

    def load(image_id: str) -> np.ndarray | None:
        for ending in ("jpg", "jpeg", "png"):
            path = pathlib.Path(folder, f"{image_id}.{ending}")
            if folder and path.is_file():
                from PIL import Image

                return np.asarray(Image.open(path).convert("RGB"))
        return None

    return load
