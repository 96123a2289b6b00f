"""Sizes of pictures from a file, for dumps that do not have them."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path

from vilbert_jax.errors import InputError


class ImageSizes:
    """Width and height by image id. Read when first asked, and pickled as the path."""

    def __init__(self, path: str):
        """Takes JSON {"image id": [width, height]}, or lines of image id, width, height with tabs between."""
        self._path = Path(path).expanduser()
        if not self._path.is_file():
            raise InputError(f"--image_sizes: there is no file {path!r}")

    def __reduce__(self):
        """Pickles as the path."""
        return ImageSizes, (str(self._path),)

    def get(self, names: Sequence[str], where: str) -> tuple[int, int]:
        """Width and height in pixels of the picture that goes by one of the names.

        Raises:
            InputError: the file is unreadable or lacks the picture.
        """
        for name in names:
            if name in self._sizes:
                return self._sizes[name]
        raise InputError(f"{where}: {self._path} has no size for image {names[0]!r}; add it")

    @functools.cached_property
    def _sizes(self) -> dict[str, tuple[int, int]]:
        text = self._path.read_text()
        if text.lstrip().startswith("{"):
            try:
                entries = list(json.loads(text).items())
            except ValueError as error:
                raise InputError(f"{self._path}: damaged JSON ({error})") from error
            return {name: _size(value, f"{self._path}, {name!r}") for name, value in entries}
        sizes = {}
        for number, line in enumerate(text.splitlines(), 1):
            name, *value = line.split("\t")
            sizes[name] = _size(value, f"{self._path}, line {number}")
        return sizes


def _size(value: object, where: str) -> tuple[int, int]:
    try:
        width, height = (int(side) for side in value)  # pyright: ignore[reportGeneralTypeIssues]: that is the check
    except (TypeError, ValueError):
        width, height = 0, 0
    if width < 1 or height < 1:
        raise InputError(f"{where}: the size is {value!r}; expected width and height in pixels")
    return width, height
