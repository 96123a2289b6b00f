"""Picture files and arrays, whatever they hold, as one thing: upright RGB of 8 bits.

H, W height and width of the picture as it is looked at.
"""

import io
import os
import pathlib
import re
import threading
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile

from vilbert_jax.errors import InputError

MAX_PIXELS = 178_956_970  # beyond it Pillow, too, speaks of a decompression bomb

PictureSource = str | os.PathLike[str] | bytes | Image.Image | np.ndarray

# What Pillow may open, and how its files begin. Of others some are dangerous: for EPS it starts Ghostscript, whatever
# the file's name ends with.
_BEGINNINGS = {
    "AVIF": rb"....ftypavi[fs]",
    "BMP": rb"BM....\0\0\0\0",
    "GIF": rb"GIF8[79]a",
    "JPEG": rb"\xff\xd8\xff",
    "JPEG2000": rb"\xff\x4f\xff\x51|\0\0\0\x0cjP  ",
    "PNG": rb"\x89PNG\r\n\x1a\n",
    "PPM": rb"P[1-6]\s",
    "TIFF": rb"II[*+]\0|MM\0[*+]",
    "WEBP": rb"RIFF....WEBP",
}
FORMATS = tuple(_BEGINNINGS)
_OPENED_AS = (*FORMATS, "MPO")  # which begins as JPEG

_ORIENTATION = 0x0112  # EXIF tag
# Values of it: step along rows and columns after, from 5 on, rows and columns were exchanged.
_STEPS = {1: (1, 1), 2: (1, -1), 3: (-1, -1), 4: (-1, 1), 5: (1, 1), 6: (1, -1), 7: (-1, -1), 8: (-1, 1)}
_STRIP_PIXELS = 1 << 20  # pixels that are converted at once; Pillow's own conversion would copy the whole picture

_opening = threading.Lock()


def read_picture(source: PictureSource, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """A picture as [H, W, 3] uint8, RGB, upright.

    A file, its bytes, the PIL image or the array of one picture give the same. EXIF orientation is honoured; of an
    animation it is the first frame (of a PIL image, the frame that it shows); grey is repeated, palettes and CMYK are
    converted, alpha is dropped without blending. 16 bits become 8 by division by 257, rounded (of 16-bit colour files
    Pillow keeps the high byte instead). Memory, most of it Pillow's: 7 bytes a pixel, of TIFF 8, AVIF 10, WebP 16,
    JPEG 2000 19.

    Args:
        source: path of a file of one of ``FORMATS``, the bytes of one, a PIL image (not changed; of another format only
            once it is converted), or an array: uint8 or uint16, [H, W], [H, W, 1], [H, W, 3] in RGB order or [H, W, 4]
            with alpha.
        max_pixels: pictures with more are refused, before they are decoded.

    Raises:
        InputError: it cannot be read, is no picture, is cut off, has no pixels or too many.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source, max_pixels)
    if isinstance(source, Image.Image):
        if isinstance(source, ImageFile.ImageFile) and source.format not in _OPENED_AS:
            raise InputError(
                f"the PIL image is an opened {source.format} file, which is not decoded here: pass its "
                "image.convert('RGB')"
            )
        return _from_pil(source, "the PIL image", max_pixels)
    if isinstance(source, bytes):
        return _from_file(io.BytesIO(source), f"the picture of {len(source)} bytes", max_pixels)
    if not isinstance(source, str | os.PathLike):
        raise InputError(
            f"a picture is given as {type(source).__name__}: give a path, bytes, a PIL image or a numpy array"
        )
    path = pathlib.Path(source)
    try:
        if not path.is_file() and path.exists():  # a pipe, for one, would never end
            raise InputError(f"{path}: is no file; give a picture's")
        with _open(path) as file:
            return _from_file(file, str(path), max_pixels)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error


def _open(path: pathlib.Path) -> BinaryIO:
    try:
        return path.open("rb")
    except ValueError as error:  # a zero byte, say
        raise InputError(f"{str(path)!r}: is no name that a file can have ({error}); check the path") from error


def _from_file(file: BinaryIO, name: str, max_pixels: int) -> np.ndarray:
    if not file.read(1):
        raise InputError(f"{name}: is empty, 0 bytes; copy the file again")
    file.seek(0)
    with _opened(file, name) as image:
        return _from_pil(image, name, max_pixels)


def _opened(file: BinaryIO, name: str) -> Image.Image:
    """The picture, its header read; without Pillow's limit on pixels, which warns of pictures that are within ours."""
    with _opening:  # the limit belongs to the whole process
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            Image.init()
            return Image.open(file, formats=[one for one in FORMATS if one in Image.OPEN])
        except Image.UnidentifiedImageError as error:
            file.seek(0)
            beginning = file.read(16)
            for one, pattern in _BEGINNINGS.items():
                if re.match(pattern, beginning, re.DOTALL):
                    raise _damaged(name, f"it begins as {one}, but Pillow cannot read it") from error
            raise InputError(f"{name}: is no picture of a kind that is read: {', '.join(FORMATS)}") from error
        except Exception as error:  # Pillow's readers fail in any way on damaged files
            raise _damaged(name, error) from error
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _from_pil(image: Image.Image, name: str, max_pixels: int) -> np.ndarray:
    _check_size(name, image.height, image.width, max_pixels)
    try:
        image.load()
    except Exception as error:
        raise _damaged(name, error) from error
    orientation = _orientation(image)
    sides = (image.width, image.height) if orientation >= 5 else (image.height, image.width)
    picture = np.empty((*sides, 3), np.uint8)
    stored = _as_stored(picture, orientation)
    num_rows = max(_STRIP_PIXELS // image.width, 1)
    try:
        for top in range(0, image.height, num_rows):
            bottom = min(top + num_rows, image.height)
            stored[top:bottom] = _rgb(image.crop((0, top, image.width, bottom)), name)
    except MemoryError as error:  # Pillow needs many times a row's bytes at once, and gives up on very long ones
        raise InputError(f"{name}: has rows of {image.width} pixels, too long to be read; cut the picture") from error
    return picture


def _rgb(image: Image.Image, name: str) -> np.ndarray:
    """The pixels in RGB, or grey in one channel."""
    if image.mode.startswith("I"):
        return _eight_bits(np.asarray(image), name)[..., None]
    try:
        if image.mode == "F":
            raise ValueError("Pillow would cut off at 0 and 255")
        if image.mode in ("P", "PA"):  # straight to RGB, Pillow warns of palettes with alpha
            image = image.convert("RGBA")
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except ValueError as error:
        raise InputError(
            f"{name}: has pixels of Pillow's mode {image.mode!r}; convert it to 8-bit RGB first"
        ) from error


def _orientation(image: Image.Image) -> int:
    try:
        orientation = int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # EXIF is often damaged, and no reason to do without the picture
        return 1
    return orientation if orientation in _STEPS else 1


def _as_stored(picture: np.ndarray, orientation: int) -> np.ndarray:
    """A view of the upright picture whose rows are those of the file; writing to it turns without a copy."""
    rows, columns = _STEPS[orientation]
    view = picture[::rows, ::columns]
    return view.swapaxes(0, 1) if orientation >= 5 else view


def _from_array(array: np.ndarray, max_pixels: int) -> np.ndarray:
    if array.dtype not in (np.uint8, np.uint16):
        raise InputError(
            f"the array of a picture is {array.dtype}; expected uint8 of 0..255 or uint16 of 0..65535: of numbers from "
            "0 to 1, take (255 * array).round().astype(np.uint8)"
        )
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise InputError(
            f"the array of a picture has shape {array.shape}; expected [H, W], [H, W, 1], [H, W, 3] in RGB order or "
            "[H, W, 4]: one picture, channels last"
        )
    _check_size("the array", array.shape[0], array.shape[1], max_pixels)
    if array.ndim == 2:
        array = array[..., None]
    colours = _eight_bits(array[..., :3], "the array")
    return np.ascontiguousarray(np.broadcast_to(colours, (*colours.shape[:2], 3)))


def _eight_bits(array: np.ndarray, name: str) -> np.ndarray:
    """0..65535 as 0..255, rounded; uint8 stays as it is."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.itemsize > 2 and (array.min() < 0 or array.max() > 0xFFFF):
        raise InputError(
            f"{name}: has whole numbers from {array.min()} to {array.max()} as pixels; expected at most 16 bits"
        )
    return (array // 257 + (array % 257 > 128)).astype(np.uint8)


def _check_size(name: str, height: int, width: int, max_pixels: int) -> None:
    if height < 1 or width < 1:
        raise InputError(f"{name}: is {width} x {height} pixels; a picture needs at least one")
    if height * width > max_pixels:
        raise InputError(
            f"{name}: is {width} x {height}, {height * width} pixels; the limit is {max_pixels}, against files made "
            "to fill the memory: shrink the picture (from Python, read_picture takes another limit, max_pixels)"
        )


def _damaged(name: str, error: Exception | str) -> InputError:
    return InputError(f"{name}: is damaged or cut off ({str(error) or type(error).__name__}); copy the file again")
